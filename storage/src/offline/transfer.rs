//! Moves everything in a stopped gateway's store from one engine to another.
//!
//! [`run`] reads a [`Source`] in the order of its sequences, puts what it finds into a [`Target`], reads all of that back and
//! compares it, message by message, before the target becomes a store that a gateway may use.
//!
//! Invariants: a source is never changed; an unfinished target is refused by a gateway; a move that was interrupted at any
//! moment continues where it was, with the same result; everything that could not be moved is named.

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

use crate::face::error::{OpenError, StoreError};
use crate::face::message::{DeadReason, Incarnation, MessageId, PartyId, Sequence};
use crate::face::payload::Payload;
use crate::offline::inspect::InspectError;

/// Messages that are read and put at a time.
const BATCH: usize = 256;

/// Result of a step of a move.
pub type Result<T> = std::result::Result<T, TransferError>;

/// Why a move could not continue. What was moved before that stays; the same move continues there.
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
        /// Sequence of the message.
        sequence: u64,
        /// What prevents it.
        why: String,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The target cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A store returned an error.
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
    /// Settled without delivery, with the reason.
    Dead(DeadReason),
    /// Arrived from a peer and became a dead letter, usually because nobody read it.
    DeadMail(DeadReason),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending message",
            Self::Mailbox => "mailbox message",
            Self::Dead(_) => "dead letter",
            Self::DeadMail(_) => "dead letter that arrived",
        })
    }
}

/// A message with everything that belongs to it.
#[derive(Debug, Clone)]
pub struct Moved {
    /// What it is.
    pub fate: Fate,
    /// Receiver of a pending message or of a dead letter; sender of an arrived message, if it named itself.
    pub party: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// The content.
    pub payload: Payload,
    /// What its receiver knows it by: the incarnation that accepted it, and its number there. `None` if it has no identity.
    pub identity: Option<(Incarnation, u64)>,
    /// Seconds of service time since it was accepted or arrived.
    pub age: u64,
    /// For a mailbox message that was read: seconds of service time since the first read.
    pub read: Option<u64>,
    /// Its place in the order of the store, which all kinds of messages share. The target keeps it.
    pub sequence: Sequence,
}

/// A message that exists but cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its place in the order.
    pub sequence: Sequence,
    /// Which message it is, as far as that is known, and what is wrong with it.
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
    /// Delivered numbers from the mark on: first, and one past the last; rising, with gaps in between.
    pub ranges: Vec<(u64, u64)>,
}

/// What is known of a store before its messages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The store, for people.
    pub name: String,
    /// The same as long as nothing in the store has changed: an interrupted move may continue only then.
    pub state: u64,
    /// Number of messages to read, of all kinds.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The last sequence that was assigned. It and those below are never used again.
    pub last_sequence: Sequence,
    /// Start of the newest incarnation, in milliseconds since the Unix epoch. The next one starts later.
    pub newest_incarnation_ms: u64,
    /// Seconds; no message is older.
    pub oldest_age: u64,
    /// Whether ages do not grow while nobody uses the store. If they do, they are not compared.
    pub clock_stands: bool,
    /// Places where something is damaged, and what was lost there, as far as that is known.
    pub damage: Vec<String>,
}

/// Totals for messages of one kind, which both ends must agree on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of messages.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Computed over kind, reason, party, id, identity, sequence and content of all, whatever their order.
    pub checksum: u64,
}

/// Totals for the messages of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Pending messages.
    pub pending: Tally,
    /// Mailbox messages.
    pub mailbox: Tally,
    /// Dead letters.
    pub dead: Tally,
}

/// A store that can be read completely. Nobody else may change it meanwhile: it holds whatever lock the store has.
#[async_trait]
pub trait Source: Send + Sync {
    /// What is known before anything is read.
    async fn summary(&self) -> Result<Summary>;

    /// What is remembered of deliveries; for each sender, the incarnation heard from last comes last.
    async fn memory(&self) -> Result<Vec<Remembered>>;

    /// The messages after a sequence, in order, at most `limit`; empty if there are no more. Only live ones: neither replaced
    /// nor settled nor expired. One that cannot be read is reported in its place. The content of a large message is read when it
    /// is asked for.
    async fn next(
        &self,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<std::result::Result<Moved, Unreadable>>>;

    /// Nothing more is asked of it: whatever keeps gateways away is removed, however the move ended. If that cannot be done, it
    /// expires by itself.
    async fn leave(&self) {}
}

/// Where a move continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resume {
    /// Everything up to here is durable in the target. What comes after it is put, or put again.
    pub after: Sequence,
    /// Whether the move was begun before.
    pub again: bool,
    /// Whether the move had ended: both ends are only compared once more.
    pub ended: bool,
}

/// A store that is being filled. Until [`finish`](Self::finish), no gateway starts on it.
#[async_trait]
pub trait Target: Send + Sync {
    /// Takes the target for a move of this source, before anything else is called. It must be empty, or hold a move from this
    /// source in this state and nothing that came later; otherwise it is refused, and nothing in it is changed.
    async fn begin(&self, source: &Summary) -> Result<Resume>;

    /// Keeps the memory of deliveries. Called once per run before any [`put`](Self::put), always with all of it; neither is
    /// called if the move had ended.
    async fn remember(&self, memory: Vec<Remembered>) -> Result<()>;

    /// Keeps messages as they are, in their order, which is that of their sequences. They are durable when it returns. One that
    /// is there already, from a run that was interrupted, is not kept twice; a dead letter of which only the message got there
    /// becomes one. The content of a message is read here; an error in that ends the call.
    async fn put(&self, messages: Vec<Moved>) -> Result<()>;

    /// Nothing more is put. Returns what the target now holds, read back from where it is durable.
    async fn read_back(&self) -> Result<Arc<dyn Source>>;

    /// Turns the target into a store that a gateway may use. Called only if what was read back is right.
    async fn finish(&self) -> Result<()>;

    /// Nothing more is asked of it: whatever keeps gateways away is removed, however the move ended. If that cannot be done, it
    /// expires by itself.
    async fn leave(&self) {}
}
