//! The [`Engine`] face of the embedded store: what each call finds, reads and queues.
//!
//! Invariant: nothing here reads a file or the index on disk on an async worker.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::deliveries;
use crate::engine::{Accepting, Engine, StoreState, StoreStats, Tracked};
use crate::error::{Result, StoreError};
use crate::frame::Class;
use crate::letters;
use crate::log::lock;
use crate::message::{
    Arrival, DeadLetter, DeadReason, DeliveryIdentity, FromSender, MessageId, Outcome, PartyId, Pending,
    Sequence, Stored,
};
use crate::past::End;
use crate::payload::{Found, Held, Outgoing, Payload, Upload};
use crate::reader::{InMemory, Loaded, Reader};
use crate::settle;
use crate::shared::{Shared, blocking};
use crate::state::{DeadEntry, Entry};
use crate::stats::stats;
use crate::store::Store;
use crate::topics;
use crate::track;
use crate::upload::StreamUpload;

impl Store {
    fn reader(&self) -> Reader<'_> {
        Reader { shared: &self.shared }
    }

    /// Runs what blocks off the async workers.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(&self.shared, work).await
    }

    fn party(&self, party: &PartyId) -> Option<u16> {
        lock(&self.shared.state).parties.find(party)
    }

    async fn find_mail(&self, keys: &[u128]) -> Result<Option<(u128, Entry)>> {
        let keys = keys.to_vec();
        self.blocking(move |shared| Reader { shared }.find(&keys)).await
    }

    async fn find_pending(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<(u128, Entry)>> {
        let Some(party) = self.party(peer) else { return Ok(None) };
        {
            let state = lock(&self.shared.state);
            if let Some(key) = state.pending.get(&(party, sequence.0)) {
                return Ok(state.live.get(key).map(|e| (*key, *e)));
            }
            if state.parties.counts.get(usize::from(party)).is_none_or(|c| c.cold_pending == 0) {
                return Ok(None);
            }
        }
        self.blocking(move |shared| Reader { shared }.pending_entry(party, sequence)).await
    }

    /// A pending message that is on its way into the log. It counts as given out.
    fn load_queued(&self, peer: &PartyId, sequence: Sequence) -> Option<((u128, Entry), Loaded)> {
        let mut state = lock(&self.shared.state);
        let party = state.parties.find(peer)?;
        let message = state.queued.pending(party, sequence.0)?;
        let payload = message.payload.clone()?;
        message.exposed = true;
        Some(((message.key, message.entry), Loaded { id: message.id.clone(), payload }))
    }

    /// Settles a message that is on its way into the log. False: it is not.
    async fn settle_queued(&self, peer: &PartyId, sequence: Sequence, outcome: &Outcome) -> Result<bool> {
        let Some(party) = self.party(peer) else { return Ok(false) };
        {
            let mut state = lock(&self.shared.state);
            let Some(key) = state.queued.pending(party, sequence.0).map(|m| m.key) else { return Ok(false) };
            if !matches!(outcome, Outcome::Dead(_)) {
                state.queued.end(sequence.0);
                let end = if *outcome == Outcome::Dropped { End::Dropped } else { End::Delivered };
                state.past.note(key, sequence.0, end);
                return Ok(true);
            }
        }
        // A dead letter is made of what is in the log.
        self.intake.barrier().await?;
        Ok(false)
    }

    async fn find_letter(&self, sequence: Sequence) -> Result<Option<(DeadEntry, bool)>> {
        if let Some(letter) = lock(&self.shared.state).dead.get(&sequence.0).cloned() {
            return Ok(Some((letter, false)));
        }
        self.blocking(move |shared| {
            let Some(cold) = &shared.cold() else { return Ok(None) };
            let found = cold.dead(sequence.0).map_err(|e| shared.cold_failed(&e))?;
            let valid = |l: &DeadEntry| lock(&shared.state).is_valid(l.death.place);
            Ok(found.filter(valid).map(|l| (l, true)))
        })
        .await
    }
}

#[async_trait]
impl Engine for Store {
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence> {
        self.intake.accept_checked(receiver, id, payload).await
    }

    async fn store(&self, arrival: Arrival) -> Result<Stored> {
        self.intake.store_checked(arrival).await
    }

