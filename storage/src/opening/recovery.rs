//! Opening a store: lock, read the log back, bring the index on disk into line, find the end of the log.
//!
//! Invariants: opening twice gives the same result, even if the first time is cut off half-way; nothing valid is dropped;
//! before anything recovered is promised again, the end of the log is synced.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::core::options::{IndexFound, StoreOptions};
use crate::face::error::OpenError;
use crate::face::message::Incarnation;
use crate::index::checkpoint::{Checkpoint, FILES};
use crate::index::memory::State;
use crate::index::memory::dead_room::DeadRoom;
use crate::index::on_disk::fence::fenced;
use crate::index::on_disk::{Cold, ColdError};
use crate::index::segment_account::Account;
use crate::log::data_folder::text::Format;
use crate::log::data_folder::{FolderLock, lock_folder, open_io, random_u64, read_or_create};
use crate::log::files::Log;
use crate::log::frame::Place;
use crate::log::inventory::{self, Inventory};
use crate::log::lane_end::LogEnd;
use crate::log::segment::{LANES, PAGE};
use crate::log::spare_segments::SpareSegments;
use crate::opening::catch_up::catch_up;
use crate::opening::index_check::from_the_start;
use crate::opening::lane_ends::{open_ends, recycle, segment_size, segments_of};
use crate::opening::leftovers::{TidiedFolder, tidy};
use crate::opening::move_mark;
use crate::opening::no_checkpoint::{self, BeforeReading};
use crate::opening::replay::{Replay, ReplayFailure};

/// An opened store, before its threads run.
#[derive(Debug)]
pub(crate) struct RecoveredStore {
    pub(crate) folder_lock: Arc<FolderLock>,
    pub(crate) format: Format,
    pub(crate) log: Log,
    pub(crate) state: State,
    pub(crate) ends: [LogEnd; 2],
    pub(crate) spares: SpareSegments,
    pub(crate) cold: Option<Arc<Cold>>,
    pub(crate) segment_bytes: u64,
    pub(crate) service_seconds: u32,
    pub(crate) generation: u64,
    /// Whether a checkpoint must be written at once: the folder had none although the store is not new, and the next start
    /// should not have to ask why.
    pub(crate) wants_checkpoint: bool,
    pub(crate) incarnation: Incarnation,
    pub(crate) index: IndexFound,
    pub(crate) records: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damaged: u64,
}

/// Opens the store in the folder.
pub(crate) fn recover(options: &StoreOptions) -> Result<RecoveredStore, OpenError> {
    let folder_lock = lock_folder(&*options.disk, &options.data_dir)?;
    move_mark::refuse(&*options.disk, &options.data_dir)?;
    move_mark::forget(&*options.disk, &options.data_dir)?;
    recover_locked(options, &folder_lock)
}

/// Opens the store in a folder that this process has locked.
pub(crate) fn recover_locked(
    options: &StoreOptions,
    folder_lock: &Arc<FolderLock>,
) -> Result<RecoveredStore, OpenError> {
    let disk = options.disk.clone();
    let dir = options.data_dir.as_path();
    // The folder, or files in it, may have been created by anyone, with any umask.
    if let Err(error) = disk.make_private(dir) {
        tracing::warn!(%error, path = %dir.display(), "cannot make the data folder readable by its owner only");
    }
    let (format, new) = read_or_create(&*disk, dir)?;
    disk.create_dir(&dir.join("log")).map_err(open_io("create", &dir.join("log")))?;
    let names = disk.list(dir).map_err(open_io("list the data folder", dir))?;
    let has_no_files = !FILES.iter().any(|file| names.iter().any(|name| name == file));
    Checkpoint::create_files(&*disk, dir).map_err(open_io("create the checkpoint files in", dir))?;
    disk.sync_dir(dir).map_err(open_io("sync", dir))?;
    let TidiedFolder { lacks_room, removed } = tidy(options)?;
    let before = BeforeReading { removed, has_no_files };
    let mut index = if lacks_room {
        tracing::warn!(
            "hardly any room on the disk: the index is removed, and everything is indexed in memory until there is more"
        );
        IndexUse::None
    } else {
        IndexUse::AsItIs
    };
    loop {
        let error = match read_back_with(options, format, index, &before) {
            Ok(found) => {
                if found.cold.is_none() {
                    remove_index(options);
                }
                return go_on(options, folder_lock, format, new, found);
            }
            Err(ReplayFailure::Open(error)) => return Err(error),
            Err(ReplayFailure::Index(error)) => error,
        };
        index = match index {
            IndexUse::AsItIs if !error.is_passing() => {
                tracing::warn!(%error, "the index gives errors; it is set aside and rebuilt from the log");
                if let Some(path) = disk.index_dir(dir) {
                    crate::index::on_disk::set_aside(&*disk, &path).map_err(open_io("set aside", &path))?;
                }
                IndexUse::Anew
            }
            IndexUse::None => {
                let source = io::Error::other(error.to_string());
                return Err(OpenError::Io { action: "read back the log in", path: dir.to_owned(), source });
            }
            _ => {
                tracing::warn!(%error, "the index on disk cannot be written: everything is indexed in memory until it can");
                IndexUse::None
            }
        };
    }
}

