//! The data folder: its lock, and the file that says what it is.
//!
//! `FORMAT` is text: `petnet-store <version>`, the store's id and the secret of its index keys, then a checksum. It is
//! written once, to a temporary name, synced, renamed, and the folder synced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, OpenMode, write_all_at};
use crate::error::OpenError;
use crate::segment::FORMAT_VERSION;

/// What `FORMAT` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) store_id: u128,
    pub(crate) key_secret: (u64, u64),
}

/// An [`OpenError::Io`].
pub(crate) fn open_io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

/// Takes the folder for this process. The lock goes with the file.
pub(crate) fn lock_folder(disk: &dyn Disk, dir: &Path) -> Result<Arc<dyn DiskFile>, OpenError> {
    let lock = dir.join("LOCK");
    let file = disk.open(&lock, OpenMode::Create).map_err(open_io("open the lock file", &lock))?;
    if file.try_lock().map_err(open_io("lock", &lock))? {
        Ok(file)
    } else {
        Err(OpenError::InUse { path: dir.to_owned(), lock })
    }
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
        let file = disk.open(&path, OpenMode::Read).map_err(open_io("open", &path))?;
        let len = file.len().map_err(open_io("read", &path))?.min(4096);
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).map_err(open_io("read", &path))?;
        return parse(&path, &String::from_utf8_lossy(&bytes)).map(Some);
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

/// Reads `FORMAT`; makes it in a new folder. True in the second place: the store is new.
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
    let body = format!(
        "petnet-store {FORMAT_VERSION}\nid {:032x}\nkey {:016x}{:016x}\n",
        format.store_id, format.key_secret.0, format.key_secret.1
    );
    let text = format!("{body}crc {:08x}\n", crc32fast::hash(body.as_bytes()));
    let temporary = dir.join("FORMAT.tmp");
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

fn parse(path: &Path, text: &str) -> Result<Format, OpenError> {
    let wrong = |what: String| OpenError::Format { path: path.to_owned(), what };
    let mut lines = text.lines();
    let version = lines.next().and_then(|l| l.strip_prefix("petnet-store ")).ok_or_else(|| {
        wrong("is not the mark of a PETNet store; choose another DATA_DIR or restore the file".into())
    })?;
    match version.parse::<u32>() {
        Ok(FORMAT_VERSION) => {}
        Ok(v) => {
            return Err(wrong(format!(
                "has format version {v}, this program knows {FORMAT_VERSION}; run the version that wrote it, or a newer one"
            )));
        }
        Err(_) => return Err(wrong("has no readable format version; restore it from a backup".into())),
    }
    let damaged = || wrong("is damaged: its checksum does not match; restore it from a backup".into());
    let body_len = text.find("crc ").ok_or_else(damaged)?;
    let crc = text[body_len + 4..].trim_end();
    if u32::from_str_radix(crc, 16).ok() != Some(crc32fast::hash(&text.as_bytes()[..body_len])) {
        return Err(damaged());
    }
    let id = lines.next().and_then(|l| l.strip_prefix("id ")).ok_or_else(damaged)?;
    let key = lines.next().and_then(|l| l.strip_prefix("key ")).ok_or_else(damaged)?;
    let key = u128::from_str_radix(key, 16).map_err(|_| damaged())?;
    Ok(Format {
        store_id: u128::from_str_radix(id, 16).map_err(|_| damaged())?,
        key_secret: ((key >> 64) as u64, key as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

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

    #[test]
    fn a_folder_is_locked_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = lock_folder(&RealDisk, dir.path()).expect("locks");
        assert!(matches!(lock_folder(&RealDisk, dir.path()), Err(OpenError::InUse { .. })));
        drop(first);
        assert!(lock_folder(&RealDisk, dir.path()).is_ok());
    }
}
