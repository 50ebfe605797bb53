//! What each segment still holds: which frames are dead, how many messages need it, and what the index on disk must say about
//! it.
//!
//! Invariants: a frame in the dead set is never served, whatever the index says; a segment's live counts are those
//! of the messages that are indexed, in memory or on disk.

use roaring::RoaringBitmap;

use crate::log::frame::{ALIGN, Place};
use crate::log::segment::Lane;

/// Count and checksum of a set of index entries, whatever their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest {
    pub(crate) count: u32,
    pub(crate) sum: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, sequence: u64, place: Place) {
        self.count = self.count.wrapping_add(1);
        self.sum ^= fingerprint(sequence, place);
    }

    pub(crate) fn remove(&mut self, sequence: u64, place: Place) {
        self.count = self.count.wrapping_sub(1);
        self.sum ^= fingerprint(sequence, place);
    }

    /// Adds to the digest of a set of keys, each with a sequence.
    pub(crate) fn add_key(&mut self, key: u128, sequence: u64) {
        self.count = self.count.wrapping_add(1);
        self.sum ^= mix((key >> 64) as u64 ^ mix(key as u64 ^ mix(sequence)));
    }

    pub(crate) fn remove_key(&mut self, key: u128, sequence: u64) {
        // Adding a second time undoes the first, except for the count.
        self.add_key(key, sequence);
        self.count = self.count.wrapping_sub(2);
    }
}

fn fingerprint(sequence: u64, place: Place) -> u64 {
    mix(mix(sequence.wrapping_add(0x9e37_79b9_7f4a_7c15))
        ^ (u64::from(place.segment) << 32 | u64::from(place.offset)))
}

/// Mixes the bits (the finaliser of `MurmurHash3`, public domain).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// One segment's account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) lane: Lane,
    /// Size of the file in bytes.
    pub(crate) size: u32,
    /// Where the next frame is appended.
    pub(crate) tail: u32,
    /// Mailbox messages that need the segment.
    pub(crate) incoming: u32,
    /// Pending messages and dead letters that need the segment.
    pub(crate) owed: u32,
    /// Bytes of the frames counted above, each at its last segment.
    pub(crate) live_bytes: u64,
    /// Service time of the newest mailbox message, for earlier versions, which counted the segment's life from there.
    pub(crate) newest_incoming: u32,
    /// Offsets (in units of [`ALIGN`]) of frames that are no longer valid.
    pub(crate) dead: RoaringBitmap,
    /// What the index on disk must hold for the segment.
    pub(crate) cold: Digest,
    /// Whether a later segment of the lane is in use.
    pub(crate) sealed: bool,
    /// Generation of the first checkpoint that found the segment without live messages.
    pub(crate) empty_since: Option<u64>,
    /// Whether nothing in it was needed when the checkpoint was written that this account was read from.
    pub(crate) was_empty: bool,
    /// Checkpoints that found the segment sealed and needed, up to [`RESTS`].
    pub(crate) rests: u8,
    /// Whether moving its few live messages freed nothing; it is then not tried again.
    pub(crate) pinned: bool,
}

/// After this many checkpoints a segment is not expected to be freed soon.
pub(crate) const RESTS: u8 = 4;

impl Account {
    pub(crate) fn new(lane: Lane, size: u32, tail: u32) -> Self {
        Self {
            lane,
            size,
            tail,
            incoming: 0,
            owed: 0,
            live_bytes: 0,
            newest_incoming: 0,
            dead: RoaringBitmap::new(),
            cold: Digest::default(),
            sealed: false,
            empty_since: None,
            was_empty: false,
            rests: 0,
            pinned: false,
        }
    }

    /// Counts a checkpoint; true if with this one the segment is known to stay.
    pub(crate) fn comes_to_rest(&mut self) -> bool {
        if !self.sealed || self.rests == RESTS || self.is_empty() {
            return false;
        }
        self.rests += 1;
        self.rests == RESTS
    }

    pub(crate) fn is_dead(&self, offset: u32) -> bool {
        self.dead.contains(offset / ALIGN as u32)
    }

    pub(crate) fn mark_dead(&mut self, offset: u32) {
        self.dead.insert(offset / ALIGN as u32);
    }

    pub(crate) fn revive(&mut self, offset: u32) {
        self.dead.remove(offset / ALIGN as u32);
    }

    /// Whether nothing in it is needed.
    pub(crate) fn is_empty(&self) -> bool {
        self.owed == 0 && self.incoming == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_comes_to_rest_once_and_only_while_it_is_full_and_needed() {
        let mut account = Account::new(Lane::Bulk, 1 << 20, 4096);
        let checkpoints = |account: &mut Account| (0..3 * RESTS).filter(|_| account.comes_to_rest()).count();
        account.owed = 1;
        assert_eq!(checkpoints(&mut account), 0, "it is written to");
        account.sealed = true;
        account.owed = 0;
        assert_eq!(checkpoints(&mut account), 0, "it will be given back");
        account.owed = 1;
        assert_eq!(checkpoints(&mut account), 1);
    }
}
