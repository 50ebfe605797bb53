//! The mark of a data folder that another store is being moved to: the file `MOVING`.
//!
//! It is there before anything else of the store, and goes when all of it is durable and compared. Invariant: nothing but
//! the move itself opens a folder that has one.

use std::path::Path;

use crate::disk::{Disk, OpenMode, write_all_at};
use crate::error::OpenError;
use crate::format::open_io;

/// The file.
pub(crate) const FILE: &str = "MOVING";
/// Its name while it is written.
pub(crate) const UNFINISHED: &str = "MOVING.tmp";
const FIRST_LINE: &str = "petnet-moving 1";
/// No mark is longer.
const MAX_BYTES: u64 = 4096;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The source, for people.
    pub(crate) from: String,
    /// The source as it was.
    pub(crate) state: u64,
}

impl Mark {
    pub(crate) fn new(from: &str, state: u64) -> Self {
        let plain = from.chars().map(|c| if c.is_control() { '?' } else { c });
        Self { from: plain.take(512).collect(), state }
    }

    /// The mark of a folder; `None`: it has none.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE);
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
                "is damaged; it marks a migration that is not finished: remove {} and begin anew",
                dir.display()
            ),
            path,
        })
    }

    /// Writes and syncs it.
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

    /// Removes it: the folder is a store's from now on.
    pub(crate) fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        disk.remove(&path).and_then(|()| disk.sync_dir(dir)).map_err(open_io("remove", &path))
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

/// Refuses a folder that is being filled.
pub(crate) fn refuse(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let Some(mark) = Mark::read(disk, dir)? else { return Ok(()) };
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
    use crate::disk::RealDisk;

    #[test]
    fn a_marked_folder_is_refused_until_the_mark_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Mark::read(&RealDisk, dir.path()).expect("reads"), None);
        let mark = Mark::new("the store\n crc in /a", 7);
        mark.write(&RealDisk, dir.path()).expect("writes");
        assert_eq!(Mark::read(&RealDisk, dir.path()).expect("reads"), Some(mark));
        let refused = refuse(&RealDisk, dir.path()).expect_err("is refused").to_string();
        assert!(refused.contains("not finished") && refused.contains("remove"), "{refused}");
        Mark::remove(&RealDisk, dir.path()).expect("removes");
        refuse(&RealDisk, dir.path()).expect("may be used");
        std::fs::write(dir.path().join(FILE), "junk").expect("writes");
        let refused = refuse(&RealDisk, dir.path()).expect_err("is refused").to_string();
        assert!(refused.contains("is damaged"), "{refused}");
    }
}
