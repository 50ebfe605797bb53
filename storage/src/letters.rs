//! Dead letters leave: dropped by the operator, or the oldest ones when all of them take more room than they may.
//!
//! A peer that is gone for good would otherwise fill the disk with messages that nobody will ever deliver.

use std::sync::Arc;

use crate::error::{Result, StoreError};
use crate::log::lock;
use crate::message::{DeadLetter, MessageId, Sequence};
use crate::operations::reason;
use crate::payload::Payload;
use crate::publish::dead_letter;
use crate::reader::Reader;
use crate::settle;
use crate::shared::Shared;
use crate::state::DeadEntry;

/// Letters dropped at a time.
const BATCH: usize = 256;
/// Letters counted at a time.
const COUNTED: usize = 4096;

/// Removes a dead letter for good. Blocks. False: it was gone.
pub(crate) fn drop_letter(shared: &Shared, letter: &DeadEntry) -> Result<bool> {
    let sequence = letter.entry.sequence;
    // Where it is now: it may have moved to the index on disk since.
    let in_memory = {
        let mut state = lock(&shared.state);
        let in_memory = state.dead.contains_key(&sequence);
        if !in_memory && !state.is_valid(letter.death.place) {
            return Ok(false);
        }
        state.remove_dead(letter, !in_memory);
        in_memory
    };
    settle::record(shared, letter.key, sequence, letter.entry.place, true);
    if let Some(cold) = shared.cold_for_removal().filter(|_| !in_memory) {
        cold.remove_dead(sequence).map_err(|e| shared.cold_failed(&e))?;
    }
    Ok(true)
}

/// The oldest dead letters after a sequence, memory and index on disk merged. Blocks.
pub(crate) fn oldest(shared: &Shared, after: u64, limit: usize) -> Result<Vec<DeadEntry>> {
    let mut found: Vec<DeadEntry> = {
        let state = lock(&shared.state);
        state.dead.range(after.saturating_add(1)..).take(limit).map(|(_, l)| l.clone()).collect()
    };
    if let Some(cold) = &shared.cold() {
        let mut taken = 0;
        for item in cold.dead_after(after) {
            let letter = item.map_err(|e| shared.cold_failed(&e))?;
            if lock(&shared.state).is_valid(letter.death.place) {
                found.push(letter);
                taken += 1;
            }
            if taken >= limit {
                break;
            }
        }
    }
    found.sort_by_key(|l| l.entry.sequence);
    found.dedup_by_key(|l| l.entry.sequence);
    found.truncate(limit);
    Ok(found)
}

/// What the operator is shown of the oldest ones after a sequence. Blocks.
pub(crate) fn list(shared: &Shared, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
    let found = oldest(shared, after.0, limit)?;
    found.iter().filter_map(|letter| shown(shared, letter).transpose()).collect()
}

/// The newest, newest first. Blocks.
pub(crate) fn newest(shared: &Shared, limit: usize) -> Result<Vec<DeadLetter>> {
    let mut found: Vec<DeadEntry> = lock(&shared.state).dead.values().rev().take(limit).cloned().collect();
    if let Some(cold) = &shared.cold() {
        let in_memory = found.len();
        for item in cold.dead_from_newest() {
            let letter = item.map_err(|e| shared.cold_failed(&e))?;
            if lock(&shared.state).is_valid(letter.death.place) {
                found.push(letter);
            }
            if found.len() >= in_memory + limit {
                break;
            }
        }
    }
    found.sort_by_key(|letter| std::cmp::Reverse(letter.entry.sequence));
    found.dedup_by_key(|letter| letter.entry.sequence);
    found.truncate(limit);
    found.iter().filter_map(|letter| shown(shared, letter).transpose()).collect()
}

/// `None`: its receiver is not known, which only damage could bring about.
fn shown(shared: &Shared, letter: &DeadEntry) -> Result<Option<DeadLetter>> {
    let reader = Reader { shared };
    let Some(receiver) = reader.party(letter.entry.party) else { return Ok(None) };
    let id = match reader.id(&letter.entry) {
        Ok(id) => id,
        Err(_) => MessageId::new("(unreadable)").map_err(|_| StoreError::Closed)?,
    };
    Ok(Some(dead_letter(&letter.entry, receiver, id, reason(letter))))
}

/// How many there are by reason; looks at `most` at most. Reads no messages. Blocks.
pub(crate) fn count(shared: &Shared, most: usize) -> Result<[u64; 3]> {
    let mut counts = [0; 3];
    let mut after = 0;
    let mut left = most;
    while left > 0 {
        let page = oldest(shared, after, left.min(COUNTED))?;
        let Some(last) = page.last() else { break };
        after = last.entry.sequence;
        left = left.saturating_sub(page.len());
        for letter in &page {
            counts[usize::from(letter.death.reason.min(2))] += 1;
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

/// Drops the oldest dead letters until the rest fits its room. Each is told: nothing goes silently.
pub(crate) fn keep_within_bound(shared: &Shared) -> Result<()> {
    let limit = shared.options.dead_letter_bytes;
    let bytes = || lock(&shared.state).dead_bytes;
    while limit > 0 && bytes() > limit {
        let letters = oldest(shared, 0, BATCH)?;
        if letters.is_empty() {
            return Ok(());
        }
        for letter in letters {
            if bytes() <= limit {
                return Ok(());
            }
            let reader = Reader { shared };
            let peer = reader.party(letter.entry.party).map(|p| p.to_string()).unwrap_or_default();
            let id = reader.id(&letter.entry).map(|id| id.to_string()).unwrap_or_default();
            if drop_letter(shared, &letter)? {
                // A fact about one message, see `telemetry::DEAD_LETTERS` of the gateway: one line each, whatever repeats.
                tracing::warn!(
                    target: "petnet::dead_letters",
                    peer,
                    message_id = id,
                    bytes = letter.entry.len,
                    "dropped the oldest dead letter: they take more than DEAD_LETTER_MAX_BYTES"
                );
            }
        }
    }
    Ok(())
}
