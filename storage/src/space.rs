//! Room for new messages: the quota or the disk, less head-room for the records that settling and receiving need.
//!
//! A full store refuses new messages only. Invariant: while a message is admitted, two whole segments stay free for
//! records, so that everything accepted can still be delivered, settled and given back.

use std::sync::Mutex;

use crate::error::StoreError;
use crate::frame::{HEADER_BYTES, SLICE_BYTES, frame_len};
use crate::log::lock;
use crate::segment::{Lane, PAGE};

/// Segments that new messages may not use.
const HEADROOM_SEGMENTS: u64 = 2;
/// Bytes a frame costs besides its payload, at most (header, fields without the id, padding, page rounding).
const FRAME_COST: u64 = HEADER_BYTES as u64 + 256;

#[derive(Debug, Default)]
struct Inner {
    /// Bytes queued for each lane and not yet written.
    queued: [u64; 2],
    /// Bytes left in each lane's segment in use.
    left: [u64; 2],
    /// Segments that could still be taken: ready, recycled, or to be made.
    segments: u64,
    used: u64,
    limit: u64,
}

/// The account of room.
#[derive(Debug)]
pub(crate) struct Space {
    segment_bytes: u64,
    inner: Mutex<Inner>,
}

/// Bytes that a message takes in the log, at most.
pub(crate) fn cost(payload: usize, id: usize) -> u64 {
    let slices = (payload / SLICE_BYTES + 1) as u64;
    payload as u64 + id as u64 + slices * FRAME_COST
}

impl Space {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        // What a segment holds of slices; the rest of it is too short for another one.
        let slice = frame_len(SLICE_BYTES as u32);
        let segment_bytes = (segment_bytes - segment_bytes.min(PAGE)) / slice * slice;
        Self { segment_bytes, inner: Mutex::default() }
    }

    /// Admits a message of `cost` bytes to a lane, or says why not.
    pub(crate) fn admit(&self, lane: Lane, cost: u64) -> Result<(), StoreError> {
        let mut inner = lock(&self.inner);
        inner.queued = self.check(&inner, lane, cost)?;
        Ok(())
    }

    /// What would be queued.
    fn check(&self, inner: &Inner, lane: Lane, cost: u64) -> Result<[u64; 2], StoreError> {
        let pool = inner.segments.saturating_sub(HEADROOM_SEGMENTS) * self.segment_bytes;
        let mut queued = inner.queued;
        queued[lane.index()] += cost;
        let beyond: u64 = (0..2).map(|l| queued[l].saturating_sub(inner.left[l])).sum();
        if beyond > pool {
            return Err(StoreError::Full {
                used: inner.used,
                limit: inner.limit,
                remedy: "wait until messages are delivered or expire, raise STORE_MAX_BYTES, or free disk space",
            });
        }
        Ok(queued)
    }

    /// A message that was admitted left the queue.
    pub(crate) fn leave(&self, lane: Lane, cost: u64) {
        let mut inner = lock(&self.inner);
        let queued = &mut inner.queued[lane.index()];
        *queued = queued.saturating_sub(cost);
    }

    /// The lane's segment in use has `left` bytes left.
    pub(crate) fn set_left(&self, lane: Lane, left: u64) {
        lock(&self.inner).left[lane.index()] = left;
    }

    /// What could still be taken, and for people: bytes used, and the limit.
    pub(crate) fn set_room(&self, segments: u64, used: u64, limit: u64) {
        let mut inner = lock(&self.inner);
        inner.segments = segments;
        inner.used = used;
        inner.limit = limit;
    }

    /// One segment went into use.
    pub(crate) fn take_segment(&self) {
        let mut inner = lock(&self.inner);
        inner.segments = inner.segments.saturating_sub(1);
    }

    /// Bytes used and limit.
    pub(crate) fn used(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (inner.used, inner.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_admitted_up_to_the_head_room_and_again_when_room_comes_back() {
        let slice = frame_len(SLICE_BYTES as u32);
        let space = Space::new(PAGE + slice + 1000);
        space.set_room(4, 0, 4000);
        space.set_left(Lane::Small, 500);
        assert!(space.admit(Lane::Small, 500 + 2 * slice).is_ok());
        assert!(matches!(space.admit(Lane::Small, 1), Err(StoreError::Full { .. })));
        assert!(matches!(space.admit(Lane::Bulk, 1), Err(StoreError::Full { .. })));
        space.leave(Lane::Small, 500 + 2 * slice);
        assert!(space.admit(Lane::Bulk, 2 * slice).is_ok());
    }
}
