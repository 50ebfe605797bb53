//! What callers of a store were told, and whether the store, after whatever befell it, keeps to it.
//!
//! Every attempt to send has bytes of its own, so that what is found says which attempt it was. The rules:
//! * of an id's attempts, the newest one that was accepted, or one after it that nobody heard of, is there, whole;
//! * it is missing only when somebody asked to end it; asked for and known to be durable: it is not there;
//! * what was refused for lack of room is not there, and nothing is there that was never sent.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

mod letters;
mod many;
mod reading;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{
    DeadReason, DeliveryIdentity, Engine, FromSender, Incarnation, Outcome, Sequence, StoreError, Stored,
};

use reading::direction;

use crate::common::{arrival, id, identity, party, payload, upload};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Outgoing,
    Incoming,
}

/// Direction, party, id.
pub type Key = (Direction, &'static str, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Accepted,
    Refused,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    /// Asked for: durable with the next sync of the small lane.
    Asked,
    /// Asked for, and the process ended before anybody knew: there or not.
    Perhaps,
    Sure,
}

#[derive(Debug, Clone)]
struct Attempt {
    bytes: Bytes,
    told: Told,
    /// Settled as delivered, or released.
    end: End,
    /// Settled as dead.
    dead: End,
    /// When it came, by the test's clock.
    at: u64,
    identity: Option<DeliveryIdentity>,
    /// Somebody once asked to settle it: its peer has it, or need not have it.
    settled: bool,
    /// It was handed to a reader: from then on it may end without a word.
    read: bool,
}

/// Bytes of a piece of an upload.
const PIECE: usize = 100_000;

/// Every other large message comes in pieces.
fn comes_in_pieces(seed: u64, len: usize) -> bool {
    len > 64 << 10 && seed.is_multiple_of(2)
}

