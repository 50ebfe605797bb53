//! Where the store's news goes: to waiting receives, to forwarders, to the log.
//!
//! Called from the store's own threads, so nothing here waits. The list of peers only grows: with the party file.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use petnet_storage::{DeadLetter, Held, Observer, PartyId, Sequence};

use crate::forwarder::Wakes;
use crate::record::Record;
use crate::subscriptions::Subscriptions;
use crate::telemetry;
use crate::waiting::Waiters;

/// The observer of a gateway's store.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Receives that wait.
    pub(crate) waiters: Arc<Waiters>,
    /// Streams that are handed what arrives.
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// What wakes the forwarders of each peer.
    peers: RwLock<HashMap<PartyId, Arc<Wakes>>>,
    /// What happens is told here.
    pub(crate) record: Arc<Record>,
}

impl Hub {
    /// News for nobody yet.
    pub(crate) fn new(max_waiting: usize, max_subscriptions: usize) -> Arc<Self> {
        let waiters = Arc::new(Waiters::new(max_waiting));
        let subscriptions = Subscriptions::new(max_subscriptions);
        Arc::new(Self { waiters, subscriptions, peers: RwLock::default(), record: Arc::default() })
    }

    /// What will wake the forwarders of a peer. `None`: it has some already.
    pub(crate) fn add(&self, peer: &PartyId) -> Option<Arc<Wakes>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.contains_key(peer) {
            return None;
        }
        let wakes = Arc::<Wakes>::default();
        peers.insert(peer.clone(), wakes.clone());
        Some(wakes)
    }

    /// True when it has forwarders.
    pub(crate) fn knows(&self, peer: &PartyId) -> bool {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).contains_key(peer)
    }
}

impl Observer for Hub {
    fn arrived(&self, message: &Held) {
        self.waiters.arrived(message);
        self.subscriptions.arrived(message);
    }

    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64) {
        if let Some(wakes) = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(peer) {
            wakes.pending(sequence, len);
        }
    }

    fn missed(&self) {
        self.waiters.missed();
        self.subscriptions.missed();
    }

    fn serves(&self, peer: &PartyId) -> bool {
        self.knows(peer)
    }

    fn died(&self, letter: &DeadLetter) {
        self.record.died(letter);
        tracing::warn!(
            target: telemetry::DEAD_LETTERS,
            peer = %letter.receiver, message_id = %letter.id, bytes = letter.len, reason = %letter.reason,
            "message became a dead letter"
        );
    }
}
