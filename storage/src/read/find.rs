//! Finds messages: first in memory, then in the index on disk, which blocks.
//!
//! A message may move between the two, and in the log, at any time: code that looked in both looks again if something moved.

use std::sync::Arc;

use crate::core::shared::Shared;
use crate::face::direction::Class;
use crate::face::error::Result;
use crate::face::message::{Correspondent, DeadLetter, DeadReason, Incarnation, MessageId, Sequence};
use crate::index::entry::Entry;
use crate::read::frames::Reader;

impl Reader<'_> {
    /// The newest of the mailbox messages under some keys, unless it has expired. Blocks.
    pub(crate) fn find(self, keys: &[u128]) -> Result<Option<(u128, Entry)>> {
        let newest = self.find_expired_too(keys)?;
        Ok(newest.filter(|(_, e)| !e.is_over(self.shared.now(), self.shared.message_ttl())))
    }

    /// The newest of the mailbox messages under some keys if it has expired and its space is not freed yet. Blocks.
    pub(crate) fn expired(self, keys: &[u128]) -> Result<Option<Entry>> {
        let newest = self.find_expired_too(keys)?.map(|(_, entry)| entry);
        Ok(newest.filter(|e| e.is_over(self.shared.now(), self.shared.message_ttl())))
    }

    fn find_expired_too(self, keys: &[u128]) -> Result<Option<(u128, Entry)>> {
        let mut newest: Option<(u128, Entry)> = None;
        for key in keys {
            let entry = self.find_one(*key)?;
            if let Some(entry) =
                entry.filter(|e| newest.as_ref().is_none_or(|(_, n)| n.sequence < e.sequence))
            {
                newest = Some((*key, entry));
            }
        }
        Ok(newest)
    }

    /// The mailbox message under a key, expired or not. Blocks.
    fn find_one(self, key: u128) -> Result<Option<Entry>> {
        loop {
            let hand_overs = {
                let state = self.shared.state.lock();
                if let Some(entry) = state.live.get(&key) {
                    return Ok(Some(*entry));
                }
                state.hand_overs
            };
            let found = self.shared.ask_cold(|cold| cold.mail(key))?.flatten();
            let state = self.shared.state.lock();
            // It may have come to memory in between (moved in the log), or been replaced by one that has moved to disk
            // since.
            let found = found.filter(|e| state.is_current_cold(e)).map(|e| state.with_mark(key, e));
            let entry = state.live.get(&key).copied().or(found);
            if entry.is_some() || state.hand_overs == hand_overs {
                return Ok(entry);
            }
        }
    }

    /// Pending messages for a party after a sequence, merged from memory and disk. Blocks if some are on disk.
    pub(crate) fn pending_entries(
        self,
        party: u16,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(u128, Entry)>> {
        loop {
            let relocations = self.shared.state.lock().relocations;
            let entries = self.look_at_pending(party, after, limit)?;
            // A message that moved from disk to memory between the two looks was seen in neither.
            if self.shared.state.lock().relocations == relocations {
                return Ok(entries);
            }
        }
    }

    fn look_at_pending(self, party: u16, after: Sequence, limit: usize) -> Result<Vec<(u128, Entry)>> {
        let (mut entries, on_disk) = {
            let mut state = self.shared.state.lock();
            let on_disk = state.parties.count(party).cold_pending > 0;
            let range = state.pending.range((party, after.0.saturating_add(1))..=(party, u64::MAX));
            let entries: Vec<_> = range
                .filter(|((_, sequence), _)| !state.unsynced_sends.contains(sequence))
                .take(limit)
                .filter_map(|(_, key)| Some((*key, *state.live.get(key)?)))
                .collect();
            (entries, on_disk)
        };
        if !on_disk {
            return Ok(entries);
        }
        let found = self.shared.ask_cold(|cold| {
            let pending = cold.pending_after(party, after.0);
            let counts = |found: &std::result::Result<(u128, Entry), _>| {
                found.as_ref().map_or(true, |(_, entry)| self.is_pending_on_disk(entry))
            };
            pending.filter(counts).take(limit).collect::<std::result::Result<Vec<_>, _>>()
        })?;
        entries.extend(found.unwrap_or_default());
        entries.sort_by_key(|(_, e)| e.sequence);
        entries.dedup_by_key(|(_, e)| e.sequence);
        entries.truncate(limit);
        Ok(entries)
    }

    fn is_pending_on_disk(self, entry: &Entry) -> bool {
        let state = self.shared.state.lock();
        state.is_valid(entry.place) && !state.dead.contains_key(&entry.sequence)
    }

    /// One pending message; `None` if it is no longer pending. Blocks if it is on disk.
    pub(crate) fn pending_entry(self, party: u16, sequence: Sequence) -> Result<Option<(u128, Entry)>> {
        loop {
            let relocations = self.shared.state.lock().relocations;
            let entry = self.look_for_pending(party, sequence)?;
            if entry.is_some() || self.shared.state.lock().relocations == relocations {
                return Ok(entry);
            }
        }
    }

    fn look_for_pending(self, party: u16, sequence: Sequence) -> Result<Option<(u128, Entry)>> {
        {
            let state = self.shared.state.lock();
            if let Some(key) = state.pending.get(&(party, sequence.0)) {
                return Ok(state.live.get(key).map(|e| (*key, *e)));
            }
        }
        let found = self.shared.ask_cold(|cold| cold.pending(party, sequence.0))?.flatten();
        let Some((key, entry)) = found.filter(|(_, e)| self.is_pending_on_disk(e)) else { return Ok(None) };
        let newer_in_memory =
            self.shared.state.lock().live.get(&key).is_some_and(|e| e.sequence > sequence.0);
        let newer_on_disk = self.shared.ask_cold(|cold| cold.latest_pending(key))?.flatten();
        if newer_in_memory
            || newer_on_disk.is_some_and(|e| e.sequence > sequence.0 && self.is_pending_on_disk(&e))
        {
            // It ends for good with the newer one, or when that is indexed on disk: in any case after that one is synced.
            return Ok(None);
        }
        Ok(Some((key, entry)))
    }

    /// Incarnation of an outgoing message, and its receiver's low-water mark. Blocks if some messages are on disk.
    pub(crate) fn identity(self, entry: &Entry) -> Result<(Incarnation, u64)> {
        let (incarnation, mark) = self.mark(entry)?;
        Ok((incarnation, mark.min(entry.number)))
    }

    /// Incarnation and low-water mark for all messages of this one's incarnation and receiver; the mark of each is also at
    /// most its own number.
    pub(crate) fn mark(self, entry: &Entry) -> Result<(Incarnation, u64)> {
        loop {
            // Read before the list: what is held now may be pending, and so in the list, a moment later.
            let (held, relocations) = {
                let mut state = self.shared.state.lock();
                (state.lowest_held(entry.party, entry.incarnation), state.relocations)
            };
            let oldest = self.pending_entries(entry.party, Sequence(0), 1)?;
            let mut state = self.shared.state.lock();
            if state.relocations != relocations {
                // The oldest may have moved from disk to memory between the two looks.
                continue;
            }
            // Read again after the list: what was pending then may be superseded by now, and held until that is synced.
            let held = held.into_iter().chain(state.lowest_held(entry.party, entry.incarnation)).min();
            let low_water = match oldest.first() {
                // While an older incarnation is pending, this mark is 0, and the receiver's stays where it was: a lower mark
                // is always true.
                Some((_, e)) if e.incarnation != entry.incarnation => 0,
                Some((_, e)) => e.number,
                None => u64::MAX,
            };
            let incarnation = state.incarnations.get(entry.incarnation as usize).copied();
            let incarnation = incarnation.unwrap_or(Incarnation { started_ms: 0, random: 0 });
            return Ok((incarnation, held.map_or(low_water, |h| h.min(low_water))));
        }
    }
}

