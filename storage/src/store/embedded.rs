//! The embedded store: opens, runs its threads, and offers callers the [`Engine`] face.

use crate::log::lane_end::LogEnd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

use crate::core::options::{OpenReport, StoreOptions};
use crate::core::room::Space;
use crate::core::shared::{Counters, Shared};
use crate::face::engine::{Engine, Observer, StoreState};
use crate::face::error::{OpenError, Result, StoreError};
use crate::index::memory::State;
use crate::index::segment_account::Account;
use crate::intake::accept::{Intake, PERMIT_BYTES};
use crate::log::data_folder::FolderLock;
use crate::log::segment::{LANES, PAGE};
use crate::opening::recovery::{RecoveredStore, recover};
use crate::upkeep::checkpoints::Checkpoints;
use crate::upkeep::keeper::Housekeeper;
use crate::write::lane_writer::LaneWriter;

/// The embedded store of one data folder.
#[derive(Debug)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) intake: Arc<Intake>,
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    writers: Vec<JoinHandle<()>>,
    helpers: Vec<JoinHandle<()>>,
    folder_lock: Option<Arc<FolderLock>>,
}

impl Store {
    /// Opens the store in `options.data_dir`. Blocks: call it off the async workers.
    pub fn open(
        options: StoreOptions,
        observer: Arc<dyn Observer>,
    ) -> std::result::Result<(Arc<dyn Engine>, OpenReport), OpenError> {
        let started = Instant::now();
        let recovered = recover(&options)?;
        let mut report = report(&recovered);
        let store = Self::start(options, observer, recovered)?;
        report.took = started.elapsed();
        Ok((Arc::new(store), report))
    }

    /// Starts the threads of an opened store.
    pub(crate) fn start(
        options: StoreOptions,
        observer: Arc<dyn Observer>,
        recovered: RecoveredStore,
    ) -> std::result::Result<Self, OpenError> {
        let permits = u32::try_from((options.queue_bytes / PERMIT_BYTES).max(1)).unwrap_or(u32::MAX >> 3);
        let permits = permits.min(u32::MAX >> 3);
        let started_ms = recovered.incarnation.started_ms;
        let checkpoints = Checkpoints::new(recovered.generation, recovered.service_seconds, started_ms);
        let (shared, ends, folder_lock) = share(options, observer, recovered);
        let threads = start_threads(&shared, checkpoints, ends, folder_lock)?;
        let intake = Arc::new(Intake {
            shared: shared.clone(),
            room: [(); 2].map(|()| Arc::new(Semaphore::new(permits as usize))),
            permits,
            one_at_a_time: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
        });
        Ok(Self { shared, intake, threads: Mutex::new(threads) })
    }
}

/// Builds what the threads of an opened store share; also returns the ends of the log, for its writers, and the lock.
fn share(
    options: StoreOptions,
    observer: Arc<dyn Observer>,
    recovered: RecoveredStore,
) -> (Arc<Shared>, [LogEnd; 2], Arc<FolderLock>) {
    let service_base = (u64::from(recovered.service_seconds), options.clock.elapsed());
    let long_ids = recovered.state.names.long();
    let shared = Shared {
        store_id: recovered.format.store_id,
        key_secret: recovered.format.key_secret,
        log: recovered.log,
        state: Mutex::new(recovered.state),
        queues: Default::default(),
        progress: Default::default(),
        space: Space::new(recovered.segment_bytes),
        spares: recovered.spares,
        index: Mutex::new(recovered.cold),
        segment_bytes: recovered.segment_bytes,
        observer,
        status: watch::channel(StoreState::Serving).0,
        counters: Counters::new(recovered.damaged, long_ids),
        service_base,
        uploads: Mutex::default(),
        unfinished: Mutex::default(),
        small_wrote: AtomicU64::new(0),
        disk_low: AtomicBool::new(false),
        index_losses: AtomicU32::new(0),
        cold_dirty: AtomicBool::new(true),
        spilled: Notify::new(),
        stopping: AtomicBool::new(false),
        wake_keeper: Condvar::new(),
        checkpoints_asked: AtomicU64::new(recovered.wants_checkpoint.into()),
        checkpoints_written: watch::Sender::new(0),
        keeper_lock: Mutex::new(()),
        noting: Mutex::new(()),
        watch_stop: Mutex::new(false),
        wake_watch: Condvar::new(),
        options,
    };
    (Arc::new(shared), recovered.ends, recovered.folder_lock)
}

