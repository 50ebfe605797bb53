//! A disk that shows what another one holds and keeps every change to itself, in memory.
//!
//! With it, the code that opens a store can run on a folder that must not change. Invariant: nothing is ever written
//! to, renamed, removed or locked on the disk below. What the disk below cannot read is shown as zeros and counted, so
//! that one bad sector does not hide what lies around it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::log::disk::{Disk, DiskFile, OpenMode, RealDisk, Room};

/// Changes are kept in pages of this many bytes.
const PAGE: usize = 4096;

/// The names that changed: `None` if the file no longer exists.
type ChangedNames = BTreeMap<PathBuf, Option<Arc<OverlayFile>>>;

/// A disk that keeps its changes in memory.
#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Disk>,
    /// Where the index may be: on a real file system, where it may be changed.
    index: Option<PathBuf>,
    names: Mutex<ChangedNames>,
    counts: Arc<ReadCounts>,
}

/// What was read from the disk below.
#[derive(Debug, Default)]
pub(crate) struct ReadCounts {
    /// Bytes read so far.
    pub(crate) read: AtomicU64,
    /// Bytes that could not be read.
    pub(crate) unreadable: AtomicU64,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Disk>, index: Option<PathBuf>, counts: Arc<ReadCounts>) -> Self {
        Self { below, index, names: Mutex::default(), counts }
    }

    fn is_real(&self, path: &Path) -> bool {
        self.index.as_ref().is_some_and(|index| path.starts_with(index))
    }
}

impl Disk for Overlay {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if self.is_real(dir) {
            return RealDisk.list(dir);
        }
        let below = match self.below.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let names = self.names.lock();
        let mut all: Vec<_> = below.into_iter().filter(|n| !names.contains_key(&dir.join(n))).collect();
        let ours = names.iter().filter(|(path, file)| path.parent() == Some(dir) && file.is_some());
        all.extend(ours.filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned())));
        Ok(all)
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if self.is_real(path) {
            return RealDisk.open(path, mode);
        }
        let mut names = self.names.lock();
        match names.get(path) {
            Some(Some(file)) => return Ok(file.clone()),
            None => match self.below.open(path, OpenMode::Read) {
                Ok(file) => {
                    let below = Some((self.below.clone(), path.to_owned()));
                    let file = Arc::new(OverlayFile::new(below, file.len()?, self.counts.clone()));
                    names.insert(path.into(), Some(file.clone()));
                    return Ok(file);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            },
            Some(None) => {}
        }
        if mode != OpenMode::Create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(OverlayFile::new(None, 0, self.counts.clone()));
        names.insert(path.into(), Some(file.clone()));
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.is_real(from) {
            return RealDisk.rename(from, to);
        }
        // This enters it into the names.
        self.open(from, OpenMode::Existing)?;
        let mut names = self.names.lock();
        let file = names.insert(from.into(), None).flatten();
        names.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.is_real(path) {
            return RealDisk.remove(path);
        }
        self.open(path, OpenMode::Existing)?;
        self.names.lock().insert(path.into(), None);
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        if self.is_real(path) { RealDisk.remove_tree(path) } else { Ok(()) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.is_real(dir) { RealDisk.sync_dir(dir) } else { Ok(()) }
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        self.below.room(dir)
    }

    fn index_dir(&self, _: &Path) -> Option<PathBuf> {
        self.index.clone()
    }
}

#[derive(Debug)]
struct OverlayFile {
    /// Opened for each read, so that a folder with many segments does not need as many descriptors.
    below: Option<(Arc<dyn Disk>, PathBuf)>,
    changed: Mutex<ChangedContent>,
    counts: Arc<ReadCounts>,
}

#[derive(Debug)]
struct ChangedContent {
    len: u64,
    /// Bytes at the start of the file that still come from below.
    shown: u64,
    pages: HashMap<u64, Box<[u8; PAGE]>>,
}

impl OverlayFile {
    fn new(below: Option<(Arc<dyn Disk>, PathBuf)>, len: u64, counts: Arc<ReadCounts>) -> Self {
        Self { below, changed: Mutex::new(ChangedContent { len, shown: len, pages: HashMap::new() }), counts }
    }

