//! What became of a message.

use std::sync::Arc;

use crate::engine::Tracked;
use crate::entry::{DeadEntry, Entry};
use crate::error::Result;
use crate::log::lock;
use crate::message::{MessageId, PartyId, Pending, Sequence};
use crate::operations::reason;
use crate::past::End;
use crate::reader::Reader;
use crate::shared::Shared;

/// Of a message that we accepted. Blocks.
pub(crate) fn sent(shared: &Arc<Shared>, key: u128) -> Result<Tracked> {
    let queued = lock(&shared.state).queued.newest(key).map(|message| message.entry);
    if let Some(entry) = queued.map_or_else(|| pending(shared, key), |entry| Ok(Some(entry)))? {
        return Ok(Tracked::Pending { sequence: Sequence(entry.sequence), len: entry.len });
    }
    let past = lock(&shared.state).past.last(key);
    let letter = dead_letter(shared, key)?;
    Ok(match (past, letter) {
        (past, Some(letter)) if past.is_none_or(|(ended, _)| ended < letter.entry.sequence) => {
            Tracked::Dead {
                sequence: Sequence(letter.entry.sequence),
                len: letter.entry.len,
                reason: reason(&letter),
            }
        }
        (past, _) => of_past(past),
    })
}

/// Of a message that arrived, under the first of some keys that knows of one. Blocks.
pub(crate) fn received(shared: &Arc<Shared>, keys: &[u128]) -> Result<Tracked> {
    let reader = Reader { shared };
    if let Some((_, entry)) = reader.find(keys)? {
        let sender = reader.party(entry.party);
        return Ok(Tracked::Held { sender, sequence: Sequence(entry.sequence), len: entry.len });
    }
    let expired = reader.expired(keys)?;
    let state = lock(&shared.state);
    let queued = keys.iter().filter_map(|key| state.queued.newest(*key));
    if let Some(message) = queued.max_by_key(|message| message.entry.sequence) {
        let sequence = Sequence(message.entry.sequence);
        return Ok(Tracked::Held { sender: message.party.clone(), sequence, len: message.entry.len });
    }
    let past = keys.iter().filter_map(|key| state.past.last(*key));
    let expired = expired.map(|entry| (entry.sequence, End::Expired));
    Ok(of_past(past.chain(expired).max_by_key(|(sequence, _)| *sequence)))
}

fn of_past(past: Option<(u64, End)>) -> Tracked {
    match past {
        None => Tracked::Unknown,
        Some((sequence, End::Delivered)) => Tracked::Delivered { sequence: Sequence(sequence) },
        Some((sequence, End::Dropped)) => Tracked::Dropped { sequence: Sequence(sequence) },
        Some((sequence, End::Released)) => Tracked::Released { sequence: Sequence(sequence) },
        Some((sequence, End::Expired)) => Tracked::Expired { sequence: Sequence(sequence) },
    }
}

/// Adds the ids of pending messages. Blocks.
pub(crate) fn with_ids(
    shared: &Arc<Shared>,
    peer: &PartyId,
    list: Vec<Pending>,
) -> Vec<(Pending, Option<MessageId>)> {
    let party = lock(&shared.state).parties.find(peer);
    let reader = Reader { shared };
    let id_of = |sequence: Sequence| {
        let party = party?;
        if let Some(message) = lock(&shared.state).queued.get(sequence.0) {
            return Some(message.id.clone());
        }
        let (_, entry) = reader.pending_entry(party, sequence).ok()??;
        reader.id(&entry).ok()
    };
    list.into_iter().map(|pending| (pending, id_of(pending.sequence))).collect()
}

/// The newest pending message under a key. Blocks.
pub(crate) fn pending(shared: &Arc<Shared>, key: u128) -> Result<Option<Entry>> {
    if let Some(entry) = lock(&shared.state).live.get(&key) {
        return Ok(Some(*entry));
    }
    let Some(cold) = &shared.cold() else { return Ok(None) };
    let found = cold.latest_pending(key).map_err(|e| shared.cold_failed(&e))?;
    let state = lock(&shared.state);
    // It may have come to memory (moved in the log) in between.
    Ok(state.live.get(&key).copied().or(found.filter(|e| state.is_current_cold(e))))
}

/// The newest dead letter under a key.
fn dead_letter(shared: &Arc<Shared>, key: u128) -> Result<Option<DeadEntry>> {
    let in_memory = lock(&shared.state).dead.values().rev().find(|letter| letter.key == key).cloned();
    if in_memory.is_some() || lock(&shared.state).cold_dead == 0 {
        return Ok(in_memory);
    }
    let Some(cold) = &shared.cold() else { return Ok(None) };
    let mut newest = None;
    for item in cold.dead_after(0) {
        let letter = item.map_err(|e| shared.cold_failed(&e))?;
        if letter.key == key && lock(&shared.state).is_valid(letter.death.place) {
            newest = Some(letter);
        }
    }
    Ok(newest)
}
