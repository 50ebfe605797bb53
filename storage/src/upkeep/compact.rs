//! Moves the few live messages of an old segment forward, so that the segment can be freed.

use crate::core::reply::Reply;
use crate::core::shared::Shared;
use crate::core::write_queue::{Append, Effect, Job, LargeMessage, Urgency};
use crate::face::error::{StoreError, io_error};
use crate::index::entry::Entry;
use crate::index::key;
use crate::index::memory::State;
use crate::log::frame::{Kind, MessageFields, Place};
use crate::log::scan::{ScanFinding, scan};
use crate::log::segment::{Lane, PAGE};
use crate::read::frames::Reader;

/// With no more than this many segments, nothing is moved.
const ENOUGH_SEGMENTS: usize = 8;
/// A segment is worth emptying if at most one part in this many is live.
const WORTH: u64 = 4;
/// Messages larger than this, in bytes, stay where they are: they make up most of the segments that they pin.
const LARGEST: u64 = 16 << 20;
/// Frames that are queued at a time.
const CHUNK: usize = 256;

/// Empties one segment if that is worth it.
pub(crate) fn compact(shared: &Shared) {
    let Some((lane, id)) = candidate(&shared.state.lock()) else { return };
    match empty(shared, lane, id) {
        Ok(moved) => tracing::debug!(segment = id, moved, "moved live messages of an old segment forward"),
        Err(error) => tracing::debug!(segment = id, %error, "an old segment keeps its place"),
    }
    // Only one try: what still pins it cannot be moved.
    if let Some(account) = shared.state.lock().accounts.get_mut(&id) {
        account.pinned = true;
    }
}

fn candidate(state: &State) -> Option<(Lane, u32)> {
    let sealed = || state.accounts.iter().filter(|(_, a)| a.sealed);
    let (live, size) = sealed().fold((0, 0), |(l, s), (_, a)| (l + a.live_bytes, s + u64::from(a.size)));
    if sealed().count() < ENOUGH_SEGMENTS || live * 2 > size {
        return None;
    }
    sealed()
        .filter(|(_, a)| !a.pinned && a.owed + a.incoming > 0 && a.live_bytes * WORTH <= u64::from(a.size))
        .min_by_key(|(_, a)| a.live_bytes)
        .map(|(id, a)| (a.lane, *id))
}

/// A live frame of the segment that is being emptied.
struct LiveFrame {
    key: u128,
    id: Box<str>,
    entry: Entry,
    kind: Kind,
    fields: Vec<u8>,
    payload: bytes::Bytes,
    crc: u32,
}

fn empty(shared: &Shared, lane: Lane, id: u32) -> Result<usize, StoreError> {
    let path = shared.log.path(lane, id);
    let file = shared.log.file(lane, id).map_err(|e| io_error("read", &path, e))?;
    let mut live = Vec::new();
    scan(&*file, id, PAGE, |found| {
        if let ScanFinding::Frame(place, header, body) = found
            && matches!(header.kind, Kind::Message | Kind::Commit)
            && let (fields, payload) = body.split_at(usize::from(header.fields_len))
            && let Ok(f) = MessageFields::decode(fields)
            && (header.kind == Kind::Message || f.len <= LARGEST)
        {
            let key = key::key(shared.key_secret, f.class, f.party, f.id);
            if let Some(entry) = indexed(shared, key, place, header.sequence) {
                live.push(LiveFrame {
                    key,
                    id: f.id.into(),
                    entry,
                    kind: header.kind,
                    fields: fields.to_vec(),
                    payload: bytes::Bytes::copy_from_slice(payload),
                    crc: header.body_crc,
                });
            }
        }
        Ok(())
    })
    .map_err(|e| io_error("read", &path, e))?;
    let count = live.len();
    let mut live = live.into_iter().peekable();
    while live.peek().is_some() {
        let mut waiting = Vec::new();
        let mut queued = Ok(());
        for frame in live.by_ref().take(CHUNK) {
            match queue(shared, lane, frame) {
                Ok(moved) => waiting.push(moved),
                Err(error) => {
                    queued = Err(error);
                    break;
                }
            }
        }
        // Wait for all of them, before any error is returned: large ones finish in any order, and a checkpoint taken while one
        // is under way would know of the end of its message but not of its new place.
        let moved: Vec<_> = waiting.into_iter().map(|moved| moved.blocking_recv()).collect();
        queued?;
        for one in moved {
            one.map_err(|_| StoreError::Closed)??;
        }
    }
    Ok(count)
}

/// The index entry of a live message at `place`. Dead letters stay where they are.
fn indexed(shared: &Shared, key: u128, place: Place, sequence: u64) -> Option<Entry> {
    {
        let state = shared.state.lock();
        if !state.is_valid(place) || state.dead.contains_key(&sequence) {
            return None;
        }
        if let Some(entry) = state.live.get(&key) {
            return (entry.place == place).then_some(*entry);
        }
    }
    let cold = shared.cold()?;
    let found = [cold.mail(key).ok()?, cold.latest_pending(key).ok()?];
    let found = found.into_iter().flatten().find(|e| e.place == place)?;
    Some(shared.state.lock().with_mark(key, found))
}

fn queue(
    shared: &Shared,
    lane: Lane,
    live: LiveFrame,
) -> Result<tokio::sync::oneshot::Receiver<Result<(), StoreError>>, StoreError> {
    let (reply, synced) = Reply::new(None);
    let append = Append {
        kind: live.kind,
        sequence: live.entry.sequence,
        time: live.entry.time,
        fields: live.fields,
        payload: live.payload,
        crc: live.crc,
        cost: 0,
        effect: Effect::Moved { key: live.key, entry: live.entry, id: live.id },
        reply,
    };
    let job = if live.kind == Kind::Commit {
        let payload = Reader { shared }.load(&live.entry)?.payload;
        let slice_crcs = crate::log::frame::slice_crcs(&payload);
        let len = payload.len() as u64;
        Job::Large(Box::new(LargeMessage { commit: append, payload, slice_crcs, uploaded: None, len }))
    } else {
        Job::Append(append)
    };
    shared.queues[lane.index()].push(job, Urgency::AtOnce);
    Ok(synced)
}
