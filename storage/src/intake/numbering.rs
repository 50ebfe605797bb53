//! The place of a message in the order: its entry, its number, and whether a delivery was here before.

use crate::face::error::Result;
use crate::face::message::{DeliveryIdentity, Incarnation, Sequence};
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::unwritten::QueuedMessage;
use crate::intake::draft::Draft;
use tokio::sync::oneshot;
/// The outcome of queueing.
pub(crate) enum QueueOutcome {
    New(Sequence, oneshot::Receiver<Result<()>>),
    Repeated,
    InProgress,
    Stale,
    Crowded,
    TooOld,
    /// A send with the same key is here.
    SameKey,
    /// A message that may be newer has moved since the lookup.
    LookAgain,
}

/// A message that waits for its place in the log.
pub(crate) fn waiting(
    draft: &Draft<'_>,
    key: u128,
    entry: Entry,
    identity: Option<DeliveryIdentity>,
) -> QueuedMessage {
    QueuedMessage {
        key,
        entry,
        id: draft.id.clone(),
        party: draft.party.cloned(),
        payload: draft.shown(),
        identity,
        keyed: draft.keyed,
        exposed: false,
        ended: false,
    }
}

pub(crate) fn number_outgoing(state: &mut State, entry: &mut Entry) -> (Incarnation, u64) {
    let current = state.incarnations.len() - 1;
    let counts = state.parties.count(entry.party);
    counts.last_number += 1;
    counts.held.insert((current as u32, counts.last_number));
    entry.number = counts.last_number;
    entry.incarnation = current as u32;
    (state.incarnations[current], 0)
}

/// Checks that a delivery is new, and notes that it is on its way.
pub(crate) fn admit_delivery(
    state: &mut State,
    key: u128,
    entry: &mut Entry,
    identity: &DeliveryIdentity,
    hand_overs: u64,
) -> std::result::Result<(), QueueOutcome> {
    if state.delivered.has(entry.party, identity) {
        return Err(QueueOutcome::Repeated);
    }
    if state.delivered.is_too_old(entry.party, identity.incarnation) {
        return Err(QueueOutcome::TooOld);
    }
    if state.delivered.is_crowded(entry.party, identity) {
        return Err(QueueOutcome::Crowded);
    }
    if state.in_progress.contains(&(entry.party, identity.incarnation, identity.number)) {
        return Err(QueueOutcome::InProgress);
    }
    entry.number = identity.number;
    entry.incarnation = state.delivered.ordinal(entry.party, identity.incarnation);
    // A straggler: something newer from this sender is here under the id.
    let this = (entry.incarnation, entry.number);
    let is_newer = |than| state.delivered.is_newer(entry.party, than, this);
    if state.live.get(&key).is_some_and(|held| held.number > 0 && is_newer((held.incarnation, held.number))) {
        return Err(QueueOutcome::Stale);
    }
    if state.newest_in_progress.get(&key).is_some_and(|newest| is_newer(*newest)) {
        return Err(QueueOutcome::InProgress);
    }
    // What moved to the index on disk after that was asked was seen in neither place.
    if state.hand_overs != hand_overs && !state.delivered.is_newest(entry.party, identity) {
        return Err(QueueOutcome::LookAgain);
    }
    state.newest_in_progress.insert(key, this);
    state.in_progress.insert((entry.party, identity.incarnation, identity.number));
    Ok(())
}
