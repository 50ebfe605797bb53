//! Enters written frames into the index, the memory of deliveries and the cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::core::news::News;
use crate::core::reply::Reply;
use crate::core::shared::Shared;
use crate::core::write_queue::{Append, Effect};
use crate::face::direction::Class;
use crate::face::message::Sequence;
use crate::face::payload::{Held, Payload};
use crate::index::entry::{DeadEntry, EndedNumber, Entry};
use crate::index::memory::State;
use crate::index::memory::payload_cache::CachedMessage;
use crate::index::memory::unwritten::QueuedMessage;
use crate::index::sends::{KnownSend, SendFingerprint};
use crate::log::frame::{KeyedContent, Place, Slices};
use crate::log::segment::Lane;
use crate::read::content::StoredPieces;
use crate::write::settle;

/// Where a frame was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramePlace {
    pub(crate) place: Place,
    /// Length of the frame without padding.
    pub(crate) frame_len: u32,
    /// For a large message, the segment of its first slice; otherwise 0.
    pub(crate) first_segment: u32,
}

/// A frame that is written to its file.
#[derive(Debug)]
pub(crate) struct WrittenFrame {
    pub(crate) at: FramePlace,
    pub(crate) append: Append,
}

/// What is to be done once a batch is synced.
#[derive(Debug)]
pub(crate) struct AfterSync {
    /// The replies to send, each with the room that was admitted for its message.
    pub(crate) replies: Vec<(Reply, u64)>,
    /// Numbers ended by its frames, which need not be held any longer then.
    pub(crate) ended: Vec<EndedNumber>,
    /// Sends with keys, whose delivery may begin then.
    pub(crate) sends: Vec<News>,
}

impl AfterSync {
    /// Lets go of what waited for the sync: numbers, and sends with keys.
    pub(crate) fn let_go(shared: &Shared, ended: &[EndedNumber], sends: Vec<News>) {
        if !ended.is_empty() || !sends.is_empty() {
            let mut state = shared.state.lock();
            state.let_go(ended);
            for send in &sends {
                if let News::Pending(_, sequence, _) = send {
                    state.unsynced_sends.remove(&sequence.0);
                }
            }
        }
        for send in sends {
            send.tell(&*shared.observer);
        }
    }
}

