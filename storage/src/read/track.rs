//! What became of a message.

use std::sync::Arc;

use crate::core::shared::Shared;
use crate::face::engine::Tracked;
use crate::face::error::Result;
use crate::face::message::{MessageId, PartyId, Pending, Sequence};
use crate::index::entry::DeadEntry;
use crate::index::memory::recent_ends::MessageEnd;
use crate::read::find::pending;
use crate::read::frames::Reader;

/// What became of a message that we accepted. Blocks.
pub(crate) fn sent(shared: &Arc<Shared>, key: u128) -> Result<Tracked> {
    let queued = shared.state.lock().queued.newest(key).map(|message| message.entry);
    if let Some(entry) = queued.map_or_else(|| pending(shared, key), |entry| Ok(Some(entry)))? {
        return Ok(Tracked::Pending { sequence: Sequence(entry.sequence), len: entry.len });
    }
    let past = shared.state.lock().past.last(key);
    let letter = dead_letter(shared, &[key])?;
    Ok(match (past, letter) {
        (past, Some(letter)) if past.is_none_or(|(ended, _)| ended < letter.entry.sequence) => {
            dead(shared, &letter)
        }
        (past, _) => of_past(past),
    })
}

fn dead(shared: &Shared, letter: &DeadEntry) -> Tracked {
    Tracked::Dead {
        sequence: Sequence(letter.entry.sequence),
        len: letter.entry.len,
        reason: letter.reason(),
        dead_for: letter.death.time.map(|time| u64::from(shared.now().saturating_sub(time))),
    }
}

/// What became of a message that arrived under any of some keys: the newest one that is held, or else the newest one that
/// ended. Blocks.
pub(crate) fn received(shared: &Arc<Shared>, keys: &[u128]) -> Result<Tracked> {
    let reader = Reader { shared };
    if let Some((_, entry)) = reader.find(keys)? {
        let sender = reader.party(entry.party);
        return Ok(Tracked::Held { sender, sequence: Sequence(entry.sequence), len: entry.len });
    }
    let expired = reader.expired(keys)?;
    let letter = dead_letter(shared, keys)?;
    let state = shared.state.lock();
    let queued = keys.iter().filter_map(|key| state.queued.newest(*key));
    if let Some(message) = queued.max_by_key(|message| message.entry.sequence) {
        let sequence = Sequence(message.entry.sequence);
        return Ok(Tracked::Held { sender: message.party.clone(), sequence, len: message.entry.len });
    }
    let past = keys.iter().filter_map(|key| state.past.last(*key));
    let expired = expired.map(|entry| (entry.sequence, MessageEnd::Expired));
    let past = past.chain(expired).max_by_key(|(sequence, _)| *sequence);
    drop(state);
    Ok(match letter {
        Some(letter) if past.is_none_or(|(ended, _)| ended < letter.entry.sequence) => dead(shared, &letter),
        _ => of_past(past),
    })
}

fn of_past(past: Option<(u64, MessageEnd)>) -> Tracked {
    match past {
        None => Tracked::Unknown,
        Some((sequence, MessageEnd::Delivered)) => Tracked::Delivered { sequence: Sequence(sequence) },
        Some((sequence, MessageEnd::Dropped)) => Tracked::Dropped { sequence: Sequence(sequence) },
        Some((sequence, MessageEnd::Released)) => Tracked::Released { sequence: Sequence(sequence) },
        Some((sequence, MessageEnd::Expired)) => Tracked::Expired { sequence: Sequence(sequence) },
    }
}

/// Adds the ids of pending messages. Blocks.
pub(crate) fn with_ids(
    shared: &Arc<Shared>,
    peer: &PartyId,
    list: Vec<Pending>,
) -> Vec<(Pending, Option<MessageId>)> {
    let party = shared.state.lock().parties.find(peer);
    let reader = Reader { shared };
    let id_of = |sequence: Sequence| {
        let party = party?;
        {
            let state = shared.state.lock();
            if let Some(message) = state.queued.get(sequence.0) {
                return Some(message.id.clone());
            }
            if let Some(id) = state.names.id(sequence.0) {
                return MessageId::new(id).ok();
            }
        }
        let on_disk =
            shared.ask_cold(|cold| cold.pending_with_id(party, sequence.0)).ok().flatten().flatten();
        if let Some((_, _, Some(id))) = on_disk {
            return MessageId::new(&*id).ok();
        }
        let (_, entry) = reader.pending_entry(party, sequence).ok()??;
        reader.id(&entry).ok()
    };
    list.into_iter().map(|pending| (pending, id_of(pending.sequence))).collect()
}

/// The newest dead letter under some keys.
fn dead_letter(shared: &Arc<Shared>, keys: &[u128]) -> Result<Option<DeadEntry>> {
    let is_meant = |letter: &DeadEntry| keys.contains(&letter.key);
    let in_memory = || shared.state.lock().dead.values().rev().find(|letter| is_meant(letter)).cloned();
    let found = in_memory();
    if found.is_some() || shared.state.lock().cold_dead == 0 {
        // A letter may have come to memory in between.
        return Ok(found.or_else(in_memory));
    }
    let newest = shared.ask_cold(|cold| {
        for item in cold.dead_from_newest() {
            let letter = item?;
            if is_meant(&letter) && shared.state.lock().is_valid(letter.death.place) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    })?;
    Ok(newest.unwrap_or_else(in_memory))
}
