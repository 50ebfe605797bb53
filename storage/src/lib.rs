//! The durable message store of PETNet: pending messages, mailbox and dead letters of one party.
//!
//! A segmented write-ahead log is the truth and holds the payloads; sled is the index of older messages. Callers hand
//! messages to [`Engine::accept`] and [`Engine::store`]; both resolve only after the sync that covers the message.
//!
//! The layers, from the top; a folder uses those below it and none above:
//!
//! ```text
//! offline    verify, repair and migrate, with no store open
//! store      the calls of the engine: what each finds, and what it queues
//! upkeep     the housekeeping thread: spilling, checkpoints, expiry, compaction
//! opening    a start: the log read back, the index held against it
//! intake     messages that come: checked, ordered, queued
//! write      the writers of the log: append, sync, publish; how messages end
//! read       finding messages and reading them
//! core       what the threads share: the state, the queues, the room that there is
//! index      which message is where: recent ones in memory (pure), older ones on disk (sled)
//! log        segments, frames, the data folder; `log/disk.rs` alone touches files
//! face       what callers see, whichever engine: calls, messages, errors, clock
//! redis      the other engine, beside all of these; it uses the face and little of index and log
//! ```
//!
//! Not here: gRPC, retries, waiting readers.

mod core;
mod face;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod intake;
mod log;
mod offline;
mod opening;
mod read;
#[cfg(feature = "redis")]
pub mod redis;
mod store;
mod upkeep;
mod write;

pub use core::options::{IndexFound, OpenReport, StoreOptions};
pub use face::clock::{Clock, ManualClock, MonotonicClock};
pub use face::engine::{
    Accepting, Engine, IdReuse, NamedPending, NoObserver, Observer, Pauses, PeerPending, StoreState,
    StoreStats, Tracked,
};
pub use face::error::{OpenError, Result, StoreError};
pub use face::histogram::{COUNTS, SECONDS, Spread, Spreading};
pub use face::message::{
    Arrival, Correspondent, DeadLetter, DeadReason, DeliveryIdentity, FromSender, Incarnation, InvalidId,
    InvalidIncarnation, MAX_MESSAGE_ID_BYTES, MAX_PARTY_ID_BYTES, Message, MessageId, Outcome, PartyId,
    Pending, SendKey, Sending, Sequence, Stored,
};
pub use face::payload::{Found, Handed, Held, Outgoing, Payload, Pieces, Upload};
pub use index::on_disk::fence::is_fenced;
pub use log::disk::{Disk, DiskFile, OpenMode, RealDisk, Room};
pub use offline::{inspect, transfer};
pub use store::embedded::Store;
