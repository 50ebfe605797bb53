//! Reads the small files that settings name: the party file, certificates, keys, `REDIS_URL_FILE`.
//!
//! Anything but a regular file is refused before it is opened: a FIFO would block the start for ever, and a device such as
//! `/dev/zero` would fill the memory. Invariant: never more than [`LARGEST_FILE`] bytes are read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;

/// Most bytes in such a file. A party file with the certificates of 10,000 parties in it takes about 30 MB.
pub(crate) const LARGEST_FILE: u64 = 64 << 20;

/// Reads the whole file; links are followed.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    check(&std::fs::metadata(path)?)?;
    // It may have become something else since the check; opening that must not block either.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    check(&file.metadata()?)?;
    bounded(file)
}

/// Reads a file that a person names on a command line, where a pipe (`<(...)`, `/dev/stdin`) is just as good.
pub(crate) fn read_any(path: &Path) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?)
}

fn bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let why = format!("it has more than {} MiB, which no such file has", LARGEST_FILE >> 20);
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

fn check(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    let what = if kind.is_fifo() {
        "a pipe (FIFO)"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    };
    let why = format!("it is {what}, and not a regular file");
    Err(io::Error::new(ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once_and_a_file_is_read_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let fifo = path("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for (at, part) in [
            (fifo, "a pipe"),
            (path("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
            ("/dev/null".into(), "a device"),
            (dir.path().into(), "directory"),
        ] {
            let why = read(&at).unwrap_err();
            assert!(why.to_string().contains(part), "{at:?}: {why}");
            assert!(!crate::rules::mistake::Mistake::of_io(String::new(), &why).passes(), "{at:?}: {why}");
        }
        let file = path("file");
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, path("link")).unwrap();
        assert_eq!(read(&path("link")).unwrap(), b"text");
        // A sparse file, which takes no space.
        File::options().write(true).open(&file).unwrap().set_len(LARGEST_FILE + 1).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("more than 64 MiB"));
        assert_eq!(read(&path("missing")).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(read_any(Path::new("/dev/zero")).is_err());
    }
}
