//! Ends messages: settles them, releases them or makes them dead letters.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::core::reply::Reply;
use crate::core::shared::Shared;
use crate::core::write_queue::{Append, Effect, Job, Urgency};
use crate::face::error::{Result, StoreError};
use crate::face::message::{DeadReason, Sequence};
use crate::index::entry::{DeadEntry, Death, Entry};
use crate::index::memory::State;
use crate::index::memory::recent_ends::MessageEnd;
use crate::log::frame::{DeadFields, Kind, Place, SettleFields};
use crate::log::segment::Lane;
use crate::read::find::told;
use crate::read::frames::Reader;

/// Longest reason kept with a dead letter, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 1000;

/// Queues the record that a message is settled. It rides on the next write after the message's own sync.
pub(crate) fn record(shared: &Shared, key: u128, sequence: u64, place: Place, dead_letter: bool) {
    record_under(&shared.state.lock(), shared, (key, sequence, place), dead_letter);
}

/// Queues the record that a message is settled, under the lock under which it ended: a caller that finds it ended and waits
/// for a sync also finds its record queued. `of`: the message's key, sequence and place.
pub(crate) fn record_under(state: &State, shared: &Shared, of: (u128, u64, Place), dead_letter: bool) {
    let (key, sequence, place) = of;
    let record = append(shared, key, sequence, place, dead_letter);
    let lane = state.accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane);
    let record = match lane {
        // The record comes after the message in the same lane of the log.
        Lane::Small => Err(record),
        Lane::Bulk => shared.progress[lane.index()].defer_record(record),
    };
    if let Err(record) = record {
        push(shared, record);
    }
}

/// The record that a message is settled.
pub(crate) fn append(shared: &Shared, key: u128, sequence: u64, place: Place, dead_letter: bool) -> Append {
    let mut fields = Vec::with_capacity(32);
    SettleFields { key, place, dead_letter }.encode(&mut fields);
    let crc = crc32fast::hash(&fields);
    Append {
        kind: Kind::Settle,
        sequence,
        time: shared.now(),
        fields,
        payload: Bytes::new(),
        crc,
        cost: 0,
        effect: Effect::None,
        reply: Reply::nobody(),
    }
}

/// Queues a record whose message is synced or is ahead of it in the same lane.
pub(crate) fn push(shared: &Shared, record: Append) {
    shared.queues[Lane::Small.index()].push(Job::Append(record), Urgency::Lazy);
}

/// Ends a message that is indexed in memory. `None` if it is not.
pub(crate) fn in_memory(shared: &Shared, key: u128, sequence: u64, end: MessageEnd) -> Option<Entry> {
    let mut state = shared.state.lock();
    let entry = state.remove(key, sequence)?;
    state.past.note(key, sequence, end);
    record_under(&state, shared, (key, sequence, entry.place), false);
    Some(entry)
}

/// Ends an older message under the same key, which may be in the index on disk. Blocks.
pub(crate) fn older_in_cold(shared: &Shared, key: u128, entry: &Entry) -> Result<()> {
    if let Some(old) = shared.ask_cold(|cold| cold.older(key, entry))?.flatten() {
        in_cold(shared, key, &old)?;
    }
    // It may have come to memory, where the newer one no longer is.
    let mut state = shared.state.lock();
    let older = state.live.get(&key).map(|held| held.sequence).filter(|held| *held < entry.sequence);
    if let Some(older) = older.and_then(|sequence| state.remove(key, sequence)) {
        record_under(&state, shared, (key, older.sequence, older.place), false);
    }
    Ok(())
}

/// Ends a message that is in the index on disk. Blocks. False if it had already ended.
pub(crate) fn in_cold(shared: &Shared, key: u128, entry: &Entry) -> Result<bool> {
    let valid = {
        let mut state = shared.state.lock();
        if state
            .live
            .get(&key)
            .is_some_and(|held| (held.sequence, held.place) == (entry.sequence, entry.place))
        {
            // The index on disk was given up since the message was found there.
            state.remove(key, entry.sequence);
            record_under(&state, shared, (key, entry.sequence, entry.place), false);
            return Ok(true);
        }
        let valid = state.is_current_cold(entry);
        state.remove_cold(entry);
        if valid {
            record_under(&state, shared, (key, entry.sequence, entry.place), false);
        }
        valid
    };
    shared.remove_from_cold(|cold| cold.remove(key, entry).map(drop))?;
    Ok(valid)
}

