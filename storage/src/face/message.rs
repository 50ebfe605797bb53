//! The vocabulary of the store: parties, ids, identities, messages and what becomes of them.

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

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// It is empty.
    #[error("the {what} is empty")]
    Empty {
        /// Which kind of id.
        what: &'static str,
    },
    /// It is longer than allowed.
    #[error("the {what} has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Which kind of id.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// It contains a control character.
    #[error("the {what} contains a control character at byte {at}")]
    Control {
        /// Which kind of id.
        what: &'static str,
        /// Offset of the character in bytes.
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
    /// A message id that was kept, without copying; `None` if the text is not a valid id.
    pub(crate) fn kept(id: &std::sync::Arc<str>) -> Option<Self> {
        check_len("message id", id, MAX_MESSAGE_ID_BYTES).is_ok().then(|| Self(id.clone()))
    }

    /// The id's text, without copying.
    pub(crate) fn shared(&self) -> std::sync::Arc<str> {
        self.0.clone()
    }

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
    /// Random bits, drawn again at every start.
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

/// Identifies a delivery, so that a repeated or late one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryIdentity {
    /// The start of the sending store that accepted the message.
    pub incarnation: Incarnation,
    /// Counts from 1 per incarnation and receiver, without gaps.
    pub number: u64,
    /// Every number of this incarnation and receiver below it is settled.
    pub low_water: u64,
}

impl DeliveryIdentity {
    /// Whether it can be remembered: numbers count from 1 (0 stands for none in the log), and the last one has no successor.
    pub(crate) fn is_numbered(&self) -> bool {
        self.number > 0 && self.number < u64::MAX
    }
}

/// Place of a message in the store's own order of acceptance; rises across all restarts, and is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// The name that a client gives to one send, however often it retries it: 16 bytes of its own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendKey(pub [u8; Self::BYTES]);

impl SendKey {
    /// Length of a key in bytes.
    pub const BYTES: usize = 16;
}

/// A message to be accepted.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The receiving party.
    pub receiver: PartyId,
    /// The id.
    pub id: MessageId,
    /// The content, opaque.
    pub payload: Bytes,
    /// The key that the client gave to this send, if any.
    pub key: Option<SendKey>,
}

/// A message that a peer delivers to us.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The sending party; `None` for a Python peer that does not name itself.
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
    /// It is kept and can be read.
    New(Sequence),
    /// It was here or settled already; nothing changed.
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FromSender {
    /// A message from any sender. A reader that names no sender is handed unread messages before read ones; see
    /// [`open`](crate::Engine::open).
    Any,
    /// A message from this party.
    Party(PartyId),
    /// A message from a peer that did not name itself.
    Unnamed,
}

/// Turns the sender of a message into a request for that sender.
impl From<Option<PartyId>> for FromSender {
    fn from(sender: Option<PartyId>) -> Self {
        sender.map_or(Self::Unnamed, Self::Party)
    }
}

/// A pending message in the forwarder's work list, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Handle for [`load`](crate::Engine::load) and [`settle`](crate::Engine::settle).
    pub sequence: Sequence,
    /// Equal for all messages to this peer with the same id: at most one of them is under way at a time.
    pub id_key: u128,
    /// Payload length in bytes.
    pub len: u64,
    /// Seconds of service time since it was accepted.
    pub age: u64,
    /// Seconds of service time left until it expires by `SEND_TTL`; `None` if it never does.
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
    /// It was not delivered within `SEND_TTL`.
    Expired,
    /// The peer refused it for good; the text is the peer's.
    Refused(String),
    /// Our copy does not match its checksum.
    Damaged(String),
    /// It arrived, and nobody read it within `UNREAD_TTL`.
    Unread,
}

impl DeadReason {
    /// How many reasons there are.
    pub const COUNT: usize = 4;

    /// The reason's number. 0: expired, 1: refused, 2: damaged, 3: unread.
    pub fn number(&self) -> usize {
        match self {
            Self::Expired => 0,
            Self::Refused(_) => 1,
            Self::Damaged(_) => 2,
            Self::Unread => 3,
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("expired: not delivered within SEND_TTL"),
            Self::Refused(why) => write!(f, "refused by the peer: {why}"),
            Self::Damaged(what) => write!(f, "damaged on our disk: {what}"),
            Self::Unread => f.write_str("unread: nobody read it within UNREAD_TTL"),
        }
    }
}

/// The other side of a dead letter: the peer that ours was for, or the peer that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Correspondent {
    /// It was accepted for this party, and not delivered.
    To(PartyId),
    /// It arrived from this party (`None` if that did not name itself), and was not read.
    From(Option<PartyId>),
}

impl Correspondent {
    /// The other party, where known.
    pub fn party(&self) -> Option<&PartyId> {
        match self {
            Self::To(party) => Some(party),
            Self::From(party) => party.as_ref(),
        }
    }

    /// The other party's name; empty if it did not name itself.
    pub fn name(&self) -> &str {
        self.party().map_or("", PartyId::as_str)
    }

    /// Whether the message arrived here.
    pub fn is_from(&self) -> bool {
        matches!(self, Self::From(_))
    }
}

impl fmt::Display for Correspondent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(party) => write!(f, "to {party}"),
            Self::From(Some(party)) => write!(f, "from {party}"),
            Self::From(None) => f.write_str("from a sender that did not name itself"),
        }
    }
}

/// A message that ended without being delivered, or without being read, kept for the operator.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Handle for retry and drop.
    pub sequence: Sequence,
    /// The party that it was for or from.
    pub correspondent: Correspondent,
    /// The id.
    pub id: MessageId,
    /// Payload length in bytes.
    pub len: u64,
    /// Why it became one.
    pub reason: DeadReason,
    /// Seconds of service time since it became one; `None` if that is not known.
    pub dead_for: Option<u64>,
}
