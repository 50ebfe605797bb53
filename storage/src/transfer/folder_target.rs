//! The embedded store as the target of a move, filled in place under the mark `MOVING`.
//!
//! It is written by the store's own writers, so that a start finds what it finds in any folder. What a power cut leaves is
//! a store in which the first messages are whole and at most the last [`BATCH`] are partly there; those are put again.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::folder_source::FolderSource;
use super::run::BATCH;
use super::{Moved, Remembered, Result, Resume, Source, Summary, Target, TransferError};
use crate::clock::ManualClock;
use crate::cold::Cold;
use crate::disk::{Disk, DiskFile};
use crate::engine::{IdReuse, NoObserver};
use crate::error::{OpenError, StoreError};
use crate::format::{lock_folder, open_io};
use crate::inspect::Inspector;
use crate::log::lock;
use crate::message::Sequence;
use crate::moving::{self, Mark};
use crate::options::StoreOptions;
use crate::recovery::recover_locked;
use crate::shared::{Shared, blocking};
use crate::store::Store;

/// Names that an empty folder may have: those of a lock, of a file system's root, and of a mark that was being written.
const EMPTY: [&str; 3] = ["LOCK", "lost+found", moving::UNFINISHED];

/// A data folder that is filled. It is locked.
#[derive(Debug)]
pub struct FolderTarget {
    options: StoreOptions,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
enum Phase {
    New,
    Filling(Filling),
    /// Nothing more is put; the lock.
    Filled(Arc<dyn DiskFile>),
    Finished,
}

/// An open store that takes what is moved.
#[derive(Debug)]
pub(super) struct Filling {
    folder_lock: Arc<dyn DiskFile>,
    pub(super) store: Store,
    /// Of the last messages that were there when it was opened, those that are put again.
    pub(super) there: HashSet<u64>,
}

impl FolderTarget {
    /// For the folder of `options`, which is made if it is missing (its parent must exist). Lifetimes, clock and cache of
    /// the options are not used.
    pub fn new(options: StoreOptions) -> Self {
        let options = StoreOptions {
            message_ttl: None,
            send_ttl: None,
            dead_letter_bytes: 0,
            cache_bytes: 0,
            id_reuse: IdReuse::Replace,
            // Ages stay what they are, however long it takes.
            clock: Arc::new(ManualClock::default()),
            ..options
        };
        Self { options, phase: Mutex::new(Phase::New) }
    }
}

#[async_trait]
impl Target for FolderTarget {
    async fn begin(&self, source: &Summary) -> Result<Resume> {
        let mut phase = self.phase.lock().await;
        let (options, source) = (self.options.clone(), source.clone());
        let opened = tokio::task::spawn_blocking(move || open(options, &source)).await;
        let (filling, resume) = opened.map_err(|_| StoreError::Closed)??;
        *phase = Phase::Filling(filling);
        Ok(resume)
    }

    async fn remember(&self, memory: Vec<Remembered>) -> Result<()> {
        let phase = self.phase.lock().await;
        let mut state = lock(&phase.filling()?.store.shared.state);
        for Remembered { sender, incarnation, low_water, ranges } in memory {
            let sender = sender.map_or(0, |sender| state.parties.intern(&sender));
            state.delivered.remember(sender, incarnation, low_water, &ranges);
        }
        // The last checkpoint keeps it.
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
            Phase::Filling(filling) => {
                filling.store.close_now().await?;
                filling.folder_lock.clone()
            }
            Phase::Filled(folder_lock) => folder_lock.clone(),
            Phase::New | Phase::Finished => return Err(StoreError::Closed.into()),
        };
        *phase = Phase::Filled(folder_lock.clone());
        let inspector = Inspector::new(self.options.data_dir.clone()).with_disk(self.options.disk.clone());
        let read = move || FolderSource::read(&inspector, Some(folder_lock), None);
        let read = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)??;
        Ok(Arc::new(read))
    }

    async fn finish(&self) -> Result<()> {
        let mut phase = self.phase.lock().await;
        if !matches!(&*phase, Phase::Filled(_)) {
            return Err(StoreError::Closed.into());
        }
        let (disk, dir) = (self.options.disk.clone(), self.options.data_dir.clone());
        let removed = tokio::task::spawn_blocking(move || Mark::remove(&*disk, &dir)).await;
        removed.map_err(|_| StoreError::Closed)??;
        *phase = Phase::Finished;
        Ok(())
    }
}

