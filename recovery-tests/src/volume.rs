//! A file system of its own: one that can be filled, and one that can lose its power.
//!
//! The power cut is real as far as the file system goes: `FS_IOC_SHUTDOWN` without a flush of its journal throws away
//! everything that was not synced, data and names alike, and the next mount recovers as after an outage. What it does
//! not show is a disk that loses what it said it had flushed; nothing above the disk can help there.
//!
//! Invariant: a volume is unmounted when it is dropped, whatever still uses it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::tools::run;

/// `FS_IOC_SHUTDOWN` with `FS_GOING_FLAGS_NOLOGFLUSH`. Asked of Python because this workspace has no unsafe code.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.read()
fcntl.ioctl(folder, 0x8004587D, struct.pack('I', 2))";

/// Sparse: only what is written takes room.
const IMAGE_BYTES: u64 = 4 << 30;

/// A mounted file system.
#[derive(Debug)]
pub struct Volume {
    dir: TempDir,
    kind: &'static str,
}

impl Volume {
    /// A small file system in memory.
    pub fn in_memory(bytes: u64) -> Self {
        let volume = Self::at(tempfile::tempdir().unwrap(), "tmpfs");
        let size = format!("size={bytes}");
        run(&["mount", "-t", "tmpfs", "-o", &size, "petnet-recovery", text(&volume.path())]);
        volume
    }

    /// An ext4 or XFS in a file, which is kept in memory where there is a place for that.
    pub fn with_power(kind: &'static str) -> Self {
        Self::small(kind, IMAGE_BYTES)
    }

    /// The same of a size in bytes, which a gateway can fill. XFS takes no less than 300 MiB.
    pub fn small(kind: &'static str, bytes: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let builder = || tempfile::Builder::new().prefix("petnet-volume-").to_owned();
        let dir = if memory.is_dir() { builder().tempdir_in(memory) } else { builder().tempdir() };
        let volume = Self::at(dir.unwrap(), kind);
        let image = volume.image();
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        run(&[&format!("mkfs.{kind}"), "-q", text(&image)]);
        volume.mount("defaults");
        volume
    }

    fn at(dir: TempDir, kind: &'static str) -> Self {
        std::fs::create_dir(dir.path().join("mounted")).unwrap();
        Self { dir, kind }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount(&self, options: &str) {
        let options = format!("loop,{options}");
        run(&["mount", "-t", self.kind, "-o", &options, text(&self.image()), text(&self.path())]);
    }

    /// Everything that a power cut needs, ready to happen at once.
    pub fn power_switch(&self) -> PowerSwitch {
        let mut switch = Command::new("python3")
            .args(["-c", SHUTDOWN, text(&self.path())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        switch.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        PowerSwitch(switch)
    }

    /// The power is back. Nothing may use the volume any more.
    pub fn power_on(&self) {
        run(&["umount", text(&self.path())]);
        self.mount("defaults");
    }

    /// Mounts it again so that an error of the disk, as in [`Self::disk_error`], leaves it read-only.
    pub fn read_only_after_errors(&self) {
        run(&["mount", "-o", "remount,errors=remount-ro", text(&self.path())]);
    }

    /// The kernel sees an error of the disk.
    pub fn disk_error(&self) {
        let output =
            Command::new("findmnt").args(["-n", "-o", "SOURCE", text(&self.path())]).output().unwrap();
        let device = String::from_utf8(output.stdout).unwrap();
        let device = device.trim().rsplit('/').next().unwrap();
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

/// Cuts the power of a volume.
///
/// A machine stops with its power, at one moment. Here the file system and the programs end one after the other: stop the
/// programs (SIGSTOP) right before, so that none tells anybody of a sync that came back after the cut. Such a sync may
/// say that all is well while its data are gone (seen with ext4: the power went while extents were being
/// converted; the journal had nothing to commit, and so nothing to fail).
#[derive(Debug)]
pub struct PowerSwitch(Child);

impl PowerSwitch {
    /// From now on nothing reaches the disk, and what was not synced never will.
    pub fn off(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: on a failure something may still use it, and ends soon after.
        drop(Command::new("umount").arg("--lazy").arg(self.path()).output());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
