//! A folder with a party file, and gateway processes in it. Every wait has a deadline; a drop kills.

#[allow(dead_code, reason = "each test file uses its part")]
pub mod asking;
#[allow(dead_code, reason = "each test file uses its part")]
pub mod secure;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(30);

/// The program with an empty environment, so that the settings of the machine do not leak into a test.
pub fn petnet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petnet"));
    command.env_clear().args(arguments).stdin(Stdio::null());
    command
}

pub struct Place {
    pub dir: tempfile::TempDir,
    pub ports: [u16; 2],
}

impl Place {
    /// A party file for `party_a` and `party_b` on free ports.
    pub fn new() -> Self {
        let held = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir, ports };
        let party = |port| format!(r#"{{"petnet": [{{"type": 1, "url": "127.0.0.1:{port}"}}]}}"#);
        let text = format!(r#"{{"party_a": {}, "party_b": {}}}"#, party(ports[0]), party(ports[1]));
        fs::write(place.path("party.json"), text).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Address of `party_a` (0) or `party_b` (1).
    pub fn address(&self, party: usize) -> String {
        format!("127.0.0.1:{}", self.ports[party])
    }

    /// `petnet serve` for one of the parties, with everything set; later settings win.
    pub fn serve(&self, party: usize) -> Command {
        self.command("serve", party)
    }

    /// A sub-command that takes settings, with those of one of the parties.
    pub fn command(&self, sub: &str, party: usize) -> Command {
        let name = ["party_a", "party_b"][party];
        let mut command = petnet(&[sub]);
        command
            .env("PARTY", name)
            .env("LISTEN_ADDR", self.address(party))
            .env("HTTP_LISTEN_ADDR", "off")
            .env("CONFIG_FILE_PATH", self.path("party.json"))
            .env("DATA_DIR", self.path(name))
            .env("PEM_PATH", self.path("no-certificates"))
            .env("RETRY_CAP", "1s")
            .env("SHUTDOWN_GRACE", "2s");
        command
    }
}

#[derive(Default)]
struct Log {
    text: String,
    ended: bool,
}

/// A running `petnet serve` and its log so far.
pub struct Running {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let shared = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let (log, changed) = &*shared;
                log.lock().unwrap().text.push_str(&(line + "\n"));
                changed.notify_all();
            }
            shared.0.lock().unwrap().ended = true;
            shared.1.notify_all();
        });
        Self { child, log }
    }

    /// Starts it and waits for its start line.
    pub fn serving(command: Command) -> Self {
        let running = Self::start(command);
        running.logged("serves on");
        running
    }

    pub fn logged(&self, text: &str) {
        let (log, changed) = &*self.log;
        let waiting = |log: &mut Log| !log.ended && !log.text.contains(text);
        let (log, _) = changed.wait_timeout_while(log.lock().unwrap(), DEADLINE, waiting).unwrap();
        let log = &log.text;
        assert!(log.contains(text), "no {text:?} in the log:\n{log}");
    }

    #[allow(dead_code, reason = "used by one")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id();
        // The shell has a kill of its own; the program of that name is missing on small systems.
        let kill = format!("kill -s {name} {pid}");
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the end; gives the exit status and the log.
    pub fn end(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end; its log:\n{}", self.log.0.lock().unwrap().text);
            std::thread::sleep(Duration::from_millis(10));
        };
        let (log, changed) = &*self.log;
        let open = |log: &mut Log| !log.ended;
        let (log, _) = changed.wait_timeout_while(log.lock().unwrap(), DEADLINE, open).unwrap();
        let log = log.text.clone();
        (status, log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command to its end. Gives exit code, stdout and stderr.
pub fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let output = command.output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// True when this process may write anywhere.
pub fn is_root() -> bool {
    let probe = tempfile::tempdir().unwrap();
    read_only(probe.path());
    tempfile::tempfile_in(probe.path()).is_ok()
}

pub fn read_only(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
}