impl Phase {
    fn filling(&self) -> Result<&Filling> {
        match self {
            Self::Filling(filling) => Ok(filling),
            Self::New | Self::Filled(_) | Self::Finished => Err(StoreError::Closed.into()),
        }
    }
}

/// Opens the folder for this source. Blocks.
fn open(options: StoreOptions, source: &Summary) -> Result<(Filling, Resume)> {
    let (disk, dir) = (options.disk.clone(), options.data_dir.clone());
    make_folder(&*disk, &dir)?;
    let folder_lock = lock_folder(&*disk, &dir)?;
    let again = claim(&*disk, &dir, source)?;
    let mut recovered = recover_locked(&options, &folder_lock)?;
    let oldest = u32::try_from(source.oldest_age).unwrap_or(u32::MAX);
    // Messages get the times that make them as old as they are, and the clock stands still.
    recovered.service_seconds = recovered.service_seconds.max(oldest);
    recovered.state.last_sequence = recovered.state.last_sequence.max(source.last_sequence.0);
    // The last checkpoint keeps it, and the next start draws a later one.
    let newest = &mut recovered.incarnation.started_ms;
    *newest = (*newest).max(source.newest_incarnation_ms);
    recovered.state.dirty = true;
    let store = Store::start(options, Arc::new(NoObserver), recovered)?;
    let mut sequences = held(&store.shared)?;
    sequences.sort_unstable();
    let again_from = sequences.len().saturating_sub(BATCH);
    let there = sequences.split_off(again_from).into_iter().collect();
    let after = Sequence(sequences.last().copied().unwrap_or(0));
    Ok((Filling { folder_lock, store, there }, Resume { after, again }))
}

fn make_folder(disk: &dyn Disk, dir: &Path) -> std::result::Result<(), OpenError> {
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        listed => return listed.map(drop).map_err(open_io("list", dir)),
    }
    disk.create_dir(dir).map_err(open_io("create", dir))
}

/// Makes the folder itself durable: a run that was cut off may have made it.
fn sync_parent(disk: &dyn Disk, dir: &Path) -> std::result::Result<(), OpenError> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match disk.sync_dir(parent) {
        // One that we may not read is not ours, and neither is the folder.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(()),
        synced => synced.map_err(open_io("sync", parent)),
    }
}

/// Marks an empty folder; true: it is marked for this source already.
fn claim(disk: &dyn Disk, dir: &Path, source: &Summary) -> Result<bool> {
    let refused = |why: String| TransferError::Refused { target: dir.display().to_string(), why };
    let mark = Mark::new(&source.name, source.state);
    match Mark::read(disk, dir)? {
        Some(found) if found.state == mark.state => return Ok(true),
        Some(found) => {
            return Err(refused(format!(
                "it holds an unfinished migration from {}, which is another store or was changed since; remove the folder and begin anew",
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
    let mut sequences: Vec<u64> = {
        let state = lock(&shared.state);
        let live = state.live.values().map(|entry| entry.sequence);
        live.chain(state.dead.keys().copied()).collect()
    };
    if let Some(cold) = shared.cold() {
        let on_disk = held_on_disk(shared, &cold).map_err(|e| shared.cold_failed(&e))?;
        sequences.extend(on_disk);
    }
    Ok(sequences)
}

fn held_on_disk(shared: &Shared, cold: &Cold) -> std::result::Result<Vec<u64>, crate::cold::ColdError> {
    let mut sequences = Vec::new();
    for item in cold.all_mail().chain(cold.all_pending()) {
        let (_, entry) = item?;
        if lock(&shared.state).is_current_cold(&entry) {
            sequences.push(entry.sequence);
        }
    }
    for item in cold.dead_after(0) {
        let letter = item?;
        if lock(&shared.state).is_valid(letter.death.place) {
            sequences.push(letter.entry.sequence);
        }
    }
    Ok(sequences)
}

impl Filling {
    /// Runs what blocks off the async workers.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> crate::error::Result<T> + Send + 'static,
    ) -> Result<T> {
        Ok(blocking(&self.store.shared, work).await?)
    }
}
