//! Keeps a session: connects, agrees with the other gateways every [`BEAT`], notices its end, connects anew.
//!
//! Nothing else polls: an idle gateway sends one script every two seconds. Invariant: whoever was told of a new session has
//! looked for itself at everything that may have come before its first news.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{FromRedisValue, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::connect::{Connector, NoSession};
use super::fault::Fault;
use super::inner::Inner;
use super::lane::{Item, Lane};
use super::leases::{BEAT, SILENCE};
use super::news::{self, Heard, Reader};
use super::options::seconds;
use super::outbox::id_of_letter;
use super::scripts::SCRIPTS;
use super::session::{Purpose, Session, Way};
use crate::engine::PeerPending;
use crate::format::random_u64;
use crate::log::lock;
use crate::message::{DeadLetter, DeadReason, PartyId, Sequence};

/// First pause between attempts to connect; they double up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Pause between lines in the log about Redis being away.
const REMIND: Duration = Duration::from_secs(30);
/// Messages that one heartbeat expires; more are left for the next, which comes at once.
const EXPIRE_AT_ONCE: u64 = 500;
/// Chunks of a message that is not accepted yet are kept for so long after they were last asked to be.
pub(super) const CHUNKS_KEPT: Duration = Duration::from_secs(900);
/// Heartbeats between asking for that, and between looking whether news still come.
const NOW_AND_THEN: u32 = 15;

/// See the module.
pub(super) struct Keeper {
    inner: Arc<Inner>,
    lane: Arc<Lane>,
    connector: Connector,
    /// Tells a start how it went, once.
    started: Option<oneshot::Sender<Result<Arc<Session>, NoSession>>>,
    beats: u32,
    wanted: Vec<PartyId>,
    told: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        inner: Arc<Inner>,
        lane: Arc<Lane>,
        started: oneshot::Sender<Result<Arc<Session>, NoSession>>,
    ) -> Self {
        let connector = Connector::new(&inner.options);
        Self { inner, lane, connector, started: Some(started), beats: 0, wanted: Vec::new(), told: None }
    }

    /// Runs until the store closes.
    pub(super) async fn run(mut self) {
        let stop = self.inner.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (pushes, heard) = news::ear();
            let service = self.inner.service.clone();
            let purpose = Purpose::Serve { newest: self.inner.newest.load(Ordering::Relaxed) };
            match Session::open(&self.inner.options, &self.connector, service, pushes, purpose).await {
                Ok(session) => {
                    pause = FIRST_PAUSE;
                    let session = Arc::new(session);
                    let why = self.live(session, heard).await;
                    self.tell_down(&why);
                }
                Err(why)
                    if self.started.is_some()
                        && gives_up(&why, begun.elapsed(), self.inner.options.start_wait) =>
                {
                    if let Some(started) = self.started.take() {
                        // Whoever started is gone, too.
                        drop(started.send(Err(why)));
                    }
                    return;
                }
                Err(why) => self.tell_down(why.why()),
            }
            // Gateways that lost the same server do not come back in step.
            let random = random_u64().unwrap_or_default() % (pause.as_millis() as u64);
            sleep(pause / 2 + Duration::from_millis(random)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn tell_down(&mut self, why: &str) {
        self.inner.sessions.down(why);
        if self.told.is_none_or(|told| told.elapsed() >= REMIND) {
            self.told = Some(Instant::now());
            tracing::warn!(url = %self.inner.options.url, why, "no connection to Redis; going on trying");
        }
    }

    /// A session from its beginning to its end; gives the reason of that.
    async fn live(&mut self, session: Arc<Session>, heard: mpsc::Receiver<Heard>) -> Arc<str> {
        if self.told.take().is_some() {
            tracing::info!(node = %session.node, "connected to Redis");
        }
        // While nobody could read, no time of a message went by.
        self.inner.service.skip();
        self.inner.sessions.up(session.clone());
        // Before its first heartbeat: whoever waits looks again, now that news come, and so does whoever delivers. A lease
        // that outlasted the last session is no new one, and nobody else says so.
        self.inner.observer.0.missed();
        self.inner.look_at_pending();
        let inner = self.inner.clone();
        tokio::select! {
            () = listen(&inner, &session, heard) => {}
            () = self.beat(&session) => {}
            _ = session.ended() => {}
        }
        session.end("the connection is lost");
        session.ended().await
    }

    async fn beat(&mut self, session: &Arc<Session>) {
        let mut timer = interval_at(Instant::now(), BEAT);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let inner = self.inner.clone();
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = inner.beat.notified() => {}
            }
            loop {
                match self.heartbeat(session).await {
                    Ok(true) => {}
                    Ok(false) => {
                        if let Some(started) = self.started.take() {
                            drop(started.send(Ok(session.clone())));
                        }
                        self.inner.beats.send_modify(|count| *count += 1);
                        break;
                    }
                    Err(fault) => {
                        tracing::debug!(%fault, "a heartbeat failed");
                        if session.is_over() {
                            return;
                        }
                        break;
                    }
                }
            }
            if self.inner.sessions.is_refusing()
                && let Ok(probed) = self.lane.queue(Item::Probe).await
            {
                // What comes of it shows in the state.
                drop(probed);
            }
            self.beats = self.beats.wrapping_add(1);
            if self.beats.is_multiple_of(NOW_AND_THEN) {
                self.keep_chunks(session).await;
                if !session.hears().await {
                    return session.end("no news come any more");
                }
            }
        }
    }

    /// True: another one is to follow at once.
    async fn heartbeat(&mut self, session: &Session) -> Result<bool, Fault> {
        let inner = &self.inner;
        let options = &inner.options;
        let mood = if *inner.beats.borrow() == 0 { "first" } else { "usual" };
        let (seconds_more, at) = inner.service.report();
        let asked = Instant::now();
        let answer: Vec<Value> = session
            .script_at(Way::Write, &SCRIPTS.tick, seconds_more, |call| {
                call.arg(&inner.name).arg(&options.label);
                call.arg(seconds(options.message_ttl))
                    .arg(seconds(options.send_ttl))
                    .arg(options.dead_letter_bytes);
                call.arg(SILENCE.as_millis() as u64).arg(EXPIRE_AT_ONCE).arg(mood);
                self.wanted.iter().for_each(|peer| {
                    call.arg(peer.as_str());
                });
            })
            .await?;
        let Some(beat) = Beat::read(&answer) else {
            return Err(Fault::Refused("the answer to a heartbeat cannot be understood".into()));
        };
        inner.service.agreed(beat.time, at);
        inner.take_beat(asked, &beat);
        let wanted: Vec<_> =
            beat.peers.iter().map(|p| &p.id).filter(|p| inner.observer.0.serves(p)).cloned().collect();
        let again = wanted != self.wanted || beat.left_to_expire;
        self.wanted = wanted;
        Ok(again)
    }

    /// Chunks of messages that are still coming must not be taken for left-overs.
    async fn keep_chunks(&self, session: &Session) {
        let tokens: Vec<String> = lock(&self.inner.uploads).iter().cloned().collect();
        for token in tokens {
            let kept = session.script::<i64>(Way::Bulk, &SCRIPTS.chunks_kept, |call| {
                call.arg(&token).arg(CHUNKS_KEPT.as_secs());
            });
            if kept.await.is_err() {
                return;
            }
        }
    }
}

