//! The state of the gateway: gathered from all its parts for the operator's commands, the metrics and the status page.
//!
//! It only reads. Invariant: the time to gather grows with the number of peers, never with that of messages, and a store
//! that does not answer leaves gaps instead of holding it up.

mod letter;
mod minute;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use petnet_storage::{Disk, Engine, PartyId, RealDisk, Sequence, StoreState, StoreStats};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::letter::shown;
pub(crate) use self::minute::Minute;
use crate::delivery::forwarder::Course;
use crate::delivery::forwarders::Peers;
use crate::mailbox::subscriptions::Subscriptions;
use crate::mailbox::waiting::Waiters;
use crate::operator::http::StatusSource;
use crate::operator::process::ProcessUsage;
use crate::operator::refused_files::{StandingRefusal, StandingRefusals};
use crate::proto::admin::{
    Certificate, DeadLetter, DeadLetters, Mailbox, Peer, Process, RefusedReload, StatusResponse, Store,
};
use crate::record::meters::{DEATHS, Meters};
use crate::record::recorder::Record;
use crate::server::connections::Connections;
use crate::server::health_service::is_ready;
use crate::telemetry;
use crate::tls::trust::{CurrentTrust, Trust};
use crate::wire::wall_clock::now_ms;

/// How long one answer of the store may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most dead letters that are looked at to count them by reason; the rest is counted as `more`.
const COUNTED_LETTERS: usize = 20_000;

/// What does not change while a gateway runs.
#[derive(Debug, Clone)]
pub(crate) struct GatewayIdentity {
    pub(crate) party: PartyId,
    pub(crate) listen_addr: SocketAddr,
    pub(crate) http_addr: Option<SocketAddr>,
    /// The engine: `embedded` or `redis`.
    pub(crate) engine: &'static str,
    /// The data folder, or Redis's address.
    pub(crate) place: String,
    pub(crate) accepted_means: String,
    /// The folder on whose disk the store is kept.
    pub(crate) folder: Option<PathBuf>,
    /// `SEND_TTL`; `None` means for ever.
    pub(crate) send_ttl: Option<Duration>,
}

/// The parts of the gateway from which its state is gathered.
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) identity: GatewayIdentity,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) record: Arc<Record>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) trust: CurrentTrust,
    pub(crate) refusals: Arc<StandingRefusals>,
    pub(crate) connections: Connections,
    pub(crate) draining: CancellationToken,
    pub(crate) minute: Minute,
    pub(crate) started: Instant,
    pub(crate) started_ms: u64,
}

impl Overview {
    /// The whole state of the gateway.
    pub(crate) async fn status(&self) -> StatusResponse {
        let stats = self.engine.stats();
        let (word, state_reason) = self.state();
        let trust = self.trust.borrow().clone();
        let peers = self.all_peers(&stats, &trust).await;
        let dead_letters = self.count_dead_letters(stats.dead_letters).await;
        StatusResponse {
            party: self.identity.party.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_ms: self.started_ms,
            uptime_seconds: self.started.elapsed().as_secs(),
            state: word.into(),
            state_reason,
            listen_addr: self.identity.listen_addr.to_string(),
            http_addr: self.identity.http_addr.map(|addr| addr.to_string()).unwrap_or_default(),
            tls: trust.tls.is_some(),
            certificates: certificates(&trust),
            store: Some(self.store(&stats)),
            peers,
            mailbox: Some(Mailbox {
                messages: stats.mailbox_messages,
                waiting: self.waiters.len() as u64,
                subscriptions: self.subscriptions.len() as u64,
            }),
            dead_letters,
            process: Some(process(self.connections.count()).await),
            rates: Some(self.minute.rates(&self.record.meters)),
            refused_reloads: refused(&self.refusals),
        }
    }

    /// Measures rates until the gateway shuts down.
    pub(crate) async fn measure(self: Arc<Self>) {
        loop {
            self.minute.note(&self.record.meters, self.engine.stats());
            tokio::select! {
                () = tokio::time::sleep(minute::EVERY) => {}
                () = self.draining.cancelled() => return,
            }
        }
    }

