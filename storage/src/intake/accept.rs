//! Takes new messages: checks them, settles their identity, gives them a sequence number and puts them into a lane's queue.

use crate::core::shared::{LONG_IDS, Shared, blocking};
use crate::intake::draft::{Draft, EarlierTry};
use crate::intake::numbering::{QueueOutcome, admit_delivery, number_outgoing, waiting};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::core::news::News;
use crate::core::reply::Reply;
use crate::core::room::cost;
use crate::core::slices_written::StreamedMessage;
use crate::core::write_queue::{Job, Urgency};
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{
    Arrival, DeliveryIdentity, Incarnation, MessageId, PartyId, SendKey, Sequence, Stored,
};
use crate::index::entry::Entry;
use crate::index::key;
use crate::index::memory::State;
use crate::index::sends::{KnownSend, SendFingerprint};
use crate::log::frame::MessageFields;
use crate::log::segment::Lane;

/// Unit of the semaphore that bounds what waits for the writers.
pub(crate) const PERMIT_BYTES: u64 = 1024;
/// Entries in memory, as a multiple of `index_memory_entries`, at which new messages wait for the index on disk.
const CROWDED: usize = 2;

/// Number of locks that all keys share with `IdReuse::Reject`.
pub(crate) const KEY_LOCKS: usize = 256;

/// A message that has its place in the order.
pub(crate) struct SequencedMessage {
    pub(crate) sequence: Sequence,
    pub(crate) job: Job,
    pub(crate) news: Option<News>,
}

/// The outcome of queueing a send.
pub(crate) enum QueuedSend {
    New(Sequence, oneshot::Receiver<Result<()>>),
    /// An earlier try of it was here before.
    Again(EarlierTry),
}

/// Takes new messages for a store.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) shared: Arc<Shared>,
    /// One per lane: a large message that waits for room must not hold up small ones.
    pub(crate) room: [Arc<Semaphore>; 2],
    /// Number of permits in each semaphore.
    pub(crate) permits: u32,
    /// With `IdReuse::Reject`: takes messages of one key one at a time, so that the compared message does not change in the
    /// meantime.
    pub(crate) one_at_a_time: [tokio::sync::Mutex<()>; KEY_LOCKS],
}

impl Intake {
    /// See [`Engine::accept`](crate::Engine::accept).
    pub(crate) async fn accept(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        payload: Bytes,
        key: Option<SendKey>,
    ) -> Result<Sequence> {
        let draft = Draft::new(Class::Outgoing, Some(receiver), id, payload).await?;
        self.take_outgoing(draft.called(key)).await
    }

    /// Takes a message for a peer.
    pub(crate) async fn take_outgoing(&self, draft: Draft<'_>) -> Result<Sequence> {
        loop {
            match self.queue_draft(&draft).await? {
                QueuedSend::New(sequence, synced) => {
                    synced.await.map_err(|_| StoreError::Closed)??;
                    return Ok(sequence);
                }
                QueuedSend::Again(earlier) if self.is_kept(earlier).await? => return Ok(earlier.sequence),
                // The earlier try was refused.
                QueuedSend::Again(_) => {}
            }
        }
    }

    /// Queues a message unless an earlier try of the same send is there; the answer comes with the sync.
    pub(crate) async fn queue_draft(&self, draft: &Draft<'_>) -> Result<QueuedSend> {
        loop {
            if let Some(earlier) = self.earlier(draft).await? {
                return Ok(QueuedSend::Again(earlier));
            }
            let admitted = self.admit(draft).await?;
            match self.queue(draft, None, admitted, 0) {
                QueueOutcome::New(sequence, synced) => return Ok(QueuedSend::New(sequence, synced)),
                // Another try of the send came in between.
                QueueOutcome::SameKey => {}
                // These apply only to deliveries.
                QueueOutcome::Repeated
                | QueueOutcome::InProgress
                | QueueOutcome::Stale
                | QueueOutcome::Crowded
                | QueueOutcome::TooOld
                | QueueOutcome::LookAgain => return Err(StoreError::Closed),
            }
        }
    }

    /// See [`Engine::store`](crate::Engine::store).
    pub(crate) async fn store(&self, arrival: Arrival) -> Result<Stored> {
        let Arrival { sender, id, payload, identity } = arrival;
        let identity = identity.filter(DeliveryIdentity::is_numbered);
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        let draft = Draft::new(class, sender.as_ref(), &id, payload).await?;
        self.take_arrival(draft, identity).await
    }

    /// [`store`](Self::store) for an upload whose slices are in the log or queued for it.
    pub(crate) async fn store_streamed(
        &self,
        sender: Option<&PartyId>,
        id: &MessageId,
        streamed: StreamedMessage,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let identity = identity.filter(DeliveryIdentity::is_numbered);
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        self.take_arrival(Draft::streamed(class, sender, id, streamed), identity).await
    }

