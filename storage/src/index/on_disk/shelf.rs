//! One tree of sled behind a [fence](crate::index::on_disk::fence), with readable errors.
//!
//! Invariant: after a panic inside, nothing of the same index is called again: it may hold locks that nobody releases.

use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sled::{IVec, Tree};

use crate::index::on_disk::error::{ColdError, LOCKED};
use crate::index::on_disk::fence::Fenced;

type Result<T> = std::result::Result<T, ColdError>;

/// Whether the index has panicked. Shared by all of its parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct IndexHealth(Arc<AtomicBool>);

impl IndexHealth {
    /// Calls into a part of the index.
    pub(crate) fn call<T, R>(&self, part: &Fenced<T>, work: impl FnOnce(&T) -> sled::Result<R>) -> Result<R> {
        self.check()?;
        let done = part.call(work).ok_or_else(|| self.fell())?;
        Ok(done?)
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) { Err(panicked()) } else { Ok(()) }
    }

    fn fell(&self) -> ColdError {
        self.0.store(true, Ordering::Release);
        panicked()
    }
}

fn panicked() -> ColdError {
    ColdError("sled panicked while it was used".into())
}

impl From<sled::Error> for ColdError {
    fn from(error: sled::Error) -> Self {
        Self(match error {
            sled::Error::Io(error) => io_words(&error),
            sled::Error::Corruption { .. } => "a file of it is damaged".into(),
            sled::Error::CollectionNotFound(_) => "a part of it is missing".into(),
            sled::Error::Unsupported(why) | sled::Error::ReportableBug(why) => why,
        })
    }
}

/// sled passes on an error of the system as its debug text, nested once or several times.
fn io_words(error: &io::Error) -> String {
    use rustix::io::Errno;
    let text = error.to_string();
    // The code inside it (EAGAIN) is not used: a caller that opens an index waits for this error, and it is not damage.
    if text.contains(LOCKED) {
        return format!("{LOCKED} of it: somebody has it open, or is just ending");
    }
    let code = error.raw_os_error().or_else(|| {
        let digits = text.split("code: ").nth(1)?;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    let by_kind = || match error.kind() {
        io::ErrorKind::StorageFull => Some(Errno::NOSPC.raw_os_error()),
        io::ErrorKind::QuotaExceeded => Some(Errno::DQUOT.raw_os_error()),
        io::ErrorKind::FileTooLarge => Some(Errno::FBIG.raw_os_error()),
        _ => None,
    };
    match code.or_else(by_kind) {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None if text.contains(" { ") => error.kind().to_string(),
        None => text,
    }
}

/// A tree of the index.
#[derive(Debug)]
pub(crate) struct Shelf {
    tree: Fenced<Tree>,
    health: IndexHealth,
}

impl Shelf {
    pub(crate) fn new(tree: Tree, health: &IndexHealth) -> Self {
        Self { tree: Fenced::new(tree), health: health.clone() }
    }

    fn call<R>(&self, work: impl FnOnce(&Tree) -> sled::Result<R>) -> Result<R> {
        self.health.call(&self.tree, work)
    }

    pub(crate) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<IVec>> {
        self.call(|tree| tree.get(key))
    }

    pub(crate) fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<IVec>) -> Result<()> {
        self.call(|tree| tree.insert(key, value).map(drop))
    }

    /// Inserts a value; returns the one that it replaced.
    pub(crate) fn replace(&self, key: impl AsRef<[u8]>, value: impl Into<IVec>) -> Result<Option<IVec>> {
        self.call(|tree| tree.insert(key, value))
    }

    /// Replaces a value with another unless it has changed. Returns true if it was replaced.
    pub(crate) fn replace_if(&self, key: impl AsRef<[u8]>, old: &[u8], new: Vec<u8>) -> Result<bool> {
        self.call(|tree| Ok(tree.compare_and_swap(key, Some(old), Some(new))?.is_ok()))
    }

    pub(crate) fn remove(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.call(|tree| tree.remove(key).map(drop))
    }

    /// Removes a value and returns it.
    pub(crate) fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<IVec>> {
        self.call(|tree| tree.remove(key))
    }

    /// Removes a value unless it has changed. Returns true if it was removed.
    pub(crate) fn remove_if(&self, key: impl AsRef<[u8]>, old: &[u8]) -> Result<bool> {
        self.call(|tree| Ok(tree.compare_and_swap(key, Some(old), None::<&[u8]>)?.is_ok()))
    }

    pub(crate) fn clear(&self) -> Result<()> {
        self.call(Tree::clear)
    }

    pub(crate) fn iter(&self) -> ShelfEntries {
        self.range::<[u8; 0]>(..)
    }

    pub(crate) fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> ShelfEntries {
        let (range, health) = (self.call(|tree| Ok(tree.range::<K, _>(range))), self.health.clone());
        match range {
            Ok(range) => ShelfEntries { range: Some(Fenced::new(range)), failed: None, health },
            Err(failed) => ShelfEntries { range: None, failed: Some(failed), health },
        }
    }
}

/// Keys and values in order. Ends after an error.
pub(crate) struct ShelfEntries {
    range: Option<Fenced<sled::Iter>>,
    failed: Option<ColdError>,
    health: IndexHealth,
}

impl ShelfEntries {
    fn step(
        &mut self,
        step: impl FnOnce(&mut sled::Iter) -> Option<sled::Result<(IVec, IVec)>>,
    ) -> Option<Result<(IVec, IVec)>> {
        if let Some(failed) = self.failed.take() {
            return Some(Err(failed));
        }
        let range = self.range.as_mut()?;
        let stepped = match self.health.check() {
            Ok(()) => range.call_mut(step).ok_or_else(|| self.health.fell()),
            Err(error) => Err(error),
        };
        let item = match stepped {
            Ok(item) => item?.map_err(ColdError::from),
            Err(error) => Err(error),
        };
        if item.is_err() {
            self.range = None;
        }
        Some(item)
    }
}

impl Iterator for ShelfEntries {
    type Item = Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iterator::next)
    }
}

impl DoubleEndedIterator for ShelfEntries {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(DoubleEndedIterator::next_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text used to lose the word for the lock: a start just after an end took the index for damaged and rebuilt it.
    #[test]
    fn an_index_that_somebody_has_open_is_locked_and_not_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || sled::Config::new().path(folder.path()).flush_every_ms(None).open();
        let first = open().expect("opens");
        let error = ColdError::from(open().expect_err("it is open"));
        assert!(error.is_locked(), "{error}");
        drop(first);
    }

    #[test]
    fn an_error_of_the_system_is_told_in_words_however_often_it_was_wrapped() {
        let full = io::Error::from_raw_os_error(28);
        let once = io::Error::new(full.kind(), format!("{full:?}"));
        let twice = io::Error::new(once.kind(), format!("{once:?}"));
        for error in [full, once, twice, io::ErrorKind::StorageFull.into()] {
            let told = ColdError::from(sled::Error::Io(error));
            assert_eq!(told.to_string(), "index on disk: No space left on device (os error 28)");
            assert!(told.is_passing());
        }
        let other = io::Error::other("Custom { kind: Other }");
        assert_eq!(ColdError::from(sled::Error::Io(other)).to_string(), "index on disk: other error");
    }
}
