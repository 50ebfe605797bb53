//! The content of a large message in the log, read a slice at a time.
//!
//! A message may be moved in the log, or end, while it is read: if a slice is not valid, the message is looked up again
//! before that counts as damage.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::core::shared::{Shared, blocking};
use crate::core::slices_written::StreamedMessage;
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{MessageId, Sequence};
use crate::face::payload::{Payload, Pieces};
use crate::index::entry::Entry;
use crate::log::files::ReadError;
use crate::log::frame::{Kind, SLICE_BYTES, Slices};
use crate::log::segment::Lane;
use crate::read::frames::{LoadedMessage, Reader};

/// The content of a large message in the log, or of an upload.
#[derive(Debug)]
pub(crate) struct StoredPieces {
    shared: Arc<Shared>,
    id: MessageId,
    len: u64,
    at: Mutex<Arc<LocatedContent>>,
}

/// Where the content is in the log.
#[derive(Debug)]
struct LocatedContent {
    /// The message's key and entry; `None` for an upload that is not a message yet.
    entry: Option<(u128, Entry)>,
    lane: Lane,
    /// Sequence in the headers of the slices.
    sequence: u64,
    slices: Slices,
}

impl StoredPieces {
    /// The content of a message. Fails if its list of slices is wrong.
    pub(crate) fn of_message(
        shared: Arc<Shared>,
        id: &MessageId,
        (key, entry): (u128, Entry),
        slices: Slices,
    ) -> Result<Self> {
        let (last, others) = slices.extents.split_last().map_or((0, &[][..]), |(last, o)| (last.len, o));
        let regular = others.iter().all(|e| e.len as usize == SLICE_BYTES) && last as usize <= SLICE_BYTES;
        if slices.len() != entry.len || !regular {
            let reader = Reader { shared: &shared };
            return Err(reader.damaged(&entry, id, "the slices are not as long as the message"));
        }
        let lane = (Reader { shared: &shared }).lane(entry.place);
        let sequence = slices.sequence(entry.sequence);
        let located = LocatedContent { entry: Some((key, entry)), lane, sequence, slices };
        Ok(Self { shared, id: id.clone(), len: entry.len, at: Mutex::new(Arc::new(located)) })
    }

    /// What an upload has written so far.
    pub(crate) fn of_upload(shared: Arc<Shared>, id: &MessageId, streamed: &StreamedMessage) -> Self {
        let located = LocatedContent {
            entry: None,
            lane: Lane::Bulk,
            sequence: streamed.written.sequence,
            slices: streamed.written.slices(),
        };
        Self { shared, id: id.clone(), len: streamed.len, at: Mutex::new(Arc::new(located)) }
    }

    /// Finds out where the message is now. Blocks.
    fn locate_again(
        shared: &Arc<Shared>,
        id: &MessageId,
        (key, entry): (u128, Entry),
    ) -> Result<LocatedContent> {
        let reader = Reader { shared };
        let gone = || StoreError::Gone { id: id.to_string() };
        let found = if entry.class == Class::Outgoing {
            reader.pending_entry(entry.party, Sequence(entry.sequence))?
        } else {
            reader.find(&[key])?
        };
        let (_, found) = found.filter(|(_, e)| e.sequence == entry.sequence).ok_or_else(gone)?;
        let (_, slices) = reader.slices(&found)?;
        let sequence = slices.sequence(found.sequence);
        Ok(LocatedContent { entry: Some((key, found)), lane: reader.lane(found.place), sequence, slices })
    }
}

impl Reader<'_> {
    /// A message's id and its payload; for a large one that is not in memory, the places of its slices. Blocks.
    pub(crate) fn open(
        self,
        shared: &Arc<Shared>,
        key: u128,
        entry: &Entry,
        expected: Option<&MessageId>,
    ) -> Result<(MessageId, Payload)> {
        if let Some(LoadedMessage { id, payload }) = self.cached(entry) {
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

    /// [`open`](Self::open) for a pending message, wherever it is by now; `None` if it is no longer pending. Blocks.
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
}

impl LocatedContent {
    /// Reads one slice. Blocks.
    fn read(&self, shared: &Shared, n: usize) -> std::result::Result<Bytes, ReadError> {
        let extent = self.slices.extents.get(n).ok_or_else(|| ReadError::Damaged("no such slice".into()))?;
        let mut bytes = vec![0; extent.len as usize];
        let header = shared.log.read_payload_into(self.lane, extent.place, &mut bytes)?;
        if header.sequence != self.sequence || header.kind != Kind::Part {
            return Err(ReadError::Damaged("a slice of another message stands there".into()));
        }
        Ok(bytes.into())
    }
}

/// Reads one slice; also returns where the message is now if it moved. Blocks.
fn read(
    shared: &Arc<Shared>,
    id: &MessageId,
    located: &Arc<LocatedContent>,
    n: usize,
) -> Result<(Bytes, Option<Arc<LocatedContent>>)> {
    let wrong = match located.read(shared, n) {
        Ok(bytes) => return Ok((bytes, None)),
        Err(wrong) => wrong,
    };
    let place = located.slices.extents.get(n).map(|extent| extent.place).unwrap_or_default();
    let Some(entry) = located.entry else {
        return Err((Reader { shared }).slice_error(wrong, located.lane, place, id));
    };
    let moved = Arc::new(StoredPieces::locate_again(shared, id, entry)?);
    if moved.entry == located.entry {
        return Err((Reader { shared }).slice_error(wrong, located.lane, place, id));
    }
    let bytes = moved.read(shared, n);
    let place = moved.slices.extents.get(n).map(|extent| extent.place).unwrap_or_default();
    let bytes = bytes.map_err(|wrong| (Reader { shared }).slice_error(wrong, moved.lane, place, id))?;
    Ok((bytes, Some(moved)))
}

#[async_trait]
impl Pieces for StoredPieces {
    fn len(&self) -> u64 {
        self.len
    }

    async fn piece(&self, at: u64) -> Result<Bytes> {
        if at >= self.len {
            return Ok(Bytes::new());
        }
        let located = self.at.lock().clone();
        let (id, n) = (self.id.clone(), (at / SLICE_BYTES as u64) as usize);
        let (bytes, moved) = blocking(&self.shared, move |shared| read(shared, &id, &located, n)).await?;
        if let Some(moved) = moved {
            *self.at.lock() = moved;
        }
        Ok(bytes.slice((at % SLICE_BYTES as u64) as usize..))
    }
}
