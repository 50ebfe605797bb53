//! The embedded store as the source of a move: what a start would serve, read on a view of the folder that keeps all changes to
//! itself.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::{Fate, Moved, Remembered, Result, Source, Summary, TransferError, Unreadable};
use crate::face::clock::lifetime;
use crate::face::direction::Class;
use crate::face::error::{StoreError, io_error};
use crate::face::message::{DeadReason, MessageId, PartyId, Sequence};
use crate::face::payload::{Payload, Pieces};
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::seen_deliveries::KnownDeliveries;
use crate::log::data_folder::FolderLock;
use crate::log::data_folder::text::Format;
use crate::log::files::{Frame, Log, ReadError};
use crate::log::frame::{Kind, MessageFields, Place, SLICE_BYTES, Slices};
use crate::log::segment::{Lane, LogFile};
use crate::offline::inspect::{Inspection, Inspector};
use crate::opening::recovery::ReadBack;

/// The data folder of a stopped gateway. It is locked, and not changed.
#[derive(Debug)]
pub struct FolderSource {
    _lock: Option<Arc<FolderLock>>,
    log: Arc<FolderLog>,
    /// In the order of their sequences.
    messages: Arc<[FolderMessage]>,
    memory: Vec<Remembered>,
    summary: Summary,
    now: u32,
}

/// The log, and the lane of each segment.
#[derive(Debug)]
struct FolderLog {
    log: Log,
    lanes: HashMap<u32, Lane>,
}

#[derive(Debug)]
struct FolderMessage {
    entry: Entry,
    /// The reason of a dead letter.
    reason: Option<DeadReason>,
}

impl FolderSource {
    /// Reads the folder of `inspector`: every record, as an inspection does. Mailbox messages that were read more than
    /// `message_ttl` ago have expired and are not moved. Blocks.
    pub fn open(inspector: &Inspector, message_ttl: Option<Duration>) -> Result<Self> {
        let lock = inspector.lock()?;
        Self::read(inspector, Some(lock), message_ttl)
    }

    /// Reads a folder that this process has locked or marked as unfinished. Blocks.
    pub(super) fn read(
        inspector: &Inspector,
        lock: Option<Arc<FolderLock>>,
        message_ttl: Option<Duration>,
    ) -> Result<Self> {
        let (inspection, format, found) = inspector.read_back()?;
        let ttl = message_ttl.map(lifetime);
        let ReadBack { log, state, .. } = &found;
        let messages = live(state, found.newest_time, ttl);
        let log = FolderLog {
            log: Log::new(log.disk.clone(), log.dir.clone()),
            lanes: state.accounts.iter().map(|(id, account)| (*id, account.lane)).collect(),
        };
        let summary = Summary {
            name: format!("the store {:032x} in {}", format.store_id, inspector.data_dir().display()),
            state: fingerprint(&format, &found, ttl),
            messages: messages.len() as u64,
            bytes: messages.iter().map(|item| item.entry.len).sum(),
            last_sequence: Sequence(state.last_sequence),
            newest_incarnation_ms: found.last_incarnation_ms,
            oldest_age: u64::from(found.newest_time),
            clock_stands: true,
            damage: damage(&inspection),
        };
        Ok(Self {
            _lock: lock,
            log: Arc::new(log),
            messages: messages.into(),
            memory: memory(state),
            summary,
            now: found.newest_time,
        })
    }
}

#[async_trait]
impl Source for FolderSource {
    async fn summary(&self) -> Result<Summary> {
        Ok(self.summary.clone())
    }

    async fn memory(&self) -> Result<Vec<Remembered>> {
        Ok(self.memory.clone())
    }

