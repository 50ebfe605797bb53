//! The [`Engine`] face of the embedded store: what each call finds, reads and queues.
//!
//! Invariant: nothing here reads a file or the index on disk on an async worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::engine::{Engine, PeerPending, StoreState, StoreStats};
use crate::error::{Result, StoreError};
use crate::frame::Class;
use crate::keys;
use crate::letters;
use crate::log::lock;
use crate::message::{
    Arrival, DeadLetter, DeadReason, DeliveryIdentity, FromSender, Message, MessageId, Outcome, Outgoing,
    PartyId, Pending, Sequence, Stored,
};
use crate::publish::dead_letter;
use crate::reader::{InMemory, Loaded, Reader};
use crate::settle;
use crate::shared::Shared;
use crate::state::{DeadEntry, Entry};
use crate::store::Store;

impl Store {
    fn reader(&self) -> Reader<'_> {
        Reader { shared: &self.shared }
    }

    /// Runs what blocks off the async workers.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if *self.shared.status.borrow() == StoreState::Closed {
            return Err(StoreError::Closed);
        }
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared)).await.map_err(|_| StoreError::Closed)?
    }

    /// With `MESSAGE_ID_REUSE=reject`: true when the same bytes are held already, an error when other bytes are.
    async fn check_reuse(
        &self,
        held: Option<(u128, Entry)>,
        id: &MessageId,
        payload: &Bytes,
    ) -> Result<bool> {
        let Some((_, entry)) = held else { return Ok(false) };
        if entry.len == payload.len() as u64 {
            let loaded = self.blocking(move |shared| Reader { shared }.load(&entry)).await?;
            if loaded.payload == payload {
                return Ok(true);
            }
        }
        Err(StoreError::Conflict { id: id.to_string() })
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
    fn load_queued(&self, peer: &PartyId, sequence: Sequence) -> Option<(Entry, Loaded)> {
        let mut state = lock(&self.shared.state);
        let party = state.parties.find(peer)?;
        let message = state.queued.pending(party, sequence.0)?;
        message.exposed = true;
        Some((message.entry, Loaded { id: message.id.clone(), payload: message.payload.clone() }))
    }

    /// Settles a message that is on its way into the log. False: it is not.
    async fn settle_queued(&self, peer: &PartyId, sequence: Sequence, outcome: &Outcome) -> Result<bool> {
        let Some(party) = self.party(peer) else { return Ok(false) };
        {
            let mut state = lock(&self.shared.state);
            if state.queued.pending(party, sequence.0).is_none() {
                return Ok(false);
            }
            if !matches!(outcome, Outcome::Dead(_)) {
                state.queued.end(sequence.0);
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
        if !self.intake.rejects_reuse() {
            return self.intake.accept(receiver, id, payload).await;
        }
        let key = keys::key(self.shared.key_secret, Class::Outgoing, receiver.as_str(), id.as_str());
        let _alone = self.intake.alone(key).await;
        let held = self
            .blocking(move |shared| {
                if let Some(entry) = lock(&shared.state).live.get(&key) {
                    return Ok(Some((key, *entry)));
                }
                let Some(cold) = &shared.cold() else { return Ok(None) };
                let found = cold.latest_pending(key).map_err(|e| shared.cold_failed(&e))?;
                let state = lock(&shared.state);
                // It may have come to memory (moved in the log) in between.
                let held = state.live.get(&key).copied().or(found.filter(|e| state.is_valid(e.place)));
                Ok(held.map(|e| (key, e)))
            })
            .await?;
        if self.check_reuse(held, id, &payload).await? {
            self.intake.barrier().await?;
            return Ok(Sequence(held.map_or(0, |(_, e)| e.sequence)));
        }
        self.intake.accept(receiver, id, payload).await
    }

    async fn store(&self, arrival: Arrival) -> Result<Stored> {
        if !self.intake.rejects_reuse() {
            return self.intake.store(arrival).await;
        }
        let from = arrival.sender.clone().map_or(FromSender::Unnamed, FromSender::Party);
        let keys = self.reader().mail_keys(&from, &arrival.id);
        // One sender: one key.
        let _alone = self.intake.alone(keys.first().copied().unwrap_or_default()).await;
        let held = self.blocking(move |shared| Reader { shared }.find(&keys)).await?;
        let same_delivery =
            arrival.identity.is_some_and(|i| self.intake.is_known(arrival.sender.as_ref(), &i));
        if !same_delivery && self.check_reuse(held, &arrival.id, &arrival.payload).await? {
            self.intake.barrier().await?;
            return Ok(Stored::Repeated);
        }
        self.intake.store(arrival).await
    }

    async fn read(&self, from: &FromSender, id: &MessageId) -> Result<Option<Message>> {
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
            let Some((_, entry)) = found else { return Ok(None) };
            let loaded = match self.reader().cached(&entry) {
                Some(loaded) => Ok(loaded),
                None => self.blocking(move |shared| Reader { shared }.load(&entry)).await,
            };
            match loaded {
                Ok(loaded) if loaded.id != *id => return Ok(None),
                Ok(loaded) => {
                    let sender = self.reader().party(entry.party);
                    let sequence = Sequence(entry.sequence);
                    return Ok(Some(Message { sender, id: loaded.id, payload: loaded.payload, sequence }));
                }
                Err(StoreError::Damaged { segment, offset, what, .. }) if last == Some(entry) => {
                    return Err(StoreError::Damaged { id: id.to_string(), segment, offset, what });
                }
                Err(StoreError::Damaged { .. }) => last = Some(entry),
                Err(other) => return Err(other),
            }
        }
    }

    async fn size(&self, from: &FromSender, id: &MessageId) -> Result<Option<u64>> {
        let keys = self.reader().mail_keys(from, id);
        let on_disk = async || Ok(self.find_mail(&keys).await?.map(|(_, entry)| entry.len));
        match self.reader().find_in_memory(&keys) {
            InMemory::Nothing => Ok(None),
            InMemory::Found(_, entry) => Ok(Some(entry.len)),
            InMemory::Queued(message) => Ok(Some(message.payload.len() as u64)),
            InMemory::QueuedOrOnDisk(message) => Ok(on_disk().await?.or(Some(message.payload.len() as u64))),
            InMemory::AskDisk => on_disk().await,
        }
    }

    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool> {
        let keys = self.reader().mail_keys(from, id);
        let is_queued = {
            let state = lock(&self.shared.state);
            keys.iter().any(|key| state.queued.newest(*key).is_some())
        };
        if is_queued {
            self.intake.barrier().await?;
        }
        self.blocking(move |shared| {
            let reader = Reader { shared };
            let mut released = false;
            // With any sender meant, all of them are: the newest must not uncover an older one.
            for key in keys {
                if let Some((key, entry)) = reader.find(&[key])? {
                    released = true;
                    settle::older_in_cold(shared, key, &entry)?;
                    end_mail(shared, key, entry)?;
                }
            }
            Ok(released)
        })
        .await
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
            expires_in: e.expires_in(now, ttl),
        };
        Ok(entries.into_iter().map(pending).collect())
    }

    async fn peers_with_pending(&self) -> Result<Vec<PartyId>> {
        let state = lock(&self.shared.state);
        let names = state.parties.names().iter().enumerate();
        let pending = |i: usize| state.parties.counts.get(i + 1).is_some_and(|c| c.pending > 0);
        Ok(names.filter(|(i, _)| pending(*i)).map(|(_, p)| p.clone()).collect())
    }

    async fn load(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>> {
        let (entry, loaded) = match self.load_queued(peer, sequence) {
            Some((entry, loaded)) => (entry, Some(loaded)),
            None => match self.find_pending(peer, sequence).await? {
                Some((_, entry)) if !entry.is_expired(self.shared.now(), self.shared.send_ttl()) => {
                    (entry, self.reader().cached(&entry))
                }
                _ => return Ok(None),
            },
        };
        let on_disk = lock(&self.shared.state).parties.count(entry.party).cold_pending > 0;
        let (loaded, (incarnation, low_water)) = match loaded {
            Some(loaded) if !on_disk => (loaded, self.reader().identity(&entry)?),
            loaded => {
                self.blocking(move |shared| {
                    let reader = Reader { shared };
                    let loaded = loaded.map_or_else(|| reader.load(&entry), Ok)?;
                    Ok((loaded, reader.identity(&entry)?))
                })
                .await?
            }
        };
        Ok(Some(Outgoing {
            receiver: peer.clone(),
            id: loaded.id,
            payload: loaded.payload,
            sequence,
            identity: DeliveryIdentity { incarnation, number: entry.number, low_water },
        }))
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
        let on_disk = lock(&self.shared.state).parties.count(entry.party).cold_pending > 0;
        if !on_disk && settle::in_memory(&self.shared, key, sequence.0).is_some() {
            return Ok(true);
        }
        self.blocking(move |shared| {
            // First what it replaced: a checkpoint that knows of one end must know of both.
            settle::older_in_cold(shared, key, &entry)?;
            end_pending(shared, key, entry)
        })
        .await
    }

    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        self.blocking(move |shared| {
            let reader = Reader { shared };
            let found = letters::oldest(shared, after.0, limit)?;
            let unreadable = MessageId::new("(unreadable)").map_err(|_| StoreError::Closed)?;
            let letter = |l: DeadEntry| {
                let receiver = reader.party(l.entry.party)?;
                let id = reader.id(&l.entry).unwrap_or_else(|_| unreadable.clone());
                Some(dead_letter(&l.entry, receiver, id, reason(&l)))
            };
            Ok(found.into_iter().filter_map(letter).collect())
        })
        .await
    }

    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>> {
        let Some((letter, _)) = self.find_letter(sequence).await? else { return Ok(None) };
        let entry = letter.entry;
        let loaded = self.blocking(move |shared| Reader { shared }.load(&entry)).await?;
        let Some(receiver) = self.reader().party(entry.party) else { return Ok(None) };
        let accepted = self.accept(&receiver, &loaded.id, loaded.payload).await?;
        self.drop_dead_letter(sequence).await?;
        Ok(Some(accepted))
    }

    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool> {
        let Some((letter, _)) = self.find_letter(sequence).await? else { return Ok(false) };
        self.blocking(move |shared| letters::drop_letter(shared, &letter)).await
    }

    fn stats(&self) -> StoreStats {
        let shared = &self.shared;
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let state = lock(&shared.state);
        let names = state.parties.names().iter().enumerate();
        let pending = names.filter_map(|(i, peer)| {
            let c = state.parties.counts.get(i + 1)?;
            let (queued, bytes) = state.queued.pending_of((i + 1) as u16);
            let (messages, bytes) = (c.pending + queued, c.pending_bytes + bytes);
            (messages > 0).then(|| PeerPending { peer: peer.clone(), messages, bytes })
        });
        let files: u64 = state.accounts.values().map(|a| u64::from(a.size)).sum();
        let free = shared.spares.free_count() as u64;
        StoreStats {
            pending: pending.collect(),
            mailbox_messages: state.mailbox,
            dead_letters: state.dead.len() as u64 + state.cold_dead,
            disk_bytes: files + free * shared.segment_bytes,
            used_bytes: shared.space.used().0,
            quota_bytes: shared.options.max_bytes,
            segments: state.accounts.len() as u64,
            spare_segments: free,
            appends: count(&shared.counters.appends),
            syncs: count(&shared.counters.syncs),
            repeated: count(&shared.counters.repeated),
            damaged: count(&shared.counters.damaged),
            index_in_memory: (state.live.len() + state.dead.len()) as u64,
            service_seconds: u64::from(shared.now()),
        }
    }

    fn state(&self) -> watch::Receiver<StoreState> {
        self.shared.status.subscribe()
    }

    async fn close(&self) -> Result<()> {
        self.close_now().await
    }
}

