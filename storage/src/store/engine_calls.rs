//! The [`Engine`] face of the embedded store: what each call finds, reads and queues.
//!
//! Invariant: nothing here reads a file or the index on disk on an async worker.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::core::shared::{Shared, blocking};
use crate::face::direction::Class;
use crate::face::engine::{Accepting, Engine, NamedPending, StoreState, StoreStats, Tracked};
use crate::face::error::{Result, StoreError};
use crate::face::message::{
    Arrival, DeadLetter, DeadReason, DeliveryIdentity, FromSender, MessageId, Outcome, PartyId, Pending,
    SendKey, Sending, Sequence, Stored,
};
use crate::face::payload::{Found, Handed, Held, Outgoing, Payload, Upload};
use crate::index::entry::{DeadEntry, Entry};
use crate::index::memory::recent_ends::MessageEnd;
use crate::intake::upload::StreamUpload;
use crate::read::frames::{LoadedMessage, Reader};
use crate::read::track;
use crate::store::choosing::{self, FoundUnderKey};
use crate::store::embedded::Store;
use crate::store::plain_receive::Choice;
use crate::store::stats::stats;
use crate::store::{outgoing, pending_names, topics};
use crate::write::settle::end_pending;
use crate::write::{dead_letters, notes, settle};

impl Store {
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { shared: &self.shared }
    }

    /// Runs blocking work off the async workers.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(&self.shared, work).await
    }

    fn party(&self, party: &PartyId) -> Option<u16> {
        self.shared.state.lock().parties.find(party)
    }

    async fn find_pending(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<(u128, Entry)>> {
        let Some(party) = self.party(peer) else { return Ok(None) };
        {
            let state = self.shared.state.lock();
            if state.unsynced_sends.contains(&sequence.0) {
                return Ok(None);
            }
            if let Some(key) = state.pending.get(&(party, sequence.0)) {
                return Ok(state.live.get(key).map(|e| (*key, *e)));
            }
            if state.parties.counts.get(usize::from(party)).is_none_or(|c| c.cold_pending == 0) {
                return Ok(None);
            }
        }
        self.blocking(move |shared| Reader { shared }.pending_entry(party, sequence)).await
    }

    /// A pending message that is on its way into the log. It then counts as given out for delivery.
    fn load_queued(&self, peer: &PartyId, sequence: Sequence) -> Option<((u128, Entry), LoadedMessage)> {
        let mut state = self.shared.state.lock();
        let party = state.parties.find(peer)?;
        let message = state.queued.deliverable(party, sequence.0)?;
        let payload = message.payload.clone()?;
        message.exposed = true;
        Some(((message.key, message.entry), LoadedMessage { id: message.id.clone(), payload }))
    }

    /// Settles a message that is on its way into the log. Returns false if it is not.
    async fn settle_queued(&self, peer: &PartyId, sequence: Sequence, outcome: &Outcome) -> Result<bool> {
        let Some(party) = self.party(peer) else { return Ok(false) };
        {
            let mut state = self.shared.state.lock();
            let Some(key) = state.queued.pending(party, sequence.0).map(|m| m.key) else { return Ok(false) };
            if !matches!(outcome, Outcome::Dead(_)) {
                state.queued.end(sequence.0);
                let end =
                    if *outcome == Outcome::Dropped { MessageEnd::Dropped } else { MessageEnd::Delivered };
                state.past.note(key, sequence.0, end);
                return Ok(true);
            }
        }
        // A dead letter is made from what is in the log.
        self.intake.barrier().await?;
        Ok(false)
    }

    async fn find_letter(&self, sequence: Sequence) -> Result<Option<(DeadEntry, bool)>> {
        if let Some(letter) = self.shared.state.lock().dead.get(&sequence.0).cloned() {
            return Ok(Some((letter, false)));
        }
        self.blocking(move |shared| {
            let Some(found) = shared.ask_cold(|cold| cold.dead(sequence.0))? else {
                return Ok(shared.state.lock().dead.get(&sequence.0).cloned().map(|letter| (letter, false)));
            };
            let valid = |l: &DeadEntry| shared.state.lock().is_valid(l.death.place);
            Ok(found.filter(valid).map(|l| (l, true)))
        })
        .await
    }
}

#[async_trait]
impl Engine for Store {
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence> {
        let message = Sending { receiver: receiver.clone(), id: id.clone(), payload, key: None };
        self.intake.accept_checked(message).await
    }

    async fn accept_one(&self, message: Sending) -> Result<Sequence> {
        self.intake.accept_checked(message).await
    }

    async fn accepted_before(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        len: Option<u64>,
        key: SendKey,
    ) -> Result<Option<Sequence>> {
        self.intake.accepted_before((receiver, id), len, &key).await
    }

    async fn store(&self, arrival: Arrival) -> Result<Stored> {
        self.intake.store_checked(arrival).await
    }

    async fn accept_all(&self, messages: Vec<Sending>) -> Accepting {
        Box::pin(self.intake.accept_all(messages).await.synced())
    }