/// A dead letter on its way into the log.
#[derive(Debug)]
pub(crate) struct Burial {
    key: u128,
    entry: Entry,
    reason: DeadReason,
    synced: oneshot::Receiver<Result<()>>,
}

/// Queues the record that a message, pending or in the mailbox, becomes a dead letter. The message must be synced.
pub(crate) fn bury(shared: &Shared, key: u128, entry: Entry, reason: DeadReason) -> Result<Burial> {
    if let Some(error) = shared.state_error() {
        return Err(error);
    }
    let (code, text) = match &reason {
        DeadReason::Expired => (0, ""),
        DeadReason::Refused(text) => (1, text.as_str()),
        DeadReason::Damaged(text) => (2, text.as_str()),
        DeadReason::Unread => (3, ""),
    };
    let text = &text[..text.floor_char_boundary(MAX_REASON_BYTES)];
    let mut fields = Vec::with_capacity(64 + text.len());
    DeadFields { key, place: entry.place, reason: code, text }.encode(&mut fields);
    let crc = crc32fast::hash(&fields);
    let (reply, synced) = Reply::new(None);
    let death = Death {
        reason: code,
        text: text.into(),
        place: Place::default(),
        frame_len: 0,
        time: Some(shared.now()),
    };
    let record = Append {
        kind: Kind::Dead,
        sequence: entry.sequence,
        time: shared.now(),
        fields,
        payload: Bytes::new(),
        crc,
        cost: 0,
        effect: Effect::Dead(Box::new(DeadEntry { key, entry, death })),
        reply,
    };
    shared.queues[Lane::Small.index()].push(Job::Append(record), Urgency::AtOnce);
    Ok(Burial { key, entry, reason, synced })
}

impl Burial {
    /// Waits for the sync, then notifies the observer.
    pub(crate) async fn wait(self, shared: Arc<Shared>) -> Result<()> {
        let Self { key, entry, reason, synced } = self;
        synced.await.map_err(|_| StoreError::Closed)??;
        let done = tokio::task::spawn_blocking(move || finish(&shared, key, entry, reason));
        done.await.map_err(|_| StoreError::Closed)?
    }

    /// [`wait`](Self::wait) for threads.
    pub(crate) fn wait_blocking(self, shared: &Shared) -> Result<()> {
        let Self { key, entry, reason, synced } = self;
        synced.blocking_recv().map_err(|_| StoreError::Closed)??;
        finish(shared, key, entry, reason)
    }
}

fn finish(shared: &Shared, key: u128, entry: Entry, reason: DeadReason) -> Result<()> {
    shared.remove_from_cold(|cold| cold.remove(key, &entry).map(drop))?;
    older_in_cold(shared, key, &entry)?;
    let reader = Reader { shared };
    if let Ok(id) = reader.id(&entry)
        && let Some(letter) = told(reader, &entry, id, reason, Some(shared.now()))
    {
        shared.observer.died(&letter);
    }
    Ok(())
}

/// Ends a mailbox message, wherever it is by now, as [`end_pending`] does. Blocks. False if it was gone.
pub(crate) fn end_mail(shared: &Shared, key: u128, mut at: Entry, end: MessageEnd) -> Result<bool> {
    while in_memory(shared, key, at.sequence, end).is_none() {
        if in_cold(shared, key, &at)? {
            shared.state.lock().past.note(key, at.sequence, end);
            break;
        }
        match (Reader { shared }).find(&[key])? {
            Some((_, found)) if found.sequence == at.sequence => at = found,
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Ends a pending message, wherever it is by now: it may move in the log, and to memory, at any time. Blocks. False if it
/// was gone.
pub(crate) fn end_pending(shared: &Shared, key: u128, entry: Entry, end: MessageEnd) -> Result<bool> {
    let mut at = entry;
    loop {
        if in_memory(shared, key, entry.sequence, end).is_some() {
            return Ok(true);
        }
        if in_cold(shared, key, &at)? {
            shared.state.lock().past.note(key, entry.sequence, end);
            return Ok(true);
        }
        match (Reader { shared }).pending_entry(entry.party, Sequence(entry.sequence))? {
            Some((_, found)) => at = found,
            None => return Ok(false),
        }
    }
}
