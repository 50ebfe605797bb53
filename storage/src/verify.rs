//! Holds the index on disk against what the checkpoint says it must contain, segment by segment.
//!
//! sled can lose entries without an error, and after a kill it may hold more or less than it did at the checkpoint.
//! Where count or checksum of a segment's entries differ, its entries are dropped and the segment is read again.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::Digest;
use crate::cold::{Cold, ColdError};
use crate::frame::{Class, Place};
use crate::replay::Replay;
use crate::segment::{LANES, Lane};
use crate::state::{DeadEntry, Entry};

/// Below its lane's position, so known to the checkpoint.
pub(crate) fn is_settled_place(positions: &[Place; 2], lane: Lane, place: Place) -> bool {
    place < positions[lane.index()]
}

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Segments that must be read again.
    pub(crate) wrong: BTreeSet<u32>,
    /// Places of messages that are dead letters in the index on disk.
    pub(crate) dead_messages: BTreeSet<Place>,
}

/// Compares, counts what is right, and drops what is wrong.
pub(crate) fn verify(
    replay: &mut Replay<'_>,
    cold: &Cold,
    positions: &[Place; 2],
) -> Result<Verified, ColdError> {
    let (found, latest) = std::thread::scope(|scope| {
        // As long as the rest of it, so beside the rest.
        let latest = scope.spawn(|| latest(cold));
        let found = compare(replay, cold, positions);
        let latest =
            latest.join().unwrap_or_else(|_| Err(ColdError("sled panicked while it was read".into())));
        (found, latest)
    });
    let found = found?;
    let mut verified = Verified::default();
    for (id, account) in &replay.state.accounts {
        if found.get(id).copied().unwrap_or_default() != account.cold {
            verified.wrong.insert(*id);
        }
    }
    if !verified.wrong.is_empty() {
        tracing::info!(
            segments = verified.wrong.len(),
            "the index on disk does not match the log in some segments; they are read again"
        );
    }
    for id in &verified.wrong {
        if let Some(account) = replay.state.accounts.get_mut(id) {
            account.cold = Digest::default();
        }
    }
    count(replay, cold, positions, &mut verified, latest?)?;
    Ok(verified)
}

/// Whether an entry counts: it is valid, settled before the position, and nothing newer is in memory.
fn counts(replay: &Replay<'_>, positions: &[Place; 2], key: u128, entry: &Entry) -> bool {
    let Some(account) = replay.state.accounts.get(&entry.place.segment) else { return false };
    !account.is_dead(entry.place.offset)
        && is_settled_place(positions, account.lane, entry.place)
        && !replay.dead.contains_key(&entry.sequence)
        && replay.state.live.get(&key).is_none_or(|e| e.sequence < entry.sequence)
}

fn counts_dead(replay: &Replay<'_>, positions: &[Place; 2], letter: &DeadEntry) -> bool {
    let Some(account) = replay.state.accounts.get(&letter.death.place.segment) else { return false };
    !account.is_dead(letter.death.place.offset)
        && is_settled_place(positions, account.lane, letter.death.place)
        && replay.state.is_valid(letter.entry.place)
}

fn compare(
    replay: &mut Replay<'_>,
    cold: &Cold,
    positions: &[Place; 2],
) -> Result<BTreeMap<u32, Digest>, ColdError> {
    let mut found = BTreeMap::<u32, Digest>::new();
    for item in cold.all_mail().chain(cold.all_pending()) {
        let (key, entry) = item?;
        // Superseded or moved since the checkpoint: dead, and no more expected.
        if let Some(account) = replay.state.accounts.get_mut(&entry.place.segment)
            && is_settled_place(positions, account.lane, entry.place)
            && !account.is_dead(entry.place.offset)
            && (replay.state.live.get(&key).is_some_and(|e| e.sequence >= entry.sequence)
                || replay.dead.contains_key(&entry.sequence))
        {
            account.cold.remove(entry.sequence, entry.place);
            if !replay.dead.contains_key(&entry.sequence) {
                account.mark_dead(entry.place.offset);
                // The record that it is a dead letter may be in a segment that is still to be read again.
                replay.replaced.insert(entry.sequence);
            }
        }
        if counts(replay, positions, key, &entry) {
            found.entry(entry.place.segment).or_default().add(entry.sequence, entry.place);
        }
    }
    for item in cold.dead_after(0) {
        let letter = item?;
        if counts_dead(replay, positions, &letter) {
            let place = letter.death.place;
            found.entry(place.segment).or_default().add(letter.entry.sequence, place);
        }
    }
    Ok(found)
}

/// Takes what is right into the counts, and what is not out of the index.
fn count(
    replay: &mut Replay<'_>,
    cold: &Cold,
    positions: &[Place; 2],
    verified: &mut Verified,
    mut latest: Digest,
) -> Result<(), ColdError> {
    for item in cold.dead_after(0) {
        let letter = item?;
        let right =
            counts_dead(replay, positions, &letter) && !verified.wrong.contains(&letter.death.place.segment);
        if right {
            verified.dead_messages.insert(letter.entry.place);
            replay.state.cold_dead += 1;
            replay.state.dead_bytes += letter.entry.len;
            replay.state.account(&letter.entry, true);
            if let Some(account) = replay.state.accounts.get_mut(&letter.death.place.segment) {
                account.owed += 1;
                account.live_bytes += u64::from(letter.death.frame_len);
            }
        } else {
            cold.remove_dead(letter.entry.sequence)?;
        }
    }
    let mut pending = Digest::default();
    for item in cold.all_mail().chain(cold.all_pending()) {
        let (key, entry) = item?;
        let right = counts(replay, positions, key, &entry) && !verified.wrong.contains(&entry.place.segment);
        if !right {
            if cold.remove(key, &entry)? {
                latest.remove_key(key, entry.sequence);
            }
            continue;
        }
        let state = &mut replay.state;
        state.account(&entry, true);
        if entry.class == Class::Outgoing {
            pending.add_key(key, entry.sequence);
            let counts = state.parties.count(entry.party);
            counts.cold_pending += 1;
            counts.pending += 1;
            counts.pending_bytes += entry.len;
        } else {
            state.cold_mail += 1;
            state.mailbox += 1;
            state.parties.count(entry.party).is_sender = true;
        }
    }
    if latest != pending {
        renew_latest(replay, cold)?;
    }
    Ok(())
}

/// What the index says of which pending message is the newest under a key.
fn latest(cold: &Cold) -> Result<Digest, ColdError> {
    let mut latest = Digest::default();
    for item in cold.all_latest() {
        let (key, sequence) = item?;
        latest.add_key(key, sequence);
    }
    Ok(latest)
}

/// That must name what is pending and nothing else: a message that it does not name would not end when a newer one comes,
/// and would be back when that one is settled.
fn renew_latest(replay: &mut Replay<'_>, cold: &Cold) -> Result<(), ColdError> {
    tracing::info!("the index on disk does not know the newest message of every id; that part is made anew");
    for old in cold.renew_latest()? {
        replay.state.remove_cold(&old);
    }
    Ok(())
}

/// Where each lane's replay begins when nothing is known.
pub(crate) fn from_the_start() -> [Place; 2] {
    LANES.map(|_| Place::default())
}
