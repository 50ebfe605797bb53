//! Removes dead letters: those that the operator drops, and the oldest ones when they take more room than they may.
//!
//! A peer that is gone for good would otherwise fill the disk with messages that nobody will ever deliver.

use std::sync::Arc;

use crate::core::shared::Shared;
use crate::face::error::{Result, StoreError};
use crate::face::message::{DeadLetter, DeadReason, MessageId, PartyId, Sequence};
use crate::face::payload::Payload;
use crate::index::entry::DeadEntry;
use crate::index::on_disk::ColdError;
use crate::read::arrivals::{CHUNK, knows_names};
use crate::read::find::told;
use crate::read::frames::Reader;
use crate::write::settle;

/// Letters looked at in one round of dropping.
const BATCH: usize = 256;
/// Letters counted in one round.
const COUNTED: usize = 4096;

/// Removes a dead letter for good. Blocks. False if it was gone.
pub(crate) fn drop_letter(shared: &Shared, letter: &DeadEntry) -> Result<bool> {
    let sequence = letter.entry.sequence;
    // Find out where it is now: it may have moved to the index on disk since.
    let in_memory = {
        let mut state = shared.state.lock();
        let in_memory = state.dead.contains_key(&sequence);
        if !in_memory && !state.is_valid(letter.death.place) {
            return Ok(false);
        }
        state.remove_dead(letter, !in_memory);
        settle::record_under(&state, shared, (letter.key, sequence, letter.entry.place), true);
        in_memory
    };
    if !in_memory {
        shared.remove_from_cold(|cold| cold.remove_dead(sequence).map(drop))?;
    }
    Ok(true)
}

/// The oldest dead letters after a sequence, merged from memory and the index on disk. Blocks.
pub(crate) fn oldest(shared: &Shared, after: u64, limit: usize) -> Result<Vec<DeadEntry>> {
    let in_memory = || -> Vec<DeadEntry> {
        let state = shared.state.lock();
        state.dead.range(after.saturating_add(1)..).take(limit).map(|(_, l)| l.clone()).collect()
    };
    let mut found = in_memory();
    let on_disk = shared.ask_cold(|cold| valid_ones(shared, cold.dead_after(after), limit))?;
    match on_disk {
        Some(on_disk) => found.extend(on_disk),
        None => found.extend(in_memory()),
    }
    found.sort_by_key(|l| l.entry.sequence);
    found.dedup_by_key(|l| l.entry.sequence);
    found.truncate(limit);
    Ok(found)
}

/// The oldest dead letters of a party after a sequence. The time it takes depends on what it returns, except that it goes
/// through everything in memory. Blocks.
fn oldest_of(shared: &Shared, party: u16, after: u64, limit: usize) -> Result<Vec<DeadEntry>> {
    let mut found = in_memory_of(shared, party, after, limit);
    let on_disk = shared.ask_cold(|cold| {
        let (mut letters, mut from) = (Vec::new(), Some(after));
        while let Some(after) = from.filter(|_| letters.len() < limit) {
            let (some, next) = cold.dead_of(party, after, limit - letters.len())?;
            let state = shared.state.lock();
            letters.extend(some.into_iter().filter(|letter| state.is_valid(letter.death.place)));
            from = next;
        }
        Ok(letters)
    })?;
    match on_disk {
        Some(on_disk) => found.extend(on_disk),
        None => found.extend(in_memory_of(shared, party, after, limit)),
    }
    found.sort_by_key(|l| l.entry.sequence);
    found.dedup_by_key(|l| l.entry.sequence);
    found.truncate(limit);
    Ok(found)
}

fn in_memory_of(shared: &Shared, party: u16, after: u64, limit: usize) -> Vec<DeadEntry> {
    let (mut found, mut from) = (Vec::new(), Some(after));
    while let Some(after) = from.take().filter(|_| found.len() < limit) {
        let state = shared.state.lock();
        let some = state.dead.range(after.saturating_add(1)..).take(CHUNK);
        for (n, (sequence, letter)) in some.enumerate() {
            found.extend(Some(letter).filter(|letter| letter.entry.party == party).cloned());
            from = Some(*sequence).filter(|_| n + 1 == CHUNK);
        }
    }
    found
}

/// What the operator is shown of the oldest dead letters of a party after a sequence. `None` if that is not known yet.
/// Blocks.
pub(crate) fn list_of(
    shared: &Shared,
    peer: &PartyId,
    after: Sequence,
    limit: usize,
) -> Result<Option<Vec<DeadLetter>>> {
    if !knows_names(shared) {
        return Ok(None);
    }
    let Some(party) = shared.state.lock().parties.find(peer) else { return Ok(Some(Vec::new())) };
    let found = oldest_of(shared, party, after.0, limit)?;
    found.iter().filter_map(|letter| shown(shared, letter).transpose()).collect::<Result<_>>().map(Some)
}

/// The letters of the index on disk that are still valid.
fn valid_ones(
    shared: &Shared,
    letters: impl Iterator<Item = std::result::Result<DeadEntry, ColdError>>,
    limit: usize,
) -> std::result::Result<Vec<DeadEntry>, ColdError> {
    let counts = |letter: &std::result::Result<DeadEntry, _>| {
        letter.as_ref().map_or(true, |letter| shared.state.lock().is_valid(letter.death.place))
    };
    letters.filter(counts).take(limit).collect()
}