/// The newest pending message under a key. Blocks.
pub(crate) fn pending(shared: &Arc<Shared>, key: u128) -> Result<Option<Entry>> {
    if let Some(entry) = shared.state.lock().live.get(&key) {
        return Ok(Some(*entry));
    }
    let found = shared.ask_cold(|cold| cold.latest_pending(key))?.flatten();
    let state = shared.state.lock();
    // It may have come to memory in between (moved in the log).
    Ok(state.live.get(&key).copied().or(found.filter(|e| state.is_current_cold(e))))
}

/// A dead letter as shown to the observer and the operator. `None` if its receiver is not known, which only damage could
/// cause.
pub(crate) fn told(
    reader: Reader<'_>,
    entry: &Entry,
    id: MessageId,
    reason: DeadReason,
    time: Option<u32>,
) -> Option<DeadLetter> {
    let party = reader.party(entry.party);
    let correspondent = match entry.class {
        Class::Outgoing => Correspondent::To(party?),
        Class::Incoming | Class::IncomingUnnamed => Correspondent::From(party),
    };
    let dead_for = time.map(|time| u64::from(reader.shared.now().saturating_sub(time)));
    Some(DeadLetter {
        sequence: Sequence(entry.sequence),
        correspondent,
        id,
        len: entry.len,
        reason,
        dead_for,
    })
}
