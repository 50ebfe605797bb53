//! Where the store's news goes: to waiting receives, to forwarders, to the log.
//!
//! Called from the store's own threads, so nothing here waits. The list of peers is fixed at start.

use std::collections::HashMap;
use std::sync::Arc;

use petnet_storage::{DeadLetter, Message, Observer, PartyId, Sequence};

use crate::config::Settings;
use crate::forwarder::Wakes;
use crate::parties::Parties;
use crate::waiting::Waiters;

/// The observer of a gateway's store.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Receives that wait.
    pub(crate) waiters: Arc<Waiters>,
    /// What wakes the forwarders of each peer.
    pub(crate) peers: HashMap<PartyId, Arc<Wakes>>,
}

impl Hub {
    /// News for every party but our own.
    pub(crate) fn new(settings: &Settings, parties: &Parties) -> Arc<Self> {
        let others = parties.parties.keys().filter(|party| **party != settings.party);
        Arc::new(Self {
            waiters: Arc::new(Waiters::new(settings.max_waiting)),
            peers: others.map(|party| (party.clone(), Arc::default())).collect(),
        })
    }
}

impl Observer for Hub {
    fn arrived(&self, message: &Message) {
        self.waiters.arrived(message);
    }

    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64) {
        if let Some(wakes) = self.peers.get(peer) {
            wakes.pending(sequence, len);
        }
    }

    fn died(&self, letter: &DeadLetter) {
        tracing::warn!(
            peer = %letter.receiver, id = %letter.id, bytes = letter.len, reason = %letter.reason,
            "message became a dead letter"
        );
    }
}
