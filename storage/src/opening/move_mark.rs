//! The mark of a data folder that another store is being moved into: the file `MOVING`.
//!
//! It is written before anything else of the store, and is renamed to `MOVED` when all of the store is durable and compared.
//! Invariants: nothing but the move itself opens a folder that has `MOVING`; `MOVED` is removed before a store uses the
//! folder, so that an operator who missed the end of a move can run it again until then.

use std::path::Path;

use crate::face::error::OpenError;
use crate::log::data_folder::open_io;
use crate::log::disk::{Disk, OpenMode, write_all_at};

/// Name of the file.
pub(crate) const FILE: &str = "MOVING";
/// Its name once the move has ended.
const DONE: &str = "MOVED";
/// Its name while it is being written.
pub(crate) const UNFINISHED: &str = "MOVING.tmp";
const FIRST_LINE: &str = "petnet-moving 1";
/// Most bytes of a mark.
const MAX_BYTES: u64 = 4096;

/// The content of the mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MoveMark {
    /// The source, as a text for people.
    pub(crate) from: String,
    /// Fingerprint of the source as it was.
    pub(crate) state: u64,
}

impl MoveMark {
    pub(crate) fn new(from: &str, state: u64) -> Self {
        let plain = from.chars().map(|c| if c.is_control() { '?' } else { c });
        Self { from: plain.take(512).collect(), state }
    }

    /// The mark of a folder; `None` if it has none.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        Self::read_as(FILE, disk, dir)
    }

    /// The mark of a move that has ended, into a folder that nothing has used since.
    pub(crate) fn read_done(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        Self::read_as(DONE, disk, dir)
    }

    fn read_as(name: &str, disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(name);
        let file = match disk.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(open_io("open", &path))?,
        };
        let len = file.len().map_err(open_io("read", &path))?.min(MAX_BYTES);
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).map_err(open_io("read", &path))?;
        let mark = Self::parse(&String::from_utf8_lossy(&bytes));
        mark.map(Some).ok_or_else(|| OpenError::Format {
            what: format!(
                "is damaged; {}",
                match name {
                    FILE => format!(
                        "it marks a migration that is not finished: remove {} and begin again",
                        dir.display()
                    ),
                    _ => "it marks a migration that is finished: remove this file".into(),
                }
            ),
            path,
        })
    }

    /// Writes and syncs the mark.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        let temporary = dir.join(UNFINISHED);
        let body = format!("{FIRST_LINE}\nstate {:016x}\nfrom {}\n", self.state, self.from);
        let text = format!("{body}crc {:08x}\n", crc32fast::hash(body.as_bytes()));
        let create = || -> std::io::Result<()> {
            let file = disk.open(&temporary, OpenMode::Create)?;
            file.set_len(0)?;
            write_all_at(&*file, text.as_bytes(), 0)?;
            file.sync_data()?;
            disk.rename(&temporary, &path)?;
            disk.sync_dir(dir)
        };
        create().map_err(open_io("create", &path))
    }

    /// Ends the move: the folder belongs to a store from now on.
    pub(crate) fn end(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        disk.rename(&path, &dir.join(DONE)).map_err(open_io("rename", &path))?;
        Self::stays_ended(disk, dir)
    }

    /// Makes the end of a move durable: a run that was killed at that moment may not have done so.
    pub(crate) fn stays_ended(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        disk.sync_dir(dir).map_err(open_io("sync", dir))
    }

    fn parse(text: &str) -> Option<Self> {
        let body_len = text.rfind("crc ")?;
        let crc = u32::from_str_radix(text[body_len + 4..].trim_end(), 16).ok()?;
        let body = text.get(..body_len).filter(|body| crc32fast::hash(body.as_bytes()) == crc)?;
        let mut lines = body.lines();
        lines.next().filter(|line| *line == FIRST_LINE)?;
        let state = u64::from_str_radix(lines.next()?.strip_prefix("state ")?, 16).ok()?;
        Some(Self { from: lines.next()?.strip_prefix("from ")?.to_owned(), state })
    }
}

/// Durably removes the mark that nothing has used the folder since a move: a store is about to use it.
pub(crate) fn forget(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(DONE);
    match disk.remove(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| disk.sync_dir(dir)).map_err(open_io("remove", &path)),
    }
}

/// Refuses a folder that is being filled.
pub(crate) fn refuse(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let Some(mark) = MoveMark::read(disk, dir)? else { return Ok(()) };
    let what = format!(
        "marks a migration from {} that is not finished, so messages may be missing here; finish it (run the same `petnet migrate` again) or remove {}",
        mark.from,
        dir.display()
    );
    Err(OpenError::Format { path: dir.join(FILE), what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::RealDisk;

    #[test]
    fn a_marked_folder_is_refused_until_the_move_ends_and_its_end_is_known_until_the_folder_is_used() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(MoveMark::read(&RealDisk, dir.path()).expect("reads"), None);
        let mark = MoveMark::new("the store\n crc in /a", 7);
        mark.write(&RealDisk, dir.path()).expect("writes");
        assert_eq!(MoveMark::read(&RealDisk, dir.path()).expect("reads"), Some(mark.clone()));
        let refused = refuse(&RealDisk, dir.path()).expect_err("is refused").to_string();
        assert!(refused.contains("not finished") && refused.contains("remove"), "{refused}");
        MoveMark::end(&RealDisk, dir.path()).expect("ends");
        refuse(&RealDisk, dir.path()).expect("may be used");
        assert_eq!(MoveMark::read_done(&RealDisk, dir.path()).expect("reads"), Some(mark));
        forget(&RealDisk, dir.path()).expect("forgets");
        forget(&RealDisk, dir.path()).expect("is forgotten already");
        assert_eq!(MoveMark::read_done(&RealDisk, dir.path()).expect("reads"), None);
        std::fs::write(dir.path().join(FILE), "junk").expect("writes");
        let refused = refuse(&RealDisk, dir.path()).expect_err("is refused").to_string();
        assert!(refused.contains("is damaged"), "{refused}");
    }
}
