//! How far the writer of a lane is, and what waits for its next sync.
//!
//! The lanes are synced each for itself. Invariant: what refers to a frame of another lane, or gives up a guard because
//! of one, does so only after that frame's sync. Else a power cut may leave the reference and take the frame, and
//! another frame comes to stand in its place.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::job::Append;
use crate::log::lock;
use crate::watch::SyncStart;

/// A number that a pending message ended with: party, incarnation, number.
pub(crate) type Ended = (u16, u32, u64);

/// What waits for a lane's sync. Bounded by the pending messages that are in the lane and not synced.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    /// Records of ends, for the small lane.
    pub(crate) records: Vec<Append>,
    /// Numbers that need not hold the low-water mark back any more.
    pub(crate) ended: Vec<Ended>,
}

#[derive(Debug, Default)]
struct Batches {
    visible: u64,
    synced: u64,
    deferred: Deferred,
}

/// How far a lane's writer is.
#[derive(Debug, Default)]
pub(crate) struct LaneProgress {
    batches: Mutex<Batches>,
    synced: Condvar,
    pub(crate) sync_start: SyncStart,
}

impl LaneProgress {
    /// What a batch wrote is visible, and not synced yet.
    pub(crate) fn became_visible(&self) {
        lock(&self.batches).visible += 1;
    }

    /// The last visible batch is synced; gives what waited for that.
    pub(crate) fn became_synced(&self) -> Deferred {
        let mut batches = lock(&self.batches);
        batches.synced += 1;
        self.synced.notify_all();
        std::mem::take(&mut batches.deferred)
    }

    /// Keeps a record until what is visible now is synced. Given back when that is so already.
    #[expect(clippy::result_large_err, reason = "hands the record back")]
    pub(crate) fn defer_record(&self, record: Append) -> Result<(), Append> {
        let mut batches = lock(&self.batches);
        if batches.synced == batches.visible {
            return Err(record);
        }
        batches.deferred.records.push(record);
        Ok(())
    }

    /// Keeps a number held until what is visible now is synced. False: that is so already.
    pub(crate) fn defer_let_go(&self, number: Ended) -> bool {
        let mut batches = lock(&self.batches);
        let waits = batches.synced < batches.visible;
        if waits {
            batches.deferred.ended.push(number);
        }
        waits
    }

    /// Waits until everything visible now is synced. False: `is_poisoned` came first.
    pub(crate) fn wait_visible_synced(&self, is_poisoned: impl Fn() -> bool) -> bool {
        let mut batches = lock(&self.batches);
        let target = batches.visible;
        while batches.synced < target {
            if is_poisoned() {
                return false;
            }
            // The pause is for the poisoning, which nobody tells of here.
            let pause = Duration::from_millis(500);
            batches = self.synced.wait_timeout(batches, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
