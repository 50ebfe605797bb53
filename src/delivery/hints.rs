//! What wakes the forwarders of each peer, and how its deliveries go. The list of peers only grows, along with the party
//! file.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use petnet_storage::{PartyId, Sequence};

use crate::delivery::forwarder::{Course, Wakes};

/// What the forwarders of a peer share.
type PeerForwarding = (Arc<Wakes>, Arc<Course>);

/// Each peer that has forwarders.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    peers: RwLock<BTreeMap<PartyId, PeerForwarding>>,
}

impl Hints {
    /// Creates what the forwarders of a new peer share; `None` if the peer has some already.
    pub(crate) fn add(&self, peer: &PartyId, paused: bool) -> Option<PeerForwarding> {
        let mut peers = self.peers.write();
        if peers.contains_key(peer) {
            return None;
        }
        let wakes = Arc::<Wakes>::default();
        let course = Arc::new(Course::new(wakes.clone(), paused));
        peers.insert(peer.clone(), (wakes.clone(), course.clone()));
        Some((wakes, course))
    }

    /// How deliveries to each peer go.
    pub(crate) fn courses(&self) -> BTreeMap<PartyId, Arc<Course>> {
        let peers = self.peers.read();
        peers.iter().map(|(peer, (_, course))| (peer.clone(), course.clone())).collect()
    }

    /// True if the peer has forwarders.
    pub(crate) fn knows(&self, peer: &PartyId) -> bool {
        self.peers.read().contains_key(peer)
    }

    /// Passes on that a message is pending for a peer.
    pub(crate) fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64) {
        if let Some((wakes, _)) = self.peers.read().get(peer) {
            wakes.pending(sequence, len);
        }
    }

    /// Passes on that the operator, or another gateway, wants an attempt now.
    pub(crate) fn try_at_once(&self, peer: &PartyId) {
        if let Some((_, course)) = self.peers.read().get(peer) {
            course.retry_at_once();
        }
    }

    /// Whether an attempt to deliver to the peer is under way.
    pub(crate) fn is_delivering(&self, peer: &PartyId) -> bool {
        let peers = self.peers.read();
        peers.get(peer).is_some_and(|(wakes, _)| wakes.is_busy())
    }
}
