//! Which segments the folder holds, according to their headers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::face::error::OpenError;
use crate::log::data_folder::open_io;
use crate::log::files::Log;
use crate::log::segment::{FORMAT_VERSION, Lane, LogFile, NotASegment, PAGE, SegmentHeader};

/// Ending of a segment's name, in place of `.seg`, while its own name is being restored.
pub(crate) const MISNAMED: &str = ".misnamed";

/// A segment file that belongs to this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) lane: Lane,
    pub(crate) size: u32,
}

/// What the log folder holds.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) segments: BTreeMap<u32, SegmentFile>,
    pub(crate) free: Vec<u32>,
    pub(crate) damaged: u64,
    /// Highest id among all files.
    pub(crate) max_id: u32,
}

/// Lists the folder. Foreign segments are set aside; misnamed ones get the name that their header says.
pub(crate) fn take(log: &Log, data_dir: &Path, store_id: u128) -> Result<Inventory, OpenError> {
    let mut inventory = Inventory::default();
    let mut misnamed = Vec::new();
    let names = log.disk.list(&log.dir).map_err(open_io("list", &log.dir))?;
    for name in names {
        // A start that was cut off while it restored the names of swapped segments leaves the temporary names.
        let temporary = name.strip_suffix(MISNAMED).map(|stem| format!("{stem}.seg"));
        let Some(file) = LogFile::parse(temporary.as_ref().unwrap_or(&name)) else { continue };
        let (lane, id) = match file {
            LogFile::Free(id) => {
                inventory.free.push(id);
                inventory.max_id = inventory.max_id.max(id);
                continue;
            }
            LogFile::Segment(lane, id) => (lane, id),
        };
        inventory.max_id = inventory.max_id.max(id);
        let path = log.dir.join(&name);
        let (header, len) = read_header(log, &path)?;
        match header {
            Ok(h) if h.store_id != store_id => {
                tracing::warn!(file = %path.display(), "a segment of another store; it is set aside in corrupt/");
                inventory.damaged += 1;
                set_aside_file(log, data_dir, &name).map_err(open_io("set aside", &path))?;
            }
            Ok(h) if (h.lane, h.id) != (lane, id) || temporary.is_some() => misnamed.push((name, h)),
            Ok(h) => {
                if u64::from(len) < h.size {
                    inventory.damaged += 1;
                    let expected = h.size;
                    tracing::error!(file = %path.display(), len, expected, "a segment was cut short; the messages cut off are lost");
                }
                inventory.segments.insert(id, SegmentFile { lane, size: len });
            }
            Err(NotASegment::Newer(version)) => {
                let what = format!(
                    "has format version {version}, this program knows {FORMAT_VERSION}; run the version that wrote it, or a newer one"
                );
                return Err(OpenError::Format { path, what });
            }
            Err(NotASegment::Garbage) if temporary.is_some() => {
                tracing::warn!(file = %path.display(), "a segment without name or header; it is set aside in corrupt/");
                inventory.damaged += 1;
                set_aside_file(log, data_dir, &name).map_err(open_io("set aside", &path))?;
            }
            Err(NotASegment::Garbage) => {
                // Each frame itself says which segment it belongs to: the header is not needed to read them.
                tracing::warn!(file = %path.display(), "damaged segment header; its frames are read by the file's name");
                inventory.damaged += 1;
                inventory.segments.insert(id, SegmentFile { lane, size: len });
            }
        }
    }
    rename_misnamed(log, data_dir, misnamed, &mut inventory)?;
    Ok(inventory)
}

fn read_header(log: &Log, path: &Path) -> Result<(Result<SegmentHeader, NotASegment>, u32), OpenError> {
    let file = log.disk.open(path, crate::log::disk::OpenMode::Existing).map_err(open_io("open", path))?;
    let len = file.len().map_err(open_io("read", path))?;
    let mut page = vec![0; PAGE as usize];
    let n = file.read_at(&mut page, 0).map_err(open_io("read", path))?;
    Ok((SegmentHeader::decode(&page[..n]), u32::try_from(len).unwrap_or(u32::MAX)))
}

/// Restores the names of segments that have wrong ones (swapped by hand, say), by way of temporary names.
fn rename_misnamed(
    log: &Log,
    data_dir: &Path,
    misnamed: Vec<(String, SegmentHeader)>,
    inventory: &mut Inventory,
) -> Result<(), OpenError> {
    for (name, header) in &misnamed {
        tracing::warn!(
            file = name,
            segment = header.id,
            "a segment under another one's name; it gets its own back"
        );
        inventory.damaged += 1;
        let from = log.dir.join(name);
        let to = temporary(log, name);
        if from != to {
            log.disk.rename(&from, &to).map_err(open_io("rename", &from))?;
        }
    }
    // Before any segment takes a name that another one had: a power cut must not keep the second renaming without the first.
    if !misnamed.is_empty() {
        log.disk.sync_dir(&log.dir).map_err(open_io("sync", &log.dir))?;
    }
    for (name, header) in misnamed {
        let from = temporary(log, &name);
        if inventory.segments.contains_key(&header.id) {
            let name = from.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or(name);
            set_aside_file(log, data_dir, &name).map_err(open_io("set aside", &from))?;
            continue;
        }
        log.disk.rename(&from, &log.path(header.lane, header.id)).map_err(open_io("rename", &from))?;
        inventory.max_id = inventory.max_id.max(header.id);
        inventory.segments.insert(
            header.id,
            SegmentFile { lane: header.lane, size: u32::try_from(header.size).unwrap_or(u32::MAX) },
        );
    }
    log.disk.sync_dir(&log.dir).map_err(open_io("sync", &log.dir))
}

/// Path of a misnamed segment between its two names.
fn temporary(log: &Log, name: &str) -> PathBuf {
    let stem = name.strip_suffix(MISNAMED).or_else(|| name.strip_suffix(".seg")).unwrap_or(name);
    log.dir.join(format!("{stem}{MISNAMED}"))
}

/// Moves a file of the log to `corrupt/`, under a name that is not taken there.
fn set_aside_file(log: &Log, data_dir: &Path, name: &str) -> io::Result<()> {
    let corrupt = data_dir.join("corrupt");
    log.disk.create_dir(&corrupt)?;
    log.disk.sync_dir(data_dir)?;
    let names = log.disk.list(&corrupt)?;
    let mut free = name.to_owned();
    for n in 1..=names.len() {
        if !names.contains(&free) {
            break;
        }
        free = format!("{name}.{n}");
    }
    log.disk.rename(&log.dir.join(name), &corrupt.join(free))?;
    log.disk.sync_dir(&corrupt)?;
    log.disk.sync_dir(&log.dir)
}
