//! Settings that must be the same at all gateways of a party: each gateway expires messages, refuses them, and drops dead
//! letters for all. They are kept in Redis, and the values kept there count.
//!
//! A gateway that starts while others run must have the same settings, or it is refused; if it is alone, its own become those
//! that are kept. One with `REDIS_SETTINGS=set` changes them while the others run, and those follow.

use crate::face::engine::IdReuse;
use crate::redis::connection::options::{RedisOptions, seconds};

/// Their names, as the operator and Redis know them, and the units of their values.
const NAMES: [(&str, &str); 6] = [
    ("MESSAGE_TTL", "s"),
    ("UNREAD_TTL", "s"),
    ("SEND_TTL", "s"),
    ("STORE_MAX_BYTES", "bytes"),
    ("DEAD_LETTER_MAX_BYTES", "bytes"),
    ("MESSAGE_ID_REUSE", ""),
];

/// The settings of all gateways. 0 means no limit, and `MESSAGE_ID_REUSE=replace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules([u64; NAMES.len()]);

/// A setting that has another value at the other gateways.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DifferingRule {
    pub(crate) name: &'static str,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl Rules {
    /// The settings that this gateway was given.
    pub(crate) fn of(options: &RedisOptions) -> Self {
        Self([
            seconds(options.message_ttl),
            seconds(options.unread_ttl),
            seconds(options.send_ttl),
            options.max_bytes,
            options.dead_letter_bytes,
            u64::from(options.id_reuse == IdReuse::Reject),
        ])
    }

    /// Seconds of service time; 0 = for ever.
    pub(crate) fn message_ttl(&self) -> u64 {
        self.0[0]
    }

    /// How long read messages stay, and how long unread ones, in seconds of service time, for a heartbeat; 0 = for ever.
    pub(crate) fn lifetimes(&self) -> String {
        format!("{} {}", self.0[0], self.0[1])
    }

    /// Seconds of service time; 0 = for ever.
    pub(crate) fn send_ttl(&self) -> u64 {
        self.0[2]
    }

    /// `STORE_MAX_BYTES`; 0 = as much as Redis has.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.0[3]
    }

    /// Payload bytes that dead letters may keep; 0 = no limit.
    pub(crate) fn dead_letter_bytes(&self) -> u64 {
        self.0[4]
    }

    /// Whether an id that is held must not be used for other bytes.
    pub(crate) fn rejects_reuse(&self) -> bool {
        self.0[5] == 1
    }

    /// Names and values as they are kept.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.iter().zip(self.0).map(|((name, _), value)| (*name, value))
    }

    /// These settings, but with the values that are kept. A kept name that is not known here belongs to a newer version; one
    /// that is not kept there, to this version.
    pub(crate) fn following(mut self, kept: &[(String, u64)]) -> Self {
        for ((name, _), value) in NAMES.iter().zip(&mut self.0) {
            if let Some((_, theirs)) = kept.iter().find(|(kept, _)| kept == name) {
                *value = *theirs;
            }
        }
        self
    }

    /// The settings in which the others differ.
    pub(crate) fn differing(&self, theirs: &Self) -> Vec<DifferingRule> {
        let all = NAMES.iter().zip(self.0.into_iter().zip(theirs.0));
        let differing = all.filter(|(_, (ours, theirs))| ours != theirs);
        let shown = |name: &str, unit: &str, value: u64| match (name, value) {
            ("MESSAGE_ID_REUSE", 0) => "replace".to_owned(),
            ("MESSAGE_ID_REUSE", _) => "reject".to_owned(),
            (_, value) => format!("{value} {unit}"),
        };
        differing
            .map(|((name, unit), (ours, theirs))| DifferingRule {
                name,
                ours: shown(name, unit, ours),
                theirs: shown(name, unit, theirs),
            })
            .collect()
    }
}

/// The text that refuses a gateway whose settings differ from those in force, and says what to do.
pub(crate) fn refusal(differing: &[DifferingRule], others: &str) -> String {
    let one = |d: &DifferingRule| format!("{} is {} here and {} there", d.name, d.ours, d.theirs);
    let all: Vec<_> = differing.iter().map(one).collect();
    format!(
        "other gateways of this party run with other settings ({others}): {}. Give this one the same; or stop the others \
         first; or start it with REDIS_SETTINGS=set, and those that run follow it",
        all.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::message::PartyId;

    #[test]
    fn what_is_kept_counts_and_every_difference_is_named() {
        let options = RedisOptions::new("redis://h", PartyId::new("p").unwrap()).unwrap();
        let ours = Rules::of(&options);
        let same: Vec<_> = ours.kept().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(ours.following(&same), ours);
        let newer = [("A_NEWER_ONE".to_owned(), 7), ("MESSAGE_TTL".to_owned(), 0)];
        let theirs = ours.following(&newer);
        assert_eq!((theirs.message_ttl(), theirs.send_ttl()), (0, ours.send_ttl()));
        let reject = ours.following(&[("MESSAGE_ID_REUSE".to_owned(), 1)]);
        assert!(reject.rejects_reuse() && !ours.rejects_reuse());
        let why = refusal(&ours.differing(&theirs), "one on h");
        assert!(
            why.contains("MESSAGE_TTL is 3600 s here and 0 s there") && !why.contains("SEND_TTL"),
            "{why}"
        );
        let why = refusal(&reject.differing(&ours), "one on h");
        assert!(why.contains("MESSAGE_ID_REUSE is reject here and replace there"), "{why}");
        assert!(ours.differing(&ours).is_empty());
    }
}
