//! Applies the records that end messages, and brings memory and the index on disk into line with the log.
//!
//! Invariant: the outcome depends on the log alone; the index on disk only saves reading it.

use std::collections::{BTreeSet, HashSet};

use crate::face::direction::Class;
use crate::face::error::OpenError;
use crate::index::entry::{DeadEntry, Entry};
use crate::index::memory::State;
use crate::index::on_disk::{Cold, ColdError};
use crate::log::data_folder::open_io;
use crate::log::files::ReadError;
use crate::log::frame::{Kind, MessageFields, Place};
use crate::log::segment::{LANES, Lane, PAGE};
use crate::opening::index_check::{IndexComparison, is_settled_place, verify};
use crate::opening::replay::{DeadRecord, Replay, ReplayFailure};

/// Applies the records that end messages, and brings memory and the index on disk into line. Returns the segments for which
/// the index on disk was wrong. `in_checkpoint`: the last sequence that the checkpoint knows.
pub(crate) fn catch_up(
    replay: &mut Replay<'_>,
    cold: Option<&Cold>,
    positions: &[Place; 2],
    in_checkpoint: u64,
) -> Result<BTreeSet<u32>, ReplayFailure> {
    settle_all(replay, cold, positions).map_err(ReplayFailure::Index)?;
    let verified = match cold {
        Some(cold) => verify(replay, cold, positions).map_err(ReplayFailure::Index)?,
        None => IndexComparison::default(),
    };
    for id in &verified.wrong {
        let Some(lane) = replay.state.accounts.get(id).map(|a| a.lane) else { continue };
        let position = positions[lane.index()];
        let until = if *id == position.segment { u64::from(position.offset) } else { u64::MAX };
        if *id <= position.segment {
            replay.segment(lane, *id, PAGE, until)?;
        }
    }
    if let Some(cold) = cold.filter(|_| !verified.wrong.is_empty()) {
        reconcile(replay, cold, positions, &verified).map_err(ReplayFailure::Index)?;
    }
    settle_all(replay, cold, positions).map_err(ReplayFailure::Index)?;
    for message in &verified.dead_messages {
        // A segment that was read again may hold what came after the message under its id.
        replay.state.revive(*message);
    }
    bury_all(replay)?;
    mark_all(replay, cold, in_checkpoint).map_err(ReplayFailure::Index)?;
    Ok(verified.wrong)
}

/// Marks the messages that were handed to readers.
fn mark_all(replay: &mut Replay<'_>, cold: Option<&Cold>, in_checkpoint: u64) -> Result<(), ColdError> {
    let mut reads = std::mem::take(&mut replay.reads);
    reads.sort_unstable_by_key(|note| note.time);
    let ended: HashSet<u64> = replay.settled.iter().map(|(sequence, _)| *sequence).collect();
    for note in reads {
        if replay.state.mark_again(&note) || note.sequence > in_checkpoint || ended.contains(&note.sequence) {
            continue;
        }
        let known = cold.map(|cold| cold.mail(note.key)).transpose()?.flatten();
        if known.is_some_and(|known| known.sequence == note.sequence && known.is_unread()) {
            replay.state.mark_on_disk(note);
        }
    }
    Ok(())
}

/// Ends the messages that the log says are settled.
fn settle_all(replay: &mut Replay<'_>, cold: Option<&Cold>, positions: &[Place; 2]) -> Result<(), ColdError> {
    let settled = std::mem::take(&mut replay.settled);
    for (sequence, fields) in &settled {
        let (sequence, fields) = (*sequence, *fields);
        let state = &mut replay.state;
        if fields.dead_letter {
            if let Some(record) = replay.dead.remove(&sequence) {
                state.mark_dead(record.death.place);
            }
            if let Some(letter) = cold.map(|c| c.dead(sequence)).transpose()?.flatten() {
                expect_no_more(state, positions, sequence, letter.death.place);
            }
        }
        // An older message under the key ended with it, unless that was a dead letter by then.
        let replaced = &mut replay.replaced;
        let dead = &replay.dead;
        let mut ended = |e: &Entry| {
            if e.sequence < sequence {
                replaced.insert(e.sequence);
            }
            e.sequence == sequence || e.sequence < sequence && !dead.contains_key(&e.sequence)
        };
        if let Some(entry) = state.live.get(&fields.key).copied().filter(&mut ended) {
            state.remove(fields.key, entry.sequence);
        }
        expect_no_more(state, positions, sequence, fields.place);
        let Some(cold) = cold else { continue };
        for old in [cold.mail(fields.key)?, cold.latest_pending(fields.key)?].into_iter().flatten() {
            if ended(&old) {
                expect_no_more(state, positions, old.sequence, old.place);
            }
        }
    }
    // They are kept, because segments that are read again may hold messages that they end.
    replay.settled.extend(settled);
    Ok(())
}

