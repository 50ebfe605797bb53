//! Takes new messages: checks, identity, sequence number, and into a lane's queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::draft::{Draft, News};
pub(crate) use crate::draft::{Streamed, slice_crcs};
use crate::error::{Result, StoreError};
use crate::frame::{Class, MessageFields, Place};
use crate::job::{Job, Reply, Urgency};
use crate::keys;
use crate::log::lock;
use crate::message::{Arrival, DeliveryIdentity, Incarnation, MessageId, PartyId, Sequence, Stored};
use crate::queued::QueuedMessage;
use crate::segment::Lane;
use crate::shared::{Shared, blocking};
use crate::space::cost;
use crate::state::{Entry, State};

/// Unit of the semaphore that bounds what waits for the writers.
pub(crate) const PERMIT_BYTES: u64 = 1024;
/// Entries in memory, as a multiple of `index_memory_entries`, at which new messages wait for the index on disk.
const CROWDED: usize = 2;

/// Locks that all keys share with `IdReuse::Reject`.
pub(crate) const KEY_LOCKS: usize = 256;

/// A message that has its place in the order.
pub(crate) struct Entered {
    pub(crate) sequence: Sequence,
    pub(crate) job: Job,
    pub(crate) news: Option<News>,
}

/// What queueing gave.
pub(crate) enum Queued {
    New(Sequence, oneshot::Receiver<Result<()>>),
    Repeated,
    InProgress,
    Stale,
    Crowded,
    /// What it may be older than has moved since it was looked for.
    LookAgain,
}

/// Takes new messages for a store.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) shared: Arc<Shared>,
    /// One per lane: a large message that waits for room must not hold up small ones.
    pub(crate) room: [Arc<Semaphore>; 2],
    /// Permits there are in each.
    pub(crate) permits: u32,
    /// With `IdReuse::Reject`: messages of one key one at a time, so that what is compared does not change meanwhile.
    pub(crate) one_at_a_time: [tokio::sync::Mutex<()>; KEY_LOCKS],
}

impl Intake {
    /// See [`Engine::accept`](crate::Engine::accept).
    pub(crate) async fn accept(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        payload: Bytes,
    ) -> Result<Sequence> {
        self.take_outgoing(Draft::new(Class::Outgoing, Some(receiver), id, payload).await?).await
    }

    /// The same for an upload that is on the disk.
    pub(crate) async fn accept_streamed(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        streamed: Streamed,
    ) -> Result<Sequence> {
        self.take_outgoing(Draft::streamed(Class::Outgoing, Some(receiver), id, streamed)).await
    }

    /// Queues a message; its answer comes with the sync.
    pub(crate) async fn queue_outgoing(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        payload: Bytes,
    ) -> Result<(Sequence, oneshot::Receiver<Result<()>>)> {
        self.queue_draft(Draft::new(Class::Outgoing, Some(receiver), id, payload).await?).await
    }

    async fn take_outgoing(&self, draft: Draft<'_>) -> Result<Sequence> {
        let (sequence, synced) = self.queue_draft(draft).await?;
        synced.await.map_err(|_| StoreError::Closed)??;
        Ok(sequence)
    }

    async fn queue_draft(&self, draft: Draft<'_>) -> Result<(Sequence, oneshot::Receiver<Result<()>>)> {
        let admitted = self.admit(&draft).await?;
        match self.queue(&draft, None, admitted, 0) {
            Queued::New(sequence, synced) => Ok((sequence, synced)),
            // Only deliveries can be any of these.
            Queued::Repeated | Queued::InProgress | Queued::Stale | Queued::Crowded | Queued::LookAgain => {
                Err(StoreError::Closed)
            }
        }
    }

    /// See [`Engine::store`](crate::Engine::store).
    pub(crate) async fn store(&self, arrival: Arrival) -> Result<Stored> {
        let Arrival { sender, id, payload, identity } = arrival;
        // Numbers count from 1; 0 stands for none in the log, and the last one has no successor.
        let identity = identity.filter(|i| i.number > 0 && i.number < u64::MAX);
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        let draft = Draft::new(class, sender.as_ref(), &id, payload).await?;
        self.take_arrival(draft, identity).await
    }