    async fn accept_many(&self, messages: Vec<(PartyId, MessageId, Bytes)>) -> Accepting {
        Box::pin(self.intake.accept_many(messages).await.synced())
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
        }
        Ok(known)
    }

    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        let keys = self.reader().mail_keys(from, id);
        let mut last = None;
        // A message can move in the log between finding and reading it: then it is found anew.
        loop {
            let found = match self.reader().find_in_memory(&keys) {
                InMemory::Nothing => return Ok(None),
                InMemory::Found(key, entry) => Some((key, entry)),
                InMemory::Queued(message) => return Ok(Some(message).filter(|m| m.id == *id)),
                InMemory::QueuedOrOnDisk(message) => match self.find_mail(&keys).await? {
                    None => return Ok(Some(message).filter(|m| m.id == *id)),
                    found => found,
                },
                InMemory::AskDisk => self.find_mail(&keys).await?,
            };
            let Some((key, entry)) = found else { return Ok(None) };
            let opened = if let Some(loaded) = self.reader().cached(&entry) {
                Ok((loaded.id, Payload::Whole(loaded.payload)))
            } else {
                let id = id.clone();
                self.blocking(move |shared| Reader { shared }.open(shared, key, &entry, Some(&id))).await
            };
            match opened {
                Ok((found, _)) if found != *id => return Ok(None),
                Ok((id, payload)) => {
                    let sender = self.reader().party(entry.party);
                    return Ok(Some(Held { sender, id, payload, sequence: Sequence(entry.sequence) }));
                }
                Err(StoreError::Damaged { segment, offset, what, .. }) if last == Some(entry) => {
                    return Err(StoreError::Damaged { id: id.to_string(), segment, offset, what });
                }
                Err(StoreError::Damaged { .. }) => last = Some(entry),
                Err(StoreError::Gone { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }

    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool> {
        let keys = self.reader().mail_keys(from, id);
        let is_queued = {
            let state = lock(&self.shared.state);
            keys.iter().any(|key| state.queued.newest(*key).is_some())
        };
        if is_queued {
            self.intake.barrier_unless_full().await?;
        }
        self.blocking(move |shared| {
            let reader = Reader { shared };
            let mut released = false;
            // With any sender meant, all of them are: the newest must not uncover an older one.
            for key in keys {
                if let Some((key, entry)) = reader.find(&[key])? {
                    released = true;
                    settle::older_in_cold(shared, key, &entry)?;
                    end_mail(shared, key, entry, End::Released)?;
                }
            }
            Ok(released)
        })
        .await
    }

    async fn held(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>> {
        let keys = self.reader().mail_keys(from, id);
        let id = id.clone();
        self.blocking(move |shared| topics::of_id(shared, &keys, &id)).await
    }

    async fn open_found(&self, found: &Found) -> Result<Option<Held>> {
        let from = found.sender.clone().map_or(FromSender::Unnamed, FromSender::Party);
        let keys = self.reader().mail_keys(&from, &found.id);
        {
            let state = lock(&self.shared.state);
            if let Some(message) = state.queued.get(found.sequence.0)
                && let Some(payload) = message.payload.clone()
            {
                let (sender, id, sequence) = (found.sender.clone(), found.id.clone(), found.sequence);
                return Ok(Some(Held { sender, id, sequence, payload: Payload::Whole(payload) }));
            }
        }
        // The cache may keep one longer than it is held.
        let held = match self.reader().find_in_memory(&keys) {
            InMemory::Found(_, entry) => Some(entry).filter(|entry| entry.sequence == found.sequence.0),
            _ => None,
        };
        let (found, cached) = (found.clone(), held.and_then(|entry| self.reader().cached(&entry)));
        if let Some(loaded) = cached.filter(|loaded| loaded.id == found.id) {
            let (sender, sequence) = (found.sender, found.sequence);
            return Ok(Some(Held {
                sender,
                id: found.id,
                sequence,
                payload: Payload::Whole(loaded.payload),
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
        self.intake.barrier_unless_full().await?;
        let (from, prefix) = (from.clone(), prefix.to_owned());
        self.blocking(move |shared| topics::release(shared, &from, &prefix)).await
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
            let mut state = lock(&self.shared.state);
            let queued = state.queued.pending_after(party, after.0).take(limit).map(|m| (m.key, m.entry));
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
            // One may have come into the log between the two looks.
            entries.dedup_by_key(|(_, e)| e.sequence);
            entries.truncate(limit);
        }
        let (now, ttl) = (self.shared.now(), self.shared.send_ttl());
        let pending = |(key, e): (u128, Entry)| Pending {
            sequence: Sequence(e.sequence),
            id_key: key,
            len: e.len,
            age: u64::from(now.saturating_sub(e.time)),
            expires_in: e.expires_in(now, ttl),
        };
        Ok(entries.into_iter().map(pending).collect())
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

    async fn peers_with_pending(&self) -> Result<Vec<PartyId>> {
        let state = lock(&self.shared.state);
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
        let on_disk = lock(&self.shared.state).parties.count(entry.party).cold_pending > 0;
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
        deliveries::load(&self.shared, peer, sequences).await
    }

    async fn settle_delivered(&self, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
        deliveries::settle(&self.shared, peer, sequences).await
    }

    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: Outcome) -> Result<bool> {
        if self.settle_queued(peer, sequence, &outcome).await? {
            return Ok(true);
        }
        let Some((key, entry)) = self.find_pending(peer, sequence).await? else { return Ok(false) };
        if let Outcome::Dead(reason) = outcome {
            self.blocking(Shared::visible_synced).await?;
            let burial = settle::bury(&self.shared, key, entry, reason)?;
            // A task of its own: cut off half-way it would leave the letter in the list of what is pending.
            let buried = tokio::spawn(burial.wait(self.shared.clone())).await;
            buried.map_err(|_| StoreError::Closed)??;
            return Ok(true);
        }
        let end = if outcome == Outcome::Dropped { End::Dropped } else { End::Delivered };
        let on_disk = lock(&self.shared.state).parties.count(entry.party).cold_pending > 0;
        if !on_disk && settle::in_memory(&self.shared, key, sequence.0, end).is_some() {
            return Ok(true);
        }
        self.blocking(move |shared| {
            // First what it replaced: a checkpoint that knows of one end must know of both.
            settle::older_in_cold(shared, key, &entry)?;
            end_pending(shared, key, entry, end)
        })
        .await
    }

    async fn ends_kept(&self) -> Result<()> {
        // The first brings records along that waited for the sync of a large message, behind which they go.
        self.intake.barrier_unless_full().await?;
        self.intake.barrier_unless_full().await
    }

    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        self.blocking(move |shared| letters::list(shared, after, limit)).await
    }

    async fn newest_dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        self.blocking(move |shared| letters::newest(shared, limit)).await
    }

    async fn count_dead_letters(&self, most: usize) -> Result<[u64; 3]> {
        self.blocking(move |shared| letters::count(shared, most)).await
    }

    async fn open_dead_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>> {
        let Some((letter, _)) = self.find_letter(sequence).await? else { return Ok(None) };
        self.blocking(move |shared| letters::open(shared, &letter)).await
    }

    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>> {
        let Some((letter, payload)) = self.open_dead_letter(sequence).await? else { return Ok(None) };
        let mut copy = self.begin(Some(payload.len()))?;
        while copy.len() < payload.len() {
            let piece = payload.piece(copy.len()).await?;
            copy.push(piece).await?;
        }
        let accepted = copy.accept(&letter.receiver, &letter.id).await?;
        self.drop_dead_letter(sequence).await?;
        Ok(Some(accepted))
    }

    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool> {
        let Some((letter, _)) = self.find_letter(sequence).await? else { return Ok(false) };
        self.blocking(move |shared| letters::drop_letter(shared, &letter)).await
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

/// Ends a mailbox message, wherever it is by now, as [`end_pending`] does. Blocks.
/// False: it was gone.
pub(crate) fn end_mail(shared: &Shared, key: u128, mut at: Entry, end: End) -> Result<bool> {
    while settle::in_memory(shared, key, at.sequence, end).is_none() {
        if settle::in_cold(shared, key, &at)? {
            lock(&shared.state).past.note(key, at.sequence, end);
            break;
        }
        match (Reader { shared }).find(&[key])? {
            Some((_, found)) if found.sequence == at.sequence => at = found,
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Ends a pending message, wherever it is by now: it may move in the log, and to memory, at any time. Blocks.
pub(crate) fn end_pending(shared: &Shared, key: u128, entry: Entry, end: End) -> Result<bool> {
    let mut at = entry;
    loop {
        if settle::in_memory(shared, key, entry.sequence, end).is_some() {
            return Ok(true);
        }
        if settle::in_cold(shared, key, &at)? {
            lock(&shared.state).past.note(key, entry.sequence, end);
            return Ok(true);
        }
        match (Reader { shared }).pending_entry(entry.party, Sequence(entry.sequence))? {
            Some((_, found)) => at = found,
            None => return Ok(false),
        }
    }
}

pub(crate) fn reason(letter: &DeadEntry) -> DeadReason {
    match letter.death.reason {
        0 => DeadReason::Expired,
        1 => DeadReason::Refused(letter.death.text.to_string()),
        _ => DeadReason::Damaged(letter.death.text.to_string()),
    }
}
