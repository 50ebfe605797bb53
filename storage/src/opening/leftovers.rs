//! Before a start reads anything: removes what an ended process left half-made, which frees the room that it takes.
//!
//! If a gateway filled its disk, the last bytes are in such files. Invariant: nothing that the log, a checkpoint or an
//! operator needs is touched; what is removed can be made again.

use std::io;
use std::path::Path;

use crate::core::options::StoreOptions;
use crate::core::room::HEADROOM_SEGMENTS;
use crate::face::error::OpenError;
use crate::index::on_disk;
use crate::log::data_folder::{self, open_io};
use crate::log::disk::{Disk, OpenMode};
use crate::log::segment::LogFile;
use crate::opening::lane_ends::segment_size;
use crate::opening::move_mark;

/// The outcome of tidying.
#[derive(Debug, Default)]
pub(crate) struct TidiedFolder {
    /// Whether there is so little room that the index on disk must be removed, too.
    pub(crate) lacks_room: bool,
    /// Numbers of the half-made log files that were removed.
    pub(crate) removed: Vec<u32>,
}

/// Removes half-made files.
pub(crate) fn tidy(options: &StoreOptions) -> Result<TidiedFolder, OpenError> {
    let (disk, dir) = (&*options.disk, options.data_dir.as_path());
    let names = disk.list(dir).map_err(open_io("list", dir))?;
    for name in [data_folder::UNFINISHED, move_mark::UNFINISHED] {
        if names.iter().any(|n| n == name) {
            remove(disk, &dir.join(name));
        }
    }
    let log = dir.join("log");
    let size = segment_size(options)?;
    let mut spares = 0;
    let mut removed = Vec::new();
    for name in disk.list(&log).map_err(open_io("list", &log))? {
        let Some(LogFile::Free(id)) = LogFile::parse(&name) else { continue };
        let path = log.join(&name);
        match whole(disk, &path, size) {
            Ok(true) => spares += 1,
            Ok(false) => {
                tracing::info!(file = %path.display(), "a spare segment that is half-made or of another size; it is removed");
                remove(disk, &path);
                removed.push(id);
            }
            // It is examined again when it is used.
            Err(error) => tracing::warn!(%error, file = %path.display(), "cannot look at a spare segment"),
        }
    }
    if !removed.is_empty() {
        disk.sync_dir(&log).map_err(open_io("sync", &log))?;
    }
    let room = || disk.room(dir).map(|room| room.available).map_err(open_io("find the room of", dir));
    let Some(index) = disk.index_dir(dir) else {
        return Ok(TidiedFolder { lacks_room: false, removed });
    };
    if room()? < on_disk::LOW_BYTES {
        on_disk::remove_aside(disk, &index);
    }
    Ok(TidiedFolder { lacks_room: room()? / size + spares < HEADROOM_SEGMENTS, removed })
}

fn whole(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<bool> {
    Ok(disk.open(path, OpenMode::Existing)?.len()? == size)
}

fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove(path) {
        tracing::warn!(%error, file = %path.display(), "cannot remove a half-made file");
    }
}
