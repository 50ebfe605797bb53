//! What all parts of the Redis engine share, and how they call Redis.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::face::direction::Class;
use crate::face::engine::{Observer, StoreStats};
use crate::face::error::{OpenError, Result, StoreError};
use crate::face::message::{MessageId, PartyId};
use crate::index::key;
use crate::index::memory::recent_ends::RecentEnds;
use crate::log::data_folder::random_u64;
use crate::redis::connection::current_session::Sessions;
use crate::redis::connection::fault::Fault;
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::Script;
use crate::redis::connection::service_clock::ServiceClock;
use crate::redis::connection::session::{Session, Way};
use crate::redis::leases::{Leases, since_boot};
use crate::redis::reads::NotedReads;
use crate::redis::rules::{DifferingRule, Rules};

/// The state that all parts of the Redis engine share.
#[derive(Debug)]
pub(crate) struct RedisShared {
    pub(crate) options: RedisOptions,
    /// Beginning of all keys.
    pub(crate) prefix: String,
    /// Name of this gateway, drawn at random when it starts.
    pub(crate) name: String,
    pub(crate) sessions: Sessions,
    pub(crate) observer: ShownObserver,
    pub(crate) leases: Mutex<Leases>,
    /// The highest sequence heard of so far.
    pub(crate) newest: AtomicU64,
    /// How messages ended lately.
    pub(crate) past: Mutex<RecentEnds>,
    /// Figures as of the last heartbeat.
    pub(crate) stats: Mutex<StoreStats>,
    /// Repeated deliveries that changed nothing.
    pub(crate) repeated: AtomicU64,
    pub(crate) service: Arc<ServiceClock>,
    /// Messages that were handed to readers.
    pub(crate) reads: NotedReads,
    /// News for peers to which nobody delivered yet when they came: peer, sequence and length.
    pub(crate) early: Mutex<Vec<(PartyId, u64, u64)>>,
    /// Bytes of messages that are being uploaded.
    pub(crate) upload_bytes: AtomicU64,
    /// Names of the chunks of messages that are being uploaded.
    pub(crate) uploads: Mutex<HashSet<String>>,
    /// Counter for the names of chunks.
    pub(crate) tokens: AtomicU64,
    pub(crate) key_secret: (u64, u64),
    /// Settings that are the same at all gateways, as they are kept in Redis.
    rules: Mutex<Rules>,
    /// Peers that the operator has paused at all gateways.
    pub(crate) paused: watch::Sender<Arc<BTreeSet<PartyId>>>,
    /// Asks for a heartbeat now.
    pub(crate) beat: Notify,
    /// Number of heartbeats so far.
    pub(crate) beats: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Wraps an observer so that `Debug` can be derived.
pub(crate) struct ShownObserver(pub(crate) Arc<dyn Observer>);

impl std::fmt::Debug for ShownObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an observer")
    }
}

