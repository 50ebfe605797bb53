//! Of several gateways of our party, only one delivers to a peer. A peer that knows no identities takes an old message for
//! a new one, so a gateway that stood still, and was replaced meanwhile, must send it nothing more: the store is asked
//! right before each call, and our own clock at every write to the connection.
//!
//! One gap remains: bytes that left this process before it stood still, and arrive late on their own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use petnet_storage::{Engine, PartyId, StoreError};

use crate::tls::counted::WriteGate;

/// Pause between checks whether a call that is under way is still ours.
const LOOK: Duration = Duration::from_millis(200);

/// Whether it is us who deliver to a peer.
#[derive(Clone)]
pub(crate) struct Fence {
    /// `None` means always open.
    engine: Option<Arc<dyn Engine>>,
    peer: PartyId,
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({})", self.peer)
    }
}

impl Fence {
    /// A fence for a peer of gateways that share a store.
    pub(crate) fn new(engine: Arc<dyn Engine>, peer: PartyId) -> Self {
        Self { engine: Some(engine), peer }
    }

    /// A fence that is always open.
    #[cfg(test)]
    pub(crate) fn open(peer: PartyId) -> Self {
        Self { engine: None, peer }
    }

    /// The peer that it is about.
    pub(super) fn peer(&self) -> &PartyId {
        &self.peer
    }

    /// Whether we deliver to the peer, by our own clock.
    pub(super) fn is_open(&self) -> bool {
        self.engine.as_ref().is_none_or(|engine| engine.holds(&self.peer))
    }

    /// Asks the store, which decides. On an error, we do not deliver to the peer, or it is not known whether we do.
    pub(super) async fn may_send(&self) -> Result<(), StoreError> {
        let Some(engine) = &self.engine else { return Ok(()) };
        if engine.may_deliver(&self.peer).await? { Ok(()) } else { Err(elsewhere()) }
    }

    /// Resolves when we no longer deliver to the peer.
    pub(super) async fn closed(&self) -> StoreError {
        while self.is_open() {
            tokio::time::sleep(LOOK).await;
        }
        elsewhere()
    }
}

fn elsewhere() -> StoreError {
    StoreError::Unavailable("another gateway of our party delivers to this peer now".into())
}

/// A [`Fence`] around the connections of a route, once the peer is known to take an old message for a new one.
#[derive(Debug)]
pub(super) struct RouteFence {
    fence: Fence,
    is_up: Arc<AtomicBool>,
}

impl RouteFence {
    /// A fence that is not up yet.
    pub(super) fn new(fence: Fence) -> Self {
        Self { fence, is_up: Arc::default() }
    }

    /// Puts the fence up or takes it down.
    pub(super) fn set(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Release);
    }

    /// What the connections ask before each write.
    pub(super) fn gate(&self) -> WriteGate {
        let (fence, is_up) = (self.fence.clone(), self.is_up.clone());
        WriteGate::new(move || !is_up.load(Ordering::Acquire) || fence.is_open())
    }
}
