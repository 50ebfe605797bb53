//! The words of the store: parties, ids, identities, messages and what becomes of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

/// Longest message id in bytes.
pub const MAX_MESSAGE_ID_BYTES: usize = 1024;
/// Longest party id in bytes.
pub const MAX_PARTY_ID_BYTES: usize = 128;

/// An organisation's id: 1 to [`MAX_PARTY_ID_BYTES`] bytes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartyId(Arc<str>);

/// A message's id as its sender chose it: 1 to [`MAX_MESSAGE_ID_BYTES`] bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Arc<str>);

/// An id that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing in it.
    #[error("the {what} is empty")]
    Empty {
        /// Which id.
        what: &'static str,
    },
    /// Longer than allowed.
    #[error("the {what} has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Which id.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Control characters.
    #[error("the {what} contains a control character at byte {at}")]
    Control {
        /// Which id.
        what: &'static str,
        /// Where.
        at: usize,
    },
}

fn check_len(what: &'static str, id: &str, max: usize) -> Result<(), InvalidId> {
    match id.len() {
        0 => Err(InvalidId::Empty { what }),
        len if len > max => Err(InvalidId::TooLong { what, len, max }),
        _ => Ok(()),
    }
}

impl PartyId {
    /// Checks and keeps a party id.
    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidId> {
        let id = id.as_ref();
        check_len("party id", id, MAX_PARTY_ID_BYTES)?;
        match id.find(char::is_control) {
            Some(at) => Err(InvalidId::Control { what: "party id", at }),
            None => Ok(Self(id.into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl MessageId {
    /// Checks and keeps a message id.
    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidId> {
        let id = id.as_ref();
        check_len("message id", id, MAX_MESSAGE_ID_BYTES)?;
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! id_text {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }
    };
}
id_text!(PartyId);
id_text!(MessageId);

/// One start of a sending store: when it started and 64 random bits, so that a folder restored from an old copy
/// never reuses an identity. Text form: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation {
    /// Milliseconds since the Unix epoch, never smaller than the last one used.
    pub started_ms: u64,
    /// Drawn anew at every start.
    pub random: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.started_ms, self.random)
    }
}

/// Text that is not an incarnation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an incarnation: expected 32 hexadecimal digits")]
pub struct InvalidIncarnation;

impl FromStr for Incarnation {
    type Err = InvalidIncarnation;
    fn from_str(text: &str) -> Result<Self, InvalidIncarnation> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidIncarnation);
        }
        let half = |part: &str| u64::from_str_radix(part, 16).map_err(|_| InvalidIncarnation);
        Ok(Self { started_ms: half(&text[..16])?, random: half(&text[16..])? })
    }
}

/// Which delivery this is, so that a repeated or late one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryIdentity {
    /// The start of the sending store that accepted the message.
    pub incarnation: Incarnation,
    /// Counts from 1 per incarnation and receiver, without gaps.
    pub number: u64,
    /// Every number of this incarnation and receiver below it is settled.
    pub low_water: u64,
}

/// Place of a message in the store's own order of acceptance; rises over all restarts, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// A message that a peer delivers to us.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The sending party; `None` for a Python peer that does not say.
    pub sender: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// The content, opaque.
    pub payload: Bytes,
    /// Which delivery it is; `None` for a Python peer, whose deliveries all count as new.
    pub identity: Option<DeliveryIdentity>,
}

/// What the store did with an [`Arrival`]. All are acknowledged to the peer as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Kept, and readable.
    New(Sequence),
    /// Had it already, or had settled it already; nothing changed.
    Repeated,
    /// A newer message with this id is here; nothing changed.
    Stale,
}

/// A message for a local reader.
#[derive(Debug, Clone)]
pub struct Message {
    /// The sending party, where known.
    pub sender: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// The content.
    pub payload: Bytes,
    /// Its place in our store.
    pub sequence: Sequence,
}

/// Which sender's message a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromSender {
    /// The newest under the id, whoever sent it.
    Any,
    /// That of one party.
    Party(PartyId),
    /// That of a peer that did not name itself.
    Unnamed,
}

/// A pending message, as the forwarder's work list has it. No payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Handle for [`load`](crate::Engine::load) and [`settle`](crate::Engine::settle).
    pub sequence: Sequence,
    /// Same for all messages to this peer with the same id: at most one of them is under way at a time.
    pub id_key: u128,
    /// Payload length in bytes.
    pub len: u64,
    /// Seconds of service time since it was accepted.
    pub age: u64,
    /// Seconds of service time left before `SEND_TTL` is over; `None` = never.
    pub expires_in: Option<u64>,
}

/// How a pending message ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The peer accepted it.
    Delivered,
    /// It becomes a dead letter.
    Dead(DeadReason),
    /// The operator dropped it.
    Dropped,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadReason {
    /// `SEND_TTL` was over.
    Expired,
    /// The peer refused it for good; its words.
    Refused(String),
    /// Our copy does not match its checksum.
    Damaged(String),
}

impl DeadReason {
    /// 0: expired, 1: refused, 2: damaged.
    pub fn number(&self) -> usize {
        match self {
            Self::Expired => 0,
            Self::Refused(_) => 1,
            Self::Damaged(_) => 2,
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("expired: not delivered within SEND_TTL"),
            Self::Refused(why) => write!(f, "refused by the peer: {why}"),
            Self::Damaged(what) => write!(f, "damaged on our disk: {what}"),
        }
    }
}

/// A message settled without delivery, kept for the operator.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Handle for retry and drop.
    pub sequence: Sequence,
    /// The receiving party.
    pub receiver: PartyId,
    /// The id.
    pub id: MessageId,
    /// Payload length in bytes.
    pub len: u64,
    /// Why.
    pub reason: DeadReason,
}
