//! What a party's store in Redis holds, who works on it, and what "accepted" means there; read from Redis, not from a gateway.

use std::collections::HashMap;
use std::time::Duration;

use redis::{FromRedisValue, Value};

use crate::face::error::OpenError;
use crate::redis::connection::connect::Connector;
use crate::redis::connection::durability::Durability;
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session;
use crate::redis::leases::SILENCE;

/// A gateway that works on the store, or has done so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Its address and machine.
    pub label: String,
    /// Time since its last heartbeat.
    pub silent: Duration,
    /// Whether the other gateways count on it.
    pub is_live: bool,
    /// Peers that it delivers to.
    pub delivers_to: Vec<String>,
}

/// The messages that wait for a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub peer: String,
    /// Label of the gateway that delivers to it.
    pub gateway: Option<String>,
    /// Messages accepted for it and not settled.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Seconds of service time that the oldest has waited.
    pub oldest: Option<u64>,
}

/// The state of a party's store in Redis.
#[derive(Debug, Clone)]
pub struct RedisStatus {
    /// The server.
    pub node: String,
    /// What "accepted" means there.
    pub durability: Durability,
    /// Gateways of the party, live ones first.
    pub gateways: Vec<GatewayStatus>,
    /// Waiting messages, by peer.
    pub peers: Vec<PeerStatus>,
    /// Messages in the mailbox.
    pub mailbox: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Their payload bytes.
    pub dead_letter_bytes: u64,
    /// Bytes that all messages count for.
    pub used_bytes: u64,
    /// `unfinished` or `running`, if a migration keeps gateways out.
    pub migration: Option<String>,
}

impl RedisStatus {
    /// Reads the status. Nothing is changed.
    pub async fn read(options: &RedisOptions) -> Result<Self, OpenError> {
        let failed = |why: &str| OpenError::Redis { url: options.url.to_string(), why: why.to_owned() };
        let connector = Connector::new(options);
        let asked = async {
            let node = connector.primary().await?;
            let mut control = connector.connect(&node, None).await?;
            let facts = session::facts(&mut control, &node, options, connector.fails_over()).await?;
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(&SCRIPTS.status.source);
            session::within(options.timeout, &node, load.query_async::<()>(&mut control)).await?;
            let mut ask = session::call(&SCRIPTS.status, &options.prefix());
            ask.arg(0);
            let answer: Vec<Value> =
                session::within(options.timeout, &node, ask.query_async(&mut control)).await?;
            Ok::<_, crate::redis::connection::connect::NoSession>((
                node.to_string(),
                Durability::of(&facts),
                answer,
            ))
        };
        let (node, durability, answer) = asked.await.map_err(|why| failed(why.why()))?;
        Self::of(node, durability, answer).map_err(|why| failed(&why.to_string()))
    }

    fn of(node: String, durability: Durability, answer: Vec<Value>) -> redis::RedisResult<Self> {
        type PeerRow = (String, String, u64, u64, String);
        type Answer = (Vec<PeerRow>, HashMap<String, String>, u64, u64, u64, u64, u64, String);
        let (peers, gateways, now, mailbox, dead_letters, used_bytes, dead_letter_bytes, migration): Answer =
            FromRedisValue::from_redis_value(Value::Array(answer))?;
        let label = |name: &str| gateways.get(name).and_then(|told| told.lines().nth(1)).map(str::to_owned);
        let mut all: Vec<_> = gateways
            .iter()
            .map(|(name, told)| {
                let seen = told.lines().next().and_then(|seen| seen.parse().ok()).unwrap_or(0);
                let silent = Duration::from_millis(now.saturating_sub(seen));
                let of = peers.iter().filter(|(_, owner, ..)| owner == name);
                let delivers_to = of.map(|(peer, ..)| peer.clone()).collect();
                GatewayStatus {
                    label: label(name).unwrap_or_default(),
                    silent,
                    is_live: silent <= SILENCE,
                    delivers_to,
                }
            })
            .collect();
        all.sort_by(|a, b| (!a.is_live, &a.label).cmp(&(!b.is_live, &b.label)));
        let mut waiting: Vec<_> = peers
            .iter()
            .map(|(peer, owner, messages, bytes, oldest)| PeerStatus {
                peer: peer.clone(),
                gateway: label(owner),
                messages: *messages,
                bytes: *bytes,
                oldest: oldest.parse().ok(),
            })
            .collect();
        waiting.sort_by(|a, b| a.peer.cmp(&b.peer));
        Ok(Self {
            node,
            durability,
            gateways: all,
            peers: waiting,
            mailbox,
            dead_letters,
            dead_letter_bytes,
            used_bytes,
            migration: Some(migration).filter(|migration| !migration.is_empty()),
        })
    }
}
