//! A message before it has its place in the order.

use bytes::Bytes;

use crate::core::news::News;
use crate::core::reply::Reply;
use crate::core::slices_written::StreamedMessage;
use crate::core::write_queue::{Append, Effect, Job, LargeMessage};
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{MessageId, PartyId, SendKey, Sequence};
use crate::face::payload::{Held, Payload};
use crate::index::entry::Entry;
use crate::log::frame::{EXTENT_BYTES, KeyedContent, Kind, SLICE_BYTES, slice_crcs};
use crate::log::segment::{BULK_FROM_BYTES, Lane};

/// Payload bytes whose checksum is computed off the async workers.
const OFF_WORKER_BYTES: usize = 1 << 20;

/// The checksum of all slices together, from that of each and its length.
fn joined<'a>(slices: impl Iterator<Item = (&'a u32, usize)>) -> u32 {
    let mut all = crc32fast::Hasher::new();
    for (crc, len) in slices {
        all.combine(&crc32fast::Hasher::new_with_initial_len(*crc, len as u64));
    }
    all.finalize()
}

/// An earlier try of a send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EarlierTry {
    pub(crate) sequence: Sequence,
    /// Index key of the message.
    pub(crate) mail: u128,
    /// Key of the send.
    pub(crate) key: Option<SendKey>,
    /// The lane in whose queue it is; `None` if it is in the log.
    pub(crate) queued: Option<Lane>,
}

/// A message before it has a sequence number.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) class: Class,
    pub(crate) party: Option<&'a PartyId>,
    pub(crate) id: &'a MessageId,
    payload: Bytes,
    slice_crcs: Vec<u32>,
    payload_crc: crc32fast::Hasher,
    /// The slices of an upload, instead of the payload.
    streamed: Option<StreamedMessage>,
    /// The key that the client gave to this send, if any.
    pub(crate) keyed: Option<KeyedContent>,
    /// Refuse it as stale if its sender already has a message under the id.
    pub(crate) only_if_free: bool,
}

impl<'a> Draft<'a> {
    /// A message that is here in full.
    pub(crate) async fn new(
        class: Class,
        party: Option<&'a PartyId>,
        id: &'a MessageId,
        payload: Bytes,
    ) -> Result<Self> {
        let mut draft = Self {
            class,
            party,
            id,
            slice_crcs: Vec::new(),
            payload_crc: crc32fast::Hasher::new(),
            payload,
            streamed: None,
            keyed: None,
            only_if_free: false,
        };
        if draft.payload.len() < BULK_FROM_BYTES {
            draft.payload_crc.update(&draft.payload);
        } else if draft.payload.len() < OFF_WORKER_BYTES {
            draft.slice_crcs = slice_crcs(&draft.payload);
        } else {
            let payload = draft.payload.clone();
            let crcs = tokio::task::spawn_blocking(move || slice_crcs(&payload)).await;
            draft.slice_crcs = crcs.map_err(|_| StoreError::Closed)?;
        }
        Ok(draft)
    }

    /// A message whose slices are in the log, or ahead of it in the queue.
    pub(crate) fn streamed(
        class: Class,
        party: Option<&'a PartyId>,
        id: &'a MessageId,
        streamed: StreamedMessage,
    ) -> Self {
        Self {
            class,
            party,
            id,
            slice_crcs: Vec::new(),
            payload_crc: crc32fast::Hasher::new(),
            payload: Bytes::new(),
            streamed: Some(streamed),
            keyed: None,
            only_if_free: false,
        }
    }

    /// Adds the key that the client gave to this send.
    pub(crate) fn called(mut self, key: Option<SendKey>) -> Self {
        let crc = || match &self.streamed {
            Some(streamed) => streamed.crc,
            None if self.slice_crcs.is_empty() => self.payload_crc.clone().finalize(),
            None => joined(self.slice_crcs.iter().zip(self.payload.chunks(SLICE_BYTES).map(<[u8]>::len))),
        };
        self.keyed = key.map(|key| KeyedContent { key, content_crc: crc() });
        self
    }

    /// The slices of an upload; `None` if the message came in full.
    pub(crate) fn uploaded(&self) -> Option<&StreamedMessage> {
        self.streamed.as_ref()
    }

    pub(crate) fn lane(&self) -> Lane {
        let is_small = self.streamed.is_none() && self.payload.len() < BULK_FROM_BYTES;
        if is_small { Lane::Small } else { Lane::Bulk }
    }

    /// Payload bytes.
    pub(crate) fn len(&self) -> u64 {
        self.streamed.as_ref().map_or(self.payload.len() as u64, |streamed| streamed.len)
    }

    /// Bytes that are still to be written, not counting fields.
    pub(crate) fn bytes(&self) -> usize {
        let listed = |streamed: &StreamedMessage| (streamed.len as usize / SLICE_BYTES + 1) * EXTENT_BYTES;
        self.streamed.as_ref().map_or(self.payload.len(), listed)
    }

    /// The payload, if the message can be shown before it is in the log.
    pub(crate) fn shown(&self) -> Option<Bytes> {
        self.streamed.is_none().then(|| self.payload.clone())
    }

    /// The notification for the observer; `None` for a message that cannot be shown yet.
    pub(crate) fn news(&self, sequence: Sequence) -> Option<News> {
        let payload = Payload::Whole(self.shown()?);
        Some(match (self.class, self.party) {
            (Class::Outgoing, Some(peer)) => News::Pending(peer.clone(), sequence, self.payload.len() as u64),
            (_, sender) => {
                let (sender, id) = (sender.cloned(), self.id.clone());
                News::Arrived(Held { sender, id, payload, sequence, unread: true, age: 0 })
            }
        })
    }

    pub(crate) fn job(&self, entry: Entry, fields: Vec<u8>, cost: u64, reply: Reply) -> Job {
        let small = self.lane() == Lane::Small;
        let crc = if small {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&fields);
            crc.combine(&self.payload_crc);
            crc.finalize()
        } else {
            0
        };
        let append = Append {
            kind: if small { Kind::Message } else { Kind::Commit },
            sequence: entry.sequence,
            time: entry.time,
            fields,
            payload: if small { self.payload.clone() } else { Bytes::new() },
            crc,
            cost,
            effect: Effect::Message,
            reply,
        };
        if small {
            Job::Append(append)
        } else {
            let uploaded = self.streamed.as_ref().map(|streamed| streamed.written.clone());
            let (payload, slice_crcs) = (self.payload.clone(), self.slice_crcs.clone());
            Job::Large(Box::new(LargeMessage {
                commit: append,
                payload,
                slice_crcs,
                uploaded,
                len: entry.len,
            }))
        }
    }
}