fn start_threads(
    shared: &Arc<Shared>,
    checkpoints: Checkpoints,
    ends: [LogEnd; 2],
    folder_lock: Arc<FolderLock>,
) -> std::result::Result<Threads, OpenError> {
    let keeper = Housekeeper::new(shared.clone(), checkpoints);
    let data_dir = &shared.options.data_dir;
    shared.count_space().map_err(crate::log::data_folder::open_io("find the room of", data_dir))?;
    let mut threads = Threads { folder_lock: Some(folder_lock), ..Threads::default() };
    for (lane, end) in LANES.into_iter().zip(ends) {
        let writer = LaneWriter::new(shared.clone(), lane, end);
        let name = if lane == crate::log::segment::Lane::Small { "petnet-small" } else { "petnet-bulk" };
        let guard = PoisonOnPanic(shared.clone());
        threads.writers.push(spawn(name, move || guard.over(|| writer.run()))?);
    }
    // Only now is it known how much is left: before this, a new folder with a small quota looked full.
    shared.tell_fullness();
    let guard = PoisonOnPanic(shared.clone());
    threads.helpers.push(spawn("petnet-keeper", move || guard.over(|| keeper.run()))?);
    let preparing = shared.clone();
    threads.helpers.push(spawn("petnet-prepare", move || {
        let shared = &preparing;
        shared.spares.run(
            &shared.log,
            shared.store_id,
            shared.segment_bytes as u32,
            |lane, ready| {
                shared.state.lock().add_segment(ready.id, Account::new(lane, ready.size, PAGE as u32));
            },
            |error| shared.poison(&format!("cannot prepare a log segment: {error}")),
        );
    })?);
    let watching = shared.clone();
    threads.helpers.push(spawn("petnet-watch", move || crate::upkeep::sync_watch::run(&watching))?);
    Ok(threads)
}

impl Store {
    /// Closes the store. Blocks.
    pub(crate) fn stop_now(&self) -> Result<()> {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        stop(&self.shared, &mut threads)
    }

    /// See [`Engine::close`].
    pub(crate) async fn close_now(&self) -> Result<()> {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        let shared = self.shared.clone();
        let stopped = tokio::task::spawn_blocking(move || stop(&shared, &mut threads)).await;
        stopped.map_err(|_| StoreError::Closed)?
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::result::Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|source| OpenError::Io {
        action: "start the thread",
        path: name.into(),
        source,
    })
}

/// A thread of the store that panics takes the store out of service instead of leaving callers waiting.
struct PoisonOnPanic(Arc<Shared>);

impl PoisonOnPanic {
    fn over(&self, work: impl FnOnce()) {
        let Self(_watched) = self;
        work();
    }
}

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("a thread of the store panicked; this is a bug, see the log");
            for queue in &self.0.queues {
                queue.close_and_drop();
            }
        }
    }
}

fn report(recovered: &RecoveredStore) -> OpenReport {
    let state: &State = &recovered.state;
    OpenReport {
        incarnation: recovered.incarnation,
        pending: state.parties.counts.iter().map(|c| c.pending).sum(),
        mailbox: state.mailbox,
        dead_letters: state.dead.len() as u64 + state.cold_dead,
        replayed: recovered.records,
        torn_bytes: recovered.torn_bytes,
        damaged: recovered.damaged,
        index: recovered.index,
        took: std::time::Duration::ZERO,
    }
}

/// Writes what is queued, takes a last checkpoint, ends the threads and releases the folder.
fn stop(shared: &Shared, threads: &mut Threads) -> Result<()> {
    shared.status.send_if_modified(|state| {
        let serving = matches!(state, StoreState::Serving | StoreState::Stalled | StoreState::Full(_));
        if serving {
            *state = StoreState::Closed;
        }
        serving
    });
    let failed = |state: &StoreState| match state {
        StoreState::Poisoned(why) => Err(StoreError::Poisoned(why.clone())),
        _ => Ok(()),
    };
    crate::write::notes::write_all(shared);
    // The small lane last: it takes the records that wait for the bulk lane's sync.
    for (lane, writer) in LANES.into_iter().zip(threads.writers.drain(..)).rev() {
        shared.queues[lane.index()].close();
        // A writer that panicked has answered by dropping what it held.
        drop(writer.join());
    }
    for queue in &shared.queues {
        queue.close();
    }
    {
        let _guard = shared.keeper_lock.lock();
        shared.stopping.store(true, Ordering::Release);
        shared.wake_keeper.notify_all();
    }
    shared.spares.stop();
    *shared.watch_stop.lock() = true;
    shared.wake_watch.notify_all();
    for helper in threads.helpers.drain(..) {
        drop(helper.join());
    }
    shared.index.lock().take();
    threads.folder_lock.take();
    let state = shared.status.borrow().clone();
    failed(&state)
}

impl Drop for Store {
    fn drop(&mut self) {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        if !threads.writers.is_empty() {
            // The store was not closed: as after a kill, nothing more is promised, but the threads must end.
            drop(stop(&self.shared, &mut threads));
        }
    }
}
