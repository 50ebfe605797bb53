//! Calls of a forwarder for many pending messages at once: they are loaded and settled under one lock of the state, and, where
//! needed, in one trip to the threads that may block.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::shared::{Shared, blocking};
use crate::core::write_queue::{Job, Urgency};
use crate::face::error::Result;
use crate::face::message::{DeliveryIdentity, Incarnation, MessageId, PartyId, Sequence};
use crate::face::payload::{Outgoing, Payload};
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::recent_ends::MessageEnd;
use crate::log::frame::Place;
use crate::log::segment::Lane;
use crate::read::frames::Reader;
use crate::write::settle;
use crate::write::settle::end_pending;

/// A pending message found in memory, with its content if that is there.
struct PendingInMemory {
    key: u128,
    entry: Entry,
    content: Option<(MessageId, Payload)>,
}

/// Messages to load.
struct MessagesToLoad {
    peer: PartyId,
    party: u16,
    /// Whether some are in the index on disk.
    on_disk: bool,
    messages: Vec<(Sequence, Option<PendingInMemory>)>,
    /// Identities and low-water marks by incarnation, for all of them.
    marks: HashMap<u32, (Incarnation, u64)>,
}

/// See [`Engine::load_many`](crate::Engine::load_many).
pub(crate) async fn load(
    shared: &Arc<Shared>,
    peer: &PartyId,
    sequences: &[Sequence],
) -> Vec<Result<Option<Outgoing>>> {
    let mut loading = {
        let mut state = shared.state.lock();
        let Some(party) = state.parties.find(peer) else {
            return sequences.iter().map(|_| Ok(None)).collect();
        };
        let messages = sequences.iter().map(|sequence| (*sequence, find(&mut state, party, *sequence)));
        let messages = messages.collect();
        let on_disk = state.parties.count(party).cold_pending > 0;
        MessagesToLoad { peer: peer.clone(), party, on_disk, messages, marks: HashMap::new() }
    };
    if !loading.on_disk && loading.messages.iter().flat_map(|(_, f)| f).all(|f| f.content.is_some()) {
        return loading.load(shared);
    }
    match blocking(shared, move |shared| Ok(loading.load(shared))).await {
        Ok(loaded) => loaded,
        Err(error) => sequences.iter().map(|_| Err(error.clone())).collect(),
    }
}

fn find(state: &mut State, party: u16, sequence: Sequence) -> Option<PendingInMemory> {
    if let Some(message) = state.queued.deliverable(party, sequence.0)
        && let Some(payload) = message.payload.clone()
    {
        // It counts as given out for delivery.
        message.exposed = true;
        let content = Some((message.id.clone(), Payload::Whole(payload)));
        return Some(PendingInMemory { key: message.key, entry: message.entry, content });
    }
    if state.unsynced_sends.contains(&sequence.0) {
        return None;
    }
    let key = *state.pending.get(&(party, sequence.0))?;
    let entry = *state.live.get(&key)?;
    let cached = state.cache.get(entry.sequence);
    Some(PendingInMemory {
        key,
        entry,
        content: cached.map(|cached| (cached.id, Payload::Whole(cached.payload))),
    })
}

impl MessagesToLoad {
    /// Blocks if something is not in memory.
    fn load(&mut self, shared: &Arc<Shared>) -> Vec<Result<Option<Outgoing>>> {
        let messages = std::mem::take(&mut self.messages);
        messages.into_iter().map(|(sequence, found)| self.one(shared, sequence, found)).collect()
    }

    fn one(
        &mut self,
        shared: &Arc<Shared>,
        sequence: Sequence,
        found: Option<PendingInMemory>,
    ) -> Result<Option<Outgoing>> {
        let reader = Reader { shared };
        let (key, entry, content) = match found {
            Some(PendingInMemory { key, entry, content }) => (key, entry, content),
            None if self.on_disk => match reader.pending_entry(self.party, sequence)? {
                Some((key, entry)) => (key, entry, None),
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        if entry.is_expired(shared.now(), shared.send_ttl()) {
            return Ok(None);
        }
        let content = match content {
            Some(content) => Some(content),
            None => reader.open_pending(shared, (key, entry))?,
        };
        let Some((id, payload)) = content else { return Ok(None) };
        let known = self.marks.get(&entry.incarnation).copied();
        let (incarnation, mark) = known.map_or_else(|| reader.mark(&entry), Ok)?;
        self.marks.insert(entry.incarnation, (incarnation, mark));
        let low_water = mark.min(entry.number);
        let identity = DeliveryIdentity { incarnation, number: entry.number, low_water };
        Ok(Some(Outgoing { receiver: self.peer.clone(), id, payload, sequence, identity }))
    }
}

/// See [`Engine::settle_delivered`](crate::Engine::settle_delivered).
pub(crate) async fn settle(shared: &Arc<Shared>, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
    let (party, ended, others) = {
        let mut state = shared.state.lock();
        let Some(party) = state.parties.find(peer) else { return Ok(()) };
        let (ended, others) = end_in_memory(&mut state, party, sequences);
        (party, ended, others)
    };
    let mut records = Vec::with_capacity(ended.len());
    for EndToRecord { key, sequence, place, lane } in ended {
        if lane == Lane::Small {
            records.push(Job::Append(settle::append(shared, key, sequence, place, false)));
        } else {
            settle::record(shared, key, sequence, place, false);
        }
    }
    if !records.is_empty() {
        shared.queues[Lane::Small.index()].push_all(records, Urgency::Lazy);
    }
    if others.is_empty() {
        return Ok(());
    }
    blocking(shared, move |shared| {
        let reader = Reader { shared };
        for sequence in others {
            let Some((key, entry)) = reader.pending_entry(party, sequence)? else { continue };
            // First the message that it replaced: a checkpoint that knows of one end must know of both.
            settle::older_in_cold(shared, key, &entry)?;
            end_pending(shared, key, entry, MessageEnd::Delivered)?;
        }
        Ok(())
    })
    .await
}

/// A message whose end is to be recorded.
struct EndToRecord {
    key: u128,
    sequence: u64,
    place: Place,
    lane: Lane,
}

/// Ends the messages that can be ended without a look at the index on disk; returns the others.
fn end_in_memory(state: &mut State, party: u16, sequences: &[Sequence]) -> (Vec<EndToRecord>, Vec<Sequence>) {
    // What a message replaced may be in the index on disk.
    let on_disk = state.parties.count(party).cold_pending > 0;
    let (mut ended, mut others) = (Vec::with_capacity(sequences.len()), Vec::new());
    for sequence in sequences {
        if let Some(key) = state.queued.pending(party, sequence.0).map(|message| message.key) {
            state.queued.end(sequence.0);
            state.past.note(key, sequence.0, MessageEnd::Delivered);
        } else if on_disk {
            others.push(*sequence);
        } else if let Some(key) = state.pending.get(&(party, sequence.0)).copied()
            && let Some(entry) = state.remove(key, sequence.0)
        {
            state.past.note(key, sequence.0, MessageEnd::Delivered);
            let lane = state.accounts.get(&entry.place.segment).map_or(Lane::Small, |a| a.lane);
            ended.push(EndToRecord { key, sequence: sequence.0, place: entry.place, lane });
        }
    }
    (ended, others)
}
