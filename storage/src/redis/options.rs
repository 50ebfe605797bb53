//! Settings of the Redis engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::url::RedisUrl;
use crate::clock::{Clock, MonotonicClock};
use crate::engine::IdReuse;
use crate::message::PartyId;

/// Certificates for `rediss://`, as PEM.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Roots that Redis's certificate must chain to; `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, where Redis demands one.
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
    /// With `rediss://`.
    pub tls: RedisTls,
    /// Our own party, whose mailbox it is; all gateways of it share it.
    pub party: PartyId,
    /// What people see of this gateway among those of the party.
    pub label: String,
    /// How long an arrived message stays, in service time; `None` = for ever.
    pub message_ttl: Option<Duration>,
    /// How long a message may be pending, in service time; `None` = for ever.
    pub send_ttl: Option<Duration>,
    /// Bytes that messages may take; 0 = what Redis has.
    pub max_bytes: u64,
    /// Payload bytes that dead letters may keep; beyond it the oldest are dropped. 0 = no limit.
    pub dead_letter_bytes: u64,
    /// What the same id again means.
    pub id_reuse: IdReuse,
    /// Replicas that must have a message before it counts as accepted (`WAIT`).
    pub wait_replicas: u32,
    /// How long an answer of Redis may take, and how long calls wait for a lost one to come back.
    pub timeout: Duration,
    /// How long a start waits for Redis.
    pub start_wait: Duration,
    /// Work on settings that lose accepted messages.
    pub allow_volatile: bool,
    /// Refuse settings that lose accepted messages (`ENV=prod`), unless they are allowed.
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
            send_ttl: Some(Duration::from_secs(604_800)),
            max_bytes: 0,
            dead_letter_bytes: 64 << 20,
            id_reuse: IdReuse::Replace,
            wait_replicas: 0,
            timeout: Duration::from_secs(5),
            start_wait: Duration::from_secs(60),
            allow_volatile: false,
            strict: false,
            queue_bytes: 32 << 20,
            clock: Arc::new(MonotonicClock::default()),
        })
    }

    /// The beginning of all keys: the party in a hash tag. What would end the tag early is escaped.
    pub(super) fn prefix(&self) -> String {
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
pub(super) fn seconds(ttl: Option<Duration>) -> u64 {
    ttl.map_or(0, |ttl| ttl.as_secs().max(1))
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