/// Enters what a batch wrote.
pub(crate) fn publish(
    shared: &Arc<Shared>,
    lane: Lane,
    tail: Place,
    written: Vec<WrittenFrame>,
) -> AfterSync {
    let now = shared.now();
    let mut replies = Vec::with_capacity(written.len());
    let mut over = Vec::new();
    let (mut shown, mut sends) = (Vec::new(), Vec::new());
    let mut ended;
    shared.counters.appends.fetch_add(written.len() as u64, Ordering::Relaxed);
    {
        let mut state = shared.state.lock();
        if let Some(account) = state.accounts.get_mut(&tail.segment) {
            account.tail = tail.offset;
        }
        for item in written {
            let Append { sequence, effect, reply, cost, payload, .. } = item.append;
            let at = item.at;
            match effect {
                Effect::None | Effect::Slice(_) => {}
                Effect::Message => match enter(&mut state, sequence, at, &payload, now) {
                    Some(AfterIndexing::Send(send)) => sends.push(send),
                    Some(AfterIndexing::Over(key, place)) => over.push((key, sequence, place)),
                    Some(AfterIndexing::Shown(message, entry)) => shown.push((message, entry, payload)),
                    None => {}
                },
                Effect::Moved { key, entry, id } => {
                    let FramePlace { place, frame_len, first_segment } = at;
                    let moved = Entry { place, frame_len, first_segment, ..entry };
                    relocate(&mut state, (key, &id), &entry, moved, now);
                }
                Effect::Dead(mut letter) => {
                    letter.death.place = at.place;
                    letter.death.frame_len = at.frame_len;
                    bury(&mut state, *letter, now);
                }
                Effect::Named(named) => {
                    state.sends.name(&named);
                    state.dirty = true;
                }
            }
            replies.push((reply, cost));
        }
        ended = std::mem::take(&mut state.ended);
        let superseded = std::mem::take(&mut state.superseded);
        let other = &shared.progress[lane.other().index()];
        // If the newer one is already synced, nothing can bring the older one back.
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
    AfterSync { replies, ended, sends }
}

/// Notes the segments of a large message that came slowly: it lies in only some of the segments since its beginning.
fn note_spread(state: &mut State, sequence: u64, at: FramePlace, list: &Bytes) {
    if at.first_segment == 0 || at.first_segment + 1 >= at.place.segment {
        return;
    }
    let Ok(slices) = Slices::decode(list) else { return };
    let mut segments: Vec<u32> = slices.extents.iter().map(|extent| extent.place.segment).collect();
    segments.push(at.place.segment);
    segments.dedup();
    state.spread.insert(sequence, segments.into());
}

/// What is left to do for a message that was entered into the index.
enum AfterIndexing {
    /// It ended in the meantime: its key and place, for the record of that.
    Over(u128, Place),
    /// It was not shown before; the entry has its place.
    Shown(Box<QueuedMessage>, Entry),
    /// It has a key, and its delivery begins once it is synced.
    Send(News),
}

/// Enters a queued message into the index.
fn enter(
    state: &mut State,
    sequence: u64,
    place: FramePlace,
    payload: &Bytes,
    now: u32,
) -> Option<AfterIndexing> {
    let mut message = state.queued.take(sequence)?;
    note_spread(state, sequence, place, payload);
    let QueuedMessage { key, entry, identity, keyed, ended, .. } = message;
    if let Some(KeyedContent { key: send, content_crc }) = keyed {
        let print = SendFingerprint::new(key, entry.len, content_crc);
        state.sends.remember(send, KnownSend { sequence, print });
    }
    let FramePlace { place, frame_len, first_segment } = place;
    let entry = Entry { place, frame_len, first_segment, ..entry };
    if entry.class == Class::Outgoing {
        state.parties.count(entry.party).held.remove(&(entry.incarnation, entry.number));
    } else if let Some(identity) = identity {
        state.progress_ended(key, entry, &identity);
        state.delivered.add(entry.party, &identity, entry.incarnation);
    }
    // An older one must not come back when this one has ended.
    state.queued.end_older(key, sequence);
    let entered = state.insert(key, entry, message.id.shared(), now);
    if entered {
        // It was shown before it was written.
        state.mark_entered(key, &entry);
    } else {
        state.spread.remove(&sequence);
        if entry.class == Class::Outgoing {
            // A newer one in the other lane came first, and may not be synced yet. If the mark passed this number and the
            // power then failed, this message would be back, accepted, although its receiver was told that it is settled.
            state.parties.count(entry.party).held.insert((entry.incarnation, entry.number));
            state.superseded.push(entry.ended_number());
        }
        return None;
    }
    if ended {
        state.remove(key, sequence);
        return Some(AfterIndexing::Over(key, place));
    }
    let send = message.party.clone().filter(|_| message.waits_for_its_sync());
    let send = send.map(|party| {
        state.unsynced_sends.insert(sequence);
        AfterIndexing::Send(News::Pending(party, Sequence(sequence), entry.len))
    });
    let Some(payload) = message.payload.take() else {
        return send.or_else(|| Some(AfterIndexing::Shown(Box::new(message), entry)));
    };
    state.cache.put(sequence, CachedMessage { id: message.id, payload });
    send
}

/// The notification for a message that was not announced when it was queued. `list`: the list of its slices.
fn news(shared: &Arc<Shared>, message: QueuedMessage, entry: Entry, list: &Bytes) -> Option<News> {
    let QueuedMessage { key, id, party, .. } = message;
    let sequence = Sequence(entry.sequence);
    if entry.class == Class::Outgoing {
        return Some(News::Pending(party?, sequence, entry.len));
    }
    let slices = Slices::decode(list).ok()?;
    let pieces = StoredPieces::of_message(shared.clone(), &id, (key, entry), slices).ok()?;
    let payload = Payload::Pieces(Arc::new(pieces));
    Some(News::Arrived(Held { sender: party, id, sequence, payload, unread: entry.is_unread(), age: 0 }))
}

fn relocate(state: &mut State, (key, id): (u128, &str), old: &Entry, new: Entry, now: u32) {
    let in_memory = state.live.get(&key).copied();
    match in_memory {
        // It has ended, or is a dead letter by now: its frame stays where the letter looks for it.
        _ if !state.is_valid(old.place) || state.dead.contains_key(&old.sequence) => {
            state.mark_dead(new.place);
        }
        Some(entry) if entry.sequence == old.sequence => state.relocate(key, old, new, None, now),
        Some(entry) if entry.sequence > old.sequence => {
            state.remove_cold(old);
            state.mark_dead(new.place);
        }
        _ => state.relocate(key, old, new, Some(id), now),
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
