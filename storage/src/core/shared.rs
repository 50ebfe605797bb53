//! What the store's threads share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

use crate::core::lane_progress::LaneProgress;
use crate::core::options::StoreOptions;
use crate::core::room::Space;
use crate::core::slices_written::SlicesWritten;
use crate::core::write_queue::Queue;
use crate::face::clock::{lifetime, service_seconds};
use crate::face::engine::{Observer, StoreState};
use crate::face::error::{Result, StoreError};
use crate::face::histogram::{COUNTS, SECONDS, Spreading};
use crate::index::memory::State;
use crate::index::on_disk::Cold;
use crate::log::files::Log;
use crate::log::frame::Place;
use crate::log::spare_segments::SpareSegments;

/// Bytes that ids may take in memory beyond the first 64 of each, per entry of `index_memory_entries`: at that many new
/// messages wait for the index on disk (64 MB by default). From half of it on, entries move to the index on disk whatever
/// their age.
pub(crate) const LONG_IDS: usize = 256;
/// After this many segments were begun, a checkpoint is due: only a checkpoint lets freed segments be used again.
pub(crate) const BEGUN: u64 = 8;

/// Counters for [`StoreStats`](crate::StoreStats).
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) appends: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_seconds: Spreading,
    pub(crate) sync_records: Spreading,
    pub(crate) repeated: AtomicU64,
    pub(crate) damaged: AtomicU64,
    /// Damaged places found and counted since the start.
    damaged_places: Mutex<BTreeSet<Place>>,
    pub(crate) in_memory: AtomicUsize,
    /// Bytes of memory that long ids take: see [`names`](crate::index::memory::names).
    pub(crate) long_ids: Arc<AtomicUsize>,
    /// Number of segments begun.
    pub(crate) begun: AtomicU64,
    /// Messages examined by listings of the mailbox.
    pub(crate) listed: AtomicU64,
}

impl Counters {
    /// Counters at a start. `damaged`: damaged frames that recovery found; `long_ids`: where the bytes of long ids are
    /// counted.
    pub(crate) fn new(damaged: u64, long_ids: Arc<AtomicUsize>) -> Self {
        Self {
            appends: AtomicU64::default(),
            syncs: AtomicU64::default(),
            sync_seconds: Spreading::new(SECONDS),
            sync_records: Spreading::new(COUNTS),
            repeated: AtomicU64::default(),
            damaged: AtomicU64::new(damaged),
            damaged_places: Mutex::default(),
            in_memory: AtomicUsize::default(),
            long_ids,
            begun: AtomicU64::default(),
            listed: AtomicU64::default(),
        }
    }
}

/// At most this many damaged places are remembered. Beyond that, a place that is read again is counted again.
const DAMAGED_PLACES: usize = 65_536;

impl Counters {
    /// Counts a damaged place. False if it was already counted.
    pub(crate) fn is_new_damage(&self, place: Place) -> bool {
        let mut places = self.damaged_places.lock();
        let is_new = !places.contains(&place);
        if is_new {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            if places.len() < DAMAGED_PLACES {
                places.insert(place);
            }
        }
        is_new
    }
}

/// Runs blocking work off the async workers.
pub(crate) async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
) -> Result<T> {
    if *shared.status.borrow() == StoreState::Closed {
        return Err(StoreError::Closed);
    }
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || work(&shared)).await.map_err(|_| StoreError::Closed)?
}

/// Everything that the threads of one store share.
pub(crate) struct Shared {
    pub(crate) options: StoreOptions,
    pub(crate) store_id: u128,
    pub(crate) key_secret: (u64, u64),
    pub(crate) log: Log,
    pub(crate) state: Mutex<State>,
    pub(crate) queues: [Queue; 2],
    pub(crate) progress: [LaneProgress; 2],
    pub(crate) space: Space,
    pub(crate) spares: SpareSegments,
    /// The index on disk. `None` once the store is closed, or if the disk has no place for one: then all entries stay in
    /// memory.
    pub(crate) index: Mutex<Option<Arc<Cold>>>,
    /// Size of new segments in bytes.
    pub(crate) segment_bytes: u64,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) status: watch::Sender<StoreState>,
    pub(crate) counters: Counters,
    /// Service seconds when this process opened the store, and the clock's reading then.
    pub(crate) service_base: (u64, Duration),
    /// Segments that hold slices of unfinished large messages.
    pub(crate) unfinished: Mutex<BTreeSet<u32>>,
    /// Messages on their way in whose content comes in pieces.
    pub(crate) uploads: Mutex<Vec<Weak<SlicesWritten>>>,
    /// Clock reading in ms at the last write to the small lane, plus 1; 0 if there was none.
    pub(crate) small_wrote: AtomicU64,
    /// Whether the disk has no room beyond its reserve: then the index on disk is left alone.
    pub(crate) disk_low: AtomicBool,
    /// Number of times that the index on disk was given up since the start.
    pub(crate) index_losses: AtomicU32,
    /// Whether entries were put into the index on disk since it was last synced.
    pub(crate) cold_dirty: AtomicBool,
    /// Notified when entries moved out of memory: callers held back may go on.
    pub(crate) spilled: Notify,
    pub(crate) stopping: AtomicBool,
    pub(crate) wake_keeper: Condvar,
    /// Number of checkpoints that callers asked for, and the last of them that is written.
    pub(crate) checkpoints_asked: AtomicU64,
    pub(crate) checkpoints_written: watch::Sender<u64>,
    pub(crate) keeper_lock: Mutex<()>,
    /// Held while notes of reads move from where they are collected to the writers' queues.
    pub(crate) noting: Mutex<()>,
    /// True tells the watch to end.
    pub(crate) watch_stop: Mutex<bool>,
    pub(crate) wake_watch: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("data_dir", &self.options.data_dir).finish_non_exhaustive()
    }
}

