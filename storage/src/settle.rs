//! Ends messages: settled, released, dead.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::{Result, StoreError};
use crate::frame::{DeadFields, Kind, Place, SettleFields};
use crate::job::{Append, Effect, Job, Reply, Urgency};
use crate::log::lock;
use crate::message::DeadReason;
use crate::past::End;
use crate::publish::dead_letter;
use crate::reader::Reader;
use crate::segment::Lane;
use crate::shared::Shared;
use crate::state::{DeadEntry, Death, Entry};

/// Longest reason kept with a dead letter, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 1000;

/// Queues the record that a message is settled. It rides on the next write after the message's own sync.
pub(crate) fn record(shared: &Shared, key: u128, sequence: u64, place: Place, dead_letter: bool) {
    let record = append(shared, key, sequence, place, dead_letter);
    let lane = lock(&shared.state).accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane);
    let record = match lane {
        // Comes after the message in the same log.
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

/// Queues a record whose message is synced or stands before it in the log.
pub(crate) fn push(shared: &Shared, record: Append) {
    shared.queues[Lane::Small.index()].push(Job::Append(record), Urgency::Lazy);
}

/// Ends a message that is indexed in memory. `None`: it is not.
pub(crate) fn in_memory(shared: &Shared, key: u128, sequence: u64, end: End) -> Option<Entry> {
    let entry = {
        let mut state = lock(&shared.state);
        let entry = state.remove(key, sequence)?;
        state.past.note(key, sequence, end);
        entry
    };
    record(shared, key, sequence, entry.place, false);
    Some(entry)
}

/// An older message under the same key may lie in the index on disk: it ends too. Blocks.
pub(crate) fn older_in_cold(shared: &Shared, key: u128, entry: &Entry) -> Result<()> {
    let Some(cold) = &shared.cold() else { return Ok(()) };
    let old = cold.older(key, entry).map_err(|e| shared.cold_failed(&e))?;
    if let Some(old) = old {
        in_cold(shared, key, &old)?;
    }
    Ok(())
}

/// Ends a message that is in the index on disk. Blocks. False: it was ended already.
pub(crate) fn in_cold(shared: &Shared, key: u128, entry: &Entry) -> Result<bool> {
    let valid = {
        let mut state = lock(&shared.state);
        let valid = state.is_current_cold(entry);
        state.remove_cold(entry);
        valid
    };
    if valid {
        record(shared, key, entry.sequence, entry.place, false);
    }
    if let Some(cold) = shared.cold_for_removal() {
        cold.remove(key, entry).map_err(|e| shared.cold_failed(&e))?;
    }
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

/// Queues the record that a pending message, which is synced, becomes a dead letter.
pub(crate) fn bury(shared: &Shared, key: u128, entry: Entry, reason: DeadReason) -> Result<Burial> {
    if let Some(error) = shared.state_error() {
        return Err(error);
    }
    let (code, text) = match &reason {
        DeadReason::Expired => (0, ""),
        DeadReason::Refused(text) => (1, text.as_str()),
        DeadReason::Damaged(text) => (2, text.as_str()),
    };
    let text = &text[..text.floor_char_boundary(MAX_REASON_BYTES)];
    let mut fields = Vec::with_capacity(64 + text.len());
    DeadFields { key, place: entry.place, reason: code, text }.encode(&mut fields);
    let crc = crc32fast::hash(&fields);
    let (reply, synced) = Reply::new(None);
    let death = Death { reason: code, text: text.into(), place: Place::default(), frame_len: 0 };
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
    /// Waits for the sync, then tells the observer.
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
    if let Some(cold) = shared.cold_for_removal() {
        cold.remove(key, &entry).map_err(|e| shared.cold_failed(&e))?;
    }
    older_in_cold(shared, key, &entry)?;
    let reader = Reader { shared };
    if let (Some(receiver), Ok(id)) = (reader.party(entry.party), reader.id(&entry)) {
        shared.observer.died(&dead_letter(&entry, receiver, id, reason));
    }
    Ok(())
}
