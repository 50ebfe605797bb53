//! A store without room has its writer leave a segment that holds nothing any more.
//!
//! Ended messages make room in whole segments, and the segment in use is never among them. In a store of few segments it may be
//! all there is: even emptied, it would stay full. So the writer is asked to continue in another segment, one of those that are
//! kept for records; the one that it left takes that one's place after two checkpoints. Until then one less is kept for records:
//! hence one segment at a time, and only if that makes room for what was refused.

use crate::core::shared::Shared;
use crate::core::write_queue::{Job, Urgency};
use crate::log::segment::{LANES, Lane, PAGE};

/// If no recent message tells how much is needed, a segment is worth leaving if one part in this many of it is used.
const WORTH: u64 = 8;

/// Asks the writer of the lane that lacks room to leave the segment in use if that holds nothing any more.
pub(crate) fn leave_what_is_empty(shared: &Shared) {
    let Some((lane, least)) = lacking(shared) else { return };
    let leaves = {
        let mut state = shared.state.lock();
        if state.accounts.values().any(|account| account.sealed && account.is_empty()) {
            // Two checkpoints will free it. None would be taken in a store in which nothing happens because everything is
            // refused.
            state.dirty = true;
            return;
        }
        let id = state.active[lane.index()];
        let used = state.accounts.get(&id).filter(|account| account.is_empty());
        let used = used.map_or(0, |account| u64::from(account.tail).saturating_sub(PAGE));
        (used > 0 && used >= least).then_some(id)
    };
    if let Some(id) = leaves.filter(|id| !shared.is_unfinished(*id)) {
        shared.queues[lane.index()].push(Job::Leave(id), Urgency::AtOnce);
    }
}

/// A lane that lacks room, and how many bytes would help it.
fn lacking(shared: &Shared) -> Option<(Lane, u64)> {
    let full = || LANES.into_iter().find(|lane| !shared.space.has_room(*lane));
    shared.space.shortage().or_else(|| Some((full()?, shared.segment_bytes / WORTH)))
}
