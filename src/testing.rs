//! Helpers for tests: an engine in memory that behaves like the real one and can be made to fail, random numbers with a
//! seed that is printed, and small functions.

mod gateway;
mod random;
mod reading;
mod upload;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use petnet_storage::{
    Arrival, Correspondent, DeadLetter, DeliveryIdentity, Engine, Found, FromSender, Handed, Held, IdReuse,
    Incarnation, MessageId, Observer, Outcome, Outgoing, PartyId, Payload, PeerPending, Pending, Result,
    Sequence, StoreError, StoreState, StoreStats, Stored, Tracked, Upload,
};
use tokio::sync::watch;

pub(crate) use self::random::Random;
use self::upload::FakeUpload;

pub(crate) fn party(name: &str) -> PartyId {
    PartyId::new(name).unwrap()
}

pub(crate) fn message_id(name: &str) -> MessageId {
    MessageId::new(name).unwrap()
}

/// Waits for `ready`, which something else brings about; fails after ten seconds.
pub(crate) async fn until(what: &str, mut ready: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), waiting).await.is_ok(),
        "waited in vain until {what}"
    );
}

/// The fault with which the next acceptances end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Full,
    Io,
    Poisoned,
}

/// A store without a disk.
pub(crate) struct FakeEngine {
    this: Weak<Self>,
    observer: Arc<dyn Observer>,
    incarnation: Incarnation,
    state: watch::Sender<StoreState>,
    list_reads: AtomicUsize,
    refused_looks: AtomicUsize,
    storing: AtomicUsize,
    inner: Mutex<FakeState>,
}

struct FakeState {
    fault: Fault,
    sync_takes: Duration,
    id_reuse: IdReuse,
    last: u64,
    numbers: HashMap<PartyId, u64>,
    pending: BTreeMap<(PartyId, Sequence), Outgoing>,
    damaged: HashSet<Sequence>,
    mailbox: HashMap<(Option<PartyId>, MessageId), (Held, Option<DeliveryIdentity>)>,
    delivered: HashSet<(Incarnation, u64)>,
    letters: BTreeMap<Sequence, (DeadLetter, Payload)>,
    stats: StoreStats,
}

