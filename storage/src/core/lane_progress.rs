//! How far the writer of a lane is, and what waits for its next sync.
//!
//! Each lane is synced by itself. Invariant: what refers to a frame of another lane, or drops a guard because of one, does
//! so only after that frame's sync. Otherwise a power cut could leave the reference and take the frame, and another frame
//! would later be written in its place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::reply::Reply;
use crate::core::write_queue::{Append, Job, Queue, Urgency};
use crate::index::entry::EndedNumber;

/// What waits for a lane's sync. Bounded by the pending messages that are in the lane and not synced.
#[derive(Debug, Default)]
pub(crate) struct DeferredUntilSync {
    /// Records of ends, for the small lane.
    pub(crate) records: Vec<Append>,
    /// Numbers that no longer need to hold back the low-water mark.
    pub(crate) ended: Vec<EndedNumber>,
    /// Replies to callers that wait for the records to be synced.
    pub(crate) answers: Vec<Reply>,
}

#[derive(Debug, Default)]
struct Batches {
    visible: u64,
    synced: u64,
    deferred: DeferredUntilSync,
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
        self.batches.lock().visible += 1;
    }

    /// The last visible batch is synced: queues the records that waited for that in the small lane, and behind them the
    /// replies that wait for those. Returns the numbers.
    pub(crate) fn became_synced(&self, small: &Queue) -> Vec<EndedNumber> {
        let mut batches = self.batches.lock();
        batches.synced += 1;
        self.synced.notify_all();
        let DeferredUntilSync { records, ended, answers } = std::mem::take(&mut batches.deferred);
        // Under the lock: a caller that finds no record here must find it queued there.
        for record in records {
            small.push(Job::Append(record), Urgency::Lazy);
        }
        for answer in answers {
            small.push(Job::Barrier(answer), Urgency::AtOnce);
        }
        ended
    }

    /// Keeps a reply until the records that wait here are queued. Returns it if there are none.
    pub(crate) fn defer_answer(&self, answer: Reply) -> Option<Reply> {
        let mut batches = self.batches.lock();
        if batches.deferred.records.is_empty() {
            return Some(answer);
        }
        batches.deferred.answers.push(answer);
        None
    }

    /// Keeps a record until what is visible now is synced. Returns it if that is already synced.
    #[expect(clippy::result_large_err, reason = "hands the record back")]
    pub(crate) fn defer_record(&self, record: Append) -> Result<(), Append> {
        let mut batches = self.batches.lock();
        if batches.synced == batches.visible {
            return Err(record);
        }
        batches.deferred.records.push(record);
        Ok(())
    }

    /// Keeps a number held until what is visible now is synced. False if that is already synced.
    pub(crate) fn defer_let_go(&self, number: EndedNumber) -> bool {
        let mut batches = self.batches.lock();
        let waits = batches.synced < batches.visible;
        if waits {
            batches.deferred.ended.push(number);
        }
        waits
    }

    /// Waits until everything visible now is synced. False if `is_poisoned` came first.
    pub(crate) fn wait_visible_synced(&self, is_poisoned: impl Fn() -> bool) -> bool {
        let mut batches = self.batches.lock();
        let target = batches.visible;
        while batches.synced < target {
            if is_poisoned() {
                return false;
            }
            // The timeout is for poisoning, which does not wake this wait.
            let pause = Duration::from_millis(500);
            self.synced.wait_for(&mut batches, pause);
        }
        true
    }
}

/// When a lane's running sync began: the clock's ms plus 1; 0 if none is running.
#[derive(Debug, Default)]
pub(crate) struct SyncStart(AtomicU64);

impl SyncStart {
    pub(crate) fn begin(&self, now: Duration) {
        self.0.store(now.as_millis() as u64 + 1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn runs_for(&self, now: Duration) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_millis((now.as_millis() as u64 + 1).saturating_sub(began)),
        }
    }
}