    /// The word for the store's state, and the reason for it.
    pub(crate) fn state(&self) -> (&'static str, String) {
        let state = self.engine.state().borrow().clone();
        match state {
            StoreState::Poisoned(why) => ("poisoned", why.to_string()),
            _ if self.draining.is_cancelled() => ("draining", "the gateway is shutting down".into()),
            StoreState::Serving => ("serving", String::new()),
            StoreState::Stalled => ("stalled", "a sync of the disk has been running for seconds".into()),
            StoreState::Full(why) => ("full", why.to_string()),
            StoreState::Refusing(why) => ("refusing", why.to_string()),
            StoreState::Unavailable(why) => ("unavailable", why.to_string()),
            StoreState::Closed => ("closed", "the store is closed".into()),
        }
    }

    fn store(&self, stats: &StoreStats) -> Store {
        let room = self.identity.folder.as_ref().and_then(|folder| RealDisk.room(folder).ok());
        let syncs = self.minute.syncs(stats);
        Store {
            engine: self.identity.engine.into(),
            place: self.identity.place.clone(),
            accepted_means: self.identity.accepted_means.clone(),
            disk_bytes: stats.disk_bytes,
            used_bytes: stats.used_bytes,
            limit_bytes: stats.limit_bytes,
            quota_bytes: stats.quota_bytes,
            disk_total_bytes: room.map_or(0, |room| room.total),
            disk_free_bytes: room.map_or(0, |room| room.available),
            segments: stats.segments,
            spare_segments: stats.spare_segments,
            reclaimable_bytes: stats.reclaimable_bytes,
            damaged: stats.damaged,
            service_seconds: stats.service_seconds,
            syncs: stats.syncs,
            appends: stats.appends,
            sync_p50_seconds: syncs.quantile(0.5),
            sync_p99_seconds: syncs.quantile(0.99),
        }
    }

    /// The peers of the party file, and those that messages wait for although they are not in it.
    async fn all_peers(&self, stats: &StoreStats, trust: &Trust) -> Vec<Peer> {
        let courses = self.peers.courses();
        let mut names: Vec<PartyId> = trust.parties.parties.keys().cloned().collect();
        names.extend(stats.pending.iter().map(|pending| pending.peer.clone()));
        names.sort();
        names.dedup();
        names.retain(|name| *name != self.identity.party);
        // All at once, so that a store that does not answer is waited for once, not once for each peer.
        let peers = names.iter().map(|name| {
            let course = courses.get(name).map(AsRef::as_ref);
            self.peer(name, course, stats, trust)
        });
        join_all(peers).await
    }

    async fn peer(&self, name: &PartyId, course: Option<&Course>, stats: &StoreStats, trust: &Trust) -> Peer {
        let pending = stats.pending.iter().find(|pending| pending.peer == *name);
        let oldest_seconds = match pending {
            Some(_) => self.oldest(name).await,
            None => None,
        };
        let meters = self.record.meters.peer(name);
        let now = course.map(Course::now).unwrap_or_default();
        let last_error = course.and_then(Course::last_error);
        let load = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
        let last_delivery = load(&meters.last_delivery_ms);
        let mut peer = Peer {
            party: name.to_string(),
            state: String::new(),
            pending: pending.map_or(0, |pending| pending.messages),
            pending_bytes: pending.map_or(0, |pending| pending.bytes),
            oldest_seconds,
            down_seconds: now.down_since.map(|since| since.elapsed().as_secs()),
            next_attempt_seconds: now
                .next_attempt
                .filter(|_| course.is_some_and(|course| !course.is_paused()))
                .map(|at| at.saturating_duration_since(Instant::now()).as_secs()),
            failed_attempts: load(&meters.failed_attempts),
            last_error: last_error.as_ref().map(|last| last.why.to_string()).unwrap_or_default(),
            last_error_ms: last_error.map(|last| last.at_ms),
            last_delivery_ms: (last_delivery > 0).then_some(last_delivery),
            delivered_rate: self.minute.delivered_rate(name, meters.delivered.messages()),
            in_flight: now.in_flight as u64,
            delivered: meters.delivered.messages(),
            delivered_bytes: meters.delivered.bytes(),
            received: meters.arrived.messages(),
            urls: trust.connections(name).map(|connection| connection.url.clone()).collect(),
        };
        if let Some(why) = self.peers.paused_by_damage().filter(|_| course.is_some_and(Course::is_paused)) {
            (peer.last_error, peer.last_error_ms) = (format!("paused, for it may be meant: {why}"), None);
        }
        peer.state = match course {
            None => "unknown",
            Some(course) if course.is_paused() => "paused",
            Some(_) if !trust.parties.contains(name) => "unknown",
            Some(_) if peer.pending > 0 && !self.engine.delivers_to(name) => "elsewhere",
            Some(_) if now.down_since.is_some() => "down",
            Some(_) if peer.pending > 0 || now.in_flight > 0 => "delivering",
            Some(_) => "idle",
        }
        .into();
        peer
    }

