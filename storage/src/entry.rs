//! What the indexes hold: entries of messages and of dead letters.

use crate::frame::{Class, Place};

/// An index entry. Kept small: there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// Payload bytes.
    pub(crate) len: u64,
    /// Delivery number; 0 without identity.
    pub(crate) number: u64,
    pub(crate) place: Place,
    /// Of the message or commit frame, in bytes.
    pub(crate) frame_len: u32,
    /// Segment of the first slice of a large message; else 0.
    pub(crate) first_segment: u32,
    /// Service time of acceptance in seconds.
    pub(crate) time: u32,
    /// Outgoing: index in the table of incarnations. Incoming: ordinal of the sender's incarnation.
    pub(crate) incarnation: u32,
    /// Index in the table of parties.
    pub(crate) party: u16,
    pub(crate) class: Class,
}

impl Entry {
    /// Seconds of service time left at `now`; `None` = for ever.
    pub(crate) fn expires_in(&self, now: u32, ttl: Option<u32>) -> Option<u64> {
        ttl.map(|ttl| u64::from(self.time.saturating_add(ttl).saturating_sub(now)))
    }

    pub(crate) fn is_expired(&self, now: u32, ttl: Option<u32>) -> bool {
        self.expires_in(now, ttl) == Some(0)
    }
}

/// Why a message died, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: u8,
    pub(crate) text: Box<str>,
    /// The dead-letter frame.
    pub(crate) place: Place,
    pub(crate) frame_len: u32,
}

/// A dead letter: the message's entry and why it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadEntry {
    pub(crate) key: u128,
    pub(crate) entry: Entry,
    pub(crate) death: Death,
}

/// What is in a lane's log and not in the index on disk, in log order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recent {
    pub(crate) sequence: u64,
    pub(crate) key: u128,
    pub(crate) place: Place,
    /// Service time of the entry's arrival here.
    pub(crate) time: u32,
    pub(crate) dead_letter: bool,
}