/// The ledger.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    keys: BTreeMap<Key, Vec<Attempt>>,
    seeds: u64,
    /// Bytes by peer, incarnation and delivery number; and the marks that peers were told.
    numbers: BTreeMap<(&'static str, Incarnation, u64), Bytes>,
    marks: BTreeMap<(&'static str, Incarnation), u64>,
    /// The test's clock in seconds, and the lifetimes that apply; mail has the same whether it was read or not.
    pub now: u64,
    pub message_ttl: Option<u64>,
    /// What the store has in memory moves to the index on disk where it is much, and else after a minute.
    pub rests: bool,
    pub send_ttl: Option<u64>,
    /// Attempts that were accepted.
    pub accepted: u64,
    /// Attempts that were refused for lack of room.
    pub refused: u64,
    /// Messages that a check found where they must be.
    pub checked: u64,
}

impl Ledger {
    fn attempt(&mut self, key: &Key, len: usize, identity: Option<DeliveryIdentity>) -> (Bytes, usize) {
        self.seeds += 1;
        let mut bytes = self.seeds.to_le_bytes().to_vec();
        bytes.extend_from_slice(&payload(self.seeds, len));
        let bytes = Bytes::from(bytes);
        let at = self.note(key, bytes.clone(), identity);
        (bytes, at)
    }

    fn note(&mut self, key: &Key, bytes: Bytes, identity: Option<DeliveryIdentity>) -> usize {
        let attempts = self.keys.entry(key.clone()).or_default();
        let (told, end, dead) = (Told::Nothing, End::No, End::No);
        attempts.push(Attempt {
            bytes,
            told,
            end,
            dead,
            at: self.now,
            identity,
            settled: false,
            read: false,
        });
        attempts.len() - 1
    }

    fn tell<T>(&mut self, key: &Key, at: usize, result: &Result<T, StoreError>) {
        self.tell_of(key, at, result, true);
    }

    /// The same; `is_new`: it was written then.
    fn tell_of<T>(&mut self, key: &Key, at: usize, result: &Result<T, StoreError>, is_new: bool) {
        let told = match result {
            Ok(_) => Told::Accepted,
            Err(StoreError::Full { .. }) => Told::Refused,
            Err(_) => Told::Nothing,
        };
        self.accepted += u64::from(told == Told::Accepted);
        self.refused += u64::from(told == Told::Refused);
        if let Some(attempts) = self.keys.get_mut(key) {
            attempts[at].told = told;
        }
        // Ends asked for earlier ride on the small lane's sync, and it is the same queue.
        if told == Told::Accepted && is_new {
            let small = self.keys[key][at].bytes.len() < 64 << 10;
            if small {
                self.all_ends_are_durable();
            }
        }
    }

    /// A sync of the small lane, or a clean stop, covered all that was asked for.
    pub fn all_ends_are_durable(&mut self) {
        for attempt in self.keys.values_mut().flatten() {
            if attempt.end == End::Asked {
                attempt.end = End::Sure;
            }
        }
    }

    /// The store was opened anew: what was asked for and not known to be durable may have been lost with the process.
    pub fn reopened(&mut self) {
        for attempt in self.keys.values_mut().flatten() {
            if attempt.end == End::Asked {
                attempt.end = End::Perhaps;
            }
        }
    }

    /// Accepts messages, all under way at once: peer, id, length.
    pub async fn accept(&mut self, store: &Arc<dyn Engine>, sends: &[(&'static str, String, usize)]) {
        if sends.len() > 1 && self.seeds.is_multiple_of(2) {
            return self.accept_many(store, sends).await;
        }
        let mut running = Vec::new();
        for (peer, name, len) in sends {
            let key = (Direction::Outgoing, *peer, name.clone());
            let (bytes, at) = self.attempt(&key, *len, None);
            let (store, peer, name) = (store.clone(), party(peer), id(name));
            let in_pieces = comes_in_pieces(self.seeds, *len);
            running.push((
                key,
                at,
                tokio::spawn(async move {
                    if in_pieces {
                        return upload(&store, &bytes, PIECE).await?.accept(&peer, &name).await;
                    }
                    store.accept(&peer, &name, bytes).await
                }),
            ));
        }
        for (key, at, task) in running {
            let result = task.await.expect("accepting does not panic");
            self.tell(&key, at, &result);
        }
    }

    /// Stores a delivery; with a number, under that identity.
    pub async fn store(
        &mut self,
        store: &Arc<dyn Engine>,
        sender: &'static str,
        name: &str,
        len: usize,
        number: Option<u64>,
    ) {
        let key = (Direction::Incoming, sender, name.to_owned());
        let known = number.map(|n| identity(1, n, 1));
        let (bytes, at) = self.attempt(&key, len, known);
        let result = if comes_in_pieces(self.seeds, len) {
            match upload(store, &bytes, PIECE).await {
                Ok(upload) => upload.store(Some(&party(sender)), &id(name), known).await,
                Err(error) => Err(error),
            }
        } else {
            store.store(arrival(sender, name, bytes, known)).await
        };
        if let Ok(Stored::Repeated | Stored::Stale) = result {
            panic!("{key:?}: a first delivery was taken for {result:?}");
        }
        self.tell(&key, at, &result);
    }

    /// Delivers again what was stored under an identity: known it must be.
    pub async fn repeat(&self, store: &Arc<dyn Engine>) {
        for (key, attempt) in self.keys.iter().flat_map(|(k, all)| all.iter().map(move |a| (k, a))) {
            let Some(known) = attempt.identity.filter(|_| attempt.told == Told::Accepted) else { continue };
            let again = store.store(arrival(key.1, &key.2, "repeated".into(), Some(known))).await;
            assert!(matches!(again, Ok(Stored::Repeated)), "{key:?} {known:?} is new again: {again:?}");
        }
    }

    /// Pending messages of a peer: id, bytes, sequence, identity. Expired ones are left out.
    async fn pending(
        store: &Arc<dyn Engine>,
        peer: &str,
    ) -> Result<Vec<(String, Bytes, Sequence, DeliveryIdentity)>, StoreError> {
        let peer = party(peer);
        let mut found = Vec::new();
        let sequences: Vec<_> =
            store.pending(&peer, Sequence(0), 100_000).await?.into_iter().map(|p| p.sequence).collect();
        for (sequence, loaded) in sequences.iter().zip(store.load_many(&peer, &sequences).await) {
            // One by one they are the same.
            let alone = store.load(&peer, *sequence).await?;
            let loaded = loaded?;
            let ids = |m: &Option<petnet_storage::Outgoing>| {
                m.as_ref().map(|m| (m.id.clone(), m.identity.incarnation, m.identity.number))
            };
            assert_eq!(ids(&loaded), ids(&alone), "{sequence:?}");
            if let Some(m) = loaded {
                found.push((m.id.to_string(), m.payload.whole().await?, *sequence, m.identity));
            }
        }
        Ok(found)
    }

    /// Settles what is pending under an id, if anything is.
    pub async fn settle(&mut self, store: &Arc<dyn Engine>, peer: &'static str, name: &str, dead: bool) {
        // A disk that fails cannot say what is pending.
        let Ok(found) = Self::pending(store, peer).await else { return };
        let Some((_, bytes, sequence, _)) = found.into_iter().find(|(n, ..)| n == name) else { return };
        let key = (Direction::Outgoing, peer, name.to_owned());
        let attempts = self.keys.get_mut(&key).unwrap_or_else(|| panic!("{key:?} was never sent"));
        let at = attempts.iter().rposition(|a| a.bytes == bytes);
        let at = at.unwrap_or_else(|| panic!("{key:?} has bytes that were never sent"));
        let outcome = if dead {
            attempts[at].dead = End::Asked;
            Outcome::Dead(DeadReason::Refused("no".into()))
        } else {
            // What it superseded goes with it.
            for attempt in &mut attempts[..=at] {
                (attempt.end, attempt.settled) = (End::Asked, true);
            }
            Outcome::Delivered
        };
        let settled = if !dead && sequence.0.is_multiple_of(2) {
            store.settle_delivered(&party(peer), &[sequence]).await.map(|()| true)
        } else {
            store.settle(&party(peer), sequence, outcome).await
        };
        if dead && settled.is_ok_and(|was_pending| was_pending) {
            attempts[at].dead = End::Sure;
        }
    }

    pub async fn release(&mut self, store: &Arc<dyn Engine>, sender: &'static str, name: &str) {
        let key = (Direction::Incoming, sender, name.to_owned());
        for attempt in self.keys.entry(key).or_default() {
            if attempt.end == End::No {
                attempt.end = End::Asked;
            }
        }
        drop(store.release(&FromSender::Party(party(sender)), &id(name)).await);
    }

    /// Asserts that the store keeps to what was told.
    pub async fn check(&mut self, store: &Arc<dyn Engine>, when: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            match self.verdict(store).await {
                Ok(()) => return,
                // The keeper turns expired messages into dead letters within a moment.
                Err(wrong) if wrong.starts_with("expired") && std::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(wrong) => panic!("{when}: {wrong}"),
            }
        }
    }

    async fn verdict(&mut self, store: &Arc<dyn Engine>) -> Result<(), String> {
        let letters = store.dead_letters(Sequence(0), 10_000).await.expect("lists");
        let peers: std::collections::BTreeSet<_> =
            self.keys.keys().filter(|k| k.0 == Direction::Outgoing).map(|k| k.1).collect();
        let mut pending = BTreeMap::new();
        for peer in peers {
            for (name, bytes, _, identity) in Self::pending(store, peer).await.map_err(|e| e.to_string())? {
                self.receive(peer, &name, &bytes, &identity)?;
                let key = (Direction::Outgoing, peer, name);
                if !self.keys.contains_key(&key) {
                    return Err(format!("{key:?} is pending and was never sent"));
                }
                if pending.insert(key.clone(), bytes).is_some() {
                    return Err(format!("{key:?} is pending twice"));
                }
            }
        }
        let mut checked = 0;
        for (key, attempts) in &self.keys {
            let found = if key.0 == Direction::Outgoing {
                pending.get(key).cloned()
            } else {
                let from = FromSender::Party(party(key.1));
                store.read(&from, &id(&key.2)).await.map_err(|e| e.to_string())?.map(|m| m.payload)
            };
            let is_letter = |a: &Attempt| {
                letters.iter().any(|l| {
                    let is_it = direction(l) == key.0 && l.correspondent.name() == key.1;
                    is_it && l.id.as_str() == key.2 && l.len == a.bytes.len() as u64
                })
            };
            self.judge(key, attempts, found.as_ref(), is_letter)?;
            checked += u64::from(found.is_some());
        }
        self.checked += checked;
        Ok(())
    }

    /// What the peer would make of a delivery now. It knows messages by their numbers, and takes what lies below the
    /// mark for had.
    fn receive(
        &mut self,
        peer: &'static str,
        name: &str,
        bytes: &Bytes,
        as_: &DeliveryIdentity,
    ) -> Result<(), String> {
        let DeliveryIdentity { incarnation, number, low_water } = *as_;
        let known = self.numbers.entry((peer, incarnation, number)).or_insert_with(|| bytes.clone());
        if known != bytes {
            return Err(format!(
                "{name:?} to {peer} has number {number} of {incarnation}, as another one had"
            ));
        }
        let mark = self.marks.entry((peer, incarnation)).or_default();
        let key = (Direction::Outgoing, peer, name.to_owned());
        let settled = self.keys.get(&key).into_iter().flatten().any(|a| a.bytes == *bytes && a.settled);
        if number < *mark && !settled {
            return Err(format!(
                "{name:?} to {peer} has number {number}, and the peer was told {mark}: LOST"
            ));
        }
        *mark = low_water.max(*mark);
        Ok(())
    }

    fn judge(
        &self,
        key: &Key,
        attempts: &[Attempt],
        found: Option<&Bytes>,
        is_letter: impl Fn(&Attempt) -> bool,
    ) -> Result<(), String> {
        let newest = attempts.iter().rposition(|a| a.told == Told::Accepted);
        let ttl = if key.0 == Direction::Outgoing { self.send_ttl } else { self.message_ttl };
        let may_expire = |a: &Attempt| ttl.is_some_and(|ttl| a.at + ttl <= self.now + 1);
        for a in attempts.iter().filter(|a| a.dead == End::Sure && a.end == End::No) {
            if !is_letter(a) {
                return Err(format!("{key:?}: a dead letter of {} bytes is gone", a.bytes.len()));
            }
        }
        if let Some(bytes) = found {
            // A dead letter that is retried sends its bytes once more: of such attempts, the one that can be there.
            let could_be = |a: &Attempt| a.bytes == bytes && a.told != Told::Refused;
            let at = attempts.iter().rposition(could_be);
            let Some(at) = at.or_else(|| attempts.iter().rposition(|a| a.bytes == bytes)) else {
                return Err(format!("{key:?} has {} bytes that were never sent", bytes.len()));
            };
            let attempt = &attempts[at];
            return match attempt {
                _ if newest.is_some_and(|n| at < n) => {
                    Err(format!("{key:?}: attempt {at} is back though {newest:?} replaced it"))
                }
                a if a.told == Told::Refused => Err(format!("{key:?}: a refused message is there")),
                a if a.end == End::Sure => Err(format!("{key:?}: attempt {at} is back after its end")),
                a if a.dead == End::Sure => Err(format!("{key:?}: attempt {at} is back from the dead")),
                _ => Ok(()),
            };
        }
        let Some(newest) = newest else { return Ok(()) };
        let gone = |a: &Attempt| a.end != End::No || a.dead != End::No;
        let candidates = || attempts[newest..].iter().filter(|a| a.told != Told::Refused);
        if candidates().any(gone) {
            return Ok(());
        }
        let expired = candidates().find(|a| may_expire(a));
        match expired {
            Some(a) if a.read => Ok(()),
            Some(a) if is_letter(a) => Ok(()),
            Some(_) => Err(format!("expired: {key:?} is neither there nor a dead letter")),
            None => Err(format!("LOST: {key:?}, attempt {newest} of {}", attempts.len())),
        }
    }

    /// What a start found is durable: the next one must find the same.
    pub async fn settle_for_what_is_there(&mut self, store: &Arc<dyn Engine>) {
        let keys: Vec<Key> = self.keys.keys().cloned().collect();
        for key in keys {
            let found = if key.0 == Direction::Outgoing {
                Self::pending(store, key.1)
                    .await
                    .expect("lists")
                    .into_iter()
                    .find(|(n, ..)| *n == key.2)
                    .map(|f| f.1)
            } else {
                let from = FromSender::Party(party(key.1));
                store.read(&from, &id(&key.2)).await.expect("reads").map(|m| m.payload)
            };
            let lifetime = if key.0 == Direction::Outgoing { self.send_ttl } else { self.message_ttl };
            for attempt in self.keys.get_mut(&key).into_iter().flatten() {
                let is_it = found.as_ref() == Some(&attempt.bytes);
                if is_it {
                    attempt.told = Told::Accepted;
                    attempt.end = End::No;
                    attempt.dead = End::No;
                } else if attempt.dead != End::Sure && lifetime.is_none_or(|l| attempt.at + l > self.now + 1)
                {
                    // What expired may be back for a while: a power cut takes the service time since the last record.
                    attempt.end = End::Sure;
                }
            }
        }
    }

    /// Ids in use.
    pub fn keys(&self) -> Vec<Key> {
        self.keys.keys().cloned().collect()
    }
}
