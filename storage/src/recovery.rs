//! Opening a store: lock, read the log back, bring the index on disk into line, find the end of the log.
//!
//! Invariants: opening twice gives the same answers, also when it is cut off half-way; nothing that checks out is
//! dropped; before anything recovered is promised again, the end of the log is synced.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::account::Account;
use crate::catch_up::catch_up;
use crate::checkpoint::Checkpoint;
use crate::cold::{Cold, ColdError};
use crate::corrupt::{Damage, set_aside};
use crate::disk::DiskFile;
use crate::ends::{open_ends, recycle, segment_size, segments_of};
use crate::error::OpenError;
use crate::format::{Format, lock_folder, open_io, random_u64, read_or_create};
use crate::frame::Place;
use crate::inventory::{self, Inventory};
use crate::log::Log;
use crate::message::Incarnation;
use crate::moving;
use crate::options::{IndexFound, StoreOptions};
use crate::replay::Replay;
use crate::segment::{LANES, Lane, LogFile, PAGE};
use crate::spares::Spares;
use crate::state::State;
use crate::verify::from_the_start;
use crate::writer::LogEnd;

/// An opened store, before its threads run.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) folder_lock: Arc<dyn DiskFile>,
    pub(crate) format: Format,
    pub(crate) log: Log,
    pub(crate) state: State,
    pub(crate) ends: [LogEnd; 2],
    pub(crate) spares: Spares,
    pub(crate) cold: Option<Arc<Cold>>,
    pub(crate) segment_bytes: u64,
    pub(crate) service_seconds: u32,
    pub(crate) generation: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) index: IndexFound,
    pub(crate) records: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damaged: u64,
}

/// Why reading back failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store cannot be opened.
    Open(OpenError),
    /// The index on disk gave errors: it is done without.
    Index(ColdError),
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// Opens the store in the folder.
pub(crate) fn recover(options: &StoreOptions) -> Result<Recovered, OpenError> {
    let folder_lock = lock_folder(&*options.disk, &options.data_dir)?;
    moving::refuse(&*options.disk, &options.data_dir)?;
    recover_locked(options, &folder_lock)
}

/// Opens the store in a folder that this process has locked.
pub(crate) fn recover_locked(
    options: &StoreOptions,
    folder_lock: &Arc<dyn DiskFile>,
) -> Result<Recovered, OpenError> {
    let disk = options.disk.clone();
    let dir = options.data_dir.as_path();
    let (format, new) = read_or_create(&*disk, dir)?;
    disk.create_dir(&dir.join("log")).map_err(open_io("create", &dir.join("log")))?;
    Checkpoint::create_files(&*disk, dir).map_err(open_io("create the checkpoint files in", dir))?;
    disk.sync_dir(dir).map_err(open_io("sync", dir))?;
    let mut last_error = String::new();
    for _ in 0..2 {
        match read_back(options, format) {
            Ok(found) => return go_on(options, folder_lock, format, new, found),
            Err(Failure::Open(error)) => return Err(error),
            Err(Failure::Index(error)) => {
                tracing::warn!(%error, "the index gives errors; it is set aside and made anew from the log");
                if let Some(path) = disk.index_dir(dir) {
                    crate::cold::set_aside(&*disk, &path).map_err(open_io("set aside", &path))?;
                }
                last_error = error.to_string();
            }
        }
    }
    let path = disk.index_dir(dir).unwrap_or_default();
    Err(OpenError::Io { action: "make the index anew in", path, source: io::Error::other(last_error) })
}

/// What a data folder holds, before anything goes on in it.
#[derive(Debug)]
pub(crate) struct ReadBack {
    pub(crate) log: Log,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) inventory: Inventory,
    pub(crate) state: State,
    pub(crate) cold: Option<Arc<Cold>>,
    /// The index on disk was there and a checkpoint says what it must hold.
    pub(crate) trusted: bool,
    /// Segments of which the index on disk did not hold what it must.
    pub(crate) wrong: BTreeSet<u32>,
    pub(crate) tails: [Option<(u32, u64)>; 2],
    pub(crate) records: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damaged: u64,
    pub(crate) newest_time: u32,
    pub(crate) last_incarnation_ms: u64,
}