impl FakeEngine {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Arc<Self> {
        let inner = FakeState {
            fault: Fault::None,
            sync_takes: Duration::ZERO,
            id_reuse: IdReuse::Replace,
            last: 0,
            numbers: HashMap::new(),
            pending: BTreeMap::new(),
            damaged: HashSet::new(),
            mailbox: HashMap::new(),
            delivered: HashSet::new(),
            letters: BTreeMap::new(),
            stats: StoreStats::default(),
        };
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            observer,
            incarnation: Incarnation { started_ms: 1, random: getrandom::u64().unwrap() },
            state: watch::channel(StoreState::Serving).0,
            list_reads: AtomicUsize::new(0),
            refused_looks: AtomicUsize::new(0),
            storing: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        })
    }

    /// Refuses this many of the next looks for a message, as a busy Redis would.
    pub(crate) fn refuse_looks(&self, count: usize) {
        self.refused_looks.store(count, Ordering::SeqCst);
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    pub(crate) fn set_sync_time(&self, takes: Duration) {
        self.lock().sync_takes = takes;
    }

    pub(crate) fn set_id_reuse(&self, id_reuse: IdReuse) {
        self.lock().id_reuse = id_reuse;
    }

    pub(crate) fn poison(&self, why: &str) {
        self.state.send_replace(StoreState::Poisoned(why.into()));
    }

    pub(crate) fn damage(&self, sequence: Sequence) {
        self.lock().damaged.insert(sequence);
    }

    /// Number of deliveries that wait for their sync.
    pub(crate) fn storing(&self) -> usize {
        self.storing.load(Ordering::SeqCst)
    }

    pub(crate) fn pending_count(&self) -> usize {
        self.lock().pending.len()
    }

    /// Hides a pending message, as if it were still being written.
    pub(crate) fn hide(&self, peer: &PartyId, sequence: Sequence) -> Outgoing {
        self.lock().pending.remove(&(peer.clone(), sequence)).unwrap()
    }

    /// Makes a hidden message pending.
    pub(crate) fn show(&self, message: Outgoing) {
        let peer = message.receiver.clone();
        let (sequence, len) = (message.sequence, message.payload.len());
        self.lock().pending.insert((peer.clone(), sequence), message);
        self.observer.pending(&peer, sequence, len);
    }

    /// How often the list of pending messages was read.
    pub(crate) fn list_reads(&self) -> usize {
        self.list_reads.load(Ordering::Relaxed)
    }

    pub(crate) fn letters(&self) -> Vec<DeadLetter> {
        self.lock().letters.values().map(|(letter, _)| letter.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.inner.lock()
    }

    fn check(&self) -> Result<()> {
        match &*self.state.borrow() {
            StoreState::Serving | StoreState::Stalled | StoreState::Full(_) => Ok(()),
            StoreState::Refusing(why) | StoreState::Unavailable(why) => {
                Err(StoreError::Unavailable(why.clone()))
            }
            StoreState::Poisoned(why) => Err(StoreError::Poisoned(why.clone())),
            StoreState::Closed => Err(StoreError::Closed),
        }
    }

    /// Applies the faults, then waits for the time that a sync takes.
    async fn sync(&self) -> Result<()> {
        self.check()?;
        let (fault, takes) = {
            let inner = self.lock();
            (inner.fault, inner.sync_takes)
        };
        match fault {
            Fault::None => {}
            Fault::Full => return Err(StoreError::Full { used: 9, limit: 10, remedy: "make room" }),
            Fault::Io => {
                let source = Arc::new(std::io::Error::other("a test"));
                return Err(StoreError::Io { action: "write", path: "fake".into(), source });
            }
            Fault::Poisoned => {
                self.poison("a sync failed");
                return self.check();
            }
        }
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Ok(())
    }
}

fn key(id: &MessageId) -> u128 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish().into()
}

#[async_trait]
impl Engine for FakeEngine {
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence> {
        self.sync().await?;
        let (sequence, len) = {
            let mut inner = self.lock();
            let held = inner.pending.values().find(|held| held.receiver == *receiver && held.id == *id);
            if let Some(held) = held.cloned() {
                if inner.id_reuse == IdReuse::Reject {
                    return if held.payload.whole().now_or_never().unwrap()? == payload {
                        Ok(held.sequence)
                    } else {
                        Err(StoreError::Conflict { id: id.to_string() })
                    };
                }
                inner.pending.remove(&(receiver.clone(), held.sequence));
            }
            inner.last += 1;
            let sequence = Sequence(inner.last);
            let number = inner.numbers.entry(receiver.clone()).or_default();
            *number += 1;
            let identity = DeliveryIdentity { incarnation: self.incarnation, number: *number, low_water: 0 };
            let len = payload.len() as u64;
            let message = Outgoing {
                receiver: receiver.clone(),
                id: id.clone(),
                payload: payload.into(),
                sequence,
                identity,
            };
            inner.pending.insert((receiver.clone(), sequence), message);
            (sequence, len)
        };
        self.observer.pending(receiver, sequence, len);
        Ok(sequence)
    }

    async fn store(&self, arrival: Arrival) -> Result<Stored> {
        self.storing.fetch_add(1, Ordering::SeqCst);
        let synced = self.sync().await;
        self.storing.fetch_sub(1, Ordering::SeqCst);
        synced?;
        let Arrival { sender, id, payload, identity } = arrival;
        let message = {
            let mut inner = self.lock();
            if let Some(identity) = identity {
                if !inner.delivered.insert((identity.incarnation, identity.number)) {
                    inner.stats.repeated += 1;
                    return Ok(Stored::Repeated);
                }
                let held = inner.mailbox.get(&(sender.clone(), id.clone())).and_then(|(_, held)| *held);
                if held.is_some_and(|held| {
                    held.incarnation == identity.incarnation && held.number > identity.number
                }) {
                    return Ok(Stored::Stale);
                }
            }
            inner.last += 1;
            let message = Held {
                sender: sender.clone(),
                id: id.clone(),
                payload: payload.into(),
                sequence: Sequence(inner.last),
                unread: true,
                age: 0,
            };
            inner.mailbox.insert((sender, id), (message.clone(), identity));
            message
        };
        self.observer.arrived(&message);
        Ok(Stored::New(message.sequence))
    }