    /// The same for an upload that is on the disk.
    pub(crate) async fn store_streamed(
        &self,
        sender: Option<&PartyId>,
        id: &MessageId,
        streamed: Streamed,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let identity = identity.filter(|i| i.number > 0 && i.number < u64::MAX);
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        self.take_arrival(Draft::streamed(class, sender, id, streamed), identity).await
    }

    async fn take_arrival(&self, draft: Draft<'_>, identity: Option<DeliveryIdentity>) -> Result<Stored> {
        let (sender, id) = (draft.party, draft.id);
        loop {
            // Before anything is looked for.
            let hand_overs = lock(&self.shared.state).hand_overs;
            if let Some(identity) = &identity {
                if self.is_known(sender, identity) {
                    return self.repeated().await;
                }
                if self.is_stale_on_disk(sender, id, identity).await? {
                    return Ok(Stored::Stale);
                }
            }
            let admitted = self.admit(&draft).await?;
            match self.queue(&draft, identity, admitted, hand_overs) {
                Queued::New(sequence, synced) => {
                    synced.await.map_err(|_| StoreError::Closed)??;
                    return Ok(Stored::New(sequence));
                }
                Queued::Repeated => return self.repeated().await,
                Queued::Stale => {
                    // The newer one is in the log.
                    blocking(&self.shared, Shared::visible_synced).await?;
                    return Ok(Stored::Stale);
                }
                Queued::Crowded => {
                    let gaps = crate::delivered::MAX_RANGES as u64;
                    let remedy = "the sender has too many gaps in what it delivered and must fill some first";
                    return Err(StoreError::Full { used: gaps, limit: gaps, remedy });
                }
                // Its first copy is on its way: what becomes of it decides about this one.
                Queued::InProgress => self.barrier().await?,
                Queued::LookAgain => {}
            }
        }
    }

    /// A straggler: something newer of this sender is indexed on disk under the id. Asked only for deliveries that
    /// are not the sender's newest, which few are.
    async fn is_stale_on_disk(
        &self,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: &DeliveryIdentity,
    ) -> Result<bool> {
        let (class, name) = sender.map_or((Class::IncomingUnnamed, ""), |s| (Class::Incoming, s.as_str()));
        let ordinal = {
            let mut state = lock(&self.shared.state);
            let party = sender.map_or(0, |s| state.parties.intern(s));
            if state.cold_mail == 0 || state.delivered.is_newest(party, identity) {
                return Ok(false);
            }
            state.delivered.ordinal(party, identity.incarnation)
        };
        let key = keys::key(self.shared.key_secret, class, name, id.as_str());
        let shared = self.shared.clone();
        let found = tokio::task::spawn_blocking(move || {
            let Some(cold) = shared.cold() else { return Ok(None) };
            let found = cold.mail(key).map_err(|e| shared.cold_failed(&e))?;
            Ok(found.filter(|e| lock(&shared.state).is_valid(e.place)))
        });
        let held: Option<Entry> = found.await.map_err(|_| StoreError::Closed)??;
        let state = lock(&self.shared.state);
        let newer = |e: Entry| {
            e.number > 0
                && state.delivered.is_newer(e.party, (e.incarnation, e.number), (ordinal, identity.number))
        };
        Ok(held.is_some_and(newer))
    }

    pub(crate) fn is_known(&self, sender: Option<&PartyId>, identity: &DeliveryIdentity) -> bool {
        let state = lock(&self.shared.state);
        let sender = sender.map_or(Some(0), |s| state.parties.find(s));
        sender.is_some_and(|s| state.delivered.has(s, identity))
    }

    /// A repetition is acknowledged once the first copy is synced.
    async fn repeated(&self) -> Result<Stored> {
        self.shared.counters.repeated.fetch_add(1, Ordering::Relaxed);
        // It is in the log. Not everything that waits for it: on a full disk that may take long.
        blocking(&self.shared, Shared::visible_synced).await?;
        Ok(Stored::Repeated)
    }

