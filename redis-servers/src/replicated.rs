//! A primary, a replica, and three Sentinels that make the replica the primary when they hear no more of the first.
//!
//! What is written to a primary, and killed before its replica has it, is lost: that is Redis, and for tests of it.

use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Process, tail};
use crate::reply::{Address, Reply, ask};
use crate::server::{Options, RedisServer, write};
use crate::until;

/// What the Sentinels call the primary.
pub const NAME: &str = "mymaster";
/// A primary that is silent for so long is down for a Sentinel, in ms.
const DOWN_AFTER_MS: u64 = 1000;
/// A fail-over that takes longer is given up, in ms.
const FAILOVER_TIMEOUT_MS: u64 = 5000;
/// Sentinels that must agree.
const QUORUM: usize = 2;

/// Two servers and three Sentinels.
#[derive(Debug)]
pub struct Replicated {
    sentinels: Vec<Sentinel>,
    servers: [RedisServer; 2],
    /// The primary that was killed last.
    killed: Mutex<Option<u16>>,
}

#[derive(Debug)]
struct Sentinel {
    port: Port,
    _process: Process,
    folder: TempDir,
}

impl Replicated {
    /// Starts all of them, with an append-only file that is always synced; returns when a fail-over would work.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// The same, with these options for both servers. No password and no TLS: the Sentinels know of none.
    pub fn start_with(options: &Options) -> Self {
        assert!(options.password.is_none() && options.tls.is_none(), "the Sentinels know of neither");
        let primary = RedisServer::start(options.clone());
        let mut of_replica = options.clone();
        of_replica.more.push(format!("replicaof 127.0.0.1 {}", primary.port()));
        let replica = RedisServer::start(of_replica);
        until_in_sync(&replica);
        let sentinels = (0..3).map(|_| Sentinel::start(primary.port())).collect();
        let all = Self { sentinels, servers: [primary, replica], killed: Mutex::new(None) };
        all.until_ready();
        all
    }

    /// Each Sentinel knows the replica and the other Sentinels.
    fn until_ready(&self) {
        for sentinel in &self.sentinels {
            let ready = || {
                let master = sentinel.ask(&["SENTINEL", "MASTER", NAME])?;
                let has = |field: &str, count: &str| master.field(field).as_deref() == Some(count);
                let known =
                    has("num-slaves", "1") && has("num-other-sentinels", "2") && has("flags", "master");
                (known && sentinel.ask(&["SENTINEL", "CKQUORUM", NAME])?.text().starts_with("OK"))
                    .then_some(())
            };
            until("a Sentinel knows everybody", ready, || tail(&sentinel.log()));
        }
    }

    /// Where clients ask for the primary: `redis+sentinel://127.0.0.1:P1,127.0.0.1:P2,127.0.0.1:P3/mymaster`.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port.number())).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// Both servers: the first primary, and its first replica.
    pub fn servers(&self) -> &[RedisServer; 2] {
        &self.servers
    }

    /// The one that the Sentinels call the primary.
    pub fn primary(&self) -> &RedisServer {
        let named = || self.sentinels.iter().find_map(Sentinel::primary).and_then(|port| self.server(port));
        until("a Sentinel names the primary", named, || self.logs())
    }

    /// The other one.
    pub fn replica(&self) -> &RedisServer {
        let primary = self.primary().port();
        let [first, second] = &self.servers;
        if first.port() == primary { second } else { first }
    }

    fn server(&self, port: u16) -> Option<&RedisServer> {
        self.servers.iter().find(|server| server.port() == port)
    }

    /// SIGKILL to the primary.
    pub fn kill_primary(&self) {
        let primary = self.primary();
        *self.killed() = Some(primary.port());
        primary.kill();
    }

    fn killed(&self) -> std::sync::MutexGuard<'_, Option<u16>> {
        self.killed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until the other one is the primary, and all Sentinels say so.
    pub fn until_failed_over(&self) {
        let killed = *self.killed();
        let killed = killed.unwrap_or_else(|| panic!("no primary was killed"));
        let over = || {
            let named = self.sentinels[0].primary().filter(|port| *port != killed)?;
            let agreed = self.sentinels.iter().all(|sentinel| sentinel.primary() == Some(named));
            let role = self.server(named)?.try_command(&["ROLE"]).ok()?;
            (agreed && role.list().first()?.text() == "master").then_some(())
        };
        until("the Sentinels fail over", over, || self.logs());
    }

    /// Restarts the killed one as a replica of the new primary; returns when it has what that one has, and the Sentinels
    /// would fail over to it.
    pub fn restart_as_replica(&self) {
        let Some(killed) = self.killed().take() else { return };
        let Some(server) = self.server(killed) else { return };
        server.add_to_config(&format!("replicaof 127.0.0.1 {}", self.primary().port()));
        server.restart();
        // On a busy machine the Sentinels may make it the primary again meanwhile: then the other one follows.
        let one_follows = || self.servers.iter().any(follows).then_some(());
        until("one follows the other", one_follows, || self.logs());
        self.until_ready();
        let healthy = || {
            let all = self.sentinels.iter().filter_map(|s| s.ask(&["SENTINEL", "REPLICAS", NAME]));
            let up = all.filter(|replicas| {
                replicas.list().iter().any(|replica| {
                    let has = |field: &str, value: &str| replica.field(field).as_deref() == Some(value);
                    has("flags", "slave") && has("master-link-status", "ok")
                })
            });
            (up.count() == self.sentinels.len()).then_some(())
        };
        until("the Sentinels see the replica", healthy, || self.logs());
    }

    fn logs(&self) -> String {
        let logs = self.sentinels.iter().map(Sentinel::log).chain(self.servers.iter().map(RedisServer::log));
        logs.map(|log| tail(&log)).collect::<Vec<_>>().join("\n")
    }
}

fn until_in_sync(replica: &RedisServer) {
    until("the replica follows", || follows(replica).then_some(()), || tail(&replica.log()));
}

/// Whether it is a replica that has what its primary has. A Sentinel that tells it whom to follow cuts its connections.
fn follows(server: &RedisServer) -> bool {
    let info = server.try_command(&["INFO", "replication"]).ok();
    info.and_then(|info| info.field("master_link_status")).is_some_and(|status| status == "up")
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("petnet-sentinel-").tempdir();
        let folder = folder.unwrap_or_else(|why| panic!("no folder for a Sentinel: {why}"));
        let port = Port::free();
        let config = folder.path().join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\ndaemonize no\nlogfile \"\"\n\
             sentinel monitor {NAME} 127.0.0.1 {primary} {QUORUM}\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}\n\
             sentinel parallel-syncs {NAME} 1\n",
            port.number(),
            folder.path().display(),
        );
        write(&config, &text);
        let process = Process::start("redis-sentinel", &[config.into()], &folder.path().join("log"));
        Self { port, _process: process, folder }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn ask(&self, words: &[&str]) -> Option<Reply> {
        ask(&Address::Port(self.port.number()), None, words).ok()
    }

    /// The port of the primary.
    fn primary(&self) -> Option<u16> {
        let place = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])?;
        place.list().get(1)?.text().parse().ok()
    }
}
