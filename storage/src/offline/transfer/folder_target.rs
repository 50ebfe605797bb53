//! The embedded store as the target of a move, filled in place under the mark `MOVING`.
//!
//! It is written by the store's own writers, so that a start finds the same as in any folder. What a power cut leaves is a store
//! in which the first messages are complete and at most the last [`BATCH`] are there in part; those are put again.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::folder_source::FolderSource;
use super::{BATCH, Moved, Remembered, Result, Resume, Source, Summary, Target, TransferError};
use crate::core::options::StoreOptions;
use crate::core::shared::{Shared, blocking};
use crate::face::clock::ManualClock;
use crate::face::engine::{IdReuse, NoObserver};
use crate::face::error::{OpenError, StoreError};
use crate::face::message::Sequence;
use crate::index::on_disk::Cold;
use crate::log::data_folder::{FolderLock, lock_folder, open_io};
use crate::log::disk::Disk;
use crate::offline::inspect::Inspector;
use crate::opening::move_mark::{self, MoveMark};
use crate::opening::recovery::recover_locked;
use crate::store::embedded::Store;

/// Names that an empty folder may have: those of a lock, of a file system's root, and of a mark that was being written.
const EMPTY: [&str; 3] = ["LOCK", "lost+found", move_mark::UNFINISHED];

/// A data folder that is being filled. It is locked.
#[derive(Debug)]
pub struct FolderTarget {
    options: StoreOptions,
    phase: Mutex<TargetPhase>,
}

#[derive(Debug)]
enum TargetPhase {
    New,
    Filling(Filling),
    /// Nothing more is put. Holds the lock.
    Filled(Arc<FolderLock>),
    /// The move had ended before, but the caller did not learn of it: it is only read back. Holds the lock.
    Whole(Arc<FolderLock>),
    Finished,
}

/// An open store that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    folder_lock: Arc<FolderLock>,
    pub(super) store: Store,
    /// Those of the last messages that were there when it was opened; they are put again.
    pub(super) there: HashSet<u64>,
}

impl FolderTarget {
    /// Creates a target for the folder of `options`, which is created if it is missing (its parent must exist). Lifetimes, clock
    /// and cache of the options are not used.
    pub fn new(options: StoreOptions) -> Self {
        let options = StoreOptions {
            message_ttl: None,
            unread_ttl: None,
            send_ttl: None,
            dead_letter_bytes: 0,
            cache_bytes: 0,
            id_reuse: IdReuse::Replace,
            // Ages stay what they are, however long the move takes.
            clock: Arc::new(ManualClock::default()),
            ..options
        };
        Self { options, phase: Mutex::new(TargetPhase::New) }
    }
}

#[async_trait]
impl Target for FolderTarget {
    async fn begin(&self, source: &Summary) -> Result<Resume> {
        let mut phase = self.phase.lock().await;
        let (options, source) = (self.options.clone(), source.clone());
        let opened = tokio::task::spawn_blocking(move || open(options, &source)).await;
        let (opened, resume) = opened.map_err(|_| StoreError::Closed)??;
        *phase = opened;
        Ok(resume)
    }

    async fn remember(&self, memory: Vec<Remembered>) -> Result<()> {
        let phase = self.phase.lock().await;
        let mut state = phase.filling()?.store.shared.state.lock();
        for Remembered { sender, incarnation, low_water, ranges } in memory {
            let sender = sender.map_or(0, |sender| state.parties.intern(&sender));
            state.delivered.remember(sender, incarnation, low_water, &ranges);
        }
        // The last checkpoint stores it.
        state.dirty = true;
        Ok(())
    }

    async fn put(&self, messages: Vec<Moved>) -> Result<()> {
        let phase = self.phase.lock().await;
        let filling = phase.filling()?;
        for batch in messages.chunks(BATCH) {
            filling.put(batch).await?;
        }
        Ok(())
    }

    async fn read_back(&self) -> Result<Arc<dyn Source>> {
        let mut phase = self.phase.lock().await;
        let folder_lock = match &*phase {
            TargetPhase::Filling(filling) => {
                filling.store.close_now().await?;
                filling.folder_lock.clone()
            }
            TargetPhase::Filled(folder_lock) | TargetPhase::Whole(folder_lock) => folder_lock.clone(),
            TargetPhase::New | TargetPhase::Finished => return Err(StoreError::Closed.into()),
        };
        if matches!(&*phase, TargetPhase::Filling(_)) {
            *phase = TargetPhase::Filled(folder_lock.clone());
        }
        let inspector = Inspector::new(self.options.data_dir.clone()).with_disk(self.options.disk.clone());
        let read = move || FolderSource::read(&inspector, Some(folder_lock), None);
        let read = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)??;
        Ok(Arc::new(read))
    }

    async fn finish(&self) -> Result<()> {
        let mut phase = self.phase.lock().await;
        let end = match &*phase {
            TargetPhase::Filled(_) => MoveMark::end,
            TargetPhase::Whole(_) => MoveMark::stays_ended,
            TargetPhase::New | TargetPhase::Filling(_) | TargetPhase::Finished => {
                return Err(StoreError::Closed.into());
            }
        };
        let (disk, dir) = (self.options.disk.clone(), self.options.data_dir.clone());
        let ended = tokio::task::spawn_blocking(move || end(&*disk, &dir)).await;
        ended.map_err(|_| StoreError::Closed)??;
        *phase = TargetPhase::Finished;
        Ok(())
    }
}