    async fn oldest(&self, peer: &PartyId) -> Option<u64> {
        let first = timeout(PATIENCE, self.engine.pending_with_ids(peer, Sequence(0), 1)).await;
        first.ok()?.ok()?.first().map(|(pending, _)| pending.age)
    }

    /// Number of dead letters by reason, `total` in all.
    async fn count_dead_letters(&self, total: u64) -> Vec<DeadLetters> {
        if total == 0 {
            return Vec::new();
        }
        let counting = timeout(PATIENCE, self.engine.count_dead_letters(COUNTED_LETTERS)).await;
        let counts = counting.ok().and_then(Result::ok).unwrap_or_default();
        let more = total.saturating_sub(counts.iter().sum());
        DEATHS
            .into_iter()
            .zip(counts)
            .chain([("more", more)])
            .filter(|(_, messages)| *messages > 0)
            .map(|(reason, messages)| DeadLetters { reason: reason.into(), messages })
            .collect()
    }
}

async fn process(connections: usize) -> Process {
    // This lists a folder of /proc.
    let taken = tokio::task::spawn_blocking(ProcessUsage::read).await.unwrap_or_default();
    Process {
        resident_bytes: taken.resident_bytes,
        open_files: taken.open_files,
        open_files_limit: taken.open_files_limit,
        connections: connections as u64,
    }
}

/// What the HTTP server shows.
#[async_trait]
impl StatusSource for Overview {
    async fn status(&self) -> StatusResponse {
        Self::status(self).await
    }

    async fn dead_letters(&self, limit: usize) -> Vec<DeadLetter> {
        let newest = timeout(PATIENCE, self.engine.newest_dead_letters(limit)).await;
        newest.ok().and_then(Result::ok).unwrap_or_default().iter().map(shown).collect()
    }

    fn stats(&self) -> StoreStats {
        self.engine.stats()
    }

    fn meters(&self) -> &Meters {
        &self.record.meters
    }

    fn is_serving(&self) -> bool {
        is_ready(&self.engine.state().borrow()) && !self.draining.is_cancelled()
    }

    fn send_ttl(&self) -> Option<Duration> {
        self.identity.send_ttl
    }

    fn dropped_lines(&self) -> u64 {
        telemetry::dropped_lines()
    }
}

fn certificates(trust: &Trust) -> Vec<Certificate> {
    let now = (now_ms() / 1000).cast_signed();
    let certificate = |(name, until): &(String, i64)| Certificate {
        name: name.clone(),
        expires_ms: until * 1000,
        seconds_left: until - now,
    };
    trust.expiries.iter().map(certificate).collect()
}

fn refused(refusals: &StandingRefusals) -> Vec<RefusedReload> {
    let shown = |refusal: StandingRefusal| RefusedReload {
        what: refusal.what.into(),
        why: refusal.why,
        since_ms: refusal.since_ms,
    };
    refusals.all().into_iter().map(shown).collect()
}