/// How the index on disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IndexUse {
    AsItIs,
    /// It was set aside; a fresh one is built.
    Anew,
    /// Not at all. It can be rebuilt from the log, so it must never keep a store from serving.
    None,
}

/// Removes the index on disk: nothing uses it, and it takes room that the log needs.
fn remove_index(options: &StoreOptions) {
    let Some(path) = options.disk.index_dir(&options.data_dir) else { return };
    if let Err(error) = options.disk.remove_tree(&path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove an index that is not used");
    }
}

/// What a data folder holds, before the store goes on in it.
#[derive(Debug)]
pub(crate) struct ReadBack {
    pub(crate) log: Log,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) inventory: Inventory,
    pub(crate) state: State,
    pub(crate) cold: Option<Arc<Cold>>,
    /// Whether there was a valid checkpoint.
    pub(crate) had_checkpoint: bool,
    /// Whether the index on disk was there and a checkpoint says what it must hold.
    pub(crate) trusted: bool,
    /// Segments for which the index on disk did not hold what it must.
    pub(crate) wrong: BTreeSet<u32>,
    pub(crate) tails: [Option<(u32, u64)>; 2],
    pub(crate) records: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damaged: u64,
    pub(crate) newest_time: u32,
    pub(crate) last_incarnation_ms: u64,
}

/// Reads everything back, with the index on disk as it is.
pub(crate) fn read_back(options: &StoreOptions, format: Format) -> Result<ReadBack, ReplayFailure> {
    read_back_with(options, format, IndexUse::AsItIs, &BeforeReading::default())
}

fn read_back_with(
    options: &StoreOptions,
    format: Format,
    index: IndexUse,
    before: &BeforeReading,
) -> Result<ReadBack, ReplayFailure> {
    let disk = options.disk.clone();
    let dir = options.data_dir.as_path();
    let log = Log::new(disk.clone(), dir.join("log"));
    let (checkpoint, bad_checkpoints) =
        Checkpoint::read(&*disk, dir, format.store_id).map_err(open_io("read the checkpoint in", dir))?;
    let mut inventory = inventory::take(&log, dir, format.store_id)?;
    inventory.damaged += bad_checkpoints;
    let had_checkpoint = checkpoint.is_some();
    if let Some(newest) = &checkpoint {
        // Its sync may have failed, and what was read may be in the page cache only (see `open_ends`); the next checkpoint
        // overwrites the other file.
        newest.write(&*disk, dir, format.store_id).map_err(open_io("write the checkpoint in", dir))?;
    }
    let checkpoint = checkpoint.unwrap_or_default();
    if !had_checkpoint {
        no_checkpoint::why(before, &inventory, bad_checkpoints).tell();
    }
    give_back_freed(&log, &checkpoint, &mut inventory)?;

    let (cold, existed) = match index {
        IndexUse::None => (None, false),
        IndexUse::AsItIs | IndexUse::Anew => open_cold(options, format.store_id, had_checkpoint)?,
    };
    let trusted = had_checkpoint && existed;
    let positions = if trusted { checkpoint.positions } else { from_the_start() };
    let mut state = restore(options, &checkpoint, &mut inventory);
    if !trusted {
        for account in state.accounts.values_mut() {
            account.cold = crate::index::segment_account::Digest::default();
        }
    }
    let mut replay = Replay::after(options, &log, format.key_secret, state, &checkpoint);
    replay.damaged = inventory.damaged;
    let tails = replay_lanes(&mut replay, &positions)?;
    // A damaged index may make sled fail in any way, even panic.
    let caught = fenced(|| catch_up(&mut replay, cold.as_deref(), &positions, checkpoint.last_sequence));
    let wrong = caught
        .unwrap_or_else(|| Err(ReplayFailure::Index(ColdError("sled panicked while it was read".into()))))?;
    let Replay { state, records, torn_bytes, damaged, newest_time, last_incarnation_ms, .. } = replay;
    Ok(ReadBack {
        log,
        checkpoint,
        inventory,
        state,
        cold,
        had_checkpoint,
        trusted,
        wrong,
        tails,
        records,
        torn_bytes,
        damaged,
        newest_time,
        last_incarnation_ms,
    })
}

/// Prepares what was read back for the store to go on.
fn go_on(
    options: &StoreOptions,
    folder_lock: &Arc<FolderLock>,
    format: Format,
    new: bool,
    found: ReadBack,
) -> Result<RecoveredStore, OpenError> {
    let ReadBack { log, checkpoint, mut inventory, mut state, cold, trusted, tails, .. } = found;
    let incarnation = draw_incarnation(found.last_incarnation_ms)?;
    state.incarnations.push(incarnation);
    for fifo in &mut state.fifo {
        fifo.make_contiguous().sort_by_key(|recent| recent.place);
    }
    let segment_bytes = segment_size(options)?;
    let next = inventory.max_id.max(checkpoint.next_segment) + 1;
    let (ends, spares) = open_ends(&log, &format, &mut state, &mut inventory, tails, segment_bytes, next)?;
    let index = match (new, trusted) {
        (true, _) => IndexFound::New,
        (false, true) => IndexFound::CaughtUp,
        (false, false) => IndexFound::Rebuilt,
    };
    Ok(RecoveredStore {
        folder_lock: folder_lock.clone(),
        format,
        log,
        state,
        ends,
        spares,
        cold,
        segment_bytes,
        service_seconds: found.newest_time,
        generation: checkpoint.generation,
        wants_checkpoint: !new && !found.had_checkpoint,
        incarnation,
        index,
        records: found.records,
        torn_bytes: found.torn_bytes,
        damaged: found.damaged,
    })
}

