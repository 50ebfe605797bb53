//! Takes note of reads, and writes the notes: lazily, many in one record, without delaying readers.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::core::reply::Reply;
use crate::core::shared::Shared;
use crate::core::write_queue::{Append, Effect, Job, Urgency};
use crate::face::direction::Class;
use crate::face::error::Result;
use crate::face::payload::Handed;
use crate::index::entry::Entry;
use crate::index::key;
use crate::index::memory::State;
use crate::index::memory::reads::{NOTES, ReadNote};
use crate::index::on_disk::{Cold, ColdError};
use crate::log::frame::Kind;
use crate::log::segment::{LANES, Lane};

/// Most reads entered into the index on disk in one round.
const MARKED: usize = 16_384;

/// See [`Engine::note_read`](crate::Engine::note_read).
pub(crate) fn note(shared: &Shared, messages: &[Handed]) {
    let key = |handed: &Handed| {
        let (class, party) =
            handed.sender.as_ref().map_or((Class::IncomingUnnamed, ""), |p| (Class::Incoming, p.as_str()));
        (key::key(shared.key_secret, class, party, handed.id.as_str()), handed.sequence.0)
    };
    let keyed: Vec<_> = messages.iter().map(key).collect();
    let now = shared.now();
    let mut state = shared.state.lock();
    let several = state.parties.senders() > 1;
    for ((key, sequence), handed) in keyed.into_iter().zip(messages) {
        let is_first = several && state.live.get(&key).is_none_or(Entry::is_unread);
        let after = if is_first { last_of_others(shared, &state, key, handed) } else { 0 };
        state.note_read(key, sequence, now.max(after));
    }
}

/// One second after the latest time at which another sender's message under the id was first read; 0 if none was. Which of
/// them was read last must be known after a restart, too, even if all were read within one second.
fn last_of_others(shared: &Shared, state: &State, key: u128, handed: &Handed) -> u32 {
    let is_sender = |i: usize| state.parties.counts.get(i).is_some_and(|counts| counts.is_sender);
    let named = state.parties.names().iter().enumerate().filter(|(i, _)| is_sender(i + 1));
    let named = named.map(|(_, party)| (Class::Incoming, party.as_str()));
    let all = named.chain(is_sender(0).then_some((Class::IncomingUnnamed, "")));
    let of = |(class, party): (Class, &str)| key::key(shared.key_secret, class, party, handed.id.as_str());
    let others = all.map(of).filter(|other| *other != key);
    let mark =
        |other: u128| state.live.get(&other).map_or(0, |e| e.first_read).max(state.reads.mark_of(other));
    others.map(mark).max().unwrap_or(0)
}

/// Queues the records of notes about messages in memory. They ride on the next write of their lane. `noting` must be held: a
/// closing store comes either before notes are taken or after they are queued.
fn write(shared: &Shared) {
    let unwritten = shared.state.lock().reads.take_unwritten();
    for (lane, notes) in LANES.into_iter().zip(unwritten) {
        queue(shared, lane, &notes);
    }
}

/// Queues all notes before the store closes, including those still to be entered into the index on disk, which may lose
/// them.
pub(crate) fn write_all(shared: &Shared) {
    let _noting = shared.noting.lock();
    write(shared);
    let notes = shared.state.lock().reads.for_disk(usize::MAX);
    // The records come after their messages whichever lane they are in, because the messages are in the index on disk.
    queue(shared, Lane::Small, &notes);
}

fn queue(shared: &Shared, lane: Lane, notes: &[ReadNote]) {
    for notes in notes.chunks(NOTES) {
        let fields = ReadNote::encode(notes);
        let record = Append {
            kind: Kind::Read,
            // The newest one: sequences are never given twice, whatever is left of the log.
            sequence: notes.iter().map(|note| note.sequence).max().unwrap_or_default(),
            time: shared.now(),
            crc: crc32fast::hash(&fields),
            fields,
            payload: Bytes::new(),
            cost: 0,
            effect: Effect::None,
            reply: Reply::nobody(),
        };
        shared.queues[lane.index()].push(Job::Append(record), Urgency::Lazy);
    }
}

/// Writes what was noted since the last round. For a message in the index on disk, the index is marked first: the record may
/// be before the place from which a start reads.
pub(crate) fn write_some(shared: &Shared) -> Result<()> {
    let _noting = shared.noting.lock();
    write(shared);
    let notes = shared.state.lock().reads.for_disk(MARKED);
    if notes.is_empty() {
        return Ok(());
    }
    let Some(cold) = shared.cold_for_removal() else { return Ok(()) };
    shared.cold_dirty.store(true, Ordering::Relaxed);
    match mark(shared, &cold, &notes) {
        Ok(marked) => {
            for (lane, notes) in LANES.into_iter().zip(marked) {
                queue(shared, lane, &notes);
            }
            Ok(())
        }
        // The index was given up: everything is in memory, with its marks.
        Err(error) => shared.index_failed(&cold, &error),
    }
}

/// Marks messages in the index on disk; returns the notes of those that were not marked before, by the lane of their
/// messages.
fn mark(
    shared: &Shared,
    cold: &Cold,
    notes: &[ReadNote],
) -> std::result::Result<[Vec<ReadNote>; 2], ColdError> {
    let mut marked: [Vec<ReadNote>; 2] = Default::default();
    for note in notes {
        if let Some(entry) = cold.mark_read(note)? {
            let lane = shared.state.lock().lane_of(entry.place);
            marked[lane.index()].push(*note);
        }
    }
    let mut state = shared.state.lock();
    if !cold.is_lost() {
        for note in notes {
            state.reads.told_disk(note);
        }
    }
    state.dirty = true;
    Ok(marked)
}
