//! The durable message store of PETNet: pending messages, mailbox and dead letters of one party.
//!
//! A segmented write-ahead log is the truth and holds the payloads; sled is the index of older messages. Callers hand
//! messages to [`Engine::accept`] and [`Engine::store`]; both resolve only after the sync that covers the message.
//!
//! ```text
//! store -> accept, reader, settle -> job -> writer -> batch -> frame        (append, sync, publish)
//! store -> recovery -> inventory, replay, verify -> scan -> frame           (open)
//! keeper -> checkpoint, cold, compact                                       (housekeeping)
//! inspect -> scan, recovery, disk_overlay                                   (verify and repair, with no store open)
//! transfer -> inspect (source); store, accept, settle (target)              (to another engine, or from one)
//! all   -> state -> account, cache, delivered                               (index in memory, pure)
//! ```
//!
//! What is not here: gRPC, retries, waiting readers. Only `disk` touches files.

mod accept;
mod account;
mod batch;
mod cache;
mod catch_up;
mod checkpoint;
mod clock;
mod codec;
mod cold;
mod compact;
mod corrupt;
mod delivered;
mod deliveries;
mod disk;
mod disk_copy;
mod disk_overlay;
mod draft;
mod ends;
mod engine;
mod entry;
mod error;
mod expiry;
mod format;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod index_care;
pub mod inspect;
mod inventory;
mod job;
mod keeper;
mod keys;
mod letters;
mod log;
mod many;
mod message;
mod moving;
mod operations;
mod options;
mod parties;
mod past;
mod payload;
mod progress;
mod publish;
mod queued;
mod reader;
mod recent;
mod recovery;
#[cfg(feature = "redis")]
pub mod redis;
mod replay;
mod reply;
mod reuse;
mod scan;
mod segment;
mod settle;
mod shared;
mod space;
mod spares;
mod spread;
mod state;
mod stats;
mod store;
mod stored;
mod topics;
mod track;
pub mod transfer;
mod turnover;
mod upload;
mod verify;
mod watch;
mod writer;

pub use clock::{Clock, ManualClock, MonotonicClock};
pub use disk::{Disk, DiskFile, OpenMode, RealDisk, Room};
pub use engine::{
    Accepting, Engine, IdReuse, NoObserver, Observer, PeerPending, StoreState, StoreStats, Tracked,
};
pub use error::{OpenError, Result, StoreError};
pub use message::{
    Arrival, DeadLetter, DeadReason, DeliveryIdentity, FromSender, Incarnation, InvalidId,
    InvalidIncarnation, MAX_MESSAGE_ID_BYTES, MAX_PARTY_ID_BYTES, Message, MessageId, Outcome, PartyId,
    Pending, Sequence, Stored,
};
pub use options::{IndexFound, OpenReport, StoreOptions};
pub use payload::{Found, Held, Outgoing, Payload, Pieces, Upload};
pub use spread::{COUNTS, SECONDS, Spread, Spreading};
pub use store::Store;
