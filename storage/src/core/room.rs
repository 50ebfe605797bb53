//! Room for new messages: the quota or the disk, less headroom for the records that settling and receiving need.
//!
//! A full store refuses new messages only. Invariant: while a message is admitted, two whole segments stay free for records,
//! so that everything accepted can still be delivered, settled and released.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::face::error::StoreError;
use crate::log::frame::{HEADER_BYTES, SLICE_BYTES, frame_len};
use crate::log::segment::{BULK_FROM_BYTES, Lane, PAGE};

/// Segments that new messages may not use.
pub(crate) const HEADROOM_SEGMENTS: u64 = 2;
/// Most bytes that a frame costs besides its payload (header, fields without the id, padding, page rounding).
const FRAME_COST: u64 = HEADER_BYTES as u64 + 256;

/// Payload of the smallest message of the bulk lane.
const SMALLEST_BULK: u64 = BULK_FROM_BYTES as u64;

/// How long a refused message counts if no other one is tried.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Remedy for a message that will find room when others are gone.
const WAIT: &str = "wait until messages are delivered or expire, raise STORE_MAX_BYTES, or free disk space";
/// Remedy for a message that can never find room.
const NEVER: &str = "this message is larger than all that the store may hold: send it in parts, raise STORE_MAX_BYTES, or free disk space";

/// A message that found no room.
#[derive(Debug, Clone, Copy)]
struct RefusedMessage {
    lane: Lane,
    cost: u64,
    last: Instant,
}

#[derive(Debug, Default)]
struct SpaceState {
    /// Bytes queued for each lane and not yet written.
    queued: [u64; 2],
    /// Bytes left in each lane's segment in use.
    left: [u64; 2],
    /// Segments that could still be taken: ready, recycled, or to be made.
    segments: u64,
    /// No segment could be made for a lane when one was last wanted, whatever the disk says of its room.
    stuck: [bool; 2],
    /// The smallest message that was refused lately.
    refused: Option<RefusedMessage>,
    /// Bytes that messages may take: what they took when room was last counted, plus what still found room then.
    limit: u64,
    /// Bytes that messages may take once everything that is there has ended and is free again.
    most: u64,
}

impl SpaceState {
    fn pool(&self, segment_bytes: u64) -> u64 {
        self.segments.saturating_sub(HEADROOM_SEGMENTS) * segment_bytes
    }

    /// What would be queued with `cost` more bytes for a lane, and how many bytes of that find no room.
    fn with(&self, lane: Lane, cost: u64, segment_bytes: u64) -> ([u64; 2], u64) {
        let mut queued = self.queued;
        queued[lane.index()] += cost;
        let beyond: u64 = (0..2).map(|l| queued[l].saturating_sub(self.left[l])).sum();
        (queued, beyond.saturating_sub(self.pool(segment_bytes)))
    }

    /// Bytes that still find room, whichever messages they belong to: in the segment in use of the lane that has less left,
    /// and in segments that could still be taken.
    fn fits(&self, segment_bytes: u64) -> u64 {
        let pool = self.pool(segment_bytes);
        let of_lane = |lane: usize| {
            let other = 1 - lane;
            let taken = self.queued[lane] + self.queued[other].saturating_sub(self.left[other]);
            (pool + self.left[lane]).saturating_sub(taken)
        };
        of_lane(0).min(of_lane(1))
    }
}

/// Keeps account of the room for new messages.
#[derive(Debug)]
pub(crate) struct Space {
    segment_bytes: u64,
    inner: Mutex<SpaceState>,
}

/// Most bytes that a message takes in the log.
pub(crate) fn cost(payload: usize, id: usize) -> u64 {
    let slices = (payload / SLICE_BYTES + 1) as u64;
    payload as u64 + id as u64 + slices * FRAME_COST
}