    async fn next(
        &self,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<std::result::Result<Moved, Unreadable>>> {
        let from = self.messages.partition_point(|item| item.entry.sequence <= after.0);
        let to = from.saturating_add(limit).min(self.messages.len());
        let (log, messages, now) = (self.log.clone(), self.messages.clone(), self.now);
        let read = tokio::task::spawn_blocking(move || {
            messages[from..to].iter().map(|item| moved(&log, item, now)).collect::<Result<_>>()
        });
        read.await.map_err(|_| StoreError::Closed)?
    }
}

/// What is moved: everything that is neither replaced nor ended nor expired.
fn live(state: &State, now: u32, ttl: Option<u32>) -> Vec<FolderMessage> {
    let live = state.live.values().filter(|entry| !entry.is_over(now, ttl));
    let live = live.map(|entry| FolderMessage { entry: *entry, reason: None });
    let dead = state
        .dead
        .values()
        .map(|letter| FolderMessage { entry: letter.entry, reason: Some(letter.reason()) });
    let mut messages: Vec<_> = live.chain(dead).collect();
    messages.sort_unstable_by_key(|item| item.entry.sequence);
    messages
}

fn memory(state: &State) -> Vec<Remembered> {
    let remembered = |KnownDeliveries { sender, incarnation, low_water, ranges }| Remembered {
        sender: state.parties.name(sender).cloned(),
        incarnation,
        low_water,
        ranges,
    };
    state.delivered.all().into_iter().map(remembered).collect()
}

/// Identifies the store, and changes whenever something is written to it.
fn fingerprint(format: &Format, found: &ReadBack, ttl: Option<u32>) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u128(format.store_id);
    hasher.write_u64(found.last_incarnation_ms);
    hasher.write_u64(found.state.last_sequence);
    hasher.write_u64(found.records);
    hasher.write_u64(found.checkpoint.generation);
    hasher.write_u32(found.newest_time);
    hasher.write_u32(ttl.unwrap_or(0));
    hasher.finish()
}

fn damage(inspection: &Inspection) -> Vec<String> {
    let place = |d: &crate::offline::inspect::Damage| format!("{} at {}: {}", d.file, d.offset, d.what);
    let mut damage: Vec<_> = inspection.damage.iter().map(place).collect();
    if inspection.missing_messages > 0 {
        damage.push(format!("{} messages of the index are not in the log", inspection.missing_messages));
    }
    if inspection.unreadable_bytes > 0 {
        damage.push(format!("{} bytes that the disk cannot read", inspection.unreadable_bytes));
    }
    damage
}

/// Reads a message. Blocks.
fn moved(
    log: &Arc<FolderLog>,
    item: &FolderMessage,
    now: u32,
) -> Result<std::result::Result<Moved, Unreadable>> {
    let sequence = Sequence(item.entry.sequence);
    match log.message(item) {
        Ok(message) => {
            let read = item.entry.read_at().map(|read| u64::from(now.saturating_sub(read)));
            Ok(Ok(Moved {
                age: item.entry.age(now),
                read: read.filter(|_| message.fate == Fate::Mailbox),
                ..message
            }))
        }
        Err(error @ StoreError::Damaged { .. }) => Ok(Err(Unreadable { sequence, what: error.to_string() })),
        Err(error) => Err(TransferError::Store(error)),
    }
}

impl FolderLog {
    fn lane(&self, place: Place) -> Lane {
        self.lanes.get(&place.segment).copied().unwrap_or(Lane::Small)
    }

    /// A message, with its age not set.
    fn message(self: &Arc<Self>, item: &FolderMessage) -> std::result::Result<Moved, StoreError> {
        let entry = &item.entry;
        let lane = self.lane(entry.place);
        let read = self.log.read(lane, entry.place, entry.frame_len);
        let frame = read.map_err(|e| self.error(e, lane, entry.place, "unknown"))?;
        let wrong = |what: &str| self.damaged(what, lane, entry.place, "unknown");
        if frame.header.sequence != entry.sequence {
            return Err(wrong("another frame stands there"));
        }
        let fields = MessageFields::decode(frame.fields()).map_err(|_| wrong("the fields do not decode"))?;
        let id = MessageId::new(fields.id).map_err(|e| wrong(&e.to_string()))?;
        let party = match fields.class {
            Class::IncomingUnnamed => None,
            _ => Some(PartyId::new(fields.party).map_err(|e| wrong(&e.to_string()))?),
        };
        let fate = match (&item.reason, fields.class) {
            (Some(reason), Class::Outgoing) => Fate::Dead(reason.clone()),
            (Some(reason), _) => Fate::DeadMail(reason.clone()),
            (None, Class::Outgoing) => Fate::Pending,
            (None, _) => Fate::Mailbox,
        };
        Ok(Moved {
            fate,
            party,
            payload: self.payload(entry, &frame, &id)?,
            id,
            identity: (fields.number > 0).then_some((fields.incarnation, fields.number)),
            age: 0,
            read: None,
            sequence: Sequence(entry.sequence),
        })
    }