/// What the operator is shown of the oldest dead letters after a sequence. Blocks.
pub(crate) fn list(shared: &Shared, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
    let found = oldest(shared, after.0, limit)?;
    found.iter().filter_map(|letter| shown(shared, letter).transpose()).collect()
}

/// What the operator is shown of the newest dead letters, newest first. Blocks.
pub(crate) fn newest(shared: &Shared, limit: usize) -> Result<Vec<DeadLetter>> {
    let in_memory =
        || -> Vec<DeadEntry> { shared.state.lock().dead.values().rev().take(limit).cloned().collect() };
    let mut found = in_memory();
    let on_disk = shared.ask_cold(|cold| valid_ones(shared, cold.dead_from_newest(), limit))?;
    match on_disk {
        Some(on_disk) => found.extend(on_disk),
        None => found.extend(in_memory()),
    }
    found.sort_by_key(|letter| std::cmp::Reverse(letter.entry.sequence));
    found.dedup_by_key(|letter| letter.entry.sequence);
    found.truncate(limit);
    found.iter().filter_map(|letter| shown(shared, letter).transpose()).collect()
}

fn shown(shared: &Shared, letter: &DeadEntry) -> Result<Option<DeadLetter>> {
    let reader = Reader { shared };
    let id = match reader.id(&letter.entry) {
        Ok(id) => id,
        Err(_) => MessageId::new("(unreadable)").map_err(|_| StoreError::Closed)?,
    };
    Ok(told(reader, &letter.entry, id, letter.reason(), letter.death.time))
}

/// How many dead letters there are by reason; looks at no more than `most`. Reads no messages. Blocks.
pub(crate) fn count(shared: &Shared, most: usize) -> Result<[u64; DeadReason::COUNT]> {
    let mut counts = [0; DeadReason::COUNT];
    let mut after = 0;
    let mut left = most;
    while left > 0 {
        let page = oldest(shared, after, left.min(COUNTED))?;
        let Some(last) = page.last() else { break };
        after = last.entry.sequence;
        left = left.saturating_sub(page.len());
        for letter in &page {
            counts[usize::from(letter.death.reason.min(3))] += 1;
        }
    }
    Ok(counts)
}

/// A letter with its content. Blocks.
pub(crate) fn open(shared: &Arc<Shared>, letter: &DeadEntry) -> Result<Option<(DeadLetter, Payload)>> {
    let (id, payload) = Reader { shared }.open(shared, letter.key, &letter.entry, None)?;
    let Some(shown) = shown(shared, letter)? else { return Ok(None) };
    Ok(Some((DeadLetter { id, ..shown }, payload)))
}

/// Drops dead letters until the rest fits its room (see [`dead_room`](crate::index::memory::dead_room)). Each drop is
/// logged: nothing is removed silently.
pub(crate) fn keep_within_bound(shared: &Shared) -> Result<()> {
    let followed = shared.state.lock().dead_room.followed();
    for sequence in followed {
        let found = oldest(shared, sequence.saturating_sub(1), 1)?;
        for letter in found.iter().filter(|letter| letter.entry.sequence == sequence) {
            let_go(shared, letter)?;
        }
    }
    let is_over = || shared.state.lock().dead_room.is_over();
    let mut after = 0;
    while is_over() {
        let letters = oldest(shared, after, BATCH)?;
        let Some(last) = letters.last() else { return Ok(()) };
        after = last.entry.sequence;
        for letter in letters {
            if !is_over() {
                return Ok(());
            }
            if shared.state.lock().dead_room.may_go(letter.entry.sequence) {
                let_go(shared, &letter)?;
            }
        }
    }
    Ok(())
}

fn let_go(shared: &Shared, letter: &DeadEntry) -> Result<()> {
    let reader = Reader { shared };
    let peer = reader.party(letter.entry.party).map(|p| p.to_string()).unwrap_or_default();
    let id = reader.id(&letter.entry).map(|id| id.to_string()).unwrap_or_default();
    if drop_letter(shared, letter)? {
        tell_dropped(&peer, &id, letter.entry.len, shared.options.dead_letter_bytes);
    }
    Ok(())
}

/// Logs that a dead letter was dropped to keep within `bound` bytes.
pub(crate) fn tell_dropped(peer: &str, id: &str, bytes: u64, bound: u64) {
    // A fact about one message, see `telemetry::DEAD_LETTERS` of the gateway: each gets its own line, even if lines repeat.
    if bytes > bound {
        tracing::warn!(
            target: "petnet::dead_letters",
            peer,
            message_id = id,
            bytes,
            "dropped a dead letter: it is larger than DEAD_LETTER_MAX_BYTES, and of such only the last one is kept"
        );
    } else {
        tracing::warn!(
            target: "petnet::dead_letters",
            peer,
            message_id = id,
            bytes,
            "dropped the oldest dead letter: they take more than DEAD_LETTER_MAX_BYTES"
        );
    }
}