impl Space {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        // Counts whole slices only; the rest of a segment is too short for another one.
        let slice = frame_len(SLICE_BYTES as u32);
        let segment_bytes = (segment_bytes - segment_bytes.min(PAGE)) / slice * slice;
        Self { segment_bytes, inner: Mutex::default() }
    }

    /// Admits a message of `cost` bytes to a lane, or says why not and remembers the refusal. A message that even an empty
    /// store would refuse is not remembered: it says nothing about how full this one is.
    pub(crate) fn admit(&self, lane: Lane, cost: u64) -> Result<(), StoreError> {
        self.try_admit(lane, cost).inspect_err(|_| {
            let mut inner = self.inner.lock();
            if cost > inner.most {
                return;
            }
            let last = Instant::now();
            let before = inner.refused.filter(|before| before.last + REFUSED_FOR > last);
            let smallest =
                before.filter(|before| before.cost <= cost).unwrap_or(RefusedMessage { lane, cost, last });
            inner.refused = Some(RefusedMessage { last, ..smallest });
        })
    }

    /// Admits messages without remembering a refusal: if they are not admitted together, they are tried one by one.
    pub(crate) fn try_admit(&self, lane: Lane, cost: u64) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        inner.queued = self.check(&inner, lane, cost)?;
        Ok(())
    }

    /// Approximate size in bytes of a message that was refused lately and would be refused again; `None` if there is none.
    pub(crate) fn refused(&self) -> Option<u64> {
        self.still_refused().map(|(refused, _)| refused.cost)
    }

    /// Lane of a message that was refused lately and would be refused again, and how many more bytes it needs.
    pub(crate) fn shortage(&self) -> Option<(Lane, u64)> {
        self.still_refused().map(|(refused, missing)| (refused.lane, missing))
    }

    fn still_refused(&self) -> Option<(RefusedMessage, u64)> {
        let mut inner = self.inner.lock();
        let refused = inner.refused?;
        let (_, missing) = inner.with(refused.lane, refused.cost, self.segment_bytes);
        if refused.last.elapsed() > REFUSED_FOR || missing == 0 {
            inner.refused = None;
        }
        inner.refused.map(|refused| (refused, missing))
    }

    /// Whether the smallest message finds room in a lane.
    pub(crate) fn has_room(&self, lane: Lane) -> bool {
        let smallest = if lane == Lane::Bulk { SMALLEST_BULK } else { FRAME_COST };
        let inner = self.inner.lock();
        let is_left = inner.queued[lane.index()] + smallest <= inner.left[lane.index()];
        self.check(&inner, lane, smallest).is_ok() && (is_left || !inner.stuck[lane.index()])
    }

    /// By lane: whether the last try to make a segment failed.
    pub(crate) fn set_stuck(&self, stuck: [bool; 2]) {
        self.inner.lock().stuck = stuck;
    }

    /// What would be queued for each lane, if there is room for that.
    fn check(&self, inner: &SpaceState, lane: Lane, cost: u64) -> Result<[u64; 2], StoreError> {
        let (queued, missing) = inner.with(lane, cost, self.segment_bytes);
        if missing > 0 {
            let limit = inner.limit;
            return Err(StoreError::Full {
                used: limit.saturating_sub(inner.fits(self.segment_bytes)),
                limit,
                remedy: if cost > inner.most { NEVER } else { WAIT },
            });
        }
        Ok(queued)
    }

    /// A message that was admitted left the queue.
    pub(crate) fn leave(&self, lane: Lane, cost: u64) {
        let mut inner = self.inner.lock();
        let queued = &mut inner.queued[lane.index()];
        *queued = queued.saturating_sub(cost);
    }

    /// The lane's segment in use has `left` bytes left.
    pub(crate) fn set_left(&self, lane: Lane, left: u64) {
        self.inner.lock().left[lane.index()] = left;
    }

    /// Sets how many segments could still be taken while messages and records take `used` bytes, and how many segments there
    /// can be in all. The limit follows from the first two; it is less than what the quota or the disk allows, because the
    /// headroom is not part of it, nor are the ends of segments that were too short for the next message.
    pub(crate) fn set_room(&self, segments: u64, used: u64, in_all: u64) {
        let mut inner = self.inner.lock();
        inner.segments = segments;
        inner.limit = used + inner.fits(self.segment_bytes);
        // The other lane has a segment in use, too.
        inner.most = (in_all.saturating_sub(HEADROOM_SEGMENTS + 1) * self.segment_bytes).max(inner.limit);
    }

    /// One more segment is in use.
    pub(crate) fn take_segment(&self) {
        let mut inner = self.inner.lock();
        inner.segments = inner.segments.saturating_sub(1);
    }

    /// Bytes used, and the limit: the difference still finds room.
    pub(crate) fn used(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.limit.saturating_sub(inner.fits(self.segment_bytes)), inner.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_was_refused_counts_until_there_is_room_for_it() {
        let slice = frame_len(SLICE_BYTES as u32);
        let space = Space::new(PAGE + slice);
        space.set_room(HEADROOM_SEGMENTS + 4, 0, HEADROOM_SEGMENTS + 5);
        assert_eq!(space.refused(), None);
        assert!(space.try_admit(Lane::Bulk, 5 * slice).is_err());
        assert_eq!(space.refused(), None, "its messages are tried one by one");
        assert!(
            matches!(space.admit(Lane::Bulk, 5 * slice), Err(StoreError::Full { remedy: NEVER, .. })),
            "the whole store is no larger"
        );
        assert_eq!(space.refused(), None);
        space.set_room(HEADROOM_SEGMENTS + 4, 4 * slice, HEADROOM_SEGMENTS + 9);
        for cost in [7 * slice, 5 * slice, 6 * slice] {
            assert!(matches!(space.admit(Lane::Bulk, cost), Err(StoreError::Full { remedy: WAIT, .. })));
        }
        assert_eq!(space.refused(), Some(5 * slice), "the smallest one");
        assert!(space.has_room(Lane::Bulk) && space.has_room(Lane::Small));
        space.set_room(HEADROOM_SEGMENTS + 5, 3 * slice, HEADROOM_SEGMENTS + 9);
        assert_eq!(space.refused(), None);
    }

    /// It was told that it is larger than all that the store may hold, and nothing was freed for it.
    #[test]
    fn a_message_that_an_empty_store_would_take_is_told_to_wait() {
        let slice = frame_len(SLICE_BYTES as u32);
        let space = Space::new(PAGE + slice);
        // Of seven segments three are sealed, and each of those has an end that was too short for more.
        space.set_room(HEADROOM_SEGMENTS, 3 * slice / 2, HEADROOM_SEGMENTS + 5);
        assert!(matches!(space.admit(Lane::Bulk, 4 * slice), Err(StoreError::Full { remedy: WAIT, .. })));
        assert_eq!(space.shortage(), Some((Lane::Bulk, 4 * slice)), "so that room is made for it");
        assert!(matches!(
            space.admit(Lane::Bulk, 4 * slice + 1),
            Err(StoreError::Full { remedy: NEVER, .. })
        ));
    }

    #[test]
    fn messages_are_admitted_up_to_the_head_room_and_again_when_room_comes_back() {
        let slice = frame_len(SLICE_BYTES as u32);
        let space = Space::new(PAGE + slice + 1000);
        space.set_room(4, 0, 5);
        space.set_left(Lane::Small, 500);
        assert!(space.admit(Lane::Small, 500 + 2 * slice).is_ok());
        assert!(matches!(space.admit(Lane::Small, 1), Err(StoreError::Full { .. })));
        assert!(matches!(space.admit(Lane::Bulk, 1), Err(StoreError::Full { .. })));
        space.leave(Lane::Small, 500 + 2 * slice);
        assert!(space.admit(Lane::Bulk, 2 * slice).is_ok());
    }

    /// The limit used to be what the quota allowed for files, headroom included: a store was full at 0.79 of it.
    #[test]
    fn what_is_used_and_what_still_fits_is_the_limit_and_a_full_store_is_at_it() {
        let slice = frame_len(SLICE_BYTES as u32);
        let space = Space::new(PAGE + slice);
        space.set_left(Lane::Small, 1000);
        space.set_room(HEADROOM_SEGMENTS + 4, 5000, HEADROOM_SEGMENTS + 5);
        assert_eq!(
            space.used(),
            (5000, 5000 + 4 * slice),
            "large ones cannot have the rest of the small lane"
        );
        assert!(space.admit(Lane::Bulk, 3 * slice).is_ok());
        assert_eq!(space.used(), (5000 + 3 * slice, 5000 + 4 * slice));
        assert!(space.admit(Lane::Small, 1000 + slice).is_ok());
        let Err(StoreError::Full { used, limit, .. }) = space.admit(Lane::Small, 1) else {
            panic!("it is full")
        };
        assert_eq!((used, limit), (5000 + 4 * slice, 5000 + 4 * slice));
        // Room is counted again when the message is written.
        space.leave(Lane::Bulk, 3 * slice);
        space.leave(Lane::Small, 1000 + slice);
        space.set_left(Lane::Small, 0);
        space.set_room(HEADROOM_SEGMENTS, 6000 + 4 * slice, HEADROOM_SEGMENTS + 5);
        assert_eq!(space.used(), (6000 + 4 * slice, 6000 + 4 * slice));
    }
}