impl RedisShared {
    /// Nothing is connected yet. Fails if there are no random numbers.
    pub(crate) fn new(
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
            observer: ShownObserver(observer),
            leases: Mutex::default(),
            newest: AtomicU64::new(0),
            past: Mutex::default(),
            stats: Mutex::default(),
            repeated: AtomicU64::new(0),
            reads: NotedReads::default(),
            service: Arc::new(ServiceClock::new(options.clock.clone())),
            early: Mutex::default(),
            upload_bytes: AtomicU64::new(0),
            uploads: Mutex::default(),
            tokens: AtomicU64::new(0),
            key_secret: (random()?, random()?),
            rules: Mutex::new(Rules::of(&options)),
            paused: watch::Sender::default(),
            beat: Notify::new(),
            beats: watch::Sender::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            options,
        }))
    }

    /// A short number for a message, identified by direction, party and id.
    pub(crate) fn key(&self, class: Class, party: &str, id: &MessageId) -> u128 {
        key::key(self.key_secret, class, party, id.as_str())
    }

    /// The settings in force that are the same at all gateways.
    pub(crate) fn rules(&self) -> Rules {
        *self.rules.lock()
    }

    /// From now on the values kept in Redis count.
    pub(crate) fn follow(&self, kept: &[(String, u64)]) {
        let mut rules = self.rules.lock();
        let theirs = rules.following(kept);
        for differing in rules.differing(&theirs) {
            let DifferingRule { name, ours, theirs } = differing;
            tracing::warn!(
                setting = name,
                was = ours,
                is = theirs,
                "another gateway of this party changed a setting for all; change it here, too, before the next start"
            );
        }
        *rules = theirs;
    }

    /// Whether this gateway delivers to a peer at present.
    pub(crate) fn delivers_to(&self, peer: &PartyId) -> bool {
        self.leases.lock().has(peer, since_boot())
    }

    /// Whether no other gateway delivers to a peer at present.
    pub(crate) fn holds(&self, peer: &PartyId) -> bool {
        self.leases.lock().holds(peer, since_boot())
    }

    /// Calls a script that only asks, or whose effect may safely be repeated. It is sent again if the answer is lost.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        way: Way,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T> {
        Ok(self.ask_at(way, script, add).await?.0)
    }

    /// Asks in the same way; also returns the session that answered.
    pub(crate) async fn ask_at<T: FromRedisValue>(
        &self,
        way: Way,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<(T, Arc<Session>)> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            if let Some(answer) = answered(session.script(way, script, &add).await, until)? {
                return Ok((answer, session));
            }
        }
    }

    /// Asks with a plain command.
    pub(crate) async fn ask_plainly<T: FromRedisValue>(&self, way: Way, command: &Cmd) -> Result<T> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            if let Some(answer) = answered(session.command(way, command).await, until)? {
                return Ok(answer);
            }
        }
    }

    /// Makes a change, once: a lost answer is an error that says so. A failover may undo the change.
    pub(crate) async fn change<T: FromRedisValue>(
        &self,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T> {
        Ok(self.change_at(script, add).await?.0)
    }

    /// Makes a change that somebody is told of: once it is answered, no failover undoes it, as with what is accepted.
    pub(crate) async fn change_for_good<T: FromRedisValue>(
        &self,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T> {
        let (answer, session) = self.change_at(script, add).await?;
        // For everything that is there: if nothing was left to change, that may be the work of another gateway.
        self.kept(&session).await?;
        Ok(answer)
    }

    async fn change_at<T: FromRedisValue>(
        &self,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<(T, Arc<Session>)> {
        let until = Instant::now() + self.options.timeout;
        loop {
            let session = self.sessions.get(until).await?;
            let why = match session.script(Way::Write, script, &add).await {
                Ok(answer) => return Ok((answer, session)),
                Err(Fault::Refused(why)) => return Err(StoreError::Unavailable(why)),
                Err(Fault::Lost(why) | Fault::Failed(why)) => return Err(StoreError::InDoubt(why)),
                Err(fault) => fault.to_string(),
            };
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(why.into()));
            }
        }
    }

    /// Returns once the required replicas have what a session answered, and everything that was based on.
    pub(crate) async fn kept(&self, session: &Session) -> Result<()> {
        let (replicas, limit) = (self.options.wait_replicas, self.options.timeout);
        let why: Arc<str> = match timeout(limit, session.wait_for_all(replicas, limit / 2)).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Err(fault)) => fault.to_string().into(),
            Ok(Ok(false)) | Err(_) => {
                let why = session.lacks(replicas);
                // Nothing is accepted until the replicas are back.
                self.sessions.set_refusing(Some(&why));
                why
            }
        };
        Err(StoreError::InDoubt(why))
    }
}

/// The answer of a call; `None` if it may be asked again.
fn answered<T>(answer: std::result::Result<T, Fault>, until: Instant) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Fault::Refused(why) | Fault::Failed(why)) => Err(StoreError::Unavailable(why)),
        Err(fault) if Instant::now() >= until => Err(StoreError::Unavailable(fault.to_string().into())),
        Err(_) => Ok(None),
    }
}
