//! Three primaries that share the slots of a Redis cluster. No replicas: one that is killed takes its slots along until it
//! is restarted.

use crate::process::tail;
use crate::server::{Options, RedisServer};
use crate::until;

/// A node that is silent for so long has failed, in ms.
const NODE_TIMEOUT_MS: u64 = 2000;
/// Slots of a Redis cluster.
const SLOTS: u16 = 16_384;
const NODES: u16 = 3;

/// Three servers.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<RedisServer>,
}

impl Cluster {
    /// Starts them, with an append-only file that is always synced; returns when all serve all slots.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// The same, with these options.
    pub fn start_with(options: &Options) -> Self {
        let start = |_| RedisServer::start_for_cluster(options.clone(), NODE_TIMEOUT_MS);
        let all = Self { servers: (0..NODES).map(start).collect() };
        for (n, server) in (0..NODES).zip(&all.servers) {
            let slot = |n: u16| (u32::from(SLOTS) * u32::from(n) / u32::from(NODES)) as u16;
            let (first, last) = (slot(n).to_string(), (slot(n + 1) - 1).to_string());
            all.tell(server, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            all.tell(server, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        }
        let first = &all.servers[0];
        for other in &all.servers[1..] {
            let bus = other.bus_port().unwrap_or_default().to_string();
            all.tell(first, &["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus]);
        }
        all.until_ok();
        all
    }

    fn tell(&self, server: &RedisServer, words: &[&str]) {
        let reply = server.command(words);
        assert!(reply.is_ok(), "{words:?}: {reply}; {}", self.logs());
    }

    /// Waits until each of them serves, and knows that all slots are served.
    pub fn until_ok(&self) {
        let ok = |server: &RedisServer| {
            let Ok(info) = server.try_command(&["CLUSTER", "INFO"]) else { return false };
            let has = |field: &str, value: &str| info.field(field).as_deref() == Some(value);
            has("cluster_state", "ok")
                && has("cluster_known_nodes", &NODES.to_string())
                && has("cluster_slots_ok", &SLOTS.to_string())
        };
        until("the cluster is ok", || self.servers.iter().all(ok).then_some(()), || self.logs());
    }

    /// Where clients connect: `redis://127.0.0.1:A,127.0.0.1:B,127.0.0.1:C`.
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis://{}", hosts.join(","))
    }

    /// Each server.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The one that serves a key.
    pub fn server_of(&self, key: &str) -> &RedisServer {
        let slot = self.servers[0].command(&["CLUSTER", "KEYSLOT", key]).text();
        let slot: u32 = slot.parse().unwrap_or_else(|_| panic!("no slot: {slot}"));
        let owner = (0..NODES).zip(&self.servers).rev();
        let first = |n: u16| u32::from(SLOTS) * u32::from(n) / u32::from(NODES);
        let mut owner = owner.filter(|(n, _)| first(*n) <= slot).map(|(_, server)| server);
        owner.next().unwrap_or(&self.servers[0])
    }

    fn logs(&self) -> String {
        self.servers.iter().map(|server| tail(&server.log())).collect::<Vec<_>>().join("\n")
    }
}
