//! Makes written frames visible: index, memory of deliveries, cache, observer.

use std::sync::atomic::Ordering;

use crate::cache::Cached;
use crate::engine::Observer;
use crate::frame::{Class, Place};
use crate::job::{Append, Effect, NewMessage, Reply};
use crate::log::lock;
use crate::message::{DeadLetter, DeadReason, Message, MessageId, PartyId, Sequence};
use crate::segment::Lane;
use crate::shared::Shared;
use crate::state::{DeadEntry, Entry, State};

/// A frame that is in its file.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) place: Place,
    /// Without padding.
    pub(crate) frame_len: u32,
    pub(crate) first_segment: u32,
    pub(crate) append: Append,
}

/// What the observer is told once the state is unlocked.
enum Notice {
    Arrived(Message),
    Pending(PartyId, Sequence, u64),
}

/// What is to be done once a batch is synced.
#[derive(Debug)]
pub(crate) struct AfterSync {
    /// Whom to answer, and the room that was admitted for it.
    pub(crate) replies: Vec<(Reply, u64)>,
    /// Numbers that its frames ended: party, incarnation, number.
    pub(crate) ended: Vec<(u16, u32, u64)>,
}

/// Enters what a batch wrote.
pub(crate) fn publish(shared: &Shared, lane: Lane, tail: Place, written: Vec<Written>) -> AfterSync {
    let now = shared.now();
    let mut replies = Vec::with_capacity(written.len());
    let mut notices = Vec::new();
    let ended;
    shared.counters.appends.fetch_add(written.len() as u64, Ordering::Relaxed);
    {
        let mut state = lock(&shared.state);
        if let Some(account) = state.accounts.get_mut(&tail.segment) {
            account.tail = tail.offset;
        }
        for item in written {
            let Append { effect, reply, cost, .. } = item.append;
            let (place, frame_len, first_segment) = (item.place, item.frame_len, item.first_segment);
            match effect {
                Effect::None => {}
                Effect::Message(mut new) => {
                    new.entry = Entry { place, frame_len, first_segment, ..new.entry };
                    notices.extend(enter(&mut state, *new, now));
                }
                Effect::Moved { key, entry } => {
                    let moved = Entry { place, frame_len, first_segment, ..entry };
                    relocate(&mut state, key, &entry, moved, now);
                }
                Effect::Dead(mut letter) => {
                    letter.death.place = place;
                    letter.death.frame_len = frame_len;
                    bury(&mut state, *letter, now);
                }
            }
            replies.push((reply, cost));
        }
        ended = std::mem::take(&mut state.ended);
        shared.counters.in_memory.store(state.live.len() + state.dead.len(), Ordering::Relaxed);
        lock(&shared.progress[lane.index()].batches).0 += 1;
    }
    if lane == Lane::Small {
        shared.note_small();
    }
    tell(&*shared.observer, notices);
    AfterSync { replies, ended }
}

fn tell(observer: &dyn Observer, notices: Vec<Notice>) {
    for notice in notices {
        match notice {
            Notice::Arrived(message) => observer.arrived(&message),
            Notice::Pending(peer, sequence, len) => observer.pending(&peer, sequence, len),
        }
    }
}

fn enter(state: &mut State, new: NewMessage, now: u32) -> Option<Notice> {
    let NewMessage { key, entry, id, party, payload, identity } = new;
    if entry.class == Class::Outgoing {
        state.parties.count(entry.party).held.remove(&(entry.incarnation, entry.number));
    } else if let Some(identity) = identity {
        state.progress_ended(key, entry, &identity);
        state.delivered.add(entry.party, &identity, entry.incarnation);
    }
    if !state.insert(key, entry, now) {
        return None;
    }
    state.cache.put(entry.sequence, Cached { id: id.clone(), payload: payload.clone() });
    match (entry.class, party) {
        (Class::Outgoing, Some(peer)) => Some(Notice::Pending(peer, Sequence(entry.sequence), entry.len)),
        (Class::Outgoing, None) => None,
        (_, sender) => {
            Some(Notice::Arrived(Message { sender, id, payload, sequence: Sequence(entry.sequence) }))
        }
    }
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

/// Undoes what queueing noted for a job that is not written.
pub(crate) fn withdraw(shared: &Shared, effect: &Effect) {
    if let Effect::Message(new) = effect {
        let mut state = lock(&shared.state);
        if new.entry.class == Class::Outgoing {
            let held = (new.entry.incarnation, new.entry.number);
            state.parties.count(new.entry.party).held.remove(&held);
        } else if let Some(identity) = new.identity {
            state.progress_ended(new.key, new.entry, &identity);
        }
    }
}

/// A dead letter for the observer and the operator.
pub(crate) fn dead_letter(entry: &Entry, receiver: PartyId, id: MessageId, reason: DeadReason) -> DeadLetter {
    DeadLetter { sequence: Sequence(entry.sequence), receiver, id, len: entry.len, reason }
}
