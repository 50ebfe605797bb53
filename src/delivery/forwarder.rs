//! Forwarders: take what is pending for a peer, deliver it, and settle it or try again later.
//!
//! The store is the queue; a hint only says that looking into it may be worthwhile. Starting up, resuming after an outage
//! and the next message are one code path: reading on in the store's list. So memory is bounded even with millions pending:
//! there are at most [`FRESH_HIGH`] messages read ahead, [`RETRIES`] waiting for another attempt, and the window under way.
//! What finds no room is forgotten here and read again later.
//!
//! Each peer has two lanes, small and bulk, each a task with its own connection: on a shared connection a small message
//! would wait behind the megabytes of a large one, and a message whose size breaks the connection would stop all others.
//!
//! Invariants: of one message id at most one delivery is under way, over both lanes ([`Wakes`]); while a peer is down there
//! is at most one probe per lane ([`PeerReach`]); a message that fails waits alone while the others go on.

mod attempt;
mod course;
mod lanes;
mod probe;
mod under_way;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{Engine, MessageId, PartyId, Pending, Sequence, StoreError};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::attempt::AttemptEnd;
pub(crate) use self::course::{Course, LaneCourse};
use self::lanes::UnderWay;
pub(crate) use self::lanes::{Lane, Wakes};
use self::under_way::InFlight;
use crate::delivery::backoff;
use crate::delivery::peer_link::Deliver;
use crate::delivery::peer_reach::{MayStart, PeerReach};
use crate::delivery::retry_queue::{DeliveryWork, RetryQueue};
use crate::record::recorder::Record;

/// Messages read from the store's list at a time.
const PAGE: usize = 1024;
/// Read on when fewer than this are read ahead.
const FRESH_LOW: usize = 1024;
/// Messages that share one attempt, and with it the cost of loading, delivering and settling, apart from that of their
/// bytes.
const BATCH: usize = 256;
/// At most this many messages are read ahead.
const FRESH_HIGH: usize = FRESH_LOW + PAGE;
/// Messages of the bulk lane that may be under way at the same time: the peer has `MAX_UPLOADS` for all its peers.
const BULK_AT_ONCE: usize = 32;
/// At most this many messages wait for another attempt.
const RETRIES: usize = 4096;
/// Pause after the store failed to read its list.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// At shutdown, attempts under way get this long to end; attempts that are cut off are repeated after the restart.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// A message that fails this often is worth a line in the log.
const TELL_AFTER: u32 = 4;

/// Limits of one forwarder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Deliveries under way.
    pub(crate) messages: usize,
    /// Their payload bytes; a few larger messages may be under way in addition.
    pub(crate) bytes: u64,
    /// Longest pause between attempts.
    pub(crate) retry_cap: Duration,
}

/// What wakes a forwarder, and where it reports what it does.
#[derive(Debug, Clone)]
pub(crate) struct ForwarderContext {
    pub(crate) wakes: Arc<Wakes>,
    pub(crate) course: Arc<Course>,
    pub(crate) record: Arc<Record>,
}

/// Delivers what is pending for one peer in one lane.
pub(crate) struct Forwarder<L> {
    peer: PartyId,
    lane: Lane,
    engine: Arc<dyn Engine>,
    link: Arc<L>,
    wakes: Arc<Wakes>,
    course: Arc<Course>,
    record: Arc<Record>,
    window: Window,
    reach: PeerReach,
    /// The store's list has been read up to here.
    cursor: Sequence,
    /// Whether the list has been read to its end.
    read_all: bool,
    last_full_look: Instant,
    /// When the list may be read again, after the store failed to read it.
    read_not_before: Option<Instant>,
    /// Whether a message was forgotten: then look at the whole list once there is room.
    forgotten: bool,
    fresh: BTreeMap<Sequence, DeliveryWork>,
    retries: RetryQueue,
    running: JoinSet<Vec<(Sequence, AttemptEnd)>>,
    works: HashMap<Id, Vec<DeliveryWork>>,
    in_flight: InFlight,
    /// A probe of the peer that is under way; below, whether the operator waits for its answer.
    probing: JoinSet<Result<(), String>>,
    asked: bool,
}

