//! Finds and reads messages: memory first, then the index on disk, then the log, verified. Blocks where it reads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Result, StoreError};
use crate::frame::{Class, Kind, MessageFields, Place, Slices};
use crate::keys;
use crate::log::{Frame, ReadError, io_error, lock};
use crate::message::{FromSender, Incarnation, MessageId, PartyId, Sequence};
use crate::payload::{Held, Payload};
use crate::queued::QueuedMessage;
use crate::recovery::report_damage;
use crate::segment::{Lane, LogFile};
use crate::shared::Shared;
use crate::state::Entry;
use crate::stored::StoredPieces;

/// A message as the log has it.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) id: MessageId,
    pub(crate) payload: Bytes,
}

/// Where a lookup in memory led.
#[derive(Debug)]
pub(crate) enum InMemory {
    /// This is the newest there is.
    Found(u128, Entry),
    /// There is one on its way into the log, and none in the index.
    Queued(Held),
    /// The same, unless the index on disk has one.
    QueuedOrOnDisk(Held),
    /// There is none.
    Nothing,
    /// The index on disk must be asked too.
    AskDisk,
}

/// Reads from a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) shared: &'a Shared,
}

impl Reader<'_> {
    /// A party's name by its index.
    pub(crate) fn party(self, index: u16) -> Option<PartyId> {
        lock(&self.shared.state).parties.name(index).cloned()
    }

    /// Index keys of the mailbox messages that a reader may mean.
    pub(crate) fn mail_keys(self, from: &FromSender, id: &MessageId) -> Vec<u128> {
        let secret = self.shared.key_secret;
        let of = |class, party: &str| keys::key(secret, class, party, id.as_str());
        match from {
            FromSender::Party(party) => vec![of(Class::Incoming, party.as_str())],
            FromSender::Unnamed => vec![of(Class::IncomingUnnamed, "")],
            FromSender::Any => {
                let state = lock(&self.shared.state);
                let is_sender = |i: usize| state.parties.counts.get(i).is_some_and(|c| c.is_sender);
                let named = state.parties.names().iter().enumerate().filter(|(i, _)| is_sender(i + 1));
                let mut keys: Vec<_> = named.map(|(_, p)| of(Class::Incoming, p.as_str())).collect();
                if is_sender(0) {
                    keys.push(of(Class::IncomingUnnamed, ""));
                }
                keys
            }
        }
    }

    /// The newest of some mailbox messages, as far as memory can tell. Does not block.
    pub(crate) fn find_in_memory(self, keys: &[u128]) -> InMemory {
        let state = lock(&self.shared.state);
        let found = keys.iter().filter_map(|k| state.live.get(k).map(|e| (*k, *e)));
        let all_here = keys.iter().all(|k| state.live.contains_key(k));
        let newest = found
            .max_by_key(|(_, e)| e.sequence)
            .filter(|(_, e)| !e.is_expired(self.shared.now(), self.shared.message_ttl()));
        let on_disk = !all_here && state.cold_mail > 0;
        match newest {
            Some((key, entry)) if !on_disk => return InMemory::Found(key, entry),
            Some(_) => return InMemory::AskDisk,
            None => {}
        }
        // What is in the log survives a kill, what is queued does not: were it shown in place of one in the log, a reader
        // could be handed that older one afterwards.
        let queued = keys.iter().filter_map(|key| state.queued.newest(*key));
        match queued.max_by_key(|message| message.entry.sequence).cloned() {
            Some(QueuedMessage { entry, id, party, payload, .. }) => {
                // What is found here is shown, and so has it.
                let payload = Payload::Whole(payload.unwrap_or_default());
                let message = Held { sender: party, id, payload, sequence: Sequence(entry.sequence) };
                if on_disk { InMemory::QueuedOrOnDisk(message) } else { InMemory::Queued(message) }
            }
            None if on_disk => InMemory::AskDisk,
            None => InMemory::Nothing,
        }
    }

    /// The newest of some mailbox messages. Blocks.
    pub(crate) fn find(self, keys: &[u128]) -> Result<Option<(u128, Entry)>> {
        let newest = self.find_expired_too(keys)?;
        Ok(newest.filter(|(_, e)| !e.is_expired(self.shared.now(), self.shared.message_ttl())))
    }

    /// One of some mailbox messages whose time is over, as long as its space was not given back. Blocks.
    pub(crate) fn expired(self, keys: &[u128]) -> Result<Option<Entry>> {
        let newest = self.find_expired_too(keys)?.map(|(_, entry)| entry);
        Ok(newest.filter(|e| e.is_expired(self.shared.now(), self.shared.message_ttl())))
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
                let state = lock(&self.shared.state);
                if let Some(entry) = state.live.get(&key) {
                    return Ok(Some(*entry));
                }
                state.hand_overs
            };
            let Some(cold) = &self.shared.cold() else { return Ok(None) };
            let found = cold.mail(key).map_err(|e| self.shared.cold_failed(&e))?;
            let state = lock(&self.shared.state);
            // It may have come to memory (moved in the log) in between, or been replaced by one that moved to disk since.
            let entry = state.live.get(&key).copied().or(found.filter(|e| state.is_valid(e.place)));
            if entry.is_some() || state.hand_overs == hand_overs {
                return Ok(entry);
            }
        }
    }

    /// Pending messages of a party after a sequence, memory and disk merged. Blocks when some are on disk.
    pub(crate) fn pending_entries(
        self,
        party: u16,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(u128, Entry)>> {
        loop {
            let relocations = lock(&self.shared.state).relocations;
            let entries = self.look_at_pending(party, after, limit)?;
            // One that came from disk to memory between the two looks was in neither.
            if lock(&self.shared.state).relocations == relocations {
                return Ok(entries);
            }
        }
    }

    fn look_at_pending(self, party: u16, after: Sequence, limit: usize) -> Result<Vec<(u128, Entry)>> {
        let (mut entries, on_disk) = {
            let mut state = lock(&self.shared.state);
            let on_disk = state.parties.count(party).cold_pending > 0;
            let range = state.pending.range((party, after.0.saturating_add(1))..=(party, u64::MAX));
            let entries: Vec<_> =
                range.take(limit).filter_map(|(_, key)| Some((*key, *state.live.get(key)?))).collect();
            (entries, on_disk)
        };
        let Some(cold) = self.shared.cold().filter(|_| on_disk) else { return Ok(entries) };
        let mut found = Vec::new();
        for item in cold.pending_after(party, after.0) {
            let (key, entry) = item.map_err(|e| self.shared.cold_failed(&e))?;
            if self.is_pending_on_disk(&entry) {
                found.push((key, entry));
            }
            if found.len() >= limit {
                break;
            }
        }
        entries.extend(found);
        entries.sort_by_key(|(_, e)| e.sequence);
        entries.dedup_by_key(|(_, e)| e.sequence);
        entries.truncate(limit);
        Ok(entries)
    }

    fn is_pending_on_disk(self, entry: &Entry) -> bool {
        let state = lock(&self.shared.state);
        state.is_valid(entry.place) && !state.dead.contains_key(&entry.sequence)
    }

    /// One pending message; `None` when it is pending no more. Blocks when it is on disk.
    pub(crate) fn pending_entry(self, party: u16, sequence: Sequence) -> Result<Option<(u128, Entry)>> {
        loop {
            let relocations = lock(&self.shared.state).relocations;
            let entry = self.look_for_pending(party, sequence)?;
            if entry.is_some() || lock(&self.shared.state).relocations == relocations {
                return Ok(entry);
            }
        }
    }

    fn look_for_pending(self, party: u16, sequence: Sequence) -> Result<Option<(u128, Entry)>> {
        {
            let state = lock(&self.shared.state);
            if let Some(key) = state.pending.get(&(party, sequence.0)) {
                return Ok(state.live.get(key).map(|e| (*key, *e)));
            }
        }
        let Some(cold) = &self.shared.cold() else { return Ok(None) };
        let found = cold.pending(party, sequence.0).map_err(|e| self.shared.cold_failed(&e))?;
        let Some((key, entry)) = found.filter(|(_, e)| self.is_pending_on_disk(e)) else { return Ok(None) };
        let newer_in_memory =
            lock(&self.shared.state).live.get(&key).is_some_and(|e| e.sequence > sequence.0);
        let newer_on_disk = cold.latest_pending(key).map_err(|e| self.shared.cold_failed(&e))?;
        if newer_in_memory
            || newer_on_disk.is_some_and(|e| e.sequence > sequence.0 && self.is_pending_on_disk(&e))
        {
            // It ends for good with the newer one, or when that one is indexed on disk: once that one is synced.
            return Ok(None);
        }
        Ok(Some((key, entry)))
    }

    /// Incarnation of an outgoing message, and its receiver's low-water mark. Blocks when some are on disk.
    pub(crate) fn identity(self, entry: &Entry) -> Result<(Incarnation, u64)> {
        let (incarnation, mark) = self.mark(entry)?;
        Ok((incarnation, mark.min(entry.number)))
    }

    /// The same for all messages of its incarnation and receiver: the mark of each is at most its own number.
    pub(crate) fn mark(self, entry: &Entry) -> Result<(Incarnation, u64)> {
        loop {
            // Before the list is looked at: what is held now may be pending, and so in the list, a moment later.
            let (held, relocations) = {
                let mut state = lock(&self.shared.state);
                (state.lowest_held(entry.party, entry.incarnation), state.relocations)
            };
            let oldest = self.pending_entries(entry.party, Sequence(0), 1)?;
            let mut state = lock(&self.shared.state);
            if state.relocations != relocations {
                // The oldest may have come from disk to memory between the two looks.
                continue;
            }
            // And after it: what was pending then may be superseded, and held until that is synced.
            let held = held.into_iter().chain(state.lowest_held(entry.party, entry.incarnation)).min();
            let low_water = match oldest.first() {
                // With an older incarnation pending the mark stays where it was: a lower mark is always true.
                Some((_, e)) if e.incarnation != entry.incarnation => 0,
                Some((_, e)) => e.number,
                None => u64::MAX,
            };
            let incarnation = state.incarnations.get(entry.incarnation as usize).copied();
            let incarnation = incarnation.unwrap_or(Incarnation { started_ms: 0, random: 0 });
            return Ok((incarnation, held.map_or(low_water, |h| h.min(low_water))));
        }
    }

    /// A message's id and payload, from the cache where it is there. Does not block.
    pub(crate) fn cached(self, entry: &Entry) -> Option<Loaded> {
        let cached = lock(&self.shared.state).cache.get(entry.sequence)?;
        Some(Loaded { id: cached.id, payload: cached.payload })
    }

    /// A message's id. Blocks.
    pub(crate) fn id(self, entry: &Entry) -> Result<MessageId> {
        let frame = self.frame(entry)?;
        self.decode_id(entry, &frame)
    }

    /// A message's id and payload, verified. Blocks.
    pub(crate) fn load(self, entry: &Entry) -> Result<Loaded> {
        if let Some(loaded) = self.cached(entry) {
            return Ok(loaded);
        }
        let frame = self.frame(entry)?;
        let id = self.decode_id(entry, &frame)?;
        let payload = match frame.header.kind {
            Kind::Commit => self.read_slices(entry, &id, &frame)?,
            _ => frame.payload(),
        };
        Ok(Loaded { id, payload })
    }

    pub(crate) fn lane(self, place: Place) -> Lane {
        lock(&self.shared.state).accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane)
    }

    fn frame(self, entry: &Entry) -> Result<Frame> {
        let lane = self.lane(entry.place);
        let wrong = match self.shared.log.read(lane, entry.place, entry.frame_len) {
            Ok(frame)
                if frame.header.sequence == entry.sequence
                    && matches!(frame.header.kind, Kind::Message | Kind::Commit) =>
            {
                return Ok(frame);
            }
            Ok(_) => ReadError::Damaged("another frame stands there".into()),
            Err(wrong) => wrong,
        };
        // It moved in the log, or ended, and its segment was given back: that is no damage.
        if matches!(wrong, ReadError::Damaged(_)) && !lock(&self.shared.state).is_valid(entry.place) {
            return Err(StoreError::Gone { id: "unknown".into() });
        }
        Err(self.read_error(wrong, lane, entry.place, u64::from(entry.frame_len), "unknown"))
    }

    fn decode_id(self, entry: &Entry, frame: &Frame) -> Result<MessageId> {
        let decoded = MessageFields::decode(frame.fields()).ok().and_then(|f| MessageId::new(f.id).ok());
        decoded.ok_or_else(|| {
            let wrong = ReadError::Damaged("the fields do not decode".into());
            self.read_error(wrong, self.lane(entry.place), entry.place, 0, "unknown")
        })
    }

    /// A message's id, and its payload or, of a large one that is not in memory, where its slices are. Blocks.
    pub(crate) fn open(
        self,
        shared: &Arc<Shared>,
        key: u128,
        entry: &Entry,
        expected: Option<&MessageId>,
    ) -> Result<(MessageId, Payload)> {
        if let Some(Loaded { id, payload }) = self.cached(entry) {
            return Ok((id, Payload::Whole(payload)));
        }
        let frame = self.frame(entry)?;
        let id = self.decode_id(entry, &frame)?;
        if frame.header.kind != Kind::Commit || expected.is_some_and(|expected| *expected != id) {
            return Ok((id, Payload::Whole(frame.payload())));
        }
        let slices = self.list(entry, &id, &frame)?;
        let pieces = StoredPieces::of_message(shared.clone(), &id, (key, *entry), slices)?;
        Ok((id, Payload::Pieces(Arc::new(pieces))))
    }

    /// [`open`](Self::open) for a pending message, wherever it is by now; `None`: it is pending no more. Blocks.
    pub(crate) fn open_pending(
        self,
        shared: &Arc<Shared>,
        (key, entry): (u128, Entry),
    ) -> Result<Option<(MessageId, Payload)>> {
        let mut at = (key, entry);
        loop {
            match self.open(shared, at.0, &at.1, None) {
                Err(StoreError::Gone { .. }) => {}
                opened => return opened.map(Some),
            }
            match self.pending_entry(entry.party, Sequence(entry.sequence))? {
                Some(found) => at = found,
                None => return Ok(None),
            }
        }
    }

    /// Id of a large message, and where its slices are. Blocks.
    pub(crate) fn slices(self, entry: &Entry) -> Result<(MessageId, Slices)> {
        let frame = self.frame(entry)?;
        let id = self.decode_id(entry, &frame)?;
        let slices = self.list(entry, &id, &frame)?;
        Ok((id, slices))
    }

    fn list(self, entry: &Entry, id: &MessageId, frame: &Frame) -> Result<Slices> {
        let wrong = |_| self.damaged(entry, id, "the list of slices does not decode");
        Slices::decode(&frame.payload()).map_err(wrong)
    }

    /// A message that is not what its frame says.
    pub(crate) fn damaged(self, entry: &Entry, id: &MessageId, what: &str) -> StoreError {
        self.slice_error(ReadError::Damaged(what.into()), self.lane(entry.place), entry.place, id)
    }

    /// A slice that could not be read.
    pub(crate) fn slice_error(
        self,
        wrong: ReadError,
        lane: Lane,
        place: Place,
        id: &MessageId,
    ) -> StoreError {
        self.read_error(wrong, lane, place, 0, id.as_str())
    }

    fn read_slices(self, entry: &Entry, id: &MessageId, frame: &Frame) -> Result<Bytes> {
        let lane = self.lane(entry.place);
        let slices = self.list(entry, id, frame)?;
        let damaged = |what: &str, place| self.slice_error(ReadError::Damaged(what.into()), lane, place, id);
        if slices.len() != entry.len {
            return Err(damaged("the slices are not as long as the message", entry.place));
        }
        let sequence = slices.sequence(entry.sequence);
        let mut payload = BytesMut::zeroed(entry.len as usize);
        let mut rest = &mut payload[..];
        for extent in slices.extents {
            let (slice, after) = rest.split_at_mut(extent.len as usize);
            rest = after;
            let header = self
                .shared
                .log
                .read_payload_into(lane, extent.place, slice)
                .map_err(|e| self.read_error(e, lane, extent.place, extent.len.into(), id.as_str()))?;
            if header.sequence != sequence || header.kind != Kind::Part {
                return Err(damaged("a slice of another message stands there", extent.place));
            }
        }
        Ok(payload.freeze())
    }

    fn read_error(self, error: ReadError, lane: Lane, place: Place, len: u64, id: &str) -> StoreError {
        match error {
            ReadError::Io(e) => io_error("read", &self.shared.log.path(lane, place.segment), e),
            ReadError::Damaged(what) => {
                self.shared.counters.damaged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                report_damage(&self.shared.log, &self.shared.options.data_dir, lane, place, len, &what);
                StoreError::Damaged {
                    id: id.to_owned(),
                    segment: LogFile::Segment(lane, place.segment).name(),
                    offset: place.offset.into(),
                    what,
                }
            }
        }
    }
}
