//! What "accepted" means on a Redis: read from its settings, stated in one sentence, and refused if it means too little.
//!
//! Pure: the caller passes the answers to `CONFIG GET` and `INFO`. Invariant: a setting that could not be read counts as unsafe.

use std::collections::HashMap;
use std::fmt;

/// Answers of a server: names and values of `CONFIG GET` and `INFO`, as far as it answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerFacts {
    pub(crate) config: HashMap<String, String>,
    pub(crate) info: HashMap<String, String>,
    /// Why `CONFIG GET` was refused.
    pub(crate) config_refused: Option<String>,
    /// `REDIS_WAIT_REPLICAS`.
    pub(crate) wait_replicas: u32,
    /// Whether Sentinels or a cluster may put a replica in its place.
    pub(crate) fails_over: bool,
}

/// The settings that are queried.
pub(crate) const SETTINGS: [&str; 6] = [
    "appendonly",
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "maxmemory-policy",
    "min-replicas-to-write",
    "save",
];

/// What "accepted" means on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// The meaning in one sentence.
    pub means: String,
    /// How an accepted message may be lost; empty if it is as safe as in the embedded store.
    pub losses: Vec<String>,
    /// The policy by which Redis discards messages when memory is short.
    pub evicts: Option<String>,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.means)?;
        self.losses.iter().try_for_each(|loss| write!(f, "; {loss}"))
    }
}

impl Durability {
    /// Derives it from a server's answers.
    pub(crate) fn of(facts: &ServerFacts) -> Self {
        let config = |name: &str| facts.config.get(name).map_or("", String::as_str);
        let info = |name: &str| facts.info.get(name).map_or("", String::as_str);
        let mut losses = Vec::new();
        let mut means = if let Some(why) = &facts.config_refused {
            losses.push(format!("its settings cannot be read (CONFIG GET: {why}), so nothing is promised"));
            "accepted means: Redis has it".to_owned()
        } else if config("appendonly") != "yes" {
            let saves = if config("save").is_empty() { "no snapshots" } else { "snapshots now and then" };
            losses.push(format!(
                "a crash of Redis or its machine loses messages: appendonly is off ({saves}); set appendonly yes and appendfsync always"
            ));
            "accepted means: in the memory of Redis".to_owned()
        } else if config("appendfsync") != "always" {
            losses.push(format!(
                "a crash of its machine loses the last seconds: appendfsync is {}; set appendfsync always",
                config("appendfsync")
            ));
            "accepted means: in the append-only file of Redis, not yet synced".to_owned()
        } else {
            if config("no-appendfsync-on-rewrite") == "yes" {
                losses.push(
                    "a crash of its machine while the append-only file is rewritten loses messages: no-appendfsync-on-rewrite is yes; set it to no"
                        .to_owned(),
                );
            }
            "accepted means: in the append-only file of Redis, synced (appendfsync always)".to_owned()
        };
        match facts.wait_replicas {
            0 if facts.fails_over && info("connected_slaves") != "0" => losses.push(
                "a failover loses what the replica has not got yet; set REDIS_WAIT_REPLICAS to 1 or more"
                    .to_owned(),
            ),
            0 => {}
            n => means = format!("{means}, and on {n} of {} replicas (WAIT)", info("connected_slaves")),
        }
        let policy =
            Some(config("maxmemory-policy")).filter(|p| !p.is_empty()).unwrap_or(info("maxmemory_policy"));
        let evicts = (policy != "noeviction").then(|| {
            let policy = if policy.is_empty() { "unknown" } else { policy };
            losses.push(format!("Redis throws messages away when memory is short: maxmemory-policy is {policy}; set noeviction"));
            policy.to_owned()
        });
        Self { means, losses, evicts }
    }

    /// Why a gateway must not work there; `strict`: under `ENV=prod`.
    pub(crate) fn refused(&self, strict: bool, allow_volatile: bool) -> Option<String> {
        if allow_volatile || (self.evicts.is_none() && (!strict || self.losses.is_empty())) {
            return None;
        }
        Some(format!("{self}. REDIS_ALLOW_VOLATILE=1 accepts that"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(config: &[(&str, &str)], replicas: &str) -> ServerFacts {
        let map =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ServerFacts {
            config: map(config),
            info: map(&[("connected_slaves", replicas)]),
            ..ServerFacts::default()
        }
    }

    const GOOD: [(&str, &str); 4] = [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("no-appendfsync-on-rewrite", "no"),
        ("maxmemory-policy", "noeviction"),
    ];

    #[test]
    fn only_a_synced_file_without_eviction_loses_nothing() {
        let good = Durability::of(&facts(&GOOD, "0"));
        assert!(good.losses.is_empty() && good.refused(true, false).is_none(), "{good}");
        for (name, value, word) in [
            ("appendonly", "no", "appendonly"),
            ("appendfsync", "everysec", "everysec"),
            ("appendfsync", "no", "appendfsync"),
            ("no-appendfsync-on-rewrite", "yes", "rewrite"),
        ] {
            let bad = GOOD.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
            let found = Durability::of(&facts(&bad, "0"));
            assert!(found.losses.len() == 1 && found.losses[0].contains(word), "{found}");
            assert!(found.refused(false, false).is_none(), "only said");
            assert!(found.refused(true, false).is_some_and(|why| why.contains(word)), "under ENV=prod");
            assert!(found.refused(true, true).is_none(), "allowed");
        }
        let evicting = GOOD.map(|(n, v)| if n == "maxmemory-policy" { (n, "allkeys-lru") } else { (n, v) });
        let found = Durability::of(&facts(&evicting, "0"));
        assert!(found.refused(false, false).is_some_and(|why| why.contains("allkeys-lru")));
        assert!(found.refused(true, true).is_none());
    }

    #[test]
    fn a_failover_loses_what_no_replica_was_waited_for() {
        let mut sentinel = ServerFacts { fails_over: true, ..facts(&GOOD, "1") };
        assert!(Durability::of(&sentinel).losses[0].contains("REDIS_WAIT_REPLICAS"));
        sentinel.wait_replicas = 1;
        let found = Durability::of(&sentinel);
        assert!(found.losses.is_empty() && found.means.contains("1 of 1 replicas"), "{found}");
    }

    #[test]
    fn what_cannot_be_read_is_not_promised() {
        let refused = ServerFacts { config_refused: Some("NOPERM".into()), ..ServerFacts::default() };
        let found = Durability::of(&refused);
        assert!(found.losses[0].contains("NOPERM") && found.refused(true, false).is_some());
        assert!(found.evicts.is_some());
        let managed = ServerFacts {
            info: [("maxmemory_policy".to_owned(), "noeviction".to_owned())].into(),
            ..refused
        };
        assert!(Durability::of(&managed).evicts.is_none());
    }
}
