//! Passes the store's news on: to waiting receives, to forwarders, to the log.
//!
//! Called from the store's own threads, so nothing here waits.

use std::sync::Arc;

use petnet_storage::{DeadLetter, Held, Observer, PartyId, Sequence};

use crate::delivery::hints::Hints;
use crate::mailbox::subscriptions::Subscriptions;
use crate::mailbox::waiting::Waiters;
use crate::record::recorder::Record;
use crate::telemetry;

/// The observer of a gateway's store.
#[derive(Debug)]
pub(crate) struct NewsHub {
    /// Receives that wait.
    pub(crate) waiters: Arc<Waiters>,
    /// Streams that are handed what arrives.
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// What wakes the forwarders.
    pub(crate) hints: Arc<Hints>,
    /// Where everything that happens is recorded.
    pub(crate) record: Arc<Record>,
}

impl NewsHub {
    /// A hub that knows nobody yet to pass news to.
    pub(crate) fn new(max_waiting: usize, max_subscriptions: usize) -> Arc<Self> {
        let waiters = Arc::new(Waiters::new(max_waiting));
        let subscriptions = Subscriptions::new(max_subscriptions);
        Arc::new(Self { waiters, subscriptions, hints: Arc::default(), record: Arc::default() })
    }
}

impl Observer for NewsHub {
    fn arrived(&self, message: &Held) {
        self.waiters.arrived(message);
        self.subscriptions.arrived(message);
    }

    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64) {
        self.hints.pending(peer, sequence, len);
    }

    fn missed(&self) {
        self.waiters.missed();
        self.subscriptions.missed();
    }

    fn try_at_once(&self, peer: &PartyId) {
        self.hints.try_at_once(peer);
    }

    fn is_delivering(&self, peer: &PartyId) -> bool {
        self.hints.is_delivering(peer)
    }

    fn serves(&self, peer: &PartyId) -> bool {
        self.hints.knows(peer)
    }

    fn died(&self, letter: &DeadLetter) {
        self.record.died(letter);
        tracing::warn!(
            target: telemetry::DEAD_LETTERS,
            peer = letter.correspondent.name(), message_id = %letter.id, bytes = letter.len, reason = %letter.reason,
            "message became a dead letter"
        );
    }
}
