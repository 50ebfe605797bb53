//! One server: its options, its lives, and what can be done to it.
//!
//! It keeps its folder and its ports through all its lives: what a life had synced to the append-only file, the next one
//! has.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Process, tail};
use crate::reply::{Address, Reply, ask};
use crate::until;

/// When the append-only file is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Append {
    /// Before each answer: a kill, and a loss of power, takes nothing that was answered.
    #[default]
    Always,
    /// Once a second.
    EverySecond,
    /// There is none: a kill takes everything.
    Never,
}

/// Certificates of a server that speaks TLS only.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who signs certificates, PEM.
    pub authority: PathBuf,
    /// Whether clients must have a certificate too.
    pub clients_too: bool,
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Durability.
    pub append: Append,
    /// Bytes that it may use, and what it does beyond them (`noeviction`, `allkeys-lru`, ...).
    pub max_memory: Option<(u64, String)>,
    /// What clients must say.
    pub password: Option<String>,
    /// TLS, and nothing else.
    pub tls: Option<Tls>,
    /// More lines of its configuration.
    pub more: Vec<String>,
}

/// With this it ends a start in which it cut off the end of one of its files.
const MENDED: &str = "the truncated file is not the last file";

/// A `redis-server` process, running or not.
#[derive(Debug)]
pub struct RedisServer {
    options: Options,
    port: Port,
    /// For the cluster's own traffic.
    bus: Option<Port>,
    process: Mutex<Option<Process>>,
    folder: TempDir,
}

impl RedisServer {
    /// Starts one; returns when it answers.
    pub fn start(options: Options) -> Self {
        let server = Self::new(options, None);
        server.restart();
        server
    }

    /// Starts one that can be part of a cluster.
    pub(crate) fn start_for_cluster(mut options: Options, node_timeout_ms: u64) -> Self {
        let bus = Port::free();
        options.more.extend([
            "cluster-enabled yes".to_owned(),
            "cluster-config-file nodes.conf".to_owned(),
            format!("cluster-node-timeout {node_timeout_ms}"),
            format!("cluster-port {}", bus.number()),
        ]);
        let server = Self::new(options, Some(bus));
        server.restart();
        server
    }

    fn new(options: Options, bus: Option<Port>) -> Self {
        let folder = tempfile::Builder::new().prefix("petnet-redis-").tempdir();
        let folder = folder.unwrap_or_else(|why| panic!("no folder for a Redis server: {why}"));
        let server = Self { options, port: Port::free(), bus, process: Mutex::new(None), folder };
        write(&server.config(), &server.config_text());
        server
    }

    fn config_text(&self) -> String {
        let port = self.port.number();
        let mut text = format!(
            "bind 127.0.0.1\ndir {}\nunixsocket {}\ndaemonize no\nsave \"\"\nlogfile \"\"\n\
             enable-debug-command yes\nrepl-diskless-sync-delay 0\n",
            self.folder().display(),
            self.socket().display(),
        );
        let mut line = |line: &dyn std::fmt::Display| writeln!(text, "{line}").unwrap_or_default();
        match self.options.append {
            Append::Always => line(&"appendonly yes\nappendfsync always"),
            Append::EverySecond => line(&"appendonly yes\nappendfsync everysec"),
            Append::Never => line(&"appendonly no"),
        }
        if let Some((bytes, policy)) = &self.options.max_memory {
            line(&format!("maxmemory {bytes}\nmaxmemory-policy {policy}"));
        }
        if let Some(password) = &self.options.password {
            line(&format!("requirepass \"{password}\"\nmasterauth \"{password}\""));
        }
        if let Some(tls) = &self.options.tls {
            let clients = if tls.clients_too { "yes" } else { "no" };
            let [certificate, key, authority] =
                [&tls.certificate, &tls.key, &tls.authority].map(|p| p.display());
            line(&format!("port 0\ntls-port {port}\ntls-auth-clients {clients}"));
            line(&format!("tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority}"));
        } else {
            line(&format!("port {port}"));
        }
        for more in &self.options.more {
            line(more);
        }
        text
    }

    fn config(&self) -> PathBuf {
        self.folder().join("redis.conf")
    }

