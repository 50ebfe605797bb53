//! What has happened since the start, in numbers: for metrics, the status and the page.
//!
//! Counting takes one or two atomic additions, and never a lock on the way of a message. Invariant: labels are parties from
//! the party file and fixed words, never text that a caller chose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use petnet_storage::{DeadReason, PartyId, SECONDS, Spreading};

use crate::rules::refusal::Refusal;
use crate::wire::status;

/// Messages and their payload bytes.
#[derive(Debug, Default)]
pub(crate) struct Amount {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Amount {
    /// Counts one more message.
    pub(crate) fn add(&self, bytes: u64) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Number of messages.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Their payload bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Labels for why calls and deliveries are refused.
pub(crate) const REFUSALS: [&str; 15] = [
    "invalid",
    "unknown_receiver",
    "too_large",
    "full",
    "conflict",
    "ambiguous",
    "denied",
    "too_many",
    "draining",
    "poisoned",
    "unavailable",
    "in_doubt",
    "damaged",
    "io",
    "other",
];

/// Labels for why messages become dead letters.
pub(crate) const DEATHS: [&str; DeadReason::COUNT] = ["expired", "refused", "damaged", "unread"];

/// The label of the reason for a dead letter: its place in [`DEATHS`].
pub(crate) fn death(reason: &DeadReason) -> &'static str {
    match reason {
        DeadReason::Expired => DEATHS[0],
        DeadReason::Refused(_) => DEATHS[1],
        DeadReason::Damaged(_) => DEATHS[2],
        DeadReason::Unread => DEATHS[3],
    }
}

/// The numbers of one peer.
#[derive(Debug, Default)]
pub(crate) struct PeerMeters {
    /// Messages that the peer accepted.
    pub(crate) delivered: Amount,
    /// Messages that came from it.
    pub(crate) arrived: Amount,
    /// Attempts that failed.
    pub(crate) failed_attempts: AtomicU64,
    /// When the last delivery succeeded, in ms since the epoch; 0 if none did.
    pub(crate) last_delivery_ms: AtomicU64,
}

/// The numbers of one gateway.
#[derive(Debug)]
pub(crate) struct Meters {
    /// Messages from clients that are durable.
    pub(crate) accepted: Amount,
    /// Messages from peers that are durable, not counting repetitions.
    pub(crate) arrived: Amount,
    /// Messages handed to clients, counted every time.
    pub(crate) received: Amount,
    /// Messages that clients released.
    pub(crate) released: AtomicU64,
    /// Plain receives that were handed a different sender's message than the previous one under the same id.
    pub(crate) sender_changes: AtomicU64,
    /// Pending messages and dead letters that the operator dropped.
    pub(crate) dropped: AtomicU64,
    /// How long clients wait until a message is accepted, in seconds.
    pub(crate) accept_seconds: Spreading,
    refused: [AtomicU64; REFUSALS.len()],
    dead: [AtomicU64; DEATHS.len()],
    peers: RwLock<BTreeMap<PartyId, Arc<PeerMeters>>>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            accepted: Amount::default(),
            arrived: Amount::default(),
            received: Amount::default(),
            released: AtomicU64::default(),
            sender_changes: AtomicU64::default(),
            dropped: AtomicU64::default(),
            accept_seconds: Spreading::new(SECONDS),
            refused: Default::default(),
            dead: Default::default(),
            peers: RwLock::default(),
        }
    }
}

impl Meters {
    /// Counts a call, or a message in one, that was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        count(&self.refused, &REFUSALS, status::told(refusal).label);
    }

    /// Number of refusals, by [reason](REFUSALS).
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Counts a plain receive that was handed a different sender's message than the previous one.
    pub(crate) fn sender_changed(&self) {
        self.sender_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that became a dead letter.
    pub(crate) fn died(&self, reason: &DeadReason) {
        count(&self.dead, &DEATHS, death(reason));
    }

    /// Number of messages that became dead letters, by [reason](DEATHS).
    pub(crate) fn deaths(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DEATHS.into_iter().zip(self.dead.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// The numbers of a peer, created if it has none. Only for parties in the party file, and senders that it admits.
    pub(crate) fn peer(&self, peer: &PartyId) -> Arc<PeerMeters> {
        if let Some(meters) = self.peers.read().get(peer) {
            return meters.clone();
        }
        let mut peers = self.peers.write();
        peers.entry(peer.clone()).or_default().clone()
    }

    /// The numbers of every peer that has some.
    pub(crate) fn peers(&self) -> Vec<(PartyId, Arc<PeerMeters>)> {
        let peers = self.peers.read();
        peers.iter().map(|(peer, meters)| (peer.clone(), meters.clone())).collect()
    }
}

fn count(counts: &[AtomicU64], labels: &[&str], label: &str) {
    if let Some(at) = labels.iter().position(|known| *known == label) {
        counts[at].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use petnet_storage::StoreError;

    use super::*;

    #[test]
    fn each_refusal_and_death_is_counted_under_a_known_label() {
        let meters = Meters::default();
        meters.refused(&Refusal::Draining);
        meters.refused(&Refusal::Store(StoreError::Closed));
        meters.died(&DeadReason::Expired);
        let refused: Vec<_> = meters.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refused, [("draining", 1), ("other", 1)]);
        assert_eq!(meters.deaths().next(), Some(("expired", 1)));
    }
}