    fn payload(
        self: &Arc<Self>,
        entry: &Entry,
        frame: &Frame,
        id: &MessageId,
    ) -> std::result::Result<Payload, StoreError> {
        if frame.header.kind != Kind::Commit {
            return Ok(Payload::Whole(frame.payload()));
        }
        let lane = self.lane(entry.place);
        let wrong = |what| self.damaged(what, lane, entry.place, id.as_str());
        let slices =
            Slices::decode(&frame.payload()).map_err(|_| wrong("the list of slices does not decode"))?;
        let but_last = slices.extents.len().saturating_sub(1);
        let regular = slices.extents[..but_last].iter().all(|e| e.len as usize == SLICE_BYTES);
        if slices.len() != entry.len || !regular {
            return Err(wrong("the slices are not as long as the message"));
        }
        let sequence = slices.sequence(entry.sequence);
        let inner =
            SlicedContent { log: self.clone(), id: id.clone(), lane, sequence, slices, len: entry.len };
        Ok(Payload::Pieces(Arc::new(FolderPieces(Arc::new(inner)))))
    }

    fn damaged(&self, what: &str, lane: Lane, place: Place, id: &str) -> StoreError {
        self.error(ReadError::Damaged(what.into()), lane, place, id)
    }

    fn error(&self, error: ReadError, lane: Lane, place: Place, id: &str) -> StoreError {
        match error {
            ReadError::Io(e) => io_error("read", &self.log.path(lane, place.segment), e),
            ReadError::Damaged(what) => StoreError::Damaged {
                id: id.to_owned(),
                segment: LogFile::Segment(lane, place.segment).name(),
                offset: place.offset.into(),
                what,
            },
        }
    }
}

/// The content of a large message.
#[derive(Debug)]
struct FolderPieces(Arc<SlicedContent>);

#[derive(Debug)]
struct SlicedContent {
    log: Arc<FolderLog>,
    id: MessageId,
    lane: Lane,
    /// The sequence in the headers of the slices.
    sequence: u64,
    slices: Slices,
    len: u64,
}

impl SlicedContent {
    /// Reads one slice. Blocks.
    fn read(&self, n: usize) -> std::result::Result<Bytes, StoreError> {
        let Some(extent) = self.slices.extents.get(n) else { return Ok(Bytes::new()) };
        let mut bytes = vec![0; extent.len as usize];
        let read = self.log.log.read_payload_into(self.lane, extent.place, &mut bytes);
        let wrong = |e| self.log.error(e, self.lane, extent.place, self.id.as_str());
        let header = read.map_err(wrong)?;
        if header.sequence != self.sequence || header.kind != Kind::Part {
            return Err(wrong(ReadError::Damaged("a slice of another message stands there".into())));
        }
        Ok(bytes.into())
    }
}

#[async_trait]
impl Pieces for FolderPieces {
    fn len(&self) -> u64 {
        self.0.len
    }

    async fn piece(&self, at: u64) -> crate::face::error::Result<Bytes> {
        if at >= self.0.len {
            return Ok(Bytes::new());
        }
        let (inner, n) = (self.0.clone(), (at / SLICE_BYTES as u64) as usize);
        let read = tokio::task::spawn_blocking(move || inner.read(n));
        let bytes = read.await.map_err(|_| StoreError::Closed)??;
        Ok(bytes.slice(((at % SLICE_BYTES as u64) as usize).min(bytes.len())..))
    }
}
