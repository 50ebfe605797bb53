//! What does not check out is copied to `corrupt/` with a report, and left where it is.

use std::path::Path;

use crate::disk::{Disk, DiskFile, OpenMode, write_all_at};

/// Longest copy of one damaged place.
const MAX_COPY: u64 = 4 << 20;

/// A damaged place.
#[derive(Debug)]
pub(crate) struct Damage<'a> {
    /// File name of the segment.
    pub(crate) segment: &'a str,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) what: &'a str,
    /// An unfinished last write, normal after a crash.
    pub(crate) torn: bool,
}

/// Copies a damaged place of `file` and adds a line to the report. Failing to is logged: nothing depends on it.
pub(crate) fn set_aside(disk: &dyn Disk, data_dir: &Path, file: &dyn DiskFile, damage: &Damage<'_>) {
    let Damage { segment, offset, len, what, torn } = damage;
    if *torn {
        tracing::info!(
            segment,
            offset,
            len,
            "cut off an unfinished write at the end of the log; a copy is in corrupt/"
        );
    } else {
        tracing::warn!(
            segment,
            offset,
            len,
            what,
            "damaged place in the log; it is set aside in corrupt/, everything else is served"
        );
    }
    let copy = || -> std::io::Result<()> {
        let dir = data_dir.join("corrupt");
        disk.create_dir(&dir)?;
        let name = format!("{segment}-{offset:010}.bin");
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
    }
}