    /// Queues an arrival; returns when it is kept.
    pub(crate) async fn take_arrival(
        &self,
        draft: Draft<'_>,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let (sender, id) = (draft.party, draft.id);
        loop {
            // Read before anything is looked up.
            let hand_overs = self.shared.state.lock().hand_overs;
            if let Some(identity) = &identity {
                if self.is_known(sender, identity) {
                    return self.repeated().await;
                }
                self.check_age(sender, identity)?;
                if self.is_stale_on_disk(sender, id, identity).await? {
                    return Ok(Stored::Stale);
                }
            }
            if draft.only_if_free && self.has_mail(&draft).await? {
                return Ok(Stored::Stale);
            }
            let admitted = self.admit(&draft).await?;
            match self.queue(&draft, identity, admitted, hand_overs) {
                QueueOutcome::New(sequence, synced) => {
                    synced.await.map_err(|_| StoreError::Closed)??;
                    return Ok(Stored::New(sequence));
                }
                QueueOutcome::Repeated => return self.repeated().await,
                QueueOutcome::Stale => {
                    // The newer one is in the log.
                    blocking(&self.shared, Shared::visible_synced).await?;
                    return Ok(Stored::Stale);
                }
                QueueOutcome::Crowded => {
                    let gaps = crate::index::seen_deliveries::MAX_RANGES as u64;
                    let remedy = "the sender has too many gaps in what it delivered and must fill some first";
                    return Err(StoreError::Full { used: gaps, limit: gaps, remedy });
                }
                // The first copy, or a newer message, is on its way: what becomes of that decides about this one.
                QueueOutcome::InProgress => self.barrier().await?,
                // The next round reports it. Only sends have keys.
                QueueOutcome::TooOld | QueueOutcome::LookAgain | QueueOutcome::SameKey => {}
            }
        }
    }

    /// Whether this is a straggler: something newer from this sender is indexed on disk under the id. The disk is asked only
    /// about the few deliveries that are not the sender's newest.
    async fn is_stale_on_disk(
        &self,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: &DeliveryIdentity,
    ) -> Result<bool> {
        let (class, name) = sender.map_or((Class::IncomingUnnamed, ""), |s| (Class::Incoming, s.as_str()));
        let ordinal = {
            let mut state = self.shared.state.lock();
            let party = sender.map_or(0, |s| state.parties.intern(s));
            if state.cold_mail == 0 || state.delivered.is_newest(party, identity) {
                return Ok(false);
            }
            state.delivered.ordinal(party, identity.incarnation)
        };
        let key = key::key(self.shared.key_secret, class, name, id.as_str());
        let shared = self.shared.clone();
        let found = tokio::task::spawn_blocking(move || {
            // If there is no index any more, the message is in memory, which is checked right after this.
            let found = shared.ask_cold(|cold| cold.mail(key))?.flatten();
            Ok(found.filter(|e| shared.state.lock().is_valid(e.place)))
        });
        let held: Option<Entry> = found.await.map_err(|_| StoreError::Closed)??;
        let state = self.shared.state.lock();
        let newer = |e: Entry| {
            e.number > 0
                && state.delivered.is_newer(e.party, (e.incarnation, e.number), (ordinal, identity.number))
        };
        Ok(held.is_some_and(newer))
    }

    pub(crate) fn is_known(&self, sender: Option<&PartyId>, identity: &DeliveryIdentity) -> bool {
        let state = self.shared.state.lock();
        let sender = sender.map_or(Some(0), |s| state.parties.find(s));
        sender.is_some_and(|s| state.delivered.has(s, identity))
    }

    /// Returns an error if the delivery comes from a start of its sender that was forgotten.
    pub(crate) fn check_age(&self, sender: Option<&PartyId>, identity: &DeliveryIdentity) -> Result<()> {
        let state = self.shared.state.lock();
        let sender = sender.map_or(Some(0), |s| state.parties.find(s));
        let incarnation = identity.incarnation;
        if sender.is_some_and(|sender| state.delivered.is_too_old(sender, incarnation)) {
            return Err(StoreError::TooOld { incarnation });
        }
        Ok(())
    }

    /// A repetition is acknowledged once the first copy is synced.
    async fn repeated(&self) -> Result<Stored> {
        self.shared.counters.repeated.fetch_add(1, Ordering::Relaxed);
        // The first copy is in the log. Does not wait for everything that is queued for the log: on a full disk that may
        // take long.
        blocking(&self.shared, Shared::visible_synced).await?;
        Ok(Stored::Repeated)
    }

    /// Waits until everything queued now is synced.
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

