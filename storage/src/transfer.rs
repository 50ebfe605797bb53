//! Moves everything of a stopped gateway's store from one engine to another.
//!
//! [`run`] reads a [`Source`] in the order of its sequences, puts what it finds into a [`Target`], reads all of that back
//! and compares it, message by message, before the target becomes a store that a gateway may use.
//!
//! Invariants: a source is never changed; a target that is not finished is refused by a gateway; a move that was cut off
//! at any moment goes on where it was, and gives the same; whatever could not be moved is named.

mod compare;
mod digest;
mod enter;
mod folder_source;
mod folder_target;
mod run;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use compare::Difference;
pub use folder_source::FolderSource;
pub use folder_target::FolderTarget;
pub use run::{Progress, Report, Step, run};

use crate::error::{OpenError, StoreError};
use crate::inspect::InspectError;
use crate::message::{DeadReason, Incarnation, MessageId, PartyId, Sequence};
use crate::payload::Payload;

/// Result of a step of a move.
pub type Result<T> = std::result::Result<T, TransferError>;

/// Why a move could not go on. What was moved until then stays; the same move goes on there.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The target holds something else; nothing was changed.
    #[error("{target} cannot take the messages: {why}; nothing was changed")]
    Refused {
        /// The target.
        target: String,
        /// Why, and what to do.
        why: String,
    },
    /// A message cannot be kept as it is.
    #[error("message {sequence} cannot be kept in the target as it is: {why}")]
    Unfit {
        /// Of the message.
        sequence: u64,
        /// What is in the way.
        why: String,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The target cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A store gave an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Accepted for a peer and not settled.
    Pending,
    /// Arrived from a peer, and not released.
    Mailbox,
    /// Settled without delivery, and why.
    Dead(DeadReason),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending message",
            Self::Mailbox => "mailbox message",
            Self::Dead(_) => "dead letter",
        })
    }
}

/// A message with all that belongs to it.
#[derive(Debug, Clone)]
pub struct Moved {
    /// What it is.
    pub fate: Fate,
    /// Receiver of a pending message and of a dead letter; sender of a mailbox message, where it named itself.
    pub party: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// The content.
    pub payload: Payload,
    /// What its receiver knows it by: the incarnation that accepted it, and its number there. `None`: it came without.
    pub identity: Option<(Incarnation, u64)>,
    /// Seconds of service time since it was accepted or arrived.
    pub age: u64,
    /// Its place in the order of the store, of all kinds of messages in one. The target keeps it.
    pub sequence: Sequence,
}

/// A message that is there and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its place in the order.
    pub sequence: Sequence,
    /// Which it is, as far as that is known, and what is wrong with it.
    pub what: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {}: {}", self.sequence.0, self.what)
    }
}

/// What is remembered of the deliveries of one incarnation of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The sender; `None` for a peer that does not name itself.
    pub sender: Option<PartyId>,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Every number below it is settled.
    pub low_water: u64,
    /// Numbers from the mark on that were delivered: first, and one past the last; rising, with gaps between.
    pub ranges: Vec<(u64, u64)>,
}

/// What is known of a store before its messages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The store, for people.
    pub name: String,
    /// Same for the same store while nothing in it changed: an interrupted move may go on only then.
    pub state: u64,
    /// Messages to be read, of all kinds.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The last sequence that was given away. Those up to it are never used again.
    pub last_sequence: Sequence,
    /// Start of the newest incarnation, in milliseconds since the Unix epoch. The next one starts later.
    pub newest_incarnation_ms: u64,
    /// No message is older than so many seconds.
    pub oldest_age: u64,
    /// Ages do not grow while nobody uses the store. Else they are not compared.
    pub clock_stands: bool,
    /// Places where something is damaged, and what was lost there as far as that is known.
    pub damage: Vec<String>,
}

/// Messages of one kind, as both ends must agree on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Over kind, reason, party, id, identity, sequence and content of all; whatever their order.
    pub checksum: u64,
}

/// The messages of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Pending messages.
    pub pending: Tally,
    /// Mailbox messages.
    pub mailbox: Tally,
    /// Dead letters.
    pub dead: Tally,
}

/// A store that can be read whole. Nobody else may change it meanwhile: it holds whatever lock the store has.
#[async_trait]
pub trait Source: Send + Sync {
    /// What is known before anything is read.
    async fn summary(&self) -> Result<Summary>;

    /// What is remembered of deliveries; of one sender, the incarnation that was heard of last comes last.
    async fn memory(&self) -> Result<Vec<Remembered>>;

    /// The messages after a sequence, in order, at most `limit`; none: there are no more. Only what is live: neither
    /// replaced nor settled nor expired. One that cannot be read is in its place as such. The content of a large message
    /// is read when it is asked for.
    async fn next(
        &self,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<std::result::Result<Moved, Unreadable>>>;
}

/// Where a move goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resume {
    /// Everything up to it is in the target, durably. What comes after it is put (again).
    pub after: Sequence,
    /// The move was begun before.
    pub again: bool,
}

/// A store that is filled. Until [`finish`](Self::finish), no gateway starts on it.
#[async_trait]
pub trait Target: Send + Sync {
    /// Takes the target for a move of this source, before anything else is called. It must be empty, or hold a move from
    /// this source in this state that is not finished; else it is refused, and nothing in it is changed.
    async fn begin(&self, source: &Summary) -> Result<Resume>;

    /// Keeps the memory of deliveries. Called before any [`put`](Self::put), once a run, always with all of it.
    async fn remember(&self, memory: Vec<Remembered>) -> Result<()>;

    /// Keeps messages as they are, in their order, which is that of their sequences. Durable when it returns. One that is
    /// there already, from a run that was cut off, is not kept twice; a dead letter of which only the message got there
    /// becomes one. The content of a message is read here; its error ends the call.
    async fn put(&self, messages: Vec<Moved>) -> Result<()>;

    /// Nothing more is put. What the target holds by now, read back from where it is durable.
    async fn read_back(&self) -> Result<Arc<dyn Source>>;

    /// Makes it a store that a gateway may use. Called only when what was read back is right.
    async fn finish(&self) -> Result<()>;
}