    /// Waits until all that is queued now is synced.
    pub(crate) async fn barrier(&self) -> Result<()> {
        let waiting = self.shared.queues.each_ref().map(|queue| {
            let (reply, done) = Reply::new(None);
            queue.push(Job::Barrier(reply), Urgency::AtOnce);
            done
        });
        for done in waiting {
            done.await.map_err(|_| StoreError::Closed)??;
        }
        Ok(())
    }

    /// The same; what waits for room on a full disk is not waited for.
    pub(crate) async fn barrier_unless_full(&self) -> Result<()> {
        match self.barrier().await {
            Ok(()) | Err(StoreError::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Room on the disk, in the queue and in the index.
    pub(crate) async fn admit(&self, draft: &Draft<'_>) -> Result<(OwnedSemaphorePermit, u64)> {
        // What it brings to the queue.
        let len = draft.bytes();
        let permit = self.room_in_queue(draft.lane(), len as u64).await?;
        let cost = cost(len, draft.id.as_str().len());
        self.shared.space.admit(draft.lane(), cost)?;
        Ok((permit, cost))
    }

    /// Room in a writer's queue, and in the index.
    pub(crate) async fn room_in_queue(&self, lane: Lane, bytes: u64) -> Result<OwnedSemaphorePermit> {
        if let Some(error) = self.shared.state_error() {
            return Err(error);
        }
        let max = self.shared.options.index_memory_entries * CROWDED;
        while self.shared.counters.in_memory.load(Ordering::Relaxed) > max {
            if self.shared.disk_low.load(Ordering::Relaxed) || self.shared.cold().is_none() {
                let remedy = "the index cannot move to the disk: free disk space";
                return Err(StoreError::Full { used: max as u64, limit: max as u64, remedy });
            }
            self.shared.wake_keeper.notify_all();
            // The pause is only for the case that the notice came just before.
            let pause = Duration::from_millis(100);
            drop(tokio::time::timeout(pause, self.shared.spilled.notified()).await);
            if let Some(error) = self.shared.state_error() {
                return Err(error);
            }
        }
        let permits = u32::try_from(bytes / PERMIT_BYTES + 1).unwrap_or(u32::MAX).min(self.permits);
        self.room[lane.index()].clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)
    }

    /// Gives the message its place in the order and queues it. `hand_overs`: as they were before the index on disk was
    /// asked about it. Nothing is awaited from here on: either all of this happens or none.
    fn queue(
        &self,
        draft: &Draft<'_>,
        identity: Option<DeliveryIdentity>,
        (permit, cost): (OwnedSemaphorePermit, u64),
        hand_overs: u64,
    ) -> Queued {
        let shared = &self.shared;
        let lane = draft.lane();
        let (reply, synced) = Reply::new(Some(permit));
        let mut state = lock(&shared.state);
        let Entered { sequence, job, news } =
            match self.enter(&mut state, draft, identity, (reply, cost), hand_overs) {
                Ok(entered) => entered,
                Err(known) => {
                    drop(state);
                    shared.space.leave(lane, cost);
                    return known;
                }
            };
        // Still under the lock: within a lane the order of sequence numbers is the order of the queue.
        let patient = lane == Lane::Small && identity.is_some();
        let urgency = if patient { Urgency::Soon } else { Urgency::AtOnce };
        if shared.queues[lane.index()].push(job, urgency) {
            drop(state);
            if let Some(news) = news {
                news.tell(&*shared.observer);
            }
        } else {
            state.withdraw(sequence.0);
        }
        Queued::New(sequence, synced)
    }

    /// Gives the message its place in the order; its job is to be queued before the lock goes.
    pub(crate) fn enter(
        &self,
        state: &mut State,
        draft: &Draft<'_>,
        identity: Option<DeliveryIdentity>,
        (reply, cost): (Reply, u64),
        hand_overs: u64,
    ) -> std::result::Result<Entered, Queued> {
        let shared = &self.shared;
        let party_name = draft.party.map_or("", PartyId::as_str);
        let key = keys::key(shared.key_secret, draft.class, party_name, draft.id.as_str());
        let party = draft.party.map_or(0, |p| state.parties.intern(p));
        let mut entry = Entry {
            sequence: 0,
            len: draft.len(),
            number: 0,
            place: Place::default(),
            frame_len: 0,
            first_segment: 0,
            time: shared.now(),
            incarnation: 0,
            party,
            class: draft.class,
        };
        let (incarnation, low_water) = match (draft.class, identity) {
            (Class::Outgoing, _) => number_outgoing(state, &mut entry),
            (_, Some(identity)) => {
                admit_delivery(state, key, &mut entry, &identity, hand_overs)?;
                (identity.incarnation, identity.low_water)
            }
            (_, None) => (Incarnation { started_ms: 0, random: 0 }, 0),
        };
        state.last_sequence += 1;
        entry.sequence = state.last_sequence;
        let mut fields = Vec::with_capacity(96 + party_name.len() + draft.id.as_str().len());
        MessageFields {
            class: draft.class,
            party: party_name,
            id: draft.id.as_str(),
            incarnation,
            number: entry.number,
            low_water,
            ordinal: if draft.class == Class::Outgoing { 0 } else { entry.incarnation },
            len: entry.len,
            first_segment: 0,
        }
        .encode(&mut fields);
        if draft.class != Class::Outgoing {
            state.parties.count(party).is_sender = true;
        }
        state.queued.push(QueuedMessage {
            key,
            entry,
            id: draft.id.clone(),
            party: draft.party.cloned(),
            payload: draft.shown(),
            identity,
            exposed: false,
            ended: false,
        });
        let sequence = Sequence(entry.sequence);
        let news = draft.news(sequence);
        Ok(Entered { sequence, job: draft.job(entry, fields, cost, reply), news })
    }

    /// Held while a message of this key is compared and taken.
    pub(crate) async fn alone(&self, key: u128) -> tokio::sync::MutexGuard<'_, ()> {
        self.one_at_a_time[(key % KEY_LOCKS as u128) as usize].lock().await
    }
}

fn number_outgoing(state: &mut State, entry: &mut Entry) -> (Incarnation, u64) {
    let current = state.incarnations.len() - 1;
    let counts = state.parties.count(entry.party);
    counts.last_number += 1;
    counts.held.insert((current as u32, counts.last_number));
    entry.number = counts.last_number;
    entry.incarnation = current as u32;
    (state.incarnations[current], 0)
}

/// Whether a delivery is new; notes that it is on its way.
fn admit_delivery(
    state: &mut State,
    key: u128,
    entry: &mut Entry,
    identity: &DeliveryIdentity,
    hand_overs: u64,
) -> std::result::Result<(), Queued> {
    if state.delivered.has(entry.party, identity) {
        return Err(Queued::Repeated);
    }
    if state.delivered.is_crowded(entry.party, identity) {
        return Err(Queued::Crowded);
    }
    if state.in_progress.contains(&(entry.party, identity.incarnation, identity.number)) {
        return Err(Queued::InProgress);
    }
    entry.number = identity.number;
    entry.incarnation = state.delivered.ordinal(entry.party, identity.incarnation);
    // A straggler: something newer of this sender is here under the id.
    let this = (entry.incarnation, entry.number);
    let is_newer = |than| state.delivered.is_newer(entry.party, than, this);
    if state.live.get(&key).is_some_and(|held| held.number > 0 && is_newer((held.incarnation, held.number))) {
        return Err(Queued::Stale);
    }
    if state.newest_in_progress.get(&key).is_some_and(|newest| is_newer(*newest)) {
        return Err(Queued::InProgress);
    }
    // Whatever moved to the index on disk after it was asked is in neither look.
    if state.hand_overs != hand_overs && !state.delivered.is_newest(entry.party, identity) {
        return Err(Queued::LookAgain);
    }
    state.newest_in_progress.insert(key, this);
    state.in_progress.insert((entry.party, identity.incarnation, identity.number));
    Ok(())
}
