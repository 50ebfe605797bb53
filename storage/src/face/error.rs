//! What can go wrong in the store, grouped by what the caller should do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::face::message::Incarnation;

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why a store operation failed. Cheap to clone: one failed sync answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The quota or the disk leaves no room for a new message. Temporary: receives, deliveries and settling go on.
    #[error("the store is full: {used} bytes used of {limit}; {remedy}")]
    Full {
        /// Bytes in use when the message came.
        used: u64,
        /// Bytes that new messages may use.
        limit: u64,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The log cannot go on in another file, for a temporary reason that is not a lack of room. Nothing was kept.
    #[error("cannot begin another log file: {why}; {remedy}; nothing was kept, try again later")]
    NoSegment {
        /// The system's error.
        why: Arc<str>,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// A write or a sync failed; this process writes no more (promise 6).
    #[error("the store is poisoned and accepts nothing: {0}; restart the gateway to read back from disk")]
    Poisoned(Arc<str>),
    /// The store is closing or closed.
    #[error("the store is closed")]
    Closed,
    /// Redis took nothing, or cannot be reached. Temporary, and nothing was kept.
    #[error("Redis takes nothing for the time being: {0}; nothing was kept, try again later")]
    Unavailable(Arc<str>),
    /// Redis stopped answering while it had the request.
    #[error("it is not known what became of it, Redis stopped answering meanwhile: {0}; try again")]
    InDoubt(Arc<str>),
    /// The same message id was used before with other bytes and `MESSAGE_ID_REUSE=reject` is set.
    #[error("message id {id:?} is held already with other bytes")]
    Conflict {
        /// The id in question.
        id: String,
    },
    /// The key of a send was used before for another send.
    #[error(
        "the key of this send was used before, for {what}: a key names one send, and is used again only to try that again"
    )]
    OtherSend {
        /// How the other send differs.
        what: &'static str,
    },
    /// A delivery from a start of its sender that was forgotten, or may have been: it can no longer be said whether it is
    /// new.
    #[error(
        "the delivery is too old: it comes from start {incarnation} of its sender, and what was had of starts that long ago was forgotten"
    )]
    TooOld {
        /// The start of the sender.
        incarnation: Incarnation,
    },
    /// Several senders have an unread message under the id, and the reader named none of them.
    #[error(
        "message id {id:?} is held from {}, and nobody has read either: ask with petnet-sender (sender_id), which names one",
        senders.join(" and from ")
    )]
    Ambiguous {
        /// The id.
        id: String,
        /// The senders' names, quoted and sorted; one that did not name itself is described as such.
        senders: Vec<String>,
    },
    /// The message is stored but its bytes do not match their checksum; it was set aside.
    #[error("message {id:?} is damaged in {segment} at offset {offset}: {what}")]
    Damaged {
        /// The message id, if it is known.
        id: String,
        /// File name of the segment.
        segment: String,
        /// Offset of the damaged frame in bytes.
        offset: u64,
        /// What did not match.
        what: String,
    },
    /// The message ended while it was being read: released, replaced, settled or expired.
    #[error("message {id:?} is held no more: it ended while it was read")]
    Gone {
        /// The message id.
        id: String,
    },
    /// An operation on a file failed. The call it belongs to failed, nothing else.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The path that it failed on.
        path: PathBuf,
        /// Why it failed.
        source: Arc<std::io::Error>,
    },
}

/// Why a store could not be opened. Each message names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process is using the folder.
    #[error(
        "data folder {path} is in use by another process (lock file {lock}); stop that one first or choose another folder"
    )]
    InUse {
        /// The data folder.
        path: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// The folder was written by a newer version, or is not a store at all.
    #[error("{path}: {what}; nothing was changed")]
    Format {
        /// The offending file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}; check that the folder exists, is writable and has room")]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The path that it failed on.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The store in Redis cannot be used.
    #[error("cannot use Redis at {url}: {why}")]
    Redis {
        /// Where Redis is, without secrets.
        url: String,
        /// Why.
        why: String,
    },
    /// Other gateways that share the store run with other settings.
    #[error("cannot use Redis at {url}: {why}")]
    Settings {
        /// Where Redis is, without secrets.
        url: String,
        /// Which settings differ, and what to do.
        why: String,
    },
    /// Reading the log failed with an error of the disk (not damage).
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An I/O failure as a [`StoreError`].
pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source: Arc::new(source) }
}
