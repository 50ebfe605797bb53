//! Compares the index on disk with what the checkpoint says it must contain, segment by segment.
//!
//! sled can lose entries without an error, and after a kill it may hold more or less than it did at the checkpoint. If count
//! or checksum of a segment's entries differ, its entries are dropped and the segment is read again.

use std::collections::{BTreeMap, BTreeSet};

use crate::face::direction::Class;
use crate::index::entry::{DeadEntry, Entry};
use crate::index::memory::reads::ReadNote;
use crate::index::on_disk::{Cold, ColdError};
use crate::index::segment_account::Digest;
use crate::log::frame::Place;
use crate::log::segment::{LANES, Lane};
use crate::opening::replay::Replay;

/// Whether a place is before its lane's position, and so known to the checkpoint.
pub(crate) fn is_settled_place(positions: &[Place; 2], lane: Lane, place: Place) -> bool {
    place < positions[lane.index()]
}

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct IndexComparison {
    /// Segments that must be read again.
    pub(crate) wrong: BTreeSet<u32>,
    /// Places of messages that are dead letters in the index on disk.
    pub(crate) dead_messages: BTreeSet<Place>,
}

/// Compares the index with the checkpoint, counts the right entries, and drops the wrong ones.
pub(crate) fn verify(
    replay: &mut Replay<'_>,
    cold: &Cold,
    positions: &[Place; 2],
) -> Result<IndexComparison, ColdError> {
    let (found, lists) = std::thread::scope(|scope| {
        // This takes as long as the comparison, so it runs in parallel.
        let lists = scope.spawn(|| lists(cold));
        let found = compare(replay, cold, positions);
        let lists = lists.join().unwrap_or_else(|_| Err(ColdError("sled panicked while it was read".into())));
        (found, lists)
    });
    let found = found?;
    let mut verified = IndexComparison::default();
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
    count(replay, cold, positions, &mut verified, lists?)?;
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
        // Superseded or moved since the checkpoint: it is dead, and no longer expected.
        if let Some(account) = replay.state.accounts.get_mut(&entry.place.segment)
            && is_settled_place(positions, account.lane, entry.place)
            && !account.is_dead(entry.place.offset)
            && (replay.state.live.get(&key).is_some_and(|e| e.sequence >= entry.sequence)
                || replay.dead.contains_key(&entry.sequence))
        {
            account.cold.remove(entry.sequence, entry.place);
            if !replay.dead.contains_key(&entry.sequence) {
                account.mark_dead(entry.place.offset);
                // The record that made it a dead letter may be in a segment that is still to be read again.
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

/// Adds right entries to the counts, and removes the others from the index.
fn count(
    replay: &mut Replay<'_>,
    cold: &Cold,
    positions: &[Place; 2],
    verified: &mut IndexComparison,
    mut lists: ListDigests,
) -> Result<(), ColdError> {
    for item in cold.dead_after(0) {
        let letter = item?;
        let right =
            counts_dead(replay, positions, &letter) && !verified.wrong.contains(&letter.death.place.segment);
        if right {
            verified.dead_messages.insert(letter.entry.place);
            replay.state.cold_dead += 1;
            replay.state.dead_room.enter(&letter);
            replay.state.account(&letter.entry, true);
            if letter.entry.class != Class::Outgoing {
                replay.state.parties.count(letter.entry.party).is_sender = true;
            }
            if let Some(account) = replay.state.accounts.get_mut(&letter.death.place.segment) {
                account.owed += 1;
                account.live_bytes += u64::from(letter.death.frame_len);
            }
        } else {
            cold.remove_dead(letter.entry.sequence)?;
        }
    }
    let mut expected = ListDigests::default();
    for item in cold.all_mail().chain(cold.all_pending()) {
        let (key, entry) = item?;
        let right = counts(replay, positions, key, &entry) && !verified.wrong.contains(&entry.place.segment);
        if !right {
            // A segment that is read again does not contain read marks.
            replay.reads.extend(entry.read_at().map(|time| ReadNote { key, sequence: entry.sequence, time }));
            if cold.remove(key, &entry)? {
                lists.of(&entry).remove_key(listed(key, &entry), entry.sequence);
            }
            continue;
        }
        expected.of(&entry).add_key(listed(key, &entry), entry.sequence);
        let state = &mut replay.state;
        state.account(&entry, true);
        if entry.class == Class::Outgoing {
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
    if lists.latest != expected.latest {
        renew_latest(replay, cold)?;
    }
    if lists.arrivals != expected.arrivals {
        tracing::info!("the index on disk does not know the order of the mailbox; that part is rebuilt");
        cold.rebuild_arrivals()?;
    }
    Ok(())
}

/// Digests of what the index lists besides its entries: which pending message is the newest under each key, and the mailbox
/// in the order of arrival. A folder from a version without the second list has nothing in it.
#[derive(Debug, Default)]
struct ListDigests {
    latest: Digest,
    arrivals: Digest,
}

impl ListDigests {
    /// The list that an entry belongs to.
    fn of(&mut self, entry: &Entry) -> &mut Digest {
        if entry.class == Class::Outgoing { &mut self.latest } else { &mut self.arrivals }
    }
}

/// What identifies an entry in its list. For an arrival that includes its sender, by which it is found.
fn listed(key: u128, entry: &Entry) -> u128 {
    if entry.class == Class::Outgoing { key } else { key ^ u128::from(entry.party) }
}

fn lists(cold: &Cold) -> Result<ListDigests, ColdError> {
    let mut lists = ListDigests::default();
    for item in cold.all_latest() {
        let (key, sequence) = item?;
        lists.latest.add_key(key, sequence);
    }
    for item in cold.all_arrivals() {
        let (sender, sequence, key) = item?;
        lists.arrivals.add_key(key ^ u128::from(sender), sequence);
    }
    Ok(lists)
}

/// Rebuilds the list of the newest pending messages. It must name what is pending and nothing else: a message that it does
/// not name would not end when a newer one comes, and would come back when that one is settled.
fn renew_latest(replay: &mut Replay<'_>, cold: &Cold) -> Result<(), ColdError> {
    tracing::info!("the index on disk does not know the newest message of every id; that part is rebuilt");
    for old in cold.renew_latest()? {
        replay.state.remove_cold(&old);
    }
    Ok(())
}

/// Where each lane's replay begins if nothing is known.
pub(crate) fn from_the_start() -> [Place; 2] {
    LANES.map(|_| Place::default())
}
