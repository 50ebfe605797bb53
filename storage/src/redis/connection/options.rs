//! Settings of the Redis engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::face::clock::{Clock, MonotonicClock, whole_seconds};
use crate::face::engine::IdReuse;
use crate::face::message::PartyId;
use crate::redis::connection::url::RedisUrl;

/// Certificates for `rediss://`, as PEM.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Roots that Redis's certificate must chain to; `None` for those of the system.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, if Redis demands one.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisTls {{ ca: {}, client: {} }}", self.ca.is_some(), self.client.is_some())
    }
}

/// Settings of the Redis engine. [`RedisOptions::new`] gives the defaults of a gateway.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Where Redis is.
    pub url: RedisUrl,
    /// Certificates, used with `rediss://`.
    pub tls: RedisTls,
    /// Our own party, which owns the mailbox; all its gateways share it.
    pub party: PartyId,
    /// The name that people see for this gateway among those of the party.
    pub label: String,
    /// How long an arrived message stays after it was first read, in service time; `None` = for ever.
    pub message_ttl: Option<Duration>,
    /// How long an unread message stays before it becomes a dead letter, in service time; `None` = for ever.
    pub unread_ttl: Option<Duration>,
    /// How long a message may be pending, in service time; `None` = for ever.
    pub send_ttl: Option<Duration>,
    /// Bytes that messages may take; 0 = as much as Redis has.
    pub max_bytes: u64,
    /// Payload bytes that dead letters may keep; beyond that the oldest are dropped. 0 = no limit.
    pub dead_letter_bytes: u64,
    /// What it means if an id is used again.
    pub id_reuse: IdReuse,
    /// Replicas that must have a message before it counts as accepted (`WAIT`).
    pub wait_replicas: u32,
    /// How long Redis may take to answer, and how long calls wait for a lost connection to return.
    pub timeout: Duration,
    /// How long a start waits for Redis.
    pub start_wait: Duration,
    /// If set, the settings that must be the same at all gateways become those of this one, and the others follow. Otherwise
    /// this gateway is refused while others run with different ones.
    pub set_rules: bool,
    /// Work even with settings of Redis that lose accepted messages.
    pub allow_volatile: bool,
    /// Refuse settings of Redis that lose accepted messages (`ENV=prod`), unless they are allowed.
    pub strict: bool,
    /// Bytes that may wait to be written before callers wait.
    pub queue_bytes: u64,
    /// Source of service time.
    pub clock: Arc<dyn Clock>,
}

impl RedisOptions {
    /// The defaults of a gateway of `party`. The error says what is wrong with the URL.
    pub fn new(url: &str, party: PartyId) -> Result<Self, String> {
        Ok(Self {
            url: RedisUrl::parse(url)?,
            tls: RedisTls::default(),
            label: format!("process {}", std::process::id()),
            party,
            message_ttl: Some(Duration::from_secs(3600)),
            unread_ttl: Some(Duration::from_secs(604_800)),
            send_ttl: Some(Duration::from_secs(604_800)),
            max_bytes: 0,
            dead_letter_bytes: 64 << 20,
            id_reuse: IdReuse::Replace,
            wait_replicas: 0,
            timeout: Duration::from_secs(5),
            start_wait: Duration::from_secs(60),
            set_rules: false,
            allow_volatile: false,
            strict: false,
            queue_bytes: 32 << 20,
            clock: Arc::new(MonotonicClock::default()),
        })
    }

    /// The beginning of all keys: the party in a hash tag. Characters that would end the tag early are escaped.
    pub(crate) fn prefix(&self) -> String {
        let mut prefix = String::from("petnet:{");
        for c in self.party.as_str().chars() {
            match c {
                '{' => prefix.push_str("%7B"),
                '}' => prefix.push_str("%7D"),
                '%' => prefix.push_str("%25"),
                c => prefix.push(c),
            }
        }
        prefix.push_str("}:");
        prefix
    }
}

/// Seconds for a script; 0 = never.
pub(crate) fn seconds(ttl: Option<Duration>) -> u64 {
    ttl.map_or(0, whole_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_party_have_one_hash_tag_whatever_its_name() {
        for (party, prefix) in [("party_a", "petnet:{party_a}:"), ("}x{%", "petnet:{%7Dx%7B%25}:")] {
            let party = PartyId::new(party).unwrap();
            assert_eq!(RedisOptions::new("redis://h", party).unwrap().prefix(), prefix);
        }
    }
}
