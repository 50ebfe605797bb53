//! Enters written frames: index, memory of deliveries, cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::cache::Cached;
use crate::draft::News;
use crate::frame::{Class, Place, Slices};
use crate::job::{Append, Effect, Reply};
use crate::log::lock;
use crate::message::{DeadLetter, DeadReason, MessageId, PartyId, Sequence};
use crate::payload::{Held, Payload};
use crate::progress::Ended;
use crate::queued::QueuedMessage;
use crate::segment::Lane;
use crate::settle;
use crate::shared::Shared;
use crate::state::{DeadEntry, Entry, State};
use crate::stored::StoredPieces;

/// Where a frame was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entered {
    pub(crate) place: Place,
    /// Without padding.
    pub(crate) frame_len: u32,
    /// Of a large message: the segment of its first slice; else 0.
    pub(crate) first_segment: u32,
}

/// A frame that is in its file.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) at: Entered,
    pub(crate) append: Append,
}

/// What is to be done once a batch is synced.
#[derive(Debug)]
pub(crate) struct AfterSync {
    /// Whom to answer, and the room that was admitted for it.
    pub(crate) replies: Vec<(Reply, u64)>,
    /// Numbers that its frames ended.
    pub(crate) ended: Vec<Ended>,
}

/// Enters what a batch wrote.
pub(crate) fn publish(shared: &Arc<Shared>, lane: Lane, tail: Place, written: Vec<Written>) -> AfterSync {
    let now = shared.now();
    let mut replies = Vec::with_capacity(written.len());
    let mut over = Vec::new();
    let mut shown = Vec::new();
    let mut ended;
    shared.counters.appends.fetch_add(written.len() as u64, Ordering::Relaxed);
    {
        let mut state = lock(&shared.state);
        if let Some(account) = state.accounts.get_mut(&tail.segment) {
            account.tail = tail.offset;
        }
        for item in written {
            let Append { sequence, effect, reply, cost, payload, .. } = item.append;
            let at = item.at;
            match effect {
                Effect::None | Effect::Slice(_) => {}
                Effect::Message => match enter(&mut state, sequence, at, &payload, now) {
                    Some(Fate::Over(key, place)) => over.push((key, sequence, place)),
                    Some(Fate::Shown(message, entry)) => shown.push((message, entry, payload)),
                    None => {}
                },
                Effect::Moved { key, entry } => {
                    let Entered { place, frame_len, first_segment } = at;
                    let moved = Entry { place, frame_len, first_segment, ..entry };
                    relocate(&mut state, key, &entry, moved, now);
                }
                Effect::Dead(mut letter) => {
                    letter.death.place = at.place;
                    letter.death.frame_len = at.frame_len;
                    bury(&mut state, *letter, now);
                }
            }
            replies.push((reply, cost));
        }
        ended = std::mem::take(&mut state.ended);
        let superseded = std::mem::take(&mut state.superseded);
        let other = &shared.progress[lane.other().index()];
        // Where the newer one is synced already, nothing can bring the older one back.
        ended.extend(superseded.into_iter().filter(|number| !other.defer_let_go(*number)));
        shared.counters.in_memory.store(state.live.len() + state.dead.len(), Ordering::Relaxed);
        shared.progress[lane.index()].became_visible();
    }
    if lane == Lane::Small {
        shared.note_small();
    }
    for (message, entry, list) in shown {
        if let Some(news) = news(shared, *message, entry, &list) {
            news.tell(&*shared.observer);
        }
    }
    for (key, sequence, place) in over {
        settle::record(shared, key, sequence, place, false);
    }
    AfterSync { replies, ended }
}

/// A large message that came slowly lies in some of the segments since its beginning only.
fn note_spread(state: &mut State, sequence: u64, at: Entered, list: &Bytes) {
    if at.first_segment == 0 || at.first_segment + 1 >= at.place.segment {
        return;
    }
    let Ok(slices) = Slices::decode(list) else { return };
    let mut segments: Vec<u32> = slices.extents.iter().map(|extent| extent.place.segment).collect();
    segments.push(at.place.segment);
    segments.dedup();
    state.spread.insert(sequence, segments.into());
}