fn gives_up(why: &NoSession, waited: Duration, limit: Duration) -> bool {
    matches!(why, NoSession::Final(_)) || waited >= limit
}

/// Passes on what is heard, until nothing is any more.
async fn listen(inner: &Arc<Inner>, session: &Session, mut heard: mpsc::Receiver<Heard>) {
    let mut reader = Reader::default();
    while let Some(Heard::News(bytes)) = heard.recv().await {
        reader.take(inner, bytes);
    }
    session.end("the connection for news is lost");
}

struct Peer {
    id: PartyId,
    owner: String,
    messages: u64,
    bytes: u64,
}

/// What a heartbeat gave.
struct Beat {
    peers: Vec<Peer>,
    died: Vec<DeadLetter>,
    letters_gone: u64,
    left_to_expire: bool,
    mailbox: u64,
    dead: u64,
    time: u64,
    used: u64,
    mail_expired: u64,
}

impl Beat {
    fn read(answer: &[Value]) -> Option<Self> {
        fn get<T: FromRedisValue>(value: &Value) -> Option<T> {
            T::from_redis_value_ref(value).ok()
        }
        let [peers, died, gone, budget, mailbox, dead, time, used, mail_expired] = answer else {
            return None;
        };
        let peers: Vec<(String, String, u64, u64)> = get(peers)?;
        let died: Vec<(u64, String, Vec<u8>, u64)> = get(died)?;
        let peer = |(peer, owner, messages, bytes)| {
            Some(Peer { id: PartyId::new(peer).ok()?, owner, messages, bytes })
        };
        let letter =
            |(sequence, peer, id, len): (u64, String, Vec<u8>, u64)| expired(sequence, &peer, &id, len);
        Some(Self {
            peers: peers.into_iter().filter_map(peer).collect(),
            died: died.into_iter().filter_map(letter).collect(),
            letters_gone: get(gone)?,
            left_to_expire: get::<i64>(budget)? <= 0,
            mailbox: get(mailbox)?,
            dead: get(dead)?,
            time: get(time)?,
            used: get(used)?,
            mail_expired: get(mail_expired)?,
        })
    }
}

fn expired(sequence: u64, peer: &str, id: &[u8], len: u64) -> Option<DeadLetter> {
    let id = id_of_letter(id)?;
    let receiver = PartyId::new(peer).ok()?;
    Some(DeadLetter { sequence: Sequence(sequence), receiver, id, len, reason: DeadReason::Expired })
}

impl Inner {
    fn take_beat(&self, asked: Instant, beat: &Beat) {
        let owners: HashMap<PartyId, String> =
            beat.peers.iter().map(|p| (p.id.clone(), p.owner.clone())).collect();
        let new = lock(&self.leases).agreed(asked, &self.name, owners);
        for peer in new {
            tracing::debug!(%peer, "this gateway delivers to it now");
            self.hint(&peer);
        }
        for letter in &beat.died {
            self.observer.0.died(letter);
        }
        tell_gone(beat.letters_gone);
        self.tell_early();
        let mut stats = lock(&self.stats);
        let pending = |p: &Peer| PeerPending { peer: p.id.clone(), messages: p.messages, bytes: p.bytes };
        stats.pending = beat.peers.iter().filter(|p| p.messages > 0).map(pending).collect();
        stats.mailbox_messages = beat.mailbox;
        stats.dead_letters = beat.dead;
        stats.used_bytes = beat.used;
        stats.expired += beat.mail_expired;
        stats.quota_bytes = self.options.max_bytes;
        stats.service_seconds = beat.time.saturating_sub(FIRST_SECOND);
    }
}

/// Dead letters beyond the bound were dropped.
pub(super) fn tell_gone(letters: u64) {
    if letters > 0 {
        tracing::warn!(letters, "the oldest dead letters were dropped: DEAD_LETTER_MAX_BYTES is reached");
    }
}

/// Where service time begins; the scripts know it, too. Messages that were moved here may be older than the time here.
pub(super) const FIRST_SECOND: u64 = 1_000_000_000;
