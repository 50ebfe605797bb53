//! Programs and rights that some stories need. Where they are missing a story is skipped, loudly; in CI that is a
//! failure.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// True when everything is there; otherwise says in bold letters what is not. `CI=true` makes that a failure.
pub fn have(story_needs: &[Need]) -> bool {
    let Some(missing) = story_needs.iter().find(|need| !need.is_there()) else { return true };
    let story = std::thread::current().name().unwrap_or("a story").to_owned();
    let text = format!("!!! SKIPPED: {story}: {}", missing.remedy());
    assert!(std::env::var_os("CI").is_none(), "{text}; and in CI nothing may be skipped");
    // Not through `println!`: the test runner would hide it.
    writeln!(std::io::stderr(), "\n{text}\n").ok();
    false
}

/// Something that a story needs.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The rights to mount, and to cut the power of a file system.
    Root,
    /// Devices that make a disk of a file.
    Loop,
    /// A program in the path, and the Debian package it comes in.
    Program(&'static str, &'static str),
    /// The library that makes a process see another time.
    FakeTime,
    /// A file system that the kernel knows.
    FileSystem(&'static str),
}

/// Traces system calls, and kills or fails them.
pub const STRACE: Need = Need::Program("strace", "strace");
/// Limits of a process.
pub const PRLIMIT: Need = Need::Program("prlimit", "util-linux");
/// Issues the request that makes a file system lose what is not synced.
pub const PYTHON: Need = Need::Program("python3", "python3");

impl Need {
    fn is_there(self) -> bool {
        match self {
            Self::Root => may_mount(),
            Self::Loop => Path::new("/dev/loop-control").exists(),
            Self::Program("strace", _) => {
                in_path("strace") && succeeds(&["strace", "-qq", "-o", "/dev/null", "true"])
            }
            Self::Program(name, _) => in_path(name),
            Self::FakeTime => fake_time().is_some(),
            Self::FileSystem(name) => {
                drop(Command::new("modprobe").arg(name).output());
                let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                known.split_whitespace().any(|word| word == name)
            }
        }
    }

    fn remedy(self) -> String {
        match self {
            Self::Root => {
                "it needs the right to mount: run it as root, in a container as a privileged one".into()
            }
            Self::Loop => "it needs loop devices: modprobe loop".into(),
            Self::Program(name, package) => format!("it needs {name} that works: apt-get install {package}"),
            Self::FakeTime => "it needs libfaketime: apt-get install faketime".into(),
            Self::FileSystem(name) => format!("it needs a kernel with {name}"),
        }
    }
}

/// Being root is not enough in a container.
fn may_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    rustix::process::geteuid().is_root()
        && succeeds(&["mount", "-t", "tmpfs", "petnet-recovery", at])
        && succeeds(&["umount", at])
}

fn succeeds(words: &[&str]) -> bool {
    Command::new(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success())
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Where libfaketime is.
pub fn fake_time() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64"];
    let libraries = folders.iter().map(|folder| PathBuf::from(format!("{folder}/faketime/libfaketime.so.1")));
    libraries.into_iter().find(|path| path.exists())
}

/// Runs a command that must succeed.
pub fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|why| panic!("cannot run {words:?}: {why}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a program so that it is killed instead of making its N-th call (of one thread and one kind).
pub fn kill_at(call: &str, nth: u64) -> [String; 9] {
    inject(call, &format!("signal=KILL:when={nth}"))
}

/// Runs a program so that its N-th call (of one thread and one kind) fails.
pub fn fail_at(call: &str, error: &str, nth: u64) -> [String; 9] {
    inject(call, &format!("error={error}:when={nth}"))
}

/// Without `--seccomp-bpf`: with it strace 6.1 sends no signal after the first call.
fn inject(calls: &str, what: &str) -> [String; 9] {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{what}"));
    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(String::from)
}