/// Ends a mailbox message, wherever it is by now, as [`end_pending`] does. Blocks.
fn end_mail(shared: &Shared, key: u128, mut at: Entry) -> Result<()> {
    while settle::in_memory(shared, key, at.sequence).is_none() && !settle::in_cold(shared, key, &at)? {
        match (Reader { shared }).find(&[key])? {
            Some((_, found)) if found.sequence == at.sequence => at = found,
            _ => break,
        }
    }
    Ok(())
}

/// Ends a pending message, wherever it is by now: it may move in the log, and to memory, at any time. Blocks.
fn end_pending(shared: &Shared, key: u128, entry: Entry) -> Result<bool> {
    let mut at = entry;
    loop {
        if settle::in_memory(shared, key, entry.sequence).is_some() || settle::in_cold(shared, key, &at)? {
            return Ok(true);
        }
        match (Reader { shared }).pending_entry(entry.party, Sequence(entry.sequence))? {
            Some((_, found)) => at = found,
            None => return Ok(false),
        }
    }
}

fn reason(letter: &DeadEntry) -> DeadReason {
    match letter.death.reason {
        0 => DeadReason::Expired,
        1 => DeadReason::Refused(letter.death.text.to_string()),
        _ => DeadReason::Damaged(letter.death.text.to_string()),
    }
}
