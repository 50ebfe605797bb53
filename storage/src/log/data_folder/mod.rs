//! The data folder: its lock, and the file that identifies it.
//!
//! `FORMAT` is text: `petnet-store <version>`, the store's id and the secret of its index keys, then a checksum. It is
//! written once, to a temporary name, synced, renamed, and the folder synced.

pub(crate) mod mend;
pub(crate) mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::face::error::OpenError;
use crate::log::data_folder::mend::right_one;
use crate::log::data_folder::text::Format;
use crate::log::disk::{Disk, DiskFile, OpenMode, write_all_at};
use crate::log::segment::FORMAT_VERSION;

/// Name of `FORMAT` while it is being written.
pub(crate) const UNFINISHED: &str = "FORMAT.tmp";

/// How long to wait for a lock that another process may hold for only a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Maps an I/O failure to an [`OpenError::Io`].
pub(crate) fn open_io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

/// The locks of a data folder, which are released when the files are closed.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: Option<Arc<dyn DiskFile>>,
    _folder: Option<Arc<dyn DiskFile>>,
}

/// Locks the folder for this process: the file `LOCK` and the folder itself, so that removing the file lets nobody in.
pub(crate) fn lock_folder(disk: &dyn Disk, dir: &Path) -> Result<Arc<FolderLock>, OpenError> {
    take_locks(disk, dir, Some(OpenMode::Create))
}

/// Locks the folder without creating the file `LOCK`, for a caller that changes nothing; `has_file` says whether the file
/// exists. The files are opened for reading only, so that this works on a read-only mount: nobody writes there, and a
/// process that uses the folder through another, writable mount holds the same locks.
pub(crate) fn lock_folder_as_it_is(
    disk: &dyn Disk,
    dir: &Path,
    has_file: bool,
) -> Result<Arc<FolderLock>, OpenError> {
    take_locks(disk, dir, has_file.then_some(OpenMode::Read))
}