impl TargetPhase {
    fn filling(&self) -> Result<&Filling> {
        match self {
            Self::Filling(filling) => Ok(filling),
            Self::New | Self::Filled(_) | Self::Whole(_) | Self::Finished => Err(StoreError::Closed.into()),
        }
    }
}

/// Opens the folder for this source. Blocks.
fn open(options: StoreOptions, source: &Summary) -> Result<(TargetPhase, Resume)> {
    let (disk, dir) = (options.disk.clone(), options.data_dir.clone());
    make_folder(&*disk, &dir)?;
    let folder_lock = lock_folder(&*disk, &dir)?;
    if MoveMark::read_done(&*disk, &dir)?.is_some_and(|done| done.state == source.state) {
        return Ok((
            TargetPhase::Whole(folder_lock),
            Resume { after: source.last_sequence, again: true, ended: true },
        ));
    }
    let again = claim(&*disk, &dir, source)?;
    let mut recovered = recover_locked(&options, &folder_lock)?;
    let oldest = u32::try_from(source.oldest_age).unwrap_or(u32::MAX);
    // Messages get times that match their age, and the clock stands still.
    recovered.service_seconds = recovered.service_seconds.max(oldest);
    recovered.state.last_sequence = recovered.state.last_sequence.max(source.last_sequence.0);
    // The last checkpoint stores it, and the next start draws a later one.
    let newest = &mut recovered.incarnation.started_ms;
    *newest = (*newest).max(source.newest_incarnation_ms);
    recovered.state.dirty = true;
    let store = Store::start(options, Arc::new(NoObserver), recovered)?;
    let mut sequences = held(&store.shared)?;
    sequences.sort_unstable();
    // A message that moves to the index on disk between the two looks is found twice.
    sequences.dedup();
    let again_from = sequences.len().saturating_sub(BATCH);
    let there = sequences.split_off(again_from).into_iter().collect();
    let after = Sequence(sequences.last().copied().unwrap_or(0));
    Ok((TargetPhase::Filling(Filling { folder_lock, store, there }), Resume { after, again, ended: false }))
}

fn make_folder(disk: &dyn Disk, dir: &Path) -> std::result::Result<(), OpenError> {
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        listed => return listed.map(drop).map_err(open_io("list", dir)),
    }
    disk.create_dir(dir).map_err(open_io("create", dir))
}

/// Makes the folder itself durable: an interrupted run may have created it.
fn sync_parent(disk: &dyn Disk, dir: &Path) -> std::result::Result<(), OpenError> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match disk.sync_dir(parent) {
        // A parent that we may not read is not ours, and neither is the folder.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(()),
        synced => synced.map_err(open_io("sync", parent)),
    }
}

/// Marks an empty folder; returns true if it is already marked for this source.
fn claim(disk: &dyn Disk, dir: &Path, source: &Summary) -> Result<bool> {
    let refused = |why: String| TransferError::Refused { target: dir.display().to_string(), why };
    let mark = MoveMark::new(&source.name, source.state);
    match MoveMark::read(disk, dir)? {
        Some(found) if found.state == mark.state => return Ok(true),
        Some(found) => {
            return Err(refused(format!(
                "it holds an unfinished migration from {}, which is another store or was changed since; remove the folder and begin again",
                found.from
            )));
        }
        None => {}
    }
    let mut names = disk.list(dir).map_err(open_io("list", dir))?;
    names.retain(|name| !EMPTY.contains(&name.as_str()));
    if let Some(name) = names.first() {
        let why = format!("it is not empty (it holds {name:?}); choose another folder, or empty this one");
        return Err(refused(why));
    }
    sync_parent(disk, dir)?;
    mark.write(disk, dir)?;
    Ok(false)
}

/// Sequences of all messages in the store. Blocks.
fn held(shared: &Shared) -> Result<Vec<u64>> {
    let in_memory = || -> Vec<u64> {
        let state = shared.state.lock();
        let live = state.live.values().map(|entry| entry.sequence);
        live.chain(state.dead.keys().copied()).collect()
    };
    let mut sequences = in_memory();
    match shared.ask_cold(|cold| held_on_disk(shared, cold))? {
        Some(on_disk) => sequences.extend(on_disk),
        None => sequences = in_memory(),
    }
    Ok(sequences)
}

fn held_on_disk(
    shared: &Shared,
    cold: &Cold,
) -> std::result::Result<Vec<u64>, crate::index::on_disk::ColdError> {
    let mut sequences = Vec::new();
    for item in cold.all_mail().chain(cold.all_pending()) {
        let (_, entry) = item?;
        if shared.state.lock().is_current_cold(&entry) {
            sequences.push(entry.sequence);
        }
    }
    for item in cold.dead_after(0) {
        let letter = item?;
        if shared.state.lock().is_valid(letter.death.place) {
            sequences.push(letter.entry.sequence);
        }
    }
    Ok(sequences)
}

impl Filling {
    /// Runs what blocks off the async workers.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> crate::face::error::Result<T> + Send + 'static,
    ) -> Result<T> {
        Ok(blocking(&self.store.shared, work).await?)
    }
}
