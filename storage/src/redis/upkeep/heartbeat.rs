//! Keeps a session: connects, agrees with the other gateways every [`BEAT`], notices its end, and connects again.
//!
//! Nothing else polls: an idle gateway sends one script every two seconds. Invariant: an observer that learns of a new session
//! has been asked to look at everything that may have come before its first news.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::face::message::PartyId;
use crate::log::data_folder::random_u64;
use crate::redis::calls::write_lane::{WriteLane, WriteRequest};
use crate::redis::connection::connect::{Connector, NoSession};
use crate::redis::connection::fault::Fault;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::{Purpose, Session, Way};
use crate::redis::content::record::CHUNKS_KEPT;
use crate::redis::leases::{BEAT, SILENCE, since_boot};
use crate::redis::rules::{self, Rules};
use crate::redis::shared::RedisShared;
use crate::redis::upkeep::beat::Beat;
use crate::redis::upkeep::lists;
use crate::redis::upkeep::news::{self, HeardNews, NewsReader};

/// First pause between attempts to connect; they double up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Pause between log lines that say that Redis is away.
const REMIND: Duration = Duration::from_secs(30);
/// Messages that one heartbeat expires; more are left for the next, which comes at once.
const EXPIRE_AT_ONCE: u64 = 500;
/// Pause between checks whether a gateway with other settings is there.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Pause between readings of the clock, see [`STOOD_STILL`](crate::face::clock::STOOD_STILL).
const READ_CLOCK: Duration = Duration::from_millis(500);
/// Number of heartbeats between requests to keep chunks, and between checks whether news still come.
const NOW_AND_THEN: u32 = 15;

/// The task that keeps a session.
pub(crate) struct SessionKeeper {
    inner: Arc<RedisShared>,
    lane: Arc<WriteLane>,
    connector: Connector,
    /// Tells the start how it went, once.
    started: Option<oneshot::Sender<Result<Arc<Session>, NoSession>>>,
    beats: u32,
    wanted: Vec<PartyId>,
    told: Option<Instant>,
}

impl SessionKeeper {
    pub(crate) fn new(
        inner: Arc<RedisShared>,
        lane: Arc<WriteLane>,
        started: oneshot::Sender<Result<Arc<Session>, NoSession>>,
    ) -> Self {
        let connector = Connector::new(&inner.options);
        Self { inner, lane, connector, started: Some(started), beats: 0, wanted: Vec::new(), told: None }
    }

