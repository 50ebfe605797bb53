//! A message before it has its place in the order.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::Observer;
use crate::error::{Result, StoreError};
use crate::frame::{Class, EXTENT_BYTES, Kind, SLICE_BYTES};
use crate::job::{Append, Effect, Job, Large, Reply};
use crate::message::{MessageId, PartyId, Sequence};
use crate::payload::{Held, Payload};
use crate::segment::{BULK_FROM_BYTES, Lane};
use crate::state::Entry;
use crate::upload::Written;

/// Payload bytes whose checksum is computed off the async workers.
const OFF_WORKER_BYTES: usize = 1 << 20;

/// Checksums of a large payload's slices.
pub(crate) fn slice_crcs(payload: &[u8]) -> Vec<u32> {
    payload.chunks(SLICE_BYTES).map(crc32fast::hash).collect()
}

/// A message whose slices are in the log, or before it in the queue.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) written: Arc<Written>,
    pub(crate) len: u64,
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
    /// Instead of the payload.
    streamed: Option<Streamed>,
}

/// A message that became visible.
#[derive(Debug)]
pub(crate) enum News {
    Arrived(Held),
    Pending(PartyId, Sequence, u64),
}

impl News {
    pub(crate) fn tell(self, observer: &dyn Observer) {
        match self {
            Self::Arrived(message) => observer.arrived(&message),
            Self::Pending(peer, sequence, len) => observer.pending(&peer, sequence, len),
        }
    }
}

impl<'a> Draft<'a> {
    /// A message that is here whole.
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

    /// One whose slices are in the log, or before it in the queue.
    pub(crate) fn streamed(
        class: Class,
        party: Option<&'a PartyId>,
        id: &'a MessageId,
        streamed: Streamed,
    ) -> Self {
        Self {
            class,
            party,
            id,
            slice_crcs: Vec::new(),
            payload_crc: crc32fast::Hasher::new(),
            payload: Bytes::new(),
            streamed: Some(streamed),
        }
    }

    pub(crate) fn lane(&self) -> Lane {
        let is_small = self.streamed.is_none() && self.payload.len() < BULK_FROM_BYTES;
        if is_small { Lane::Small } else { Lane::Bulk }
    }

    /// Payload bytes.
    pub(crate) fn len(&self) -> u64 {
        self.streamed.as_ref().map_or(self.payload.len() as u64, |streamed| streamed.len)
    }

    /// Bytes that are still to be written, besides fields.
    pub(crate) fn bytes(&self) -> usize {
        let listed = |streamed: &Streamed| (streamed.len as usize / SLICE_BYTES + 1) * EXTENT_BYTES;
        self.streamed.as_ref().map_or(self.payload.len(), listed)
    }

    /// What can be shown of it before it is in the log.
    pub(crate) fn shown(&self) -> Option<Bytes> {
        self.streamed.is_none().then(|| self.payload.clone())
    }

    /// What the observer is to be told now: nothing of what is not shown yet.
    pub(crate) fn news(&self, sequence: Sequence) -> Option<News> {
        let payload = Payload::Whole(self.shown()?);
        Some(match (self.class, self.party) {
            (Class::Outgoing, Some(peer)) => News::Pending(peer.clone(), sequence, self.payload.len() as u64),
            (_, sender) => {
                News::Arrived(Held { sender: sender.cloned(), id: self.id.clone(), payload, sequence })
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
            Job::Large(Box::new(Large { commit: append, payload, slice_crcs, uploaded, len: entry.len }))
        }
    }
}
