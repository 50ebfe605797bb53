//! What the store's threads share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};

use tokio::sync::{Notify, watch};

use crate::cold::{Cold, ColdError};
use crate::engine::{Observer, StoreState};
use crate::error::{Result, StoreError};
use crate::job::Queue;
use crate::log::{Log, lock};
use crate::options::StoreOptions;
use crate::progress::LaneProgress;
use crate::space::Space;
use crate::spares::Spares;
use crate::spread::{COUNTS, SECONDS, Spreading};
use crate::state::State;
use crate::upload::Written;

/// Counters for [`StoreStats`](crate::StoreStats).
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) appends: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_seconds: Spreading,
    pub(crate) sync_records: Spreading,
    pub(crate) repeated: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) in_memory: AtomicUsize,
    /// Segments begun.
    pub(crate) begun: AtomicU64,
}

impl Counters {
    /// With the damaged frames that recovery found.
    pub(crate) fn new(damaged: u64) -> Self {
        Self {
            appends: AtomicU64::default(),
            syncs: AtomicU64::default(),
            sync_seconds: Spreading::new(SECONDS),
            sync_records: Spreading::new(COUNTS),
            repeated: AtomicU64::default(),
            damaged: AtomicU64::new(damaged),
            in_memory: AtomicUsize::default(),
            begun: AtomicU64::default(),
        }
    }
}

/// Runs what blocks off the async workers.
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
    pub(crate) spares: Spares,
    /// The index on disk. `None` where the disk has no place for one: then all entries stay in memory; and once the
    /// store is closed.
    pub(crate) index: Mutex<Option<Arc<Cold>>>,
    /// Size of new segments in bytes.
    pub(crate) segment_bytes: u64,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) status: watch::Sender<StoreState>,
    pub(crate) counters: Counters,
    /// Service seconds when this process opened the store, less the clock's reading then.
    pub(crate) service_base: AtomicU64,
    /// Segments that hold slices of unfinished large messages.
    pub(crate) unfinished: Mutex<BTreeSet<u32>>,
    /// Messages on their way in whose content comes in pieces.
    pub(crate) uploads: Mutex<Vec<Weak<Written>>>,
    /// Clock reading in ms of the last write to the small lane, plus 1; 0 = never.
    pub(crate) small_wrote: AtomicU64,
    /// The disk has no room beyond its reserve: the index on disk is left alone.
    pub(crate) disk_low: AtomicBool,
    /// Entries were put into the index on disk since it was last synced.
    pub(crate) cold_dirty: AtomicBool,
    /// Entries moved out of memory: callers held back may go on.
    pub(crate) spilled: Notify,
    pub(crate) stopping: AtomicBool,
    pub(crate) wake_keeper: Condvar,
    pub(crate) keeper_lock: Mutex<()>,
    /// True: the watch ends.
    pub(crate) watch_stop: Mutex<bool>,
    pub(crate) wake_watch: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("data_dir", &self.options.data_dir).finish_non_exhaustive()
    }
}

impl Shared {
    /// Service time in seconds.
    pub(crate) fn now(&self) -> u32 {
        (self.service_base.load(Ordering::Relaxed) + self.options.clock.elapsed().as_secs()) as u32
    }

    /// Adds the segments that hold slices of uploads.
    pub(crate) fn of_uploads(&self, segments: &mut BTreeSet<u32>) {
        let mut uploads = lock(&self.uploads);
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

    /// Small messages flow: one was written within the last 20 ms.
    pub(crate) fn small_is_busy(&self) -> bool {
        let now = self.options.clock.elapsed().as_millis() as u64 + 1;
        let last = self.small_wrote.load(Ordering::Relaxed);
        last != 0 && now.saturating_sub(last) <= 20
    }

    pub(crate) fn message_ttl(&self) -> Option<u32> {
        self.options.message_ttl.map(|ttl| u32::try_from(ttl.as_secs().max(1)).unwrap_or(u32::MAX))
    }

    pub(crate) fn send_ttl(&self) -> Option<u32> {
        self.options.send_ttl.map(|ttl| u32::try_from(ttl.as_secs().max(1)).unwrap_or(u32::MAX))
    }

    /// The index on disk.
    pub(crate) fn cold(&self) -> Option<Arc<Cold>> {
        lock(&self.index).clone()
    }

    /// The index on disk, to take entries out of. Not while the disk is full: sled grows by removals too, dead sets
    /// hide what stays in it, and an error would end the process.
    pub(crate) fn cold_for_removal(&self) -> Option<Arc<Cold>> {
        if self.disk_low.load(Ordering::Relaxed) { None } else { self.cold() }
    }

    /// Poisons the store after an error of the index on disk: what it held cannot be found without it, and a
    /// restart makes it anew from the log.
    pub(crate) fn cold_failed(&self, error: &ColdError) -> StoreError {
        self.poison(&format!("{error}; the next start makes the index anew from the log"));
        StoreError::Poisoned(error.to_string().into())
    }

    /// A write or sync failed: nothing is written any more.
    pub(crate) fn poison(&self, why: &str) {
        self.status.send_if_modified(|state| {
            // A store that is being closed can be poisoned too: whoever waits for its syncs must hear of it.
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

    /// The error of a state that takes nothing.
    pub(crate) fn state_error(&self) -> Option<StoreError> {
        crate::engine::state_error(&self.status.borrow())
    }

    /// Waits until everything visible now is synced too. False: the store is poisoned.
    pub(crate) fn wait_visible_synced(&self) -> bool {
        let is_poisoned = || matches!(*self.status.borrow(), StoreState::Poisoned(_));
        self.progress.iter().all(|lane| lane.wait_visible_synced(is_poisoned))
    }

    /// [`wait_visible_synced`](Self::wait_visible_synced), with the reason why it is not.
    pub(crate) fn visible_synced(self: &Arc<Self>) -> Result<()> {
        let synced = self.wait_visible_synced();
        if synced { Ok(()) } else { Err(self.state_error().unwrap_or(StoreError::Closed)) }
    }
}