    /// Runs until the store closes.
    pub(crate) async fn run(mut self) {
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
            let session = Session::open(&self.inner.options, &self.connector, service, pushes, purpose).await;
            let session = match session {
                Ok(session) if self.started.is_some() => self.agree_on_rules(session).await,
                opened => opened,
            };
            match session {
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
                        // The caller of the start may be gone, too.
                        drop(started.send(Err(why)));
                    }
                    return;
                }
                Err(why) => self.tell_down(why.why()),
            }
            // So that gateways that lost the same server do not return in step.
            let random = random_u64().unwrap_or_default() % (pause.as_millis() as u64);
            sleep(pause / 2 + Duration::from_millis(random)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// At a start: its settings must equal those of the others, or they become those of all. A gateway that has fallen silent
    /// may have been killed: the start waits until it counts as gone.
    async fn agree_on_rules(&self, session: Session) -> Result<Session, NoSession> {
        let (options, ours) = (&self.inner.options, Rules::of(&self.inner.options));
        let mut first_heard = None;
        loop {
            let agreed = session.script(Way::Write, &SCRIPTS.settings, |call| {
                call.arg(&self.inner.name).arg(&options.label).arg(if options.set_rules {
                    "set"
                } else {
                    "same"
                });
                call.arg(SILENCE.as_millis() as u64);
                ours.kept().for_each(|(name, value)| {
                    call.arg(name).arg(value);
                });
            });
            let (others, kept, heard): (String, HashMap<String, u64>, u64) =
                agreed.await.map_err(|fault| NoSession::Passing(fault.to_string()))?;
            if others.is_empty() {
                return Ok(session);
            }
            if heard > *first_heard.get_or_insert(heard) {
                let kept: Vec<_> = kept.into_iter().collect();
                let differing = ours.differing(&ours.following(&kept));
                return Err(NoSession::Settings(rules::refusal(&differing, &others)));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn tell_down(&mut self, why: &str) {
        self.inner.sessions.down(why);
        if self.told.is_none_or(|told| told.elapsed() >= REMIND) {
            self.told = Some(Instant::now());
            tracing::warn!(url = %self.inner.options.url, why, "no connection to Redis; going on trying");
        }
    }

    /// Runs a session from beginning to end; returns the reason for its end.
    async fn live(&mut self, session: Arc<Session>, heard: mpsc::Receiver<HeardNews>) -> Arc<str> {
        if self.told.take().is_some() {
            tracing::info!(node = %session.node, "connected to Redis");
        }
        // While nobody could read, messages did not age.
        self.inner.service.skip();
        self.inner.sessions.up(session.clone());
        // Before the first heartbeat: now that news come, callers that wait look again, and so do forwarders. A lease that
        // outlasted the last session is not a new one, so nothing else would make them look.
        self.inner.observer.0.missed();
        self.inner.look_at_pending();
        let (inner, connector) = (self.inner.clone(), self.connector.clone());
        tokio::select! {
            () = listen(&inner, &session, &connector, heard) => {}
            () = self.beat(&session) => {}
            () = read_clock(&inner) => {}
            _ = session.life.ended() => {}
        }
        session.life.end("the connection is lost");
        session.life.ended().await
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
                        if let Fault::Refused(why) = &fault {
                            // Writes of every kind are refused: replicas are missing, or its disk is full.
                            self.inner.sessions.set_refusing(Some(why));
                        }
                        if session.life.is_over() {
                            return;
                        }
                        break;
                    }
                }
            }
            // If replicas are required, a gateway learns that there are too few of them before anybody sends.
            if (self.inner.sessions.is_refusing() || self.inner.options.wait_replicas > 0)
                && let Ok(probed) = self.lane.queue(WriteRequest::Probe).await
            {
                // The result shows in the state, as does the end of a refusal.
                drop(probed);
            }
            self.beats = self.beats.wrapping_add(1);
            if self.beats.is_multiple_of(NOW_AND_THEN) {
                self.keep_chunks(session).await;
                if !session.hears().await {
                    return session.life.end("no news come any more");
                }
            }
        }
    }

    /// Sends one heartbeat. Returns true if another one is to follow at once.
    async fn heartbeat(&mut self, session: &Session) -> Result<bool, Fault> {
        let inner = &self.inner;
        let options = &inner.options;
        let rules = inner.rules();
        let mood = if *inner.beats.borrow() == 0 { "first" } else { "usual" };
        let (seconds_more, at) = inner.service.report();
        let asked = since_boot();
        let given_up = inner.quietly_given_up();
        let answer: Vec<Value> = session
            .script_at(Way::Write, &SCRIPTS.tick, seconds_more, |call| {
                call.arg(&inner.name).arg(&options.label);
                call.arg(rules.lifetimes()).arg(rules.send_ttl()).arg(rules.dead_letter_bytes());
                call.arg(SILENCE.as_millis() as u64).arg(EXPIRE_AT_ONCE).arg(mood);
                call.arg(given_up.len()).arg(given_up.iter().map(PartyId::as_str).collect::<Vec<_>>());
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
        if let Some(why) = &beat.refused {
            inner.sessions.set_refusing(Some(why));
        }
        if beat.unlisted
            && let Err(fault) = lists::complete(session).await
        {
            tracing::debug!(%fault, "the lists of the mailbox are completed later");
        }
        let wanted: Vec<_> =
            beat.peers.iter().map(|p| &p.id).filter(|p| inner.observer.0.serves(p)).cloned().collect();
        let again = wanted != self.wanted || beat.left_to_expire || !inner.quietly_given_up().is_empty();
        self.wanted = wanted;
        Ok(again)
    }

    /// Chunks of messages that are still being uploaded must not be taken for left-overs.
    async fn keep_chunks(&self, session: &Session) {
        let tokens: Vec<String> = self.inner.uploads.lock().iter().cloned().collect();
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
    matches!(why, NoSession::Final(_) | NoSession::Settings(_)) || waited >= limit
}

/// Passes on what is heard, over one connection after the other, until the session ends or no news come for `timeout`.
async fn listen(
    inner: &Arc<RedisShared>,
    session: &Session,
    connector: &Connector,
    mut heard: mpsc::Receiver<HeardNews>,
) {
    loop {
        let (mut reader, begun) = (NewsReader::default(), Instant::now());
        while let Some(HeardNews::News(bytes)) = heard.recv().await {
            reader.take(inner, bytes);
        }
        if begun.elapsed() < LONGEST_PAUSE {
            // So that a server that closes such connections at once is not asked in a tight loop.
            sleep(FIRST_PAUSE).await;
        }
        match listen_anew(inner, session, connector).await {
            Some(anew) => heard = anew,
            None => return session.life.end("the connection for news is lost"),
        }
    }
}

/// Opens another connection for news. Nothing but speed depends on them: the rest of the session continues, and callers that
/// wait look for themselves, even after a failed attempt.
async fn listen_anew(
    inner: &Arc<RedisShared>,
    session: &Session,
    connector: &Connector,
) -> Option<mpsc::Receiver<HeardNews>> {
    let until = Instant::now() + inner.options.timeout;
    loop {
        let (pushes, heard) = news::ear();
        let anew = session.hear_anew(connector, pushes).await;
        if session.life.is_over() {
            return None;
        }
        inner.observer.0.missed();
        inner.look_at_pending();
        match anew {
            Ok(()) => return Some(heard),
            Err(why) if Instant::now() >= until => {
                tracing::debug!(why = why.why(), "no news come any more");
                return None;
            }
            Err(_) => sleep(FIRST_PAUSE).await,
        }
    }
}

/// Service time advances only if the clock is read often: a process that stood still has served nobody.
async fn read_clock(inner: &RedisShared) {
    loop {
        inner.service.now();
        sleep(READ_CLOCK).await;
    }
}
