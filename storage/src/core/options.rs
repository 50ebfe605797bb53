//! Settings of the embedded store, and what opening it found.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::face::clock::{Clock, MonotonicClock};
use crate::face::engine::IdReuse;
use crate::face::message::Incarnation;
use crate::log::disk::{Disk, RealDisk};

/// Settings of the embedded store. [`StoreOptions::new`] gives the defaults of a gateway.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data folder. It must exist.
    pub data_dir: PathBuf,
    /// How long an arrived message stays after it was first read, in service time; `None` = for ever.
    pub message_ttl: Option<Duration>,
    /// How long an arrived message that nobody has read stays before it becomes a dead letter, in service time; `None` = for
    /// ever.
    pub unread_ttl: Option<Duration>,
    /// How long a message may be pending, in service time; `None` = for ever.
    pub send_ttl: Option<Duration>,
    /// Bytes that messages may take; 0 = what the disk has, less a reserve.
    pub max_bytes: u64,
    /// Payload bytes that dead letters may keep; beyond it the oldest are dropped, with a line in the log. 0 = no limit.
    pub dead_letter_bytes: u64,
    /// What to do when an id that is still held is used again.
    pub id_reuse: IdReuse,
    /// Size of a segment file in bytes.
    pub segment_bytes: u64,
    /// Bytes of recent payloads kept in memory.
    pub cache_bytes: u64,
    /// Index entries kept in memory before the older ones move to the index on disk, whatever their age.
    pub index_memory_entries: usize,
    /// Bytes that may wait for each lane's writer before callers wait.
    pub queue_bytes: u64,
    /// Pause between checkpoints while something changes.
    pub checkpoint_every: Duration,
    /// How long a message is indexed in memory only, before the index on disk takes it; shorter if there are many messages,
    /// or if the log has grown by two segments since. A message that is read and released within this time never gets there.
    pub spill_after: Duration,
    /// Pause between rounds of housekeeping.
    pub housekeeping_every: Duration,
    /// Source of service time.
    pub clock: Arc<dyn Clock>,
    /// The disk that holds the files.
    pub disk: Arc<dyn Disk>,
}

impl StoreOptions {
    /// The defaults of a gateway, on `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            message_ttl: Some(Duration::from_secs(3600)),
            unread_ttl: Some(Duration::from_secs(604_800)),
            send_ttl: Some(Duration::from_secs(604_800)),
            max_bytes: 0,
            dead_letter_bytes: 64 << 20,
            id_reuse: IdReuse::Replace,
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            index_memory_entries: 250_000,
            queue_bytes: 64 << 20,
            checkpoint_every: Duration::from_secs(5),
            spill_after: Duration::from_secs(60),
            housekeeping_every: Duration::from_millis(250),
            clock: Arc::new(MonotonicClock::default()),
            disk: Arc::new(RealDisk),
        }
    }
}

/// The state in which a start found the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFound {
    /// The store is new.
    New,
    /// The index was brought up to date from where it was.
    CaughtUp,
    /// The index was missing, unreadable or wrong, and was rebuilt from the log.
    Rebuilt,
}

/// What opening a store found; its text is the one line a start prints.
#[derive(Debug, Clone)]
pub struct OpenReport {
    /// The incarnation drawn for this start.
    pub incarnation: Incarnation,
    /// Pending messages.
    pub pending: u64,
    /// Messages in the mailbox.
    pub mailbox: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Records read back from the log.
    pub replayed: u64,
    /// Bytes of unfinished writes cut off.
    pub torn_bytes: u64,
    /// Damaged places set aside in `corrupt/`.
    pub damaged: u64,
    /// How the index was found.
    pub index: IndexFound,
    /// How long opening took.
    pub took: Duration,
}

impl fmt::Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = match self.index {
            IndexFound::New => "new store",
            IndexFound::CaughtUp => "index caught up",
            IndexFound::Rebuilt => "index rebuilt",
        };
        write!(
            f,
            "{} pending, {} in the mailbox, {} dead letters; {} records replayed, {} torn bytes cut, {} damaged places set aside, {index}, in {:.0?}",
            self.pending,
            self.mailbox,
            self.dead_letters,
            self.replayed,
            self.torn_bytes,
            self.damaged,
            self.took
        )
    }
}