/// What is left to do for a message that is in the index.
enum Fate {
    /// It ended meanwhile: its key and place, for the record of that.
    Over(u128, Place),
    /// It was not shown before; with its place.
    Shown(Box<QueuedMessage>, Entry),
}

/// Enters a queued message into the index.
fn enter(state: &mut State, sequence: u64, place: Entered, payload: &Bytes, now: u32) -> Option<Fate> {
    let mut message = state.queued.take(sequence)?;
    note_spread(state, sequence, place, payload);
    let QueuedMessage { key, entry, identity, ended, .. } = message;
    let Entered { place, frame_len, first_segment } = place;
    let entry = Entry { place, frame_len, first_segment, ..entry };
    if entry.class == Class::Outgoing {
        state.parties.count(entry.party).held.remove(&(entry.incarnation, entry.number));
    } else if let Some(identity) = identity {
        state.progress_ended(key, entry, &identity);
        state.delivered.add(entry.party, &identity, entry.incarnation);
    }
    // It must not come back when the newer one has ended.
    state.queued.end_older(key, sequence);
    if !state.insert(key, entry, now) {
        state.spread.remove(&sequence);
        if entry.class == Class::Outgoing {
            // A newer one, in the other lane, came first, and may not be synced yet. Were the mark to pass this number and
            // the power to go, this one would be back, accepted, and its receiver told that it is settled.
            state.parties.count(entry.party).held.insert((entry.incarnation, entry.number));
            state.superseded.push((entry.party, entry.incarnation, entry.number));
        }
        return None;
    }
    if ended {
        state.remove(key, sequence);
        return Some(Fate::Over(key, place));
    }
    let Some(payload) = message.payload.take() else {
        return Some(Fate::Shown(Box::new(message), entry));
    };
    state.cache.put(sequence, Cached { id: message.id, payload });
    None
}

/// What the observer is told of a message of which it heard nothing when it was queued. `list`: of its slices.
fn news(shared: &Arc<Shared>, message: QueuedMessage, entry: Entry, list: &Bytes) -> Option<News> {
    let QueuedMessage { key, id, party, .. } = message;
    let sequence = Sequence(entry.sequence);
    if entry.class == Class::Outgoing {
        return Some(News::Pending(party?, sequence, entry.len));
    }
    let slices = Slices::decode(list).ok()?;
    let pieces = StoredPieces::of_message(shared.clone(), &id, (key, entry), slices).ok()?;
    let payload = Payload::Pieces(Arc::new(pieces));
    Some(News::Arrived(Held { sender: party, id, sequence, payload }))
}

fn relocate(state: &mut State, key: u128, old: &Entry, new: Entry, now: u32) {
    let in_memory = state.live.get(&key).copied();
    match in_memory {
        // Ended, or a dead letter by now: its frame stays where the letter looks for it.
        _ if !state.is_valid(old.place) || state.dead.contains_key(&old.sequence) => {
            state.mark_dead(new.place);
        }
        Some(entry) if entry.sequence == old.sequence => state.relocate(key, old, new, false, now),
        Some(entry) if entry.sequence > old.sequence => {
            state.remove_cold(old);
            state.mark_dead(new.place);
        }
        _ => state.relocate(key, old, new, true, now),
    }
}

fn bury(state: &mut State, letter: DeadEntry, now: u32) {
    let DeadEntry { key, entry, death } = letter;
    // It may have moved since the record was queued.
    let in_memory = state.live.get(&key).copied().filter(|e| e.sequence == entry.sequence);
    if let Some(entry) = in_memory {
        state.bury(key, entry, death, false, now);
    } else if state.is_valid(entry.place) && !state.dead.contains_key(&entry.sequence) {
        state.bury(key, entry, death, true, now);
    } else {
        state.mark_dead(death.place);
    }
}

/// A dead letter for the observer and the operator.
pub(crate) fn dead_letter(entry: &Entry, receiver: PartyId, id: MessageId, reason: DeadReason) -> DeadLetter {
    DeadLetter { sequence: Sequence(entry.sequence), receiver, id, len: entry.len, reason }
}