/// Reads everything back, with the index on disk as it is.
pub(crate) fn read_back(options: &StoreOptions, format: Format) -> Result<ReadBack, Failure> {
    let disk = options.disk.clone();
    let dir = options.data_dir.as_path();
    let log = Log::new(disk.clone(), dir.join("log"));
    let (checkpoint, bad_checkpoints) =
        Checkpoint::read(&*disk, dir, format.store_id).map_err(open_io("read the checkpoint in", dir))?;
    let mut inventory = inventory::take(&log, dir, format.store_id)?;
    inventory.damaged += bad_checkpoints;
    let had_checkpoint = checkpoint.is_some();
    if let Some(newest) = &checkpoint {
        // Its sync may have failed, and what was read be in memory only (see `open_ends`): the next one overwrites the
        // other file.
        newest.write(&*disk, dir, format.store_id).map_err(open_io("write the checkpoint in", dir))?;
    }
    let checkpoint = checkpoint.unwrap_or_default();
    if !had_checkpoint && !inventory.segments.is_empty() {
        tracing::warn!(
            "no checkpoint that checks out: the whole log is read; what was delivered and given back is not remembered"
        );
    }
    give_back_freed(&log, &checkpoint, &mut inventory)?;

    let (cold, existed) = open_cold(options, format.store_id, had_checkpoint)?;
    let trusted = had_checkpoint && existed;
    let positions = if trusted { checkpoint.positions } else { from_the_start() };
    let mut state = restore(options, &checkpoint, &mut inventory);
    if !trusted {
        for account in state.accounts.values_mut() {
            account.cold = crate::account::Digest::default();
        }
    }
    let mut replay = Replay {
        options,
        log: &log,
        secret: format.key_secret,
        state,
        settled: Vec::new(),
        dead: std::collections::HashMap::new(),
        replaced: std::collections::HashSet::new(),
        records: 0,
        torn_bytes: 0,
        damaged: inventory.damaged,
        newest_time: checkpoint.service_seconds,
        last_incarnation_ms: checkpoint.last_incarnation_ms,
        slices: None,
    };
    let tails = replay_lanes(&mut replay, &positions)?;
    // sled panics on some damage.
    let caught = catch_unwind(AssertUnwindSafe(|| catch_up(&mut replay, cold.as_deref(), &positions)));
    let wrong = caught
        .unwrap_or_else(|_| Err(Failure::Index(ColdError("sled panicked while it was read".into()))))?;
    let Replay { state, records, torn_bytes, damaged, newest_time, last_incarnation_ms, .. } = replay;
    Ok(ReadBack {
        log,
        checkpoint,
        inventory,
        state,
        cold,
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

/// Makes what was read back ready to go on.
fn go_on(
    options: &StoreOptions,
    folder_lock: &Arc<dyn DiskFile>,
    format: Format,
    new: bool,
    found: ReadBack,
) -> Result<Recovered, OpenError> {
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
    Ok(Recovered {
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
        incarnation,
        index,
        records: found.records,
        torn_bytes: found.torn_bytes,
        damaged: found.damaged,
    })
}

/// Segments that the checkpoint knows as given back, and whose files still have their old names.
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
) -> Result<(Option<Arc<Cold>>, bool), Failure> {
    let Some(path) = options.disk.index_dir(&options.data_dir) else { return Ok((None, false)) };
    let (cold, existed) = match Cold::open(&*options.disk, &path, store_id) {
        Ok(opened) => opened,
        Err(error) if error.is_locked() => {
            let source = io::Error::other(error.to_string());
            return Err(Failure::Open(OpenError::Io { action: "open the index in", path, source }));
        }
        Err(error) => {
            tracing::warn!(%error, "going on without an index on disk: everything is indexed in memory");
            return Ok((None, false));
        }
    };
    if existed && !trusted {
        cold.clear().map_err(Failure::Index)?;
    }
    Ok((Some(Arc::new(cold)), existed))
}

/// The state as the checkpoint has it, for the segments that exist.
fn restore(options: &StoreOptions, checkpoint: &Checkpoint, inventory: &mut Inventory) -> State {
    let mut state = State::new(options.cache_bytes);
    state.last_sequence = checkpoint.last_sequence;
    state.delivered = checkpoint.delivered.clone();
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

/// Reads both lanes from their positions on; gives where each ends.
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

/// Every segment counts as sealed until the lane's last is known.
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

/// Reports damage met when a message was read.
pub(crate) fn report_damage(log: &Log, data_dir: &Path, lane: Lane, place: Place, len: u64, what: &str) {
    let name = LogFile::Segment(lane, place.segment).name();
    if let Ok(file) = log.file(lane, place.segment) {
        let damage = Damage { segment: &name, offset: place.offset.into(), len, what, torn: false };
        set_aside(&*log.disk, data_dir, &*file, &damage);
    }
}
