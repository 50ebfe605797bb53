//! A disk that cannot do something while a test wants, and then can again: read the log, make files for it, write the index.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use petnet_storage::{Disk, DiskFile, OpenMode, RealDisk, Room};

/// EIO.
const EIO: i32 = 5;
/// ENOSPC.
const ENOSPC: i32 = 28;

/// What fails.
#[derive(Debug, Default)]
struct Faults {
    /// Reads of segments that are still to fail.
    reads: AtomicUsize,
    /// Why no file of the log can be made; 0: it can.
    segments: AtomicI32,
    /// The index has no room.
    index: AtomicBool,
}

#[derive(Debug, Clone, Default)]
pub struct FlakyDisk(Arc<Faults>);

impl FlakyDisk {
    /// This many reads of the log from now on fail with EIO. Those of the housekeeping, which may read at any moment, are let
    /// through: they would take the failure away from the caller that is meant.
    pub fn fail_reads(&self, count: usize) {
        self.0.reads.store(count, Ordering::SeqCst);
    }

    /// From now on no file can be made for the log, with this error of the system; 0: it can.
    pub fn fail_segments(&self, errno: i32) {
        self.0.segments.store(errno, Ordering::SeqCst);
    }

    /// Whether the index finds no room from now on.
    pub fn fill_index(&self, full: bool) {
        self.0.index.store(full, Ordering::SeqCst);
    }

    /// Reads that are still to fail.
    pub fn left(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Segment,
    Index,
}

#[derive(Debug)]
struct Flaky(Arc<dyn DiskFile>, Kind, Arc<Faults>);

impl Disk for FlakyDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let errno = self.0.segments.load(Ordering::SeqCst);
        let is_spare = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("free-"));
        if errno != 0 && is_spare {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let file = RealDisk.open(path, mode)?;
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        let kind = match (is_segment, path.ends_with("index/db")) {
            (true, _) => Kind::Segment,
            (_, true) => Kind::Index,
            _ => return Ok(file),
        };
        Ok(Arc::new(Flaky(file, kind, self.0.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_tree(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn room(&self, dir: &Path) -> io::Result<Room> {
        RealDisk.room(dir)
    }
    fn index_dir(&self, data_dir: &Path) -> Option<PathBuf> {
        RealDisk.index_dir(data_dir)
    }
}

impl DiskFile for Flaky {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let one_less = |left: usize| left.checked_sub(1);
        let is_flaky = self.1 == Kind::Segment && std::thread::current().name() != Some("petnet-keeper");
        if is_flaky && self.2.reads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(bufs, offset)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.1 == Kind::Index && self.2.index.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.0.sync_data()
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
}
