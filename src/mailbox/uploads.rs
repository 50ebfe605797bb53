//! Seats of messages that come in pieces: `MAX_UPLOADS` for clients and as many for peers, of which one caller can have
//! only a share.
//!
//! Invariants: neither side takes seats from the other; one caller leaves some to the others; callers that wait for a seat
//! are served in turn, and none waits for the seats of its own side because one caller has all of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use petnet_storage::PartyId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A seat, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct UploadSeat {
    _of_caller: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The seats of one kind of callers.
#[derive(Debug)]
pub(crate) struct UploadSeats<K> {
    /// Most seats for one caller.
    share: usize,
    all: Arc<Semaphore>,
    by_caller: Mutex<HashMap<K, Weak<Semaphore>>>,
}

/// All seats of a gateway.
#[derive(Debug)]
pub(crate) struct Uploads {
    /// By the number of the caller.
    pub(crate) clients: UploadSeats<u64>,
    pub(crate) peers: UploadSeats<PartyId>,
}

impl Uploads {
    /// Creates `max` seats for either side.
    pub(crate) fn new(max: usize) -> Self {
        let three_quarters = max - max / 4;
        Self {
            clients: UploadSeats::new(max, three_quarters),
            peers: UploadSeats::new(max, (max / 4).max(1)),
        }
    }
}

impl<K: Hash + Eq + Clone> UploadSeats<K> {
    fn new(max: usize, share: usize) -> Self {
        Self { share, all: Arc::new(Semaphore::new(max)), by_caller: Mutex::default() }
    }

    fn of(&self, caller: &K) -> Arc<Semaphore> {
        let mut by_caller = self.by_caller.lock();
        if let Some(own) = by_caller.get(caller).and_then(Weak::upgrade) {
            return own;
        }
        by_caller.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.share));
        by_caller.insert(caller.clone(), Arc::downgrade(&own));
        own
    }

    /// Takes a seat if one is free now.
    pub(crate) fn try_take(&self, caller: &K) -> Option<UploadSeat> {
        let of_caller = self.of(caller).try_acquire_owned().ok()?;
        let of_all = self.all.clone().try_acquire_owned().ok()?;
        Some(UploadSeat { _of_caller: of_caller, _of_all: of_all })
    }

    /// Takes a seat, waiting until one is free.
    pub(crate) async fn take(&self, caller: &K) -> Option<UploadSeat> {
        // Neither semaphore is ever closed. The caller's own comes first: otherwise a caller that waits for it would occupy
        // a seat that belongs to all.
        let of_caller = self.of(caller).acquire_owned().await.ok()?;
        let of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(UploadSeat { _of_caller: of_caller, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::testing::party;

    #[tokio::test]
    async fn one_caller_has_its_share_of_the_seats_and_others_have_the_rest() {
        let uploads = Uploads::new(8);
        let fill = |name: &str| {
            let caller = party(name);
            std::iter::from_fn(|| uploads.peers.try_take(&caller)).take(100).collect::<Vec<_>>()
        };
        let (hostile, good) = (fill("c"), fill("b"));
        assert_eq!((hostile.len(), good.len()), (2, 2));
        let clients: Vec<_> = std::iter::from_fn(|| uploads.clients.try_take(&1)).take(100).collect();
        assert_eq!(clients.len(), 6, "clients have seats of their own");
        assert!(uploads.clients.try_take(&2).is_some());
        let c = party("c");
        let mut waiting = pin!(uploads.peers.take(&c));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(hostile);
        assert!(waiting.await.is_some());
        drop(good);
        assert!(uploads.peers.try_take(&party("d")).is_some());
        assert_eq!(uploads.peers.by_caller.lock().len(), 1, "who has left is forgotten");
    }
}