    fn socket(&self) -> PathBuf {
        self.folder().join("socket")
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts its next life, on the same ports and folder, unless it runs; returns when it answers.
    pub fn restart(&self) {
        let mut process = self.process();
        if process.is_some() {
            return;
        }
        *process = Some(self.spawn());
        drop(process);
        until("the Redis server answers", || self.answers().then_some(()), || tail(&self.log()));
    }

    fn spawn(&self) -> Process {
        Process::start("redis-server", &[self.config().into()], &self.log())
    }

    fn answers(&self) -> bool {
        let mut process = self.process();
        // Killed before it had rewritten a file whose end was torn, it mends that and ends; whoever keeps it running starts it again.
        if process.as_mut().and_then(Process::has_ended).is_some()
            && tail(&self.log()).lines().rev().take(3).any(|line| line.contains(MENDED))
        {
            *process = Some(self.spawn());
        }
        drop(process);
        if let Some(status) = self.process().as_mut().and_then(Process::has_ended) {
            panic!(
                "the Redis server on port {} ended while starting ({status}); {}",
                self.port(),
                tail(&self.log())
            );
        }
        // While it reads its file it answers with an error.
        self.try_command(&["PING"]).is_ok_and(|reply| reply.text() == "PONG")
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.kill();
        }
    }

    /// Ends it in order; returns when it is gone.
    pub fn shut_down(&self) {
        // It closes the connection instead of an answer.
        self.try_command(&["SHUTDOWN", "NOSAVE", "NOW"]).ok();
        if let Some(process) = self.process().take() {
            process.wait();
        }
    }

    /// [`kill`](Self::kill), then [`restart`](Self::restart).
    pub fn kill_and_restart(&self) {
        self.kill();
        self.restart();
    }

    /// SIGSTOP: it does nothing, and connections to it stay open. SIGCONT when what this gives is dropped.
    pub fn stall(&self) -> Stalled<'_> {
        self.signal(Signal::STOP);
        Stalled(self)
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process().as_ref() {
            process.signal(signal);
        }
    }

    /// Changes a setting of this life; panics when the server refuses.
    pub fn config_set(&self, name: &str, value: &str) {
        let reply = self.command(&["CONFIG", "SET", name, value]);
        assert!(reply.is_ok(), "CONFIG SET {name} {value}: {reply}");
    }

    /// Lines of the configuration of its next lives.
    pub(crate) fn add_to_config(&self, lines: &str) {
        let text = fs::read_to_string(self.config()).unwrap_or_default();
        write(&self.config(), &format!("{text}\n{lines}\n"));
    }

    /// Sends a command; panics when nothing comes back.
    pub fn command(&self, words: &[&str]) -> Reply {
        self.try_command(words).unwrap_or_else(|why| {
            panic!("{words:?} to the Redis server on port {}: {why}; {}", self.port(), tail(&self.log()))
        })
    }

    /// Sends a command.
    pub fn try_command(&self, words: &[&str]) -> io::Result<Reply> {
        let address = match self.options.tls {
            Some(_) => Address::Socket(self.socket()),
            None => Address::Port(self.port()),
        };
        ask(&address, self.options.password.as_deref(), words)
    }

    /// One value of `INFO`.
    pub fn info(&self, field: &str) -> Option<String> {
        self.command(&["INFO", "everything"]).field(field)
    }

    /// Where clients connect: `redis://127.0.0.1:PORT`, with the password, `rediss` with TLS.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "rediss" } else { "redis" };
        let password = self.options.password.as_deref().map(|password| format!(":{}@", escaped(password)));
        format!("{scheme}://{}127.0.0.1:{}", password.unwrap_or_default(), self.port())
    }

    /// The port of 127.0.0.1 on which it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The port of the cluster's own traffic.
    pub(crate) fn bus_port(&self) -> Option<u16> {
        self.bus.as_ref().map(Port::number)
    }

    /// What it has said in all its lives.
    pub fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// Its folder, with the append-only file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A server that does nothing until this is dropped.
#[derive(Debug)]
pub struct Stalled<'a>(&'a RedisServer);

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|why| panic!("cannot write {}: {why}", path.display()));
}

/// For a URL.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |mut all, byte| {
        if plain(byte) {
            all.push(byte.into());
        } else {
            write!(all, "%{byte:02X}").unwrap_or_default();
        }
        all
    })
}
