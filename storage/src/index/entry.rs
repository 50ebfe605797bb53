//! What the indexes hold: entries for messages and for dead letters.

use crate::face::clock;
use crate::face::direction::Class;
use crate::face::message::DeadReason;
use crate::log::frame::{HEADER_BYTES, Header, MessageFields, Place};

/// An index entry. Kept small, because there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// Payload bytes.
    pub(crate) len: u64,
    /// Delivery number; 0 if the message has no delivery identity.
    pub(crate) number: u64,
    pub(crate) place: Place,
    /// Length of the message or commit frame, in bytes.
    pub(crate) frame_len: u32,
    /// Segment of the first slice of a large message; 0 for any other message.
    pub(crate) first_segment: u32,
    /// Service time of acceptance in seconds.
    pub(crate) time: u32,
    /// Service time in seconds, plus 1, at which the message was first handed to a reader; 0 if it never was.
    pub(crate) first_read: u32,
    /// Outgoing: index in the table of incarnations. Incoming: ordinal of the sender's incarnation.
    pub(crate) incarnation: u32,
    /// Index in the table of parties.
    pub(crate) party: u16,
    pub(crate) class: Class,
}

impl Entry {
    /// The entry of a message of `len` payload bytes that has no number and no place in the log yet, and that nobody has read.
    pub(crate) fn new(class: Class, party: u16, len: u64, time: u32) -> Self {
        Self {
            sequence: 0,
            len,
            number: 0,
            place: Place::default(),
            frame_len: 0,
            first_segment: 0,
            time,
            first_read: 0,
            incarnation: 0,
            party,
            class,
        }
    }

    /// The entry of a message or commit frame of the log, whose party and incarnation have these indexes.
    pub(crate) fn of_frame(
        place: Place,
        header: &Header,
        fields: &MessageFields<'_>,
        party: u16,
        incarnation: u32,
    ) -> Self {
        Self {
            sequence: header.sequence,
            number: fields.number,
            place,
            frame_len: HEADER_BYTES as u32 + header.body_len,
            first_segment: fields.first_segment,
            incarnation,
            ..Self::new(fields.class, party, fields.len, header.time)
        }
    }

    /// Seconds of service time left at `now`; `None` if it never expires. 0 means that it expires within a second or has
    /// expired.
    pub(crate) fn expires_in(&self, now: u32, ttl: Option<u32>) -> Option<u64> {
        ttl.map(|ttl| u64::from(self.time.saturating_add(ttl).saturating_sub(now)))
    }

    /// For a pending message: its number, to be held once it has ended.
    pub(crate) fn ended_number(&self) -> EndedNumber {
        EndedNumber { party: self.party, incarnation: self.incarnation, number: self.number }
    }

    /// For a pending message: whether it has expired.
    pub(crate) fn is_expired(&self, now: u32, ttl: Option<u32>) -> bool {
        ttl.is_some_and(|ttl| clock::is_over(self.time, ttl, now))
    }

    /// Whether no reader has been handed it.
    pub(crate) fn is_unread(&self) -> bool {
        self.first_read == 0
    }

    /// Service time of the first read.
    pub(crate) fn read_at(&self) -> Option<u32> {
        self.first_read.checked_sub(1)
    }

    /// For a mailbox message: whether it was read and the time to keep it after that has expired.
    pub(crate) fn is_over(&self, now: u32, message_ttl: Option<u32>) -> bool {
        let over = |(read, ttl)| clock::is_over(read, ttl, now);
        self.class != Class::Outgoing && self.read_at().zip(message_ttl).is_some_and(over)
    }

    /// For a mailbox message: whether it has expired without being read.
    pub(crate) fn is_unread_over(&self, now: u32, unread_ttl: Option<u32>) -> bool {
        self.class != Class::Outgoing
            && self.is_unread()
            && unread_ttl.is_some_and(|ttl| clock::is_over(self.time, ttl, now))
    }

    /// Seconds of service time since it was accepted or stored.
    pub(crate) fn age(&self, now: u32) -> u64 {
        now.saturating_sub(self.time).into()
    }

    /// Whether this is the same message at the same place; it may have been read in the meantime.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Self { first_read: 0, ..*self } == Self { first_read: 0, ..*other }
    }
}

/// Why a message died, as recorded in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: u8,
    pub(crate) text: Box<str>,
    /// Place of the dead-letter frame.
    pub(crate) place: Place,
    pub(crate) frame_len: u32,
    /// Service time in seconds; `None` if it was written by a version that did not record it.
    pub(crate) time: Option<u32>,
}

/// A dead letter: the message's entry and why it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadEntry {
    pub(crate) key: u128,
    pub(crate) entry: Entry,
    pub(crate) death: Death,
}

impl DeadEntry {
    /// Why it died, as reported to callers.
    pub(crate) fn reason(&self) -> DeadReason {
        let text = || self.death.text.to_string();
        match self.death.reason {
            0 => DeadReason::Expired,
            1 => DeadReason::Refused(text()),
            3 => DeadReason::Unread,
            _ => DeadReason::Damaged(text()),
        }
    }
}

/// The number of a pending message that has ended. It is held until the sync that covers the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndedNumber {
    /// Index of the receiver.
    pub(crate) party: u16,
    pub(crate) incarnation: u32,
    pub(crate) number: u64,
}

/// An item of a list of what is in a lane's log but not in the index on disk, in log order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecentEntry {
    pub(crate) sequence: u64,
    pub(crate) key: u128,
    pub(crate) place: Place,
    /// Service time at which the entry arrived here.
    pub(crate) time: u32,
    pub(crate) dead_letter: bool,
}
