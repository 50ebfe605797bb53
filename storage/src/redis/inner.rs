//! What all parts of the Redis engine share, and how they call it.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use redis::{Cmd, FromRedisValue};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::leases::Leases;
use super::options::RedisOptions;
use super::scripts::Script;
use super::service_clock::ServiceClock;
use super::session::Way;
use super::sessions::Sessions;
use crate::engine::{Observer, StoreStats};
use crate::error::{Result, StoreError};
use crate::frame::Class;
use crate::keys;
use crate::message::{MessageId, PartyId};
use crate::past::Past;

/// See the module.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) options: RedisOptions,
    /// Beginning of all keys.
    pub(super) prefix: String,
    /// Of this gateway, drawn at its start.
    pub(super) name: String,
    pub(super) sessions: Sessions,
    pub(super) observer: Shown,
    pub(super) leases: Mutex<Leases>,
    /// The highest sequence that was heard of.
    pub(super) newest: AtomicU64,
    /// How messages ended lately.
    pub(super) past: Mutex<Past>,
    /// As of the last heartbeat.
    pub(super) stats: Mutex<StoreStats>,
    /// Repeated deliveries that changed nothing.
    pub(super) repeated: AtomicU64,
    pub(super) service: Arc<ServiceClock>,
    /// Of peers to which nobody delivered yet when the news came: sequence and length.
    pub(super) early: Mutex<Vec<(PartyId, u64, u64)>>,
    /// Bytes of messages that are coming.
    pub(super) upload_bytes: AtomicU64,
    /// Names of the chunks of messages that are coming.
    pub(super) uploads: Mutex<HashSet<String>>,
    /// Of names of chunks.
    pub(super) tokens: AtomicU64,
    pub(super) key_secret: (u64, u64),
    /// Asks for a heartbeat now.
    pub(super) beat: Notify,
    /// How many there were.
    pub(super) beats: watch::Sender<u64>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// An observer, for `Debug`.
pub(super) struct Shown(pub(super) Arc<dyn Observer>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an observer")
    }
}

impl Inner {
    /// A short number of what is told apart by direction, party and id.
    pub(super) fn key(&self, class: Class, party: &str, id: &MessageId) -> u128 {
        keys::key(self.key_secret, class, party, id.as_str())
    }

    /// Whether this gateway delivers to a peer, now.
    pub(super) fn delivers_to(&self, peer: &PartyId) -> bool {
        crate::log::lock(&self.leases).has(peer)
    }

    /// Asks for something, or does what may be done twice. Sent again when the answer is lost.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        way: Way,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            let why = match session.script(way, script, &add).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(why) | Fault::Failed(why)) => return Err(StoreError::Unavailable(why)),
                Err(fault) => fault.to_string(),
            };
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(why.into()));
            }
        }
    }

    /// The same for a plain command.
    pub(super) async fn ask_plainly<T: FromRedisValue>(&self, way: Way, command: &Cmd) -> Result<T> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            let why = match session.command(way, command).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(why) | Fault::Failed(why)) => return Err(StoreError::Unavailable(why)),
                Err(fault) => fault.to_string(),
            };
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(why.into()));
            }
        }
    }

    /// Changes something, once: a lost answer is an error that says so.
    pub(super) async fn change<T: FromRedisValue>(
        &self,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            let why = match session.script(Way::Write, script, &add).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(why)) => return Err(StoreError::Unavailable(why)),
                Err(Fault::Lost(why) | Fault::Failed(why)) => return Err(StoreError::InDoubt(why)),
                Err(fault) => fault.to_string(),
            };
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(why.into()));
            }
        }
    }
}
