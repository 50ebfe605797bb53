//! Copies damaged places of the log to `corrupt/`, with a report, and leaves the originals where they are.

use crate::log::files::Log;
use crate::log::frame::Place;
use crate::log::segment::{Lane, LogFile};
use std::path::Path;

use crate::log::disk::{Disk, DiskFile, OpenMode, write_all_at};

/// Longest copy of one damaged place.
const MAX_COPY: u64 = 4 << 20;

/// With less room than this on the disk, in bytes, unfinished writes are not copied.
const TORN_ROOM: u64 = 256 << 20;
/// With more files than this in `corrupt/`, unfinished writes are not copied.
const MAX_TORN: usize = 64;

/// A damaged place.
#[derive(Debug)]
pub(crate) struct DamagedPlace<'a> {
    /// File name of the segment.
    pub(crate) segment: &'a str,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) what: &'a str,
    /// Whether this is an unfinished last write, normal after a crash.
    pub(crate) torn: bool,
}

/// Copies a damaged place of `file` and adds a line to the report. A failure is only logged: nothing depends on the copy.
pub(crate) fn set_aside(disk: &dyn Disk, data_dir: &Path, file: &dyn DiskFile, damage: &DamagedPlace<'_>) {
    let DamagedPlace { segment, offset, len, what, torn } = damage;
    if *torn {
        tracing::info!(segment, offset, len, "cut off an unfinished write at the end of the log");
    } else {
        tracing::warn!(
            segment,
            offset,
            len,
            what,
            "damaged place in the log; it is set aside in corrupt/, everything else is served"
        );
    }
    let dir = data_dir.join("corrupt");
    let name = format!("{segment}-{offset:010}.bin");
    // One unfinished write is normal after a crash. Many of them must not fill the disk, and none may take the last room.
    let unneeded = || -> std::io::Result<bool> {
        Ok(disk.room(data_dir)?.available < TORN_ROOM
            || disk.list(&dir).is_ok_and(|names| names.len() > MAX_TORN))
    };
    if *torn && unneeded().unwrap_or(true) {
        return;
    }
    let copy = || -> std::io::Result<()> {
        disk.create_dir(&dir)?;
        if disk.list(&dir)?.contains(&name) {
            return Ok(());
        }
        let mut bytes = vec![0; (*len).min(MAX_COPY) as usize];
        let n = file.read_at(&mut bytes, *offset)?;
        let copy = disk.open(&dir.join(&name), OpenMode::Create)?;
        write_all_at(&*copy, &bytes[..n], 0)?;
        copy.sync_data()?;
        let report = disk.open(&dir.join("report.txt"), OpenMode::Create)?;
        let line = format!("{segment} offset {offset} length {len}: {what}; copy in {name}\n");
        let end = report.len()?;
        write_all_at(&*report, line.as_bytes(), end)?;
        report.sync_data()?;
        disk.sync_dir(&dir)
    };
    if let Err(error) = copy() {
        tracing::warn!(%error, segment, offset, "cannot copy the damaged place to corrupt/");
        if crate::log::disk::is_no_room(&error) {
            // Half a copy is of no use.
            drop(disk.remove(&dir.join(&name)));
        }
    }
}

/// Reports damage that was found when a message was read.
pub(crate) fn report_damage(log: &Log, data_dir: &Path, lane: Lane, place: Place, len: u64, what: &str) {
    let name = LogFile::Segment(lane, place.segment).name();
    if let Ok(file) = log.file(lane, place.segment) {
        let damage = DamagedPlace { segment: &name, offset: place.offset.into(), len, what, torn: false };
        set_aside(&*log.disk, data_dir, &*file, &damage);
    }
}
