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
use crate::error::{OpenError, Result, StoreError};
use crate::format::random_u64;
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
    /// Nothing is connected yet. An error: there are no random numbers.
    pub(super) fn new(
        options: RedisOptions,
        observer: Arc<dyn Observer>,
    ) -> std::result::Result<Arc<Self>, OpenError> {
        let url = options.url.to_string();
        let failed = |why| OpenError::Redis { url: url.clone(), why: format!("no random numbers: {why}") };
        let random = || random_u64().map_err(failed);
        Ok(Arc::new(Self {
            prefix: options.prefix(),
            name: format!("{:016x}", random()?),
            sessions: Sessions::new(options.timeout),
            observer: Shown(observer),
            leases: Mutex::default(),
            newest: AtomicU64::new(0),
            past: Mutex::default(),
            stats: Mutex::default(),
            repeated: AtomicU64::new(0),
            service: Arc::new(ServiceClock::new(options.clock.clone())),
            early: Mutex::default(),
            upload_bytes: AtomicU64::new(0),
            uploads: Mutex::default(),
            tokens: AtomicU64::new(0),
            key_secret: (random()?, random()?),
            beat: Notify::new(),
            beats: watch::Sender::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            options,
        }))
    }

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
            if let Some(answer) = answered(session.script(way, script, &add).await, until)? {
                return Ok(answer);
            }
        }
    }

    /// The same for a plain command.
    pub(super) async fn ask_plainly<T: FromRedisValue>(&self, way: Way, command: &Cmd) -> Result<T> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            if let Some(answer) = answered(session.command(way, command).await, until)? {
                return Ok(answer);
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

/// What was answered; `None`: it may be asked again.
fn answered<T>(answer: std::result::Result<T, Fault>, until: Instant) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Fault::Refused(why) | Fault::Failed(why)) => Err(StoreError::Unavailable(why)),
        Err(fault) if Instant::now() >= until => Err(StoreError::Unavailable(fault.to_string().into())),
        Err(_) => Ok(None),
    }
}