    /// Fills `buf` from below, with zeros where there is nothing or it cannot be read.
    fn read_below(&self, buf: &mut [u8], offset: u64, shown: u64) {
        buf.fill(0);
        let len = (buf.len() as u64).min(shown.saturating_sub(offset)) as usize;
        let Some((disk, path)) = self.below.as_ref().filter(|_| len > 0) else { return };
        self.counts.read.fetch_add(len as u64, Ordering::Relaxed);
        let Ok(below) = disk.open(path, OpenMode::Read) else {
            self.counts.unreadable.fetch_add(len as u64, Ordering::Relaxed);
            return;
        };
        if below.read_at(&mut buf[..len], offset).is_ok() {
            return;
        }
        let mut at = 0;
        while at < len {
            let n = (PAGE - (offset as usize + at) % PAGE).min(len - at);
            if below.read_at(&mut buf[at..at + n], offset + at as u64).is_err() {
                buf[at..at + n].fill(0);
                self.counts.unreadable.fetch_add(n as u64, Ordering::Relaxed);
            }
            at += n;
        }
    }
}

/// The part of `len` bytes at `offset` that lies in page `number`: its start in the page, its start in the bytes, its length.
fn overlap(number: u64, offset: u64, len: usize) -> (usize, usize, usize) {
    let page = number * PAGE as u64;
    let in_bytes = page.saturating_sub(offset) as usize;
    let in_page = offset.saturating_sub(page) as usize;
    (in_page, in_bytes, (PAGE - in_page).min(len - in_bytes))
}

fn pages_of(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset / PAGE as u64..(offset + len as u64).div_ceil(PAGE as u64)
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let changed = self.changed.lock();
        let len = (buf.len() as u64).min(changed.len.saturating_sub(offset)) as usize;
        self.read_below(&mut buf[..len], offset, changed.shown);
        if !changed.pages.is_empty() {
            for number in pages_of(offset, len) {
                if let Some(page) = changed.pages.get(&number) {
                    let (in_page, at, n) = overlap(number, offset, len);
                    buf[at..at + n].copy_from_slice(&page[in_page..in_page + n]);
                }
            }
        }
        Ok(len)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let mut changed = self.changed.lock();
        let shown = changed.shown;
        for number in pages_of(offset, bytes.len()) {
            let page = changed.pages.entry(number).or_insert_with(|| {
                let mut page = Box::new([0; PAGE]);
                self.read_below(&mut page[..], number * PAGE as u64, shown);
                page
            });
            let (in_page, at, n) = overlap(number, offset, bytes.len());
            page[in_page..in_page + n].copy_from_slice(&bytes[at..at + n]);
        }
        changed.len = changed.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut changed = self.changed.lock();
        changed.len = changed.len.max(len);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = self.changed.lock();
        changed.len = len;
        changed.shown = changed.shown.min(len);
        changed.pages.retain(|number, _| number * (PAGE as u64) < len);
        if let Some(last) = changed.pages.get_mut(&(len / PAGE as u64)) {
            last[(len % PAGE as u64) as usize..].fill(0);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.changed.lock().len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::{read_exact_at, write_all_at};

    #[test]
    fn what_changes_is_seen_above_and_not_below() {
        let dir = tempfile::tempdir().expect("a folder");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let content: Vec<u8> = (0..20_000_u32).map(|i| i as u8).collect();
        std::fs::write(&a, &content).expect("writes");
        let overlay = Overlay::new(Arc::new(RealDisk), None, Arc::default());
        let file = overlay.open(&a, OpenMode::Existing).expect("opens");
        let mut expected = content.clone();
        for (offset, len) in [(0, 1), (4090, 12), (8192, 4096), (19_990, 30)] {
            write_all_at(&*file, &vec![0xee; len], offset as u64).expect("writes");
            expected.resize(expected.len().max(offset + len), 0);
            expected[offset..offset + len].fill(0xee);
        }
        overlay.rename(&a, &b).expect("renames");
        assert_eq!(overlay.list(dir.path()).expect("lists"), ["b"]);
        assert!(overlay.open(&a, OpenMode::Existing).is_err());
        let file = overlay.open(&b, OpenMode::Read).expect("opens");
        for at in [0, 4095, 4096, 10_000, 19_000] {
            let mut bytes = vec![0; expected.len() - at];
            read_exact_at(&*file, &mut bytes, at as u64).expect("reads");
            assert!(bytes == expected[at..], "from {at}");
        }
        file.set_len(4093).expect("cuts");
        file.allocate(5000).expect("extends");
        let mut bytes = vec![1; 6000];
        assert_eq!(file.read_at(&mut bytes, 4000).expect("reads"), 1000);
        assert!(bytes[..93] == expected[4000..4093] && bytes[93..1000].iter().all(|b| *b == 0));
        assert!(std::fs::read(&a).expect("reads") == content && !b.exists());
    }
}