/// Recycles segments that the checkpoint knows as freed, but whose files still have their old names.
fn give_back_freed(log: &Log, checkpoint: &Checkpoint, inventory: &mut Inventory) -> Result<(), OpenError> {
    let freed: Vec<_> = inventory
        .segments
        .iter()
        .filter(|(id, _)| {
            **id < checkpoint.next_segment && !checkpoint.segments.iter().any(|(k, _)| k == *id)
        })
        .map(|(id, held)| (*id, held.lane))
        .collect();
    for (id, lane) in freed {
        recycle(log, lane, id)?;
        inventory.segments.remove(&id);
        inventory.free.push(id);
    }
    Ok(())
}

fn open_cold(
    options: &StoreOptions,
    store_id: u128,
    trusted: bool,
) -> Result<(Option<Arc<Cold>>, bool), ReplayFailure> {
    let Some(path) = options.disk.index_dir(&options.data_dir) else { return Ok((None, false)) };
    let (cold, existed) = match Cold::open(&*options.disk, &path, store_id) {
        Ok(opened) => opened,
        Err(error) if error.is_locked() => {
            let source = io::Error::other(error.to_string());
            return Err(ReplayFailure::Open(OpenError::Io { action: "open the index in", path, source }));
        }
        Err(error) => {
            tracing::warn!(%error, "going on without an index on disk: everything is indexed in memory");
            return Ok((None, false));
        }
    };
    if existed && !trusted {
        cold.clear().map_err(ReplayFailure::Index)?;
    }
    Ok((Some(Arc::new(cold)), existed))
}

/// The state according to the checkpoint, for the segments that exist.
fn restore(options: &StoreOptions, checkpoint: &Checkpoint, inventory: &mut Inventory) -> State {
    let mut state = State::new(options.cache_bytes);
    state.dead_room = DeadRoom::new(options.dead_letter_bytes);
    state.last_sequence = checkpoint.last_sequence;
    state.delivered = checkpoint.delivered.clone();
    state.sends.restore(&checkpoint.sends);
    state.incarnations.clone_from(&checkpoint.incarnations);
    for party in &checkpoint.parties {
        state.parties.intern(party);
    }
    for (id, account) in &checkpoint.segments {
        match inventory.segments.get(id) {
            Some(held) => {
                state.accounts.insert(*id, Account { size: held.size, ..account.clone() });
            }
            None if account.cold.count > 0 && !account.was_empty => {
                inventory.damaged += 1;
                tracing::error!(
                    segment = id,
                    messages = account.cold.count,
                    "a log segment is missing; the messages in it are lost: restore the data folder from a copy that has it"
                );
            }
            None => {}
        }
    }
    for (id, held) in &inventory.segments {
        state.accounts.entry(*id).or_insert_with(|| Account::new(held.lane, held.size, PAGE as u32));
    }
    state
}

/// Reads both lanes from their positions on; returns where each ends.
fn replay_lanes(
    replay: &mut Replay<'_>,
    positions: &[Place; 2],
) -> Result<[Option<(u32, u64)>; 2], OpenError> {
    let mut tails = [None; 2];
    for lane in LANES {
        let position = positions[lane.index()];
        let ids = segments_of(&replay.state, lane);
        replay.watch_slices(position);
        for id in ids {
            if id < position.segment {
                seal(&mut replay.state, id, None);
                tails[lane.index()] = Some((id, u64::MAX));
                continue;
            }
            let from = if id == position.segment { u64::from(position.offset) } else { PAGE };
            let end = replay.segment(lane, id, from, u64::MAX)?;
            seal(&mut replay.state, id, Some(end.offset));
            if end.offset > PAGE || tails[lane.index()].is_none() {
                tails[lane.index()] = Some((id, end.offset));
            }
        }
        replay.finish_slices(lane, tails[lane.index()])?;
    }
    Ok(tails)
}

/// Marks a segment as sealed: every one counts as sealed until the lane's last is known.
fn seal(state: &mut State, id: u32, end: Option<u64>) {
    if let Some(account) = state.accounts.get_mut(&id) {
        account.sealed = true;
        account.tail = end.map_or(account.size, |end| end as u32);
    }
}

fn draw_incarnation(last_ms: u64) -> Result<Incarnation, OpenError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Incarnation { started_ms: (now.as_millis() as u64).max(last_ms + 1), random: random_u64()? })
}
