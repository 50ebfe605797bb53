//! A server's process: started so that it ends with us, signalled, waited for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

/// What to do where a program is missing.
const INSTALL: &str = "these tests need redis-server and redis-sentinel; on Debian or Ubuntu: \
                       sudo apt-get install redis-server redis-sentinel util-linux (scripts/test does so)";
const TAIL_LINES: usize = 40;

/// A running server, or one that has ended and was not waited for.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program of Redis; what it says is added to `log`.
    pub(crate) fn start(program: &str, words: &[OsString], log: &Path) -> Self {
        for needed in ["setpriv", program] {
            assert!(is_installed(needed), "{needed} is missing: {INSTALL}");
        }
        let open = || File::options().create(true).append(true).open(log);
        let log_file = open().and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = log_file.unwrap_or_else(|why| panic!("cannot write {}: {why}", log.display()));
        // It gets a kill when the thread that started it ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(words);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Self(spawn(command).unwrap_or_else(|why| panic!("cannot run {program}: {why}")))
    }

    /// How it ended, when it has.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        self.0.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// A signal to it.
    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            kill_process(pid, signal).ok();
        }
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) {
        self.0.wait().ok();
    }

    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

type Spawning = (Command, Sender<io::Result<Child>>);

/// Starts a process from a thread that ends with us and not before. The threads of tests, and those of tokio, may end any
/// time.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Spawning>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (work, orders) = channel::<Spawning>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                reply.send(command.spawn()).ok();
            }
        });
        Mutex::new(work)
    });
    let (reply, child) = channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).any(|file: PathBuf| file.is_file())
}

/// The end of a log, for people.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    format!("{}:\n{}", log.display(), lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
