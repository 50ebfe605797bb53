//! The two lanes to a peer, what wakes them, and which message ids are under way in them.
//!
//! Invariant: of one id at most one delivery is under way, whichever lanes its messages take.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use petnet_storage::Sequence;
use tokio::sync::Notify;

/// Messages of this size and above go by the bulk lane.
const BULK: u64 = 256 << 10;

/// Which messages a forwarder takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Those below a quarter of a megabyte.
    Small,
    /// All others.
    Bulk,
}

impl Lane {
    /// Whether a message of this length is for this lane.
    pub(crate) fn takes(self, len: u64) -> bool {
        (self == Self::Bulk) == (len >= BULK)
    }

    /// This lane's share of the bytes that may be under way to a peer.
    pub(crate) fn share(self, bytes: u64) -> u64 {
        if self == Self::Bulk { bytes - bytes / 4 } else { bytes / 4 }
    }

    /// The lane's name in the log.
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Bulk { "bulk" } else { "small" }
    }
}

/// What wakes the lanes of one peer, and which ids are under way in them.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    small: LaneWake,
    bulk: LaneWake,
    ids: Mutex<IdsUnderWay>,
}

/// What wakes one lane.
#[derive(Debug)]
struct LaneWake {
    notify: Notify,
    /// Lowest sequence that became pending since the lane looked; `u64::MAX` if none did.
    lowest: AtomicU64,
}

impl Default for LaneWake {
    fn default() -> Self {
        Self { notify: Notify::new(), lowest: AtomicU64::new(u64::MAX) }
    }
}

#[derive(Debug, Default)]
struct IdsUnderWay {
    under_way: HashSet<u128>,
    /// Whether a lane found an id under way and waits for its end.
    awaited: bool,
}

impl Wakes {
    /// Notes that a message became pending, and wakes its lane.
    pub(crate) fn pending(&self, sequence: Sequence, len: u64) {
        let wake = self.wake_of(if Lane::Bulk.takes(len) { Lane::Bulk } else { Lane::Small });
        wake.lowest.fetch_min(sequence.0, Ordering::AcqRel);
        wake.notify.notify_one();
    }

    fn wake_of(&self, lane: Lane) -> &LaneWake {
        if lane == Lane::Bulk { &self.bulk } else { &self.small }
    }

    /// What a lane waits on.
    pub(crate) fn of(&self, lane: Lane) -> &Notify {
        &self.wake_of(lane).notify
    }

    /// The lowest sequence that became pending since the last call.
    pub(crate) fn take_lowest(&self, lane: Lane) -> Option<Sequence> {
        let lowest = self.wake_of(lane).lowest.swap(u64::MAX, Ordering::AcqRel);
        (lowest != u64::MAX).then_some(Sequence(lowest))
    }

    /// Makes both lanes look again: an id that a lane found under way is free, or the operator wants something.
    pub(super) fn wake_both(&self) {
        self.small.notify.notify_one();
        self.bulk.notify.notify_one();
    }

    /// Whether no delivery of this id is under way; if one is, its end wakes both lanes.
    pub(crate) fn is_free(&self, id_key: u128) -> bool {
        let mut ids = self.lock();
        let under_way = ids.under_way.contains(&id_key);
        ids.awaited |= under_way;
        !under_way
    }

    /// Whether a delivery of this id is under way.
    pub(super) fn is_under_way(&self, id_key: u128) -> bool {
        self.lock().under_way.contains(&id_key)
    }

    /// Whether any delivery is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.lock().under_way.is_empty()
    }

    /// Begins a delivery; `None` while one of the same id is under way.
    pub(crate) fn begin(self: &Arc<Self>, id_key: u128) -> Option<UnderWay> {
        let mut ids = self.lock();
        let new = ids.under_way.insert(id_key);
        ids.awaited |= !new;
        new.then(|| UnderWay { wakes: self.clone(), id_key })
    }

    fn lock(&self) -> MutexGuard<'_, IdsUnderWay> {
        self.ids.lock()
    }
}

/// Held while a delivery of an id is under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    wakes: Arc<Wakes>,
    id_key: u128,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut ids = self.wakes.lock();
        ids.under_way.remove(&self.id_key);
        let awaited = std::mem::take(&mut ids.awaited);
        drop(ids);
        if awaited {
            self.wakes.wake_both();
        }
    }
}