    /// [`barrier`](Self::barrier), but does not wait for what needs room on a full disk.
    pub(crate) async fn barrier_unless_full(&self) -> Result<()> {
        match self.barrier().await {
            Ok(()) | Err(StoreError::Full { .. } | StoreError::NoSegment { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for room in the queue and in the index, and takes room on the disk.
    pub(crate) async fn admit(&self, draft: &Draft<'_>) -> Result<(OwnedSemaphorePermit, u64)> {
        // The bytes that it adds to the queue.
        let len = draft.bytes();
        let permit = self.room_in_queue(draft.lane(), len as u64).await?;
        let cost = cost(len, draft.id.as_str().len());
        self.shared.admit(draft.lane(), cost)?;
        Ok((permit, cost))
    }

    /// Waits for room in the index, and in a writer's queue.
    pub(crate) async fn room_in_queue(&self, lane: Lane, bytes: u64) -> Result<OwnedSemaphorePermit> {
        if let Some(error) = self.shared.state_error() {
            return Err(error);
        }
        let entries = self.shared.options.index_memory_entries;
        let (max, max_ids) = (entries.saturating_mul(CROWDED), entries.saturating_mul(LONG_IDS));
        let counters = &self.shared.counters;
        loop {
            let has_long_ids = counters.long_ids.load(Ordering::Relaxed) > max_ids;
            if !has_long_ids && counters.in_memory.load(Ordering::Relaxed) <= max {
                break;
            }
            if self.shared.disk_low.load(Ordering::Relaxed) || self.shared.cold().is_none() {
                let remedy = "the index cannot move to the disk: free disk space";
                return Err(StoreError::Full { used: max as u64, limit: max as u64, remedy });
            }
            self.shared.wake_keeper.notify_all();
            // The timeout only covers a notification that came just before.
            let pause = Duration::from_millis(100);
            drop(tokio::time::timeout(pause, self.shared.spilled.notified()).await);
            if let Some(error) = self.shared.state_error() {
                return Err(error);
            }
        }
        let permits = u32::try_from(bytes / PERMIT_BYTES + 1).unwrap_or(u32::MAX).min(self.permits);
        self.room[lane.index()].clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)
    }

    /// Gives the message its place in the order and queues it. `hand_overs`: their count before the index on disk was asked
    /// about the message. Nothing is awaited from here on: either all of this happens or none.
    fn queue(
        &self,
        draft: &Draft<'_>,
        identity: Option<DeliveryIdentity>,
        (permit, cost): (OwnedSemaphorePermit, u64),
        hand_overs: u64,
    ) -> QueueOutcome {
        let shared = &self.shared;
        let lane = draft.lane();
        let (reply, synced) = Reply::new(Some(permit));
        let mut state = shared.state.lock();
        let SequencedMessage { sequence, job, news } =
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
        QueueOutcome::New(sequence, synced)
    }

    /// Gives the message its place in the order; its job must be queued before the lock is released.
    pub(crate) fn enter(
        &self,
        state: &mut State,
        draft: &Draft<'_>,
        identity: Option<DeliveryIdentity>,
        (reply, cost): (Reply, u64),
        hand_overs: u64,
    ) -> std::result::Result<SequencedMessage, QueueOutcome> {
        let shared = &self.shared;
        let party_name = draft.party.map_or("", PartyId::as_str);
        let key = key::key(shared.key_secret, draft.class, party_name, draft.id.as_str());
        if draft.keyed.is_some_and(|keyed| state.sends.find(&keyed.key).is_some()) {
            return Err(QueueOutcome::SameKey);
        }
        let party = draft.party.map_or(0, |p| state.parties.intern(p));
        let mut entry = Entry::new(draft.class, party, draft.len(), shared.now());
        if draft.only_if_free {
            // Catches what came or moved since the lookup.
            let here = state.live.get(&key).is_some_and(|e| !e.is_over(entry.time, shared.message_ttl()));
            if here || state.queued.has(key) {
                return Err(QueueOutcome::Stale);
            }
            if state.hand_overs != hand_overs {
                return Err(QueueOutcome::LookAgain);
            }
        }
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
            keyed: draft.keyed,
        }
        .encode(&mut fields);
        if let Some(keyed) = draft.keyed {
            let print = SendFingerprint::new(key, entry.len, keyed.content_crc);
            state.sends.queue(keyed.key, KnownSend { sequence: entry.sequence, print });
        }
        if draft.class != Class::Outgoing {
            state.parties.count(party).is_sender = true;
        }
        state.queued.push(waiting(draft, key, entry, identity));
        let sequence = Sequence(entry.sequence);
        // A message with a key is announced once it is synced.
        let news = draft.news(sequence).filter(|_| draft.keyed.is_none());
        Ok(SequencedMessage { sequence, job: draft.job(entry, fields, cost, reply), news })
    }

    /// Held while a message of this key is compared and taken.
    pub(crate) async fn alone(&self, key: u128) -> tokio::sync::MutexGuard<'_, ()> {
        self.one_at_a_time[(key % KEY_LOCKS as u128) as usize].lock().await
    }
}