/// Locks a file, unless another process holds it for longer than a moment. A process that is just ending holds it briefly,
/// and so does a child of a process that has the folder open, until it runs a program of its own.
fn becomes_locked(file: &dyn DiskFile) -> io::Result<bool> {
    let patience = Instant::now() + LOCK_PATIENCE;
    while !file.try_lock()? {
        if Instant::now() > patience {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

fn take_locks(disk: &dyn Disk, dir: &Path, mode: Option<OpenMode>) -> Result<Arc<FolderLock>, OpenError> {
    let lock = dir.join("LOCK");
    let file = match mode {
        Some(mode) => {
            let file = disk.open(&lock, mode).map_err(open_io("open the lock file", &lock))?;
            if !becomes_locked(&*file).map_err(open_io("lock", &lock))? {
                return Err(OpenError::InUse { path: dir.to_owned(), lock });
            }
            Some(file)
        }
        None => None,
    };
    // Not every file system can lock a folder. If it can, a second process finds it taken.
    let folder = disk.open(dir, OpenMode::Read).ok();
    if let Some(Ok(false)) = folder.as_ref().map(|folder| becomes_locked(&**folder)) {
        return Err(OpenError::InUse { path: dir.to_owned(), lock });
    }
    Ok(Arc::new(FolderLock { _file: file, _folder: folder }))
}

/// Random bits from the operating system.
pub(crate) fn random_u64() -> Result<u64, OpenError> {
    getrandom::u64().map_err(|e| OpenError::Io {
        action: "draw random bits from",
        path: PathBuf::from("the operating system"),
        source: std::io::Error::other(e.to_string()),
    })
}

/// Reads `FORMAT`; `None` in a folder that holds no store.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Format>, OpenError> {
    let path = dir.join("FORMAT");
    let names = disk.list(dir).map_err(open_io("list the data folder", dir))?;
    if names.iter().any(|n| n == "FORMAT") {
        let bytes = read_bytes(disk, &path)?;
        let text = String::from_utf8_lossy(&bytes);
        return match Format::decode(&text) {
            Some(format) => Ok(Some(format)),
            None if right_one(disk, dir, &bytes).is_some() => Err(OpenError::Format {
                what: format!(
                    "is damaged, and what it was can be told from the log; mend it with `petnet repair {}`",
                    dir.display()
                ),
                path,
            }),
            None => Err(refusal(&path, &text)),
        };
    }
    if names.iter().any(|n| n == "log") {
        let listed = disk.list(&dir.join("log")).map_err(open_io("list", &dir.join("log")))?;
        if listed.iter().any(|n| n.starts_with("small-") || n.starts_with("bulk-")) {
            let what = "is missing although the folder holds a log; restore it from a backup of this folder";
            return Err(OpenError::Format { path, what: what.into() });
        }
    }
    Ok(None)
}

/// Reads `FORMAT`, or creates it in a new folder. The second value is true if the store is new.
pub(crate) fn read_or_create(disk: &dyn Disk, dir: &Path) -> Result<(Format, bool), OpenError> {
    if let Some(format) = read(disk, dir)? {
        return Ok((format, false));
    }
    let path = dir.join("FORMAT");
    let format = Format {
        store_id: u128::from(random_u64()?) << 64 | u128::from(random_u64()?),
        key_secret: (random_u64()?, random_u64()?),
    };
    write(disk, dir, &path, format)?;
    Ok((format, true))
}

fn write(disk: &dyn Disk, dir: &Path, path: &Path, format: Format) -> Result<(), OpenError> {
    let text = format.encode();
    let temporary = dir.join(UNFINISHED);
    let create = || -> std::io::Result<()> {
        let file = disk.open(&temporary, OpenMode::Create)?;
        file.set_len(0)?;
        write_all_at(&*file, text.as_bytes(), 0)?;
        file.sync_data()?;
        disk.rename(&temporary, path)?;
        disk.sync_dir(dir)
    };
    create().map_err(open_io("create", path))
}

fn read_bytes(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, OpenError> {
    let file = disk.open(path, OpenMode::Read).map_err(open_io("open", path))?;
    let len = file.len().map_err(open_io("read", path))?.min(4096);
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).map_err(open_io("read", path))?;
    Ok(bytes)
}

/// Restores `FORMAT` if it is damaged and its content can be determined. Returns the damaged bytes; `None` if nothing was
/// done.
pub(crate) fn mend(disk: &dyn Disk, dir: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let path = dir.join("FORMAT");
    let bytes = match read_bytes(disk, &path) {
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    if Format::decode(&String::from_utf8_lossy(&bytes)).is_some() {
        return Ok(None);
    }
    let Some(format) = right_one(disk, dir, &bytes) else { return Ok(None) };
    write(disk, dir, &path, format)?;
    Ok(Some(bytes))
}

/// Why a text is refused.
fn refusal(path: &Path, text: &str) -> OpenError {
    let wrong = |what: String| OpenError::Format { path: path.to_owned(), what };
    let version = text.lines().next().and_then(|line| line.strip_prefix("petnet-store "));
    match version.map(str::parse::<u32>) {
        None => {
            wrong("is not the mark of a PETNet store; choose another DATA_DIR or restore the file".into())
        }
        Some(Ok(FORMAT_VERSION)) => {
            wrong("is damaged: its checksum does not match; restore it from a backup".into())
        }
        Some(Ok(version)) => wrong(format!(
            "has format version {version}, this program knows {FORMAT_VERSION}; run the version that wrote it, or a newer one"
        )),
        Some(Err(_)) => wrong("has no readable format version; restore it from a backup".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::RealDisk;

    #[test]
    fn the_folder_keeps_its_identity_and_a_newer_version_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let (format, new) = read_or_create(&RealDisk, dir.path()).expect("creates");
        assert!(new);
        assert_eq!(read_or_create(&RealDisk, dir.path()).expect("reads"), (format, false));
        let path = dir.path().join("FORMAT");
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, text.replace("store 1", "store 9")).expect("writes");
        let error = read_or_create(&RealDisk, dir.path()).expect_err("refused").to_string();
        assert!(error.contains("format version 9"), "{error}");
        std::fs::write(&path, text.replace("id ", "id f")).expect("writes");
        assert!(read_or_create(&RealDisk, dir.path()).is_err());
    }

    /// A child process that another thread starts has a copy of every open file until it runs its program.
    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = lock_folder(&RealDisk, dir.path()).expect("locks");
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        lock_folder(&RealDisk, dir.path()).expect("waits");
        ends.join().expect("no panic");
    }

    #[test]
    fn a_folder_is_locked_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = lock_folder(&RealDisk, dir.path()).expect("locks");
        assert!(matches!(lock_folder(&RealDisk, dir.path()), Err(OpenError::InUse { .. })));
        drop(first);
        assert!(lock_folder(&RealDisk, dir.path()).is_ok());
    }
}