impl<L: Deliver> Forwarder<L> {
    /// A forwarder that has not looked at anything yet.
    pub(crate) fn new(
        peer: PartyId,
        lane: Lane,
        engine: Arc<dyn Engine>,
        link: L,
        context: ForwarderContext,
        window: Window,
    ) -> Self {
        let ForwarderContext { wakes, course, record } = context;
        Self {
            peer,
            lane,
            engine,
            link: Arc::new(link),
            wakes,
            course,
            record,
            window,
            reach: PeerReach::new(window.retry_cap),
            cursor: Sequence(0),
            read_all: false,
            last_full_look: Instant::now(),
            read_not_before: None,
            forgotten: false,
            fresh: BTreeMap::new(),
            retries: RetryQueue::new(RETRIES),
            running: JoinSet::new(),
            works: HashMap::new(),
            in_flight: InFlight::new(window),
            probing: JoinSet::new(),
            asked: false,
        }
    }

    /// Runs until `stop`; then gives attempts under way a moment to end.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let wakes = self.wakes.clone();
        while !stop.is_cancelled() {
            if self.course.take_at_once(self.lane) {
                self.reach.open_now(Instant::now().into_std());
                self.retries.all_due(Instant::now().into_std());
            }
            self.look();
            if self.wants_page()
                && let Err(error) = self.read_page().await
            {
                if matches!(error, StoreError::Closed | StoreError::Poisoned(_)) {
                    break;
                }
                tracing::warn!(peer = %self.peer, %error, "cannot read what is pending; trying again");
                self.read_not_before = Some(Instant::now() + READ_PAUSE);
            }
            if !self.course.is_paused() {
                self.start_what_may();
            }
            self.probe_if_due();
            self.tell();
            let again = self.wants_page();
            let alarm = self.alarm();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.running.join_next_with_id() => {
                    self.ended(ended);
                    // Many attempts end together; taking them together saves looking around after each one.
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                Some(answer) = self.probing.join_next() => {
                    self.probed(answer.unwrap_or_else(|failed| Err(failed.to_string())));
                }
                () = wakes.of(self.lane).notified() => {}
                () = std::future::ready(()), if again => {}
                () = tokio::time::sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
            }
        }
        let last = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, last).await.is_err() {
            tracing::debug!(peer = %self.peer, lane = self.lane.name(), "attempts cut off by shutdown");
        }
    }

    /// Decides where to read on. A message may become pending after one with a higher number (a large one, written in
    /// slices): then reading goes back to it. After messages were forgotten, the whole list is looked at when there is room
    /// again, or after the longest pause.
    fn look(&mut self) {
        if let Some(lowest) = self.wakes.take_lowest(self.lane) {
            self.cursor = self.cursor.min(Sequence(lowest.0.saturating_sub(1)));
            self.read_all = false;
        }
        let idle = self.running.is_empty() && self.fresh.is_empty();
        let room_again = self.forgotten && self.retries.len() < RETRIES / 2;
        let due = self.look_at().is_some_and(|at| at <= Instant::now());
        if (self.read_all || idle) && (room_again || due) {
            self.forgotten = false;
            self.read_all = false;
            self.cursor = Sequence(0);
            self.last_full_look = Instant::now();
        }
    }

    /// When the whole list is to be looked at for forgotten messages.
    fn look_at(&self) -> Option<Instant> {
        self.forgotten.then(|| self.last_full_look + self.window.retry_cap)
    }

    fn wants_page(&self) -> bool {
        !self.read_all
            && self.fresh.len() < FRESH_LOW
            && self.read_not_before.is_none_or(|at| at <= Instant::now())
    }

    async fn read_page(&mut self) -> Result<(), StoreError> {
        let page = self.engine.pending(&self.peer, self.cursor, PAGE).await?;
        self.read_all = page.len() < PAGE;
        if let Some(last) = page.last() {
            self.cursor = last.sequence;
        }
        for pending in page {
            let Pending { sequence, len, .. } = pending;
            if !self.lane.takes(len) || self.retries.contains(sequence) {
                continue;
            }
            if !self.in_flight.has_listed(sequence) {
                self.fresh.entry(sequence).or_insert(DeliveryWork { pending, failures: 0 });
            }
        }
        debug_assert!(self.fresh.len() <= FRESH_HIGH);
        Ok(())
    }

    /// Reports how deliveries in this lane are going.
    fn tell(&self) {
        self.forget_errors();
        self.course.note(
            self.lane,
            LaneCourse {
                in_flight: self.in_flight.len(),
                down_since: self.reach.down_since().map(Instant::from_std),
                next_attempt: self.reach.opens_at().map(Instant::from_std),
            },
        );
    }

    fn start_what_may(&mut self) {
        let mut batch = Vec::new();
        loop {
            let now = Instant::now();
            let room = self.reach.room(now.into_std());
            let work = match room {
                MayStart::Window if self.in_flight.len() < self.most() => self.next_in_turn(now),
                MayStart::Probe => self.next_probe(now),
                MayStart::Window | MayStart::Nothing => None,
            };
            let Some(work) = work else { break };
            let Some(guard) = self.wakes.begin(work.pending.id_key) else {
                // The other lane was quicker; the end of its delivery wakes us.
                self.fresh.insert(work.pending.sequence, work);
                break;
            };
            self.in_flight.begin(&work.pending);
            if room == MayStart::Probe {
                self.reach.probing(work.pending.sequence);
                self.start(work, guard);
            } else if work.failures > 0 || self.lane == Lane::Bulk {
                self.start(work, guard);
            } else {
                batch.push((work, guard));
                if batch.len() == BATCH {
                    self.start_many(std::mem::take(&mut batch));
                }
            }
        }
        if !batch.is_empty() {
            self.start_many(batch);
        }
    }

    /// How many messages may be under way at the same time.
    fn most(&self) -> usize {
        if self.lane == Lane::Bulk { self.window.messages.min(BULK_AT_ONCE) } else { self.window.messages }
    }

    /// The next message to start: first a message that waited for another attempt and is due, then in order of acceptance.
    /// Messages larger than the window go alongside those within it, a few at a time: neither kind waits for the other.
    fn next_in_turn(&mut self, now: Instant) -> Option<DeliveryWork> {
        let mut full = [false; 2];
        let mut found = None;
        for work in self.retries.due(now.into_std()).chain(self.fresh.values()) {
            let size = self.in_flight.size_of(work.pending.len);
            if full[size as usize] || !self.wakes.is_free(work.pending.id_key) {
                continue;
            }
            if self.in_flight.fits(work.pending.len) {
                found = Some(*work);
                break;
            }
            // A message that does not fit is not overtaken by others of its kind.
            full[size as usize] = true;
            if full == [true; 2] {
                break;
            }
        }
        found.map(|work| self.take(work))
    }

    /// The message to probe with: any message that has not been tried yet, else the one that failed least. If it were
    /// always the oldest, a few messages that break every connection would keep all others from showing that the peer is
    /// there.
    fn next_probe(&mut self, now: Instant) -> Option<DeliveryWork> {
        let free = |work: &&DeliveryWork| self.wakes.is_free(work.pending.id_key);
        let start = (backoff::random() % (self.fresh.len() as u64).max(1)) as usize;
        let mut fresh = self.fresh.values().skip(start).chain(self.fresh.values().take(start));
        let work = *fresh
            .find(free)
            .or_else(|| self.retries.due(now.into_std()).filter(free).min_by_key(|work| work.failures))?;
        Some(self.take(work))
    }

    fn take(&mut self, work: DeliveryWork) -> DeliveryWork {
        self.fresh.remove(&work.pending.sequence);
        self.retries.remove(work.pending.sequence);
        work
    }

    fn start(&mut self, work: DeliveryWork, guard: UnderWay) {
        let sequence = work.pending.sequence;
        let suspect = work.failures > 0;
        let attempt =
            attempt::one(self.engine.clone(), self.link.clone(), self.peer.clone(), sequence, suspect);
        let handle = self.running.spawn(async move {
            let end = attempt.await;
            drop(guard);
            vec![(sequence, end)]
        });
        self.works.insert(handle.id(), vec![work]);
    }

    fn start_many(&mut self, mut batch: Vec<(DeliveryWork, UnderWay)>) {
        if batch.len() == 1
            && let Some((work, guard)) = batch.pop()
        {
            return self.start(work, guard);
        }
        let (works, guards): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let sequences = works.iter().map(|work| work.pending.sequence).collect();
        let attempt = attempt::many(self.engine.clone(), self.link.clone(), self.peer.clone(), sequences);
        let handle = self.running.spawn(async move {
            let ends = attempt.await;
            drop(guards);
            ends
        });
        self.works.insert(handle.id(), works);
    }

    fn ended(&mut self, ended: Result<(Id, Vec<(Sequence, AttemptEnd)>), JoinError>) {
        let (id, ends) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "delivery attempt failed");
                (error.id(), Vec::new())
            }
        };
        let mut ends: HashMap<Sequence, AttemptEnd> = ends.into_iter().collect();
        for work in self.works.remove(&id).unwrap_or_default() {
            let was_listed_again = self.in_flight.end(&work.pending);
            let end = ends.remove(&work.pending.sequence);
            // It may have been gone only for us, while another gateway delivered to this peer.
            self.forgotten |= was_listed_again && matches!(end, Some(AttemptEnd::Gone));
            self.take_end(work, end);
        }
    }

    /// Handles the end of an attempt; `None` if it failed in a way that it never should.
    fn take_end(&mut self, work: DeliveryWork, end: Option<AttemptEnd>) {
        let sequence = work.pending.sequence;
        match end {
            Some(AttemptEnd::Delivered(id)) => {
                self.record.delivered(&self.peer, &id, sequence, work.pending.len);
                self.answered();
            }
            Some(AttemptEnd::Refused) => self.answered(),
            Some(AttemptEnd::Gone) => self.reach.nothing_learnt(sequence),
            Some(AttemptEnd::Again { id, reason, whole_peer }) => self.again(work, &id, &reason, whole_peer),
            Some(AttemptEnd::Store(StoreError::Closed | StoreError::Poisoned(_))) => {
                // This process can settle nothing more; the next one reads the message from the store.
                self.reach.nothing_learnt(sequence);
            }
            Some(AttemptEnd::Store(error)) => {
                // That Redis is away is reported by the store once, and not for every message.
                if matches!(error, StoreError::Unavailable(_)) {
                    tracing::debug!(peer = %self.peer, %error, "the store is away for a delivery");
                } else {
                    tracing::warn!(peer = %self.peer, %error, "the store failed a delivery");
                }
                self.reach.nothing_learnt(sequence);
                let pause = backoff::pause(work.failures + 1, self.window.retry_cap, backoff::random());
                self.put_off(work, pause);
            }
            None => {
                self.reach.nothing_learnt(sequence);
                self.put_off(work, backoff::longest(self.window.retry_cap, backoff::random()));
            }
        }
    }

    fn answered(&mut self) {
        if let Some(outage) = self.reach.answered(Instant::now().into_std()) {
            tracing::info!(
                peer = %self.peer, lane = self.lane.name(), attempts = outage.failures, after = ?outage.lasted,
                "peer takes messages again"
            );
            self.course.retry_other(self.lane);
        }
    }

    /// Puts off a message whose attempt failed. If it failed before, and fails while the way is open, it is suspected to be
    /// the cause itself (others came through meanwhile): it then waits alone and the peer does not count as down.
    fn again(&mut self, work: DeliveryWork, id: &MessageId, reason: &str, whole_peer: bool) {
        let failures = work.failures + 1;
        self.course.failed(self.lane, reason);
        self.record.failed(&self.peer, id, work.pending.sequence, reason);
        if failures == TELL_AFTER {
            tracing::warn!(peer = %self.peer, message_id = %id, failures, reason, "message is hard to deliver; going on trying");
        } else {
            tracing::debug!(peer = %self.peer, message_id = %id, failures, reason, "delivery failed; trying again");
        }
        let random = backoff::random();
        let alone = if !whole_peer {
            self.answered();
            true
        } else if self.reach.failures() == 0 && failures > 1 {
            true
        } else {
            if self.reach.failed(work.pending.sequence, Instant::now().into_std(), random) {
                tracing::warn!(
                    peer = %self.peer, lane = self.lane.name(), reason,
                    "peer takes no messages; going on trying"
                );
            }
            failures > self.reach.failures()
        };
        let pause =
            if alone { backoff::pause(failures, self.window.retry_cap, random) } else { Duration::ZERO };
        self.put_off(work, pause);
    }

    fn put_off(&mut self, mut work: DeliveryWork, pause: Duration) {
        work.failures = work.failures.saturating_add(1);
        let due = (Instant::now() + pause).into_std();
        if !self.retries.push(due, work) {
            self.forgotten = true;
        }
    }

    /// When something next becomes possible merely because time has passed.
    fn alarm(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.course.is_paused() {
            // Resuming wakes the forwarder.
            return self.read_not_before.filter(|at| *at > now);
        }
        let after_pause = match self.reach.opens_at().map(Instant::from_std) {
            // The way is closed: what becomes due meanwhile makes no difference.
            Some(opens) if opens > now => Some(opens),
            _ => self.retries.next_after(now.into_std()).map(Instant::from_std),
        };
        let look = self.look_at().filter(|_| self.read_all);
        let read = self.read_not_before.filter(|at| *at > now);
        after_pause.into_iter().chain(look).chain(read).min()
    }
}

#[cfg(test)]
mod tests;