    async fn store_many(&self, arrivals: Vec<Arrival>) -> Vec<Result<Stored>> {
        self.intake.store_many(arrivals).await
    }

    fn begin(&self, len: Option<u64>) -> Result<Box<dyn Upload>> {
        Ok(Box::new(StreamUpload::new(self.intake.clone(), len)?))
    }

    async fn knows(&self, sender: &PartyId, identity: &DeliveryIdentity) -> Result<bool> {
        let known = self.intake.is_known(Some(sender), identity);
        if known {
            self.blocking(Shared::visible_synced).await?;
        } else {
            self.intake.check_age(Some(sender), identity)?;
        }
        Ok(known)
    }

    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        let keys = self.reader().mail_keys(from, id);
        self.open_chosen(keys, id).await
    }

    fn note_read(&self, messages: &[Handed]) {
        notes::note(&self.shared, messages);
    }

    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool> {
        self.intake.release(self.reader().mail_keys(from, id)).await
    }

    async fn held(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>> {
        let keys = self.reader().mail_keys(from, id);
        let id = id.clone();
        self.blocking(move |shared| topics::of_id(shared, &keys, &id)).await
    }

    async fn open_found(&self, found: &Found) -> Result<Option<Held>> {
        let from = FromSender::from(found.sender.clone());
        let keys = self.reader().mail_keys(&from, &found.id);
        {
            let state = self.shared.state.lock();
            let queued = state.queued.get(found.sequence.0).filter(|message| message.payload.is_some());
            if let Some(message) = queued {
                return Ok(Some(choosing::held(&self.shared, message.clone())));
            }
        }
        // The cache may keep a message for longer than it is held.
        let here = match self.reader().choose_in_memory(&keys) {
            Some(Choice::One(FoundUnderKey::Logged(_, entry))) => {
                Some(entry).filter(|e| e.sequence == found.sequence.0)
            }
            _ => None,
        };
        let cached = here.and_then(|entry| Some((entry, self.reader().cached(&entry)?)));
        let found = found.clone();
        if let Some((entry, loaded)) = cached.filter(|(_, loaded)| loaded.id == found.id) {
            let (unread, age) = (entry.is_unread(), entry.age(self.shared.now()));
            let Found { sender, id, sequence, .. } = found;
            return Ok(Some(Held {
                sender,
                id,
                sequence,
                payload: Payload::Whole(loaded.payload),
                unread,
                age,
            }));
        }
        self.blocking(move |shared| topics::open(shared, &keys, found)).await
    }

    async fn topic(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>> {
        let (from, prefix) = (from.clone(), prefix.to_owned());
        self.blocking(move |shared| topics::find(shared, &from, &prefix, after, limit)).await
    }

    async fn release_topic(&self, from: &FromSender, prefix: &str) -> Result<u64> {
        self.intake.release_topic(from.clone(), prefix.to_owned()).await
    }

    async fn track_sent(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked> {
        let key = self.intake.key(Class::Outgoing, receiver.as_str(), id);
        self.blocking(move |shared| track::sent(shared, key)).await
    }

    async fn track_received(&self, from: &FromSender, id: &MessageId) -> Result<Tracked> {
        let keys = self.reader().mail_keys(from, id);
        self.blocking(move |shared| track::received(shared, &keys)).await
    }

    async fn pending(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>> {
        let Some(party) = self.party(peer) else { return Ok(Vec::new()) };
        let (on_disk, queued) = {
            let mut state = self.shared.state.lock();
            let queued = state.queued.pending_after(party, after.0);
            let queued =
                queued.filter(|message| !message.waits_for_its_sync()).take(limit).map(|m| (m.key, m.entry));
            let queued: Vec<_> = queued.collect();
            (state.parties.count(party).cold_pending > 0, queued)
        };
        let mut entries = if on_disk {
            self.blocking(move |shared| Reader { shared }.pending_entries(party, after, limit)).await?
        } else {
            self.reader().pending_entries(party, after, limit)?
        };
        if !queued.is_empty() {
            entries.extend(queued);
            entries.sort_by_key(|(_, e)| e.sequence);
            // A message may have entered the log between the two looks.
            entries.dedup_by_key(|(_, e)| e.sequence);
            entries.truncate(limit);
        }
        Ok(entries.into_iter().map(|(key, entry)| pending_names::shown(&self.shared, key, &entry)).collect())
    }

    async fn pending_with_ids(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(Pending, Option<MessageId>)>> {
        let list = self.pending(peer, after, limit).await?;
        let peer = peer.clone();
        self.blocking(move |shared| Ok(track::with_ids(shared, &peer, list))).await
    }

    async fn pending_named(
        &self,
        peer: Option<&PartyId>,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Option<NamedPending>> {
        let (peer, prefix) = (peer.cloned(), prefix.to_owned());
        self.blocking(move |shared| pending_names::pending(shared, peer.as_ref(), &prefix, after, limit))
            .await
    }

    async fn peers_with_pending(&self) -> Result<Vec<PartyId>> {
        let state = self.shared.state.lock();
        let names = state.parties.names().iter().enumerate();
        let pending = |i: usize| state.parties.counts.get(i + 1).is_some_and(|c| c.pending > 0);
        Ok(names.filter(|(i, _)| pending(*i)).map(|(_, p)| p.clone()).collect())
    }

    async fn load(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>> {
        let ((key, entry), loaded) = match self.load_queued(peer, sequence) {
            Some((found, loaded)) => (found, Some(loaded)),
            None => match self.find_pending(peer, sequence).await? {
                Some((key, entry)) if !entry.is_expired(self.shared.now(), self.shared.send_ttl()) => {
                    ((key, entry), self.reader().cached(&entry))
                }
                _ => return Ok(None),
            },
        };
        let on_disk = self.shared.state.lock().parties.count(entry.party).cold_pending > 0;
        let loaded = loaded.map(|loaded| (loaded.id, Payload::Whole(loaded.payload)));
        let (loaded, (incarnation, low_water)) = match loaded {
            Some(loaded) if !on_disk => (Some(loaded), self.reader().identity(&entry)?),
            loaded => {
                self.blocking(move |shared| {
                    let reader = Reader { shared };
                    let loaded = match loaded {
                        Some(loaded) => Some(loaded),
                        None => reader.open_pending(shared, (key, entry))?,
                    };
                    Ok((loaded, reader.identity(&entry)?))
                })
                .await?
            }
        };
        let Some((id, payload)) = loaded else { return Ok(None) };
        Ok(Some(Outgoing {
            receiver: peer.clone(),
            id,
            payload,
            sequence,
            identity: DeliveryIdentity { incarnation, number: entry.number, low_water },
        }))
    }

    async fn load_many(&self, peer: &PartyId, sequences: &[Sequence]) -> Vec<Result<Option<Outgoing>>> {
        outgoing::load(&self.shared, peer, sequences).await
    }

    async fn settle_delivered(&self, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
        outgoing::settle(&self.shared, peer, sequences).await
    }

    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: Outcome) -> Result<bool> {
        if self.settle_queued(peer, sequence, &outcome).await? {
            return Ok(true);
        }
        let Some((key, entry)) = self.find_pending(peer, sequence).await? else { return Ok(false) };
        if let Outcome::Dead(reason) = outcome {
            self.blocking(Shared::visible_synced).await?;
            let burial = settle::bury(&self.shared, key, entry, reason)?;
            // In its own task: if it were cancelled half-way, the letter would stay in the list of pending messages.
            let buried = tokio::spawn(burial.wait(self.shared.clone())).await;
            buried.map_err(|_| StoreError::Closed)??;
            return Ok(true);
        }
        let end = if outcome == Outcome::Dropped { MessageEnd::Dropped } else { MessageEnd::Delivered };
        let on_disk = self.shared.state.lock().parties.count(entry.party).cold_pending > 0;
        if !on_disk && settle::in_memory(&self.shared, key, sequence.0, end).is_some() {
            return Ok(true);
        }
        self.blocking(move |shared| {
            // First the message that it replaced: a checkpoint that knows of one end must know of both.
            settle::older_in_cold(shared, key, &entry)?;
            end_pending(shared, key, entry, end)
        })
        .await
    }

    async fn ends_kept(&self) -> Result<()> {
        // A message that ended on its way into the log gets its record once it is in the log.
        self.intake.barrier_unless_full().await?;
        self.intake.ends_synced(true).await
    }

    async fn dead_letters_of(
        &self,
        party: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Option<Vec<DeadLetter>>> {
        let party = party.clone();
        self.blocking(move |shared| dead_letters::list_of(shared, &party, after, limit)).await
    }

    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        self.blocking(move |shared| dead_letters::list(shared, after, limit)).await
    }

    async fn newest_dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        self.blocking(move |shared| dead_letters::newest(shared, limit)).await
    }

    async fn count_dead_letters(&self, most: usize) -> Result<[u64; DeadReason::COUNT]> {
        self.blocking(move |shared| dead_letters::count(shared, most)).await
    }

    async fn open_dead_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>> {
        let Some((letter, _)) = self.find_letter(sequence).await? else { return Ok(None) };
        self.blocking(move |shared| dead_letters::open(shared, &letter)).await
    }

    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>> {
        self.begin_anew(sequence).await
    }

    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool> {
        let Some((letter, _)) = self.find_letter(sequence).await? else { return Ok(false) };
        self.blocking(move |shared| dead_letters::drop_letter(shared, &letter)).await
    }

    fn stats(&self) -> StoreStats {
        stats(&self.shared)
    }

    fn state(&self) -> watch::Receiver<StoreState> {
        self.shared.status.subscribe()
    }

    async fn close(&self) -> Result<()> {
        self.close_now().await
    }
}
