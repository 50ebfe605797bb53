//! The end of each lane: where the log goes on after a start, and what is cleared behind it.

use std::io;

use crate::account::Account;
use crate::disk::DiskFile;
use crate::error::OpenError;
use crate::format::{Format, open_io};
use crate::frame::ALIGN;
use crate::inventory::Inventory;
use crate::log::Log;
use crate::options::StoreOptions;
use crate::replay::MAX_UNSYNCED;
use crate::segment::{LANES, Lane, LogFile, PAGE};
use crate::spares::{Spares, prepare};
use crate::state::State;
use crate::writer::LogEnd;

/// Segments of a lane, in order.
pub(crate) fn segments_of(state: &State, lane: Lane) -> Vec<u32> {
    state.accounts.iter().filter(|(_, a)| a.lane == lane).map(|(id, _)| *id).collect()
}

/// Gives a segment's file back for use.
pub(crate) fn recycle(log: &Log, lane: Lane, id: u32) -> Result<(), OpenError> {
    let path = log.path(lane, id);
    log.forget(id);
    log.disk.rename(&path, &log.dir.join(LogFile::Free(id).name())).map_err(open_io("rename", &path))
}

/// Segments are small enough for the quota or the disk to hold some: a power of two, 1 MiB at least.
pub(crate) fn segment_size(options: &StoreOptions) -> Result<u64, OpenError> {
    let dir = &options.data_dir;
    let room = options.disk.room(dir).map_err(open_io("find the room of", dir))?;
    let capacity = if options.max_bytes == 0 { room.total } else { room.total.min(options.max_bytes) };
    let fair = (capacity / 16).max(1 << 20);
    let fair = if fair.is_power_of_two() { fair } else { fair.next_power_of_two() / 2 };
    Ok(options.segment_bytes.min(fair).max(1 << 20))
}

/// Opens the end of each lane; recycles the empty segments behind it; makes a first segment where there is none.
pub(crate) fn open_ends(
    log: &Log,
    format: &Format,
    state: &mut State,
    inventory: &mut Inventory,
    tails: [Option<(u32, u64)>; 2],
    segment_bytes: u64,
    mut next: u32,
) -> Result<([LogEnd; 2], Spares), OpenError> {
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
    Ok((ends, Spares::new(next, std::mem::take(&mut inventory.free))))
}

/// Makes a lane's last segment ready to go on: clears what un-synced writes left behind its end, writes what may be
/// un-synced before it once more, and syncs that. A sync alone would not do: after one that failed, the kernel takes
/// pages for clean that never reached the disk.
fn open_end(log: &Log, state: &mut State, lane: Lane, id: u32, offset: u64) -> Result<LogEnd, OpenError> {
    let path = log.path(lane, id);
    let io = |action| open_io(action, &path);
    let file = log.file(lane, id).map_err(io("open"))?;
    let size = file.len().map_err(io("read"))?;
    // A segment before the position has no known end: it is full.
    let end = offset.min(size).max(PAGE.min(size));
    let mut tail = vec![0; (end % PAGE) as usize];
    crate::disk::read_exact_at(&*file, &mut tail, end - end % PAGE).map_err(io("read"))?;
    clear_behind(&*file, end, size).map_err(io("clear the end of"))?;
    write_again(&*file, end).map_err(io("write the end of"))?;
    file.sync_data().map_err(io("sync"))?;
    if let Some(account) = state.accounts.get_mut(&id) {
        account.tail = end as u32;
        // What was remembered about frames behind the end is not about those that will come to stand there.
        account.dead.remove_range(account.tail / ALIGN as u32..);
    }
    Ok(LogEnd { segment: id, file, size: size as u32, end, tail })
}

/// Writes the bytes before the end as they are.
fn write_again(file: &dyn DiskFile, end: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let mut at = end.saturating_sub(MAX_UNSYNCED) / PAGE * PAGE;
    while at < end {
        let mut bytes = vec![0; (end - at).min(CHUNK) as usize];
        crate::disk::read_exact_at(file, &mut bytes, at)?;
        crate::disk::write_all_at(file, &bytes, at)?;
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
        crate::disk::write_all_at(file, &zeros, end)?;
    }
    Ok(())
}