impl Shared {
    /// Whether the segment holds slices of a message whose end is not written yet.
    pub(crate) fn is_unfinished(&self, id: u32) -> bool {
        self.unfinished.lock().contains(&id)
    }

    /// Service time in seconds.
    pub(crate) fn now(&self) -> u32 {
        service_seconds(self.service_base, self.options.clock.elapsed()) as u32
    }

    /// Adds the segments that hold slices of uploads.
    pub(crate) fn of_uploads(&self, segments: &mut BTreeSet<u32>) {
        let mut uploads = self.uploads.lock();
        uploads.retain(|upload| upload.strong_count() > 0);
        for upload in uploads.iter().filter_map(Weak::upgrade) {
            upload.add_segments(segments);
        }
    }

    /// A small message was written.
    pub(crate) fn note_small(&self) {
        let now = self.options.clock.elapsed().as_millis() as u64 + 1;
        self.small_wrote.store(now, Ordering::Relaxed);
    }

    /// Whether small messages are flowing: one was written within the last 20 ms.
    pub(crate) fn small_is_busy(&self) -> bool {
        let now = self.options.clock.elapsed().as_millis() as u64 + 1;
        let last = self.small_wrote.load(Ordering::Relaxed);
        last != 0 && now.saturating_sub(last) <= 20
    }

    pub(crate) fn message_ttl(&self) -> Option<u32> {
        self.options.message_ttl.map(lifetime)
    }

    pub(crate) fn unread_ttl(&self) -> Option<u32> {
        self.options.unread_ttl.map(lifetime)
    }

    pub(crate) fn send_ttl(&self) -> Option<u32> {
        self.options.send_ttl.map(lifetime)
    }

    /// The index on disk.
    pub(crate) fn cold(&self) -> Option<Arc<Cold>> {
        self.index.lock().clone()
    }

    /// The index on disk, for removing entries. `None` while the disk is full: sled grows by removals too, dead sets hide
    /// what stays in it, and an error would end the process.
    pub(crate) fn cold_for_removal(&self) -> Option<Arc<Cold>> {
        if self.disk_low.load(Ordering::Relaxed) { None } else { self.cold() }
    }

    /// Marks the store as poisoned: a write or sync failed, and nothing is written any more.
    pub(crate) fn poison(&self, why: &str) {
        self.status.send_if_modified(|state| {
            // A store that is being closed can be poisoned too: callers that wait for its syncs must learn of it.
            if matches!(state, StoreState::Poisoned(_)) {
                return false;
            }
            tracing::error!(why, "the store is poisoned: it accepts nothing until the gateway is restarted");
            *state = StoreState::Poisoned(why.into());
            true
        });
        for queue in &self.queues {
            queue.wake();
        }
        self.spares.wake();
        self.wake_keeper.notify_all();
    }

    /// The error of a state in which nothing is accepted.
    pub(crate) fn state_error(&self) -> Option<StoreError> {
        crate::face::engine::state_error(&self.status.borrow())
    }

    /// Waits until everything visible now is also synced. False if the store is poisoned.
    pub(crate) fn wait_visible_synced(&self) -> bool {
        let is_poisoned = || matches!(*self.status.borrow(), StoreState::Poisoned(_));
        self.progress.iter().all(|lane| lane.wait_visible_synced(is_poisoned))
    }

    /// [`wait_visible_synced`](Self::wait_visible_synced), with the reason as an error if it fails.
    pub(crate) fn visible_synced(self: &Arc<Self>) -> Result<()> {
        let synced = self.wait_visible_synced();
        if synced { Ok(()) } else { Err(self.state_error().unwrap_or(StoreError::Closed)) }
    }
}