/// Marks a frame dead, and removes it from what the index on disk must hold.
fn expect_no_more(state: &mut State, positions: &[Place; 2], sequence: u64, place: Place) {
    if let Some(account) = state.accounts.get_mut(&place.segment)
        && !account.is_dead(place.offset)
    {
        if is_settled_place(positions, account.lane, place) && account.cold.count > 0 {
            account.cold.remove(sequence, place);
        }
        account.mark_dead(place.offset);
    }
}

/// After segments were read again: between memory and the index on disk, the newest message wins.
fn reconcile(
    replay: &mut Replay<'_>,
    cold: &Cold,
    positions: &[Place; 2],
    verified: &IndexComparison,
) -> Result<(), ColdError> {
    let again: Vec<_> = LANES
        .iter()
        .flat_map(|lane| replay.state.fifo[lane.index()].iter().map(|r| (*lane, *r)))
        .filter(|(lane, recent)| is_settled_place(positions, *lane, recent.place))
        .map(|(_, recent)| recent)
        .collect();
    for recent in again {
        let state = &mut replay.state;
        if verified.dead_messages.contains(&recent.place) {
            state.unindex(recent.key, recent.sequence);
            continue;
        }
        let Some(entry) = state.live.get(&recent.key).copied().filter(|e| e.sequence == recent.sequence)
        else {
            continue;
        };
        let known = if entry.class == Class::Outgoing {
            cold.latest_pending(recent.key)?
        } else {
            cold.mail(recent.key)?
        };
        match known {
            Some(other) if other.sequence > entry.sequence && state.is_valid(other.place) => {
                replay.replaced.insert(recent.sequence);
                state.remove(recent.key, recent.sequence);
            }
            Some(other) if other.sequence < entry.sequence => state.remove_cold(&other),
            _ => {}
        }
    }
    Ok(())
}

/// Turns the messages of dead-letter records into dead letters.
fn bury_all(replay: &mut Replay<'_>) -> Result<(), OpenError> {
    let mut records: Vec<_> = std::mem::take(&mut replay.dead).into_iter().collect();
    records.sort_by_key(|(sequence, _)| *sequence);
    for (sequence, DeadRecord { key, message, death }) in records {
        let time = replay.newest_time;
        let in_memory = replay.state.live.get(&key).copied().filter(|e| e.sequence == sequence);
        if let Some(entry) = in_memory {
            replay.state.bury(key, entry, death, false, time);
            continue;
        }
        if replay.replaced.contains(&sequence) {
            replay.state.revive(message);
        }
        if !replay.state.is_valid(message) {
            replay.state.mark_dead(death.place);
            continue;
        }
        match read_entry(replay, message, sequence) {
            Ok((key, entry)) => {
                replay.state.account(&entry, true);
                replay.state.enter_dead(DeadEntry { key, entry, death }, time);
            }
            // A read error is not damage: it may be temporary.
            Err(ReadError::Io(error)) => return Err(open_io("read", &replay.log.dir)(error)),
            Err(ReadError::Damaged(what)) => {
                tracing::warn!(
                    sequence,
                    what,
                    "the message of a dead letter is damaged; the letter is dropped"
                );
                replay.damaged += 1;
                replay.state.mark_dead(death.place);
            }
        }
    }
    Ok(())
}

fn read_entry(replay: &mut Replay<'_>, place: Place, sequence: u64) -> Result<(u128, Entry), ReadError> {
    let lane = replay.state.accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane);
    let frame = replay.log.read(lane, place, 0)?;
    let wrong = || ReadError::Damaged("not a message".into());
    if !matches!(frame.header.kind, Kind::Message | Kind::Commit) || frame.header.sequence != sequence {
        return Err(wrong());
    }
    MessageFields::decode(frame.fields()).map_err(|_| wrong())?;
    replay.message(place, &frame.header, frame.fields()).map_err(|_| wrong())
}
