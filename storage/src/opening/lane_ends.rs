//! The end of each lane: where the log goes on after a start, and what is cleared after it.

use std::io;

use crate::core::options::StoreOptions;
use crate::face::error::OpenError;
use crate::index::memory::State;
use crate::index::segment_account::Account;
use crate::log::batch::MAX_UNSYNCED;
use crate::log::data_folder::open_io;
use crate::log::data_folder::text::Format;
use crate::log::disk::DiskFile;
use crate::log::files::Log;
use crate::log::frame::ALIGN;
use crate::log::inventory::Inventory;
use crate::log::lane_end::LogEnd;
use crate::log::segment::{LANES, Lane, LogFile, PAGE};
use crate::log::spare_segments::{SpareSegments, prepare};

/// The segments of a lane, in order.
pub(crate) fn segments_of(state: &State, lane: Lane) -> Vec<u32> {
    state.accounts.iter().filter(|(_, a)| a.lane == lane).map(|(id, _)| *id).collect()
}

/// Recycles a segment's file.
pub(crate) fn recycle(log: &Log, lane: Lane, id: u32) -> Result<(), OpenError> {
    let path = log.path(lane, id);
    log.forget(id);
    log.disk.rename(&path, &log.dir.join(LogFile::Free(id).name())).map_err(open_io("rename", &path))
}

/// Size of new segments: small enough for the quota or the disk to hold several, a power of two if it is below the
/// configured size, at least 1 MiB.
pub(crate) fn segment_size(options: &StoreOptions) -> Result<u64, OpenError> {
    let dir = &options.data_dir;
    let room = options.disk.room(dir).map_err(open_io("find the room of", dir))?;
    let capacity = if options.max_bytes == 0 { room.total } else { room.total.min(options.max_bytes) };
    let fair = (capacity / 16).max(1 << 20);
    let fair = if fair.is_power_of_two() { fair } else { fair.next_power_of_two() / 2 };
    // The size of a file may be limited, too (`ulimit -f`).
    let largest = 1_u64 << crate::log::disk::largest_file().max(1 << 20).ilog2();
    Ok(options.segment_bytes.min(fair).min(largest).max(1 << 20))
}

/// Opens the end of each lane; recycles the empty segments after it; makes a first segment if there is none.
pub(crate) fn open_ends(
    log: &Log,
    format: &Format,
    state: &mut State,
    inventory: &mut Inventory,
    tails: [Option<(u32, u64)>; 2],
    segment_bytes: u64,
    mut next: u32,
) -> Result<([LogEnd; 2], SpareSegments), OpenError> {
    let mut ends = Vec::new();
    for lane in LANES {
        let tail = tails[lane.index()];
        for id in segments_of(state, lane) {
            if tail.is_some_and(|(last, _)| id > last) {
                recycle(log, lane, id)?;
                state.accounts.remove(&id);
                inventory.free.push(id);
            }
        }
        let end = if let Some((id, offset)) = tail {
            open_end(log, state, lane, id, offset)?
        } else {
            let free = inventory.free.pop();
            let ready = prepare(log, format.store_id, lane, next, segment_bytes as u32, free)
                .map_err(|unmade| unmade.error)
                .map_err(open_io("create a log segment in", &log.dir))?;
            next += 1;
            state.add_segment(ready.id, Account::new(lane, ready.size, PAGE as u32));
            log.keep(ready.id, ready.file.clone());
            LogEnd { segment: ready.id, file: ready.file, size: ready.size, end: PAGE, tail: Vec::new() }
        };
        if let Some(account) = state.accounts.get_mut(&end.segment) {
            account.sealed = false;
        }
        state.active[lane.index()] = end.segment;
        ends.push(end);
    }
    state.next_segment = next;
    log.disk.sync_dir(&log.dir).map_err(open_io("sync", &log.dir))?;
    let ends = ends
        .try_into()
        .map_err(|_| OpenError::Format { path: log.dir.clone(), what: "has not exactly two lanes".into() })?;
    Ok((ends, SpareSegments::new(next, std::mem::take(&mut inventory.free))))
}

/// Makes a lane's last segment ready to go on: clears what un-synced writes left after its end, rewrites what may be
/// un-synced before it, and syncs that. A sync alone would not do: after a failed one, the kernel considers pages clean that
/// never reached the disk.
fn open_end(log: &Log, state: &mut State, lane: Lane, id: u32, offset: u64) -> Result<LogEnd, OpenError> {
    let path = log.path(lane, id);
    let io = |action| open_io(action, &path);
    let file = log.file(lane, id).map_err(io("open"))?;
    let size = file.len().map_err(io("read"))?;
    // A segment before the position has no known end; it counts as full.
    let end = offset.min(size).max(PAGE.min(size));
    let mut tail = vec![0; (end % PAGE) as usize];
    crate::log::disk::read_exact_at(&*file, &mut tail, end - end % PAGE).map_err(io("read"))?;
    clear_behind(&*file, end, size).map_err(io("clear the end of"))?;
    write_again(&*file, end).map_err(io("write the end of"))?;
    file.sync_data().map_err(io("sync"))?;
    if let Some(account) = state.accounts.get_mut(&id) {
        account.tail = end as u32;
        // What was remembered about frames after the end does not apply to those that will be written there.
        account.dead.remove_range(account.tail / ALIGN as u32..);
    }
    let usable = size.min(crate::log::disk::largest_file() / PAGE * PAGE);
    Ok(LogEnd { segment: id, file, size: usable as u32, end, tail })
}

/// Rewrites the bytes before the end unchanged.
fn write_again(file: &dyn DiskFile, end: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let mut at = end.saturating_sub(MAX_UNSYNCED) / PAGE * PAGE;
    while at < end {
        let mut bytes = vec![0; (end - at).min(CHUNK) as usize];
        crate::log::disk::read_exact_at(file, &mut bytes, at)?;
        crate::log::disk::write_all_at(file, &bytes, at)?;
        at += CHUNK;
    }
    Ok(())
}

fn clear_behind(file: &dyn DiskFile, end: u64, size: u64) -> io::Result<()> {
    let len = (size - end).min(MAX_UNSYNCED) as usize;
    let mut behind = vec![0; len];
    file.read_at(&mut behind, end)?;
    if let Some(last) = behind.iter().rposition(|b| *b != 0) {
        let zeros = vec![0; last + 1];
        crate::log::disk::write_all_at(file, &zeros, end)?;
    }
    Ok(())
}
