//! The only place that opens, renames, syncs or removes files.
//!
//! Everything goes through [`Disk`] and [`DiskFile`], so that tests can run the store on a simulated disk that
//! forgets what was not synced. Invariant: nothing here retries a failed sync.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist; it is only read and locked.
    Read,
    /// The file must exist.
    Existing,
    /// The file is created if it is missing; its folder entry is durable only after [`Disk::sync_dir`].
    Create,
}

/// Room on the file system of a folder, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an unprivileged process may still take.
    pub available: u64,
    /// Size of the file system.
    pub total: u64,
}

/// A place for files.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Names of the files in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a folder unless it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file; durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable only after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and everything in it, if it exists.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Room left on the file system.
    fn room(&self, dir: &Path) -> io::Result<Room>;
    /// Where the index may be kept on a real file system; `None` if the disk has no place for one.
    fn index_dir(&self, data_dir: &Path) -> Option<PathBuf>;
    /// Makes a folder, and everything in it, readable by its owner only. Does nothing on a disk without users.
    fn make_private(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bufs` one after the other from `offset` on.
    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Reserves space up to `len` bytes and makes the file that long. Fails if there is no room.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// `fdatasync`. After an error the content is unknown: the caller must never try again.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's bytes are synced and unlikely to be read soon: the system need not keep them in memory.
    fn is_done(&self) {}
    /// Locks the file for this process; false if another process holds the lock.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Whether an error is temporary and nothing was lost: no room, no descriptors, no memory. Any other error of a write or a
/// sync is final.
pub(crate) fn passes(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    is_no_room(error) || Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// Whether an error says that there is no room: on the disk, in a quota, or within the limit on a file's size.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let no_room = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
    Errno::from_io_error(error).is_some_and(|errno| no_room.contains(&errno))
}

/// The size in bytes that a file of this process may have (`ulimit -f`).
pub(crate) fn largest_file() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX)
}

/// Reads exactly `buf.len()` bytes.
pub(crate) fn read_exact_at(file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buf, offset)? == buf.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the frame does"))
    }
}

/// Writes one buffer.
pub(crate) fn write_all_at(file: &dyn DiskFile, buf: &[u8], offset: u64) -> io::Result<()> {
    file.write_at(&mut [IoSlice::new(buf)], offset)
}

/// Most bytes handed to the kernel at a time. Far more at once makes it look for memory in pieces of that size: with 16 MiB
/// the page cache takes a fifth of the bytes per second that it takes with this value.
const WRITE_BYTES: usize = 512 << 10;
/// Most slices that the kernel takes at a time.
const WRITE_SLICES: usize = 1024;

/// The operating system's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(mode != OpenMode::Read)
            .create(mode == OpenMode::Create)
            .truncate(false)
            // Messages are for the gateway's clients, not for everyone who has an account on the machine.
            .mode(0o600)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Room { available: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn index_dir(&self, data_dir: &Path) -> Option<PathBuf> {
        Some(data_dir.join("index"))
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        let kind = fs::symlink_metadata(path)?;
        let mode = if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                self.make_private(&entry?.path())?;
            }
            0o700
        } else {
            0o600
        };
        // The target of a link belongs to somebody else, and a socket has the mode that its creator gave it.
        if (kind.is_dir() || kind.is_file()) && kind.permissions().mode() & 0o777 != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut rest = bufs;
        let mut at = offset;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |slice: &&IoSlice<'_>| {
                bytes += slice.len();
                bytes <= WRITE_BYTES
            };
            let result = match rest.iter().take(WRITE_SLICES).take_while(fits).count() {
                0 => rustix::io::pwrite(&self.0, &rest[0][..WRITE_BYTES], at),
                take => rustix::io::pwritev(&self.0, &rest[..take], at),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // The file system cannot do it: writing zeros reserves space, too.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let zeros = vec![0; 1 << 20];
                let mut at = self.len()?;
                while at < len {
                    let n = zeros.len().min((len - at) as usize);
                    write_all_at(self, &zeros[..n], at)?;
                    at += n as u64;
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn is_done(&self) {
        // This is only advice: nothing depends on it.
        rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed).ok();
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}
