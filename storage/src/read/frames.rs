//! Reads messages by their entries: from the cache, or else from the log, verified. Reading from the log blocks.

use bytes::{Bytes, BytesMut};

use crate::core::shared::Shared;
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError, io_error};
use crate::face::message::{FromSender, MessageId, PartyId};
use crate::index::entry::Entry;
use crate::index::key;
use crate::log::damage::report_damage;
use crate::log::disk::passes;
use crate::log::files::{Frame, ReadError};
use crate::log::frame::{Kind, MessageFields, Place, Slices};
use crate::log::segment::{Lane, LogFile};

/// A message's id and content, as read from the log.
#[derive(Debug, Clone)]
pub(crate) struct LoadedMessage {
    pub(crate) id: MessageId,
    pub(crate) payload: Bytes,
}

/// Reads messages of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) shared: &'a Shared,
}

impl Reader<'_> {
    /// A party's name by its index.
    pub(crate) fn party(self, index: u16) -> Option<PartyId> {
        self.shared.state.lock().parties.name(index).cloned()
    }

    /// Index keys of the mailbox messages that a request may mean.
    pub(crate) fn mail_keys(self, from: &FromSender, id: &MessageId) -> Vec<u128> {
        let secret = self.shared.key_secret;
        let of = |class, party: &str| key::key(secret, class, party, id.as_str());
        match from {
            FromSender::Party(party) => vec![of(Class::Incoming, party.as_str())],
            FromSender::Unnamed => vec![of(Class::IncomingUnnamed, "")],
            FromSender::Any => {
                let state = self.shared.state.lock();
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

    /// A message's id and payload if they are in the cache. Does not block.
    pub(crate) fn cached(self, entry: &Entry) -> Option<LoadedMessage> {
        let cached = self.shared.state.lock().cache.get(entry.sequence)?;
        Some(LoadedMessage { id: cached.id, payload: cached.payload })
    }

    /// A message's id, from the fields of its frame alone. `None` if they are damaged or permanently unreadable, which is
    /// reported to anyone who reads the message. A temporary failure is an error. Blocks.
    pub(crate) fn id_of(self, key: u128, entry: &Entry) -> Result<Option<Box<str>>> {
        let lane = self.lane(entry.place);
        let fields = match self.shared.log.read_fields(lane, entry.place) {
            Ok(fields) => fields,
            Err(ReadError::Io(error)) if passes(&error) => {
                return Err(io_error("read", &self.shared.log.path(lane, entry.place.segment), error));
            }
            Err(_) => return Ok(None),
        };
        let Ok(f) = MessageFields::decode(&fields) else { return Ok(None) };
        // The fields have no checksum of their own: the key serves as one.
        let is_it = key::key(self.shared.key_secret, f.class, f.party, f.id) == key;
        Ok(is_it.then(|| f.id.into()))
    }

    /// A message's id. Blocks.
    pub(crate) fn id(self, entry: &Entry) -> Result<MessageId> {
        let frame = self.frame(entry)?;
        self.decode_id(entry, &frame)
    }

    /// A message's id and payload, verified. Blocks.
    pub(crate) fn load(self, entry: &Entry) -> Result<LoadedMessage> {
        if let Some(loaded) = self.cached(entry) {
            return Ok(loaded);
        }
        let frame = self.frame(entry)?;
        let id = self.decode_id(entry, &frame)?;
        let payload = match frame.header.kind {
            Kind::Commit => self.read_slices(entry, &id, &frame)?,
            _ => frame.payload(),
        };
        Ok(LoadedMessage { id, payload })
    }

    pub(crate) fn lane(self, place: Place) -> Lane {
        self.shared.state.lock().accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane)
    }

    pub(crate) fn frame(self, entry: &Entry) -> Result<Frame> {
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
        // It moved in the log, or ended, and its segment was freed: that is not damage.
        if matches!(wrong, ReadError::Damaged(_)) && !self.shared.state.lock().is_valid(entry.place) {
            return Err(StoreError::Gone { id: "unknown".into() });
        }
        Err(self.read_error(wrong, lane, entry.place, u64::from(entry.frame_len), "unknown"))
    }

    pub(crate) fn decode_id(self, entry: &Entry, frame: &Frame) -> Result<MessageId> {
        let decoded = MessageFields::decode(frame.fields()).ok().and_then(|f| MessageId::new(f.id).ok());
        decoded.ok_or_else(|| {
            let wrong = ReadError::Damaged("the fields do not decode".into());
            self.read_error(wrong, self.lane(entry.place), entry.place, 0, "unknown")
        })
    }

    /// Id of a large message, and where its slices are. Blocks.
    pub(crate) fn slices(self, entry: &Entry) -> Result<(MessageId, Slices)> {
        let frame = self.frame(entry)?;
        let id = self.decode_id(entry, &frame)?;
        let slices = self.list(entry, &id, &frame)?;
        Ok((id, slices))
    }

    pub(crate) fn list(self, entry: &Entry, id: &MessageId, frame: &Frame) -> Result<Slices> {
        let wrong = |_| self.damaged(entry, id, "the list of slices does not decode");
        Slices::decode(&frame.payload()).map_err(wrong)
    }

    /// The error for a message that is not what its frame says.
    pub(crate) fn damaged(self, entry: &Entry, id: &MessageId, what: &str) -> StoreError {
        self.slice_error(ReadError::Damaged(what.into()), self.lane(entry.place), entry.place, id)
    }

    /// The error for a slice that could not be read.
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
                // Reported once, however often it is read.
                if self.shared.counters.is_new_damage(place) {
                    report_damage(&self.shared.log, &self.shared.options.data_dir, lane, place, len, &what);
                }
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
