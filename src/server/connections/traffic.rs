//! What happens on one connection: used by its socket, by its calls, and by a new connection that needs its seat.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use petnet_storage::PartyId;
use tokio::time::Instant;

/// Counts of one connection.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    /// Bytes read and written.
    bytes: AtomicU64,
    /// Whether the other side has said that it speaks HTTP/2.
    spoke: AtomicBool,
    /// The party that the other side has proved to be.
    party: OnceLock<PartyId>,
    calls: AtomicUsize,
    /// When the last call ended, in milliseconds after `began`.
    last_call: AtomicU64,
    /// Requests and answers that are being transferred now, and how many there ever were.
    transfers: AtomicUsize,
    transfers_ever: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            spoke: AtomicBool::new(false),
            party: OnceLock::new(),
            calls: AtomicUsize::new(0),
            last_call: AtomicU64::new(0),
            transfers: AtomicUsize::new(0),
            transfers_ever: AtomicU64::new(0),
        }
    }
}

impl Traffic {
    pub(super) fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn speaks(&self) {
        self.spoke.store(true, Ordering::Relaxed);
    }

    pub(super) fn proves(&self, party: PartyId) {
        // A connection has one handshake.
        drop(self.party.set(party));
    }

    pub(super) fn party(&self) -> Option<&PartyId> {
        self.party.get()
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.spoke.load(Ordering::Relaxed)
    }

    /// How long there has been no call; `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        if self.has_calls() {
            return None;
        }
        let since = Duration::from_millis(self.last_call.load(Ordering::Relaxed));
        Some(self.began.elapsed().saturating_sub(since))
    }

    fn has_calls(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    pub(super) fn has_transfers(&self) -> bool {
        self.transfers.load(Ordering::Acquire) > 0
    }

    pub(super) fn transfers_ever(&self) -> u64 {
        self.transfers_ever.load(Ordering::Relaxed)
    }

    /// Counts a call that has begun.
    pub(crate) fn call(self: &Arc<Self>) -> OnConnection {
        self.calls.fetch_add(1, Ordering::AcqRel);
        OnConnection(self.clone())
    }

    /// Counts a transfer: the other side owes us bytes of a request, or has to take bytes of an answer.
    pub(crate) fn transfer(self: &Arc<Self>) -> Transfer {
        self.transfers_ever.fetch_add(1, Ordering::Relaxed);
        self.transfers.fetch_add(1, Ordering::AcqRel);
        Transfer(self.clone())
    }
}

/// A call on a connection.
#[derive(Debug)]
pub(crate) struct OnConnection(Arc<Traffic>);

impl OnConnection {
    /// Counts a transfer on the connection of this call.
    pub(crate) fn transfer(&self) -> Transfer {
        self.0.transfer()
    }
}

impl Drop for OnConnection {
    fn drop(&mut self) {
        let now = self.0.began.elapsed().as_millis() as u64;
        self.0.last_call.store(now, Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request or an answer that is being transferred.
#[derive(Debug)]
pub(crate) struct Transfer(Arc<Traffic>);

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::AcqRel);
    }
}