    fn begin(&self, _: Option<u64>) -> Result<Box<dyn Upload>> {
        self.check()?;
        if self.lock().fault == Fault::Full {
            return Err(StoreError::Full { used: 9, limit: 10, remedy: "make room" });
        }
        Ok(Box::new(FakeUpload { engine: self.this.upgrade().unwrap(), bytes: Vec::new() }))
    }

    async fn held(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>> {
        let mut found = self.topic(from, id.as_str(), Sequence(0), usize::MAX).await?;
        found.retain(|found| found.id == *id);
        found.reverse();
        Ok(found)
    }

    async fn open_found(&self, found: &Found) -> Result<Option<Held>> {
        let from = FromSender::from(found.sender.clone());
        Ok(self.open(&from, &found.id).await?.filter(|held| held.sequence == found.sequence))
    }

    async fn knows(&self, _: &PartyId, identity: &DeliveryIdentity) -> Result<bool> {
        Ok(self.lock().delivered.contains(&(identity.incarnation, identity.number)))
    }

    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        let less = |count: usize| count.checked_sub(1);
        if self.refused_looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(StoreError::Unavailable("it is busy".into()));
        }
        let inner = self.lock();
        let messages = inner.mailbox.values().map(|(message, _)| message).filter(|message| message.id == *id);
        let wanted = messages.filter(|message| from.admits(message.sender.as_ref()));
        reading::chosen(id, wanted)
    }

    fn note_read(&self, messages: &[Handed]) {
        reading::note(&mut self.lock().mailbox, messages);
    }

    async fn topic(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>> {
        let inner = self.lock();
        let held = inner.mailbox.values().map(|(message, _)| message);
        let held = held.filter(|m| from.admits(m.sender.as_ref()) && m.id.as_str().starts_with(prefix));
        let found = held.map(|m| Found {
            sender: m.sender.clone(),
            id: m.id.clone(),
            sequence: m.sequence,
            len: m.payload.len(),
            unread: m.unread,
            age: m.age,
        });
        let mut found: Vec<_> = found.filter(|found| found.sequence > after).collect();
        found.sort_by_key(|found| found.sequence);
        found.truncate(limit);
        Ok(found)
    }

    async fn release_topic(&self, from: &FromSender, prefix: &str) -> Result<u64> {
        let mut inner = self.lock();
        let before = inner.mailbox.len();
        inner
            .mailbox
            .retain(|(sender, id), _| !(from.admits(sender.as_ref()) && id.as_str().starts_with(prefix)));
        Ok((before - inner.mailbox.len()) as u64)
    }

    async fn track_sent(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked> {
        let inner = self.lock();
        let pending = inner.pending.values().find(|held| held.receiver == *receiver && held.id == *id);
        Ok(pending.map_or(Tracked::Unknown, |held| Tracked::Pending {
            sequence: held.sequence,
            len: held.payload.len(),
        }))
    }

    async fn track_received(&self, from: &FromSender, id: &MessageId) -> Result<Tracked> {
        Ok(self.open(from, id).await?.map_or(Tracked::Unknown, |held| Tracked::Held {
            sender: held.sender,
            sequence: held.sequence,
            len: held.payload.len(),
        }))
    }

    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool> {
        let mut inner = self.lock();
        let before = inner.mailbox.len();
        inner.mailbox.retain(|(sender, held), _| held != id || !from.admits(sender.as_ref()));
        Ok(inner.mailbox.len() < before)
    }

    async fn pending(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>> {
        self.check()?;
        self.list_reads.fetch_add(1, Ordering::Relaxed);
        let inner = self.lock();
        let from = (peer.clone(), Sequence(after.0 + 1));
        let to = (peer.clone(), Sequence(u64::MAX));
        Ok(inner.pending.range(from..=to).take(limit).map(|(_, message)| as_pending(message)).collect())
    }

    async fn pending_with_ids(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(Pending, Option<MessageId>)>> {
        let list = self.pending(peer, after, limit).await?;
        let inner = self.lock();
        let id =
            |pending: &Pending| inner.pending.get(&(peer.clone(), pending.sequence)).map(|m| m.id.clone());
        Ok(list.into_iter().map(|pending| (pending, id(&pending))).collect())
    }

    async fn peers_with_pending(&self) -> Result<Vec<PartyId>> {
        let mut peers: Vec<_> = self.lock().pending.keys().map(|(peer, _)| peer.clone()).collect();
        peers.dedup();
        Ok(peers)
    }

    async fn load(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>> {
        let inner = self.lock();
        let message = inner.pending.get(&(peer.clone(), sequence)).cloned();
        match message {
            Some(message) if inner.damaged.contains(&sequence) => Err(StoreError::Damaged {
                id: message.id.to_string(),
                segment: "fake".into(),
                offset: 0,
                what: "a test".into(),
            }),
            message => Ok(message),
        }
    }

    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: Outcome) -> Result<bool> {
        self.check()?;
        let letter = {
            let mut inner = self.lock();
            let Some(message) = inner.pending.remove(&(peer.clone(), sequence)) else { return Ok(false) };
            let Outcome::Dead(reason) = outcome else { return Ok(true) };
            let len = message.payload.len();
            let correspondent = Correspondent::To(message.receiver);
            let letter =
                DeadLetter { sequence, correspondent, id: message.id, len, reason, dead_for: Some(0) };
            inner.letters.insert(sequence, (letter.clone(), message.payload));
            letter
        };
        self.observer.died(&letter);
        Ok(true)
    }

    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        let letters = self.letters().into_iter();
        Ok(letters.filter(|letter| letter.sequence > after).take(limit).collect())
    }

    async fn newest_dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        Ok(self.letters().into_iter().rev().take(limit).collect())
    }

    async fn open_dead_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>> {
        Ok(self.lock().letters.get(&sequence).cloned())
    }

    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>> {
        let Some((letter, payload)) = self.lock().letters.remove(&sequence) else { return Ok(None) };
        let receiver = letter.correspondent.party().unwrap();
        self.accept(receiver, &letter.id, payload.whole().await?).await.map(Some)
    }

    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool> {
        Ok(self.lock().letters.remove(&sequence).is_some())
    }

    fn stats(&self) -> StoreStats {
        let inner = self.lock();
        let mut pending: Vec<PeerPending> = Vec::new();
        for ((peer, _), message) in &inner.pending {
            let len = message.payload.len();
            match pending.last_mut().filter(|last| last.peer == *peer) {
                Some(last) => (last.messages, last.bytes) = (last.messages + 1, last.bytes + len),
                None => pending.push(PeerPending { peer: peer.clone(), messages: 1, bytes: len }),
            }
        }
        let (mailbox_messages, dead_letters) = (inner.mailbox.len() as u64, inner.letters.len() as u64);
        StoreStats { pending, mailbox_messages, dead_letters, ..inner.stats.clone() }
    }

    fn state(&self) -> watch::Receiver<StoreState> {
        self.state.subscribe()
    }

    async fn close(&self) -> Result<()> {
        if *self.state.borrow() == StoreState::Serving {
            self.state.send_replace(StoreState::Closed);
        }
        Ok(())
    }
}

fn as_pending(message: &Outgoing) -> Pending {
    Pending {
        sequence: message.sequence,
        id_key: key(&message.id),
        len: message.payload.len(),
        age: 0,
        expires_in: None,
    }
}
