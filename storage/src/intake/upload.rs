//! Messages whose content comes in pieces: each slice goes to the log as it comes, and the message counts from its commit
//! frame on, which is queued behind them.
//!
//! Invariants: at most [`WINDOW`] slices of one upload are on their way to the disk; an upload that is dropped leaves only
//! slices to which nothing refers; segments that hold slices of an unfinished upload are not freed.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::core::reply::Reply;
use crate::core::room;
use crate::core::shared::Shared;
use crate::core::slices_written::{SlicesWritten, StreamedMessage};
use crate::core::write_queue::{Append, Effect, Job, Urgency};
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{
    Arrival, DeliveryIdentity, FromSender, MessageId, PartyId, SendKey, Sending, Sequence, Stored,
};
use crate::face::payload::{Payload, Upload};
use crate::index::sends::SendFingerprint;
use crate::intake::accept::{Intake, PERMIT_BYTES};
use crate::intake::draft::Draft;
use crate::log::frame::{EXTENT_BYTES, Kind, MAX_BODY_BYTES, SLICE_BYTES};
use crate::log::segment::Lane;
use crate::read::content::StoredPieces;

/// Most slices of one upload that are on their way to the disk at a time.
const WINDOW: usize = 16;

/// Checks that a message is not too long: the list of its slices must fit into one frame of a segment. With the usual
/// segments a message may have 42 GiB.
pub(crate) fn fits_the_log(shared: &Shared, len: u64) -> Result<()> {
    let most = (shared.segment_bytes / 4).min(u64::from(MAX_BODY_BYTES) / 2) / EXTENT_BYTES as u64;
    let limit = most * SLICE_BYTES as u64;
    if len > limit {
        let remedy = "a message of more bytes than this does not fit the log; send it as several";
        return Err(StoreError::Full { used: len, limit, remedy });
    }
    Ok(())
}

/// An upload into the embedded store, which writes its slices to the log as they come.
#[derive(Debug)]
pub(crate) struct StreamUpload {
    intake: Arc<Intake>,
    /// Created with the first slice.
    written: Option<Arc<SlicesWritten>>,
    len: u64,
    durable: u64,
    slices: u64,
    /// The beginning of the next slice.
    partial: BytesMut,
    /// Checksum of all slices.
    content: crc32fast::Hasher,
    on_their_way: VecDeque<(u64, oneshot::Receiver<Result<()>>)>,
    failed: Option<StoreError>,
    /// Room admitted for what is still to come.
    reserved: u64,
}

impl StreamUpload {
    /// Begins an upload. If its total length is given, room for it is reserved from now on.
    pub(crate) fn new(intake: Arc<Intake>, len: Option<u64>) -> Result<Self> {
        if let Some(error) = intake.shared.state_error() {
            return Err(error);
        }
        let mut reserved = 0;
        if let Some(len) = len {
            fits_the_log(&intake.shared, len)?;
            reserved = room::cost(len as usize, 0);
            intake.shared.admit(Lane::Bulk, reserved)?;
        }
        Ok(Self {
            reserved,
            intake,
            written: None,
            len: 0,
            durable: 0,
            slices: 0,
            partial: BytesMut::new(),
            content: crc32fast::Hasher::new(),
            on_their_way: VecDeque::new(),
            failed: None,
        })
    }

    fn written(&mut self) -> Arc<SlicesWritten> {
        let shared = &self.intake.shared;
        let written = self.written.get_or_insert_with(|| {
            let sequence = {
                let mut state = shared.state.lock();
                state.last_sequence += 1;
                state.last_sequence
            };
            let written = Arc::new(SlicesWritten::new(sequence));
            shared.uploads.lock().push(Arc::downgrade(&written));
            written
        });
        written.clone()
    }

    /// Room in the writer's queue for a slice.
    async fn room(&mut self) -> Result<OwnedSemaphorePermit> {
        while self.on_their_way.len() >= WINDOW {
            self.wait_for_one().await?;
        }
        let shared = &self.intake.shared;
        if let Some(error) = shared.state_error() {
            return Err(error);
        }
        fits_the_log(shared, (self.slices + 1) * SLICE_BYTES as u64)?;
        let permits = (SLICE_BYTES as u64 / PERMIT_BYTES + 1) as u32;
        let permits = permits.min(self.intake.permits);
        let room = self.intake.room[Lane::Bulk.index()].clone();
        room.acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)
    }

    /// Hands a slice to the writer.
    fn write(&mut self, slice: Bytes, permit: OwnedSemaphorePermit) -> Result<()> {
        let shared = self.intake.shared.clone();
        let cost = room::cost(slice.len(), 0);
        if self.reserved >= cost {
            self.reserved -= cost;
        } else {
            shared.admit(Lane::Bulk, cost)?;
        }
        let len = slice.len() as u64;
        let (reply, synced) = Reply::new(Some(permit));
        let written = self.written();
        let crc = crc32fast::hash(&slice);
        self.content.combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
        let append = Append {
            kind: Kind::Part,
            sequence: written.sequence,
            time: shared.now(),
            fields: Vec::new(),
            crc,
            payload: slice,
            cost,
            effect: Effect::Slice(written),
            reply,
        };
        self.slices += 1;
        shared.queues[Lane::Bulk.index()].push(Job::Append(append), Urgency::Soon);
        self.on_their_way.push_back((len, synced));
        Ok(())
    }

    async fn wait_for_one(&mut self) -> Result<()> {
        if let Some((len, synced)) = self.on_their_way.front_mut() {
            synced.await.map_err(|_| StoreError::Closed)??;
            self.durable += *len;
            self.on_their_way.pop_front();
        }
        Ok(())
    }

    /// Takes more of the content. If the call is dropped while it waits, [`len`](Upload::len) says how much was taken.
    async fn take(&mut self, mut bytes: Bytes) -> Result<()> {
        while self.partial.len() + bytes.len() >= SLICE_BYTES {
            let permit = self.room().await?;
            let more = bytes.split_to(SLICE_BYTES - self.partial.len());
            self.len += more.len() as u64;
            let slice = if self.partial.is_empty() {
                more
            } else {
                self.partial.extend_from_slice(&more);
                self.partial.split().freeze()
            };
            self.write(slice, permit)?;
        }
        self.len += bytes.len() as u64;
        self.partial.extend_from_slice(&bytes);
        Ok(())
    }

    async fn wait_for_all(&mut self) -> Result<()> {
        while !self.on_their_way.is_empty() {
            self.wait_for_one().await?;
        }
        Ok(())
    }

    /// A failed slice fails the upload for good: the content would have a hole.
    fn noted<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    fn may_go_on(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Queues the rest; with `reject`, waits until everything is on the disk. `None` if the content is too short for a large
    /// message.
    pub(crate) async fn finish(&mut self) -> Result<Option<StreamedMessage>> {
        self.may_go_on()?;
        if self.written.is_none() {
            return Ok(None);
        }
        if !self.partial.is_empty() {
            let permit = self.room().await?;
            let rest = self.partial.split().freeze();
            self.write(rest, permit)?;
        }
        if self.intake.rejects_reuse() {
            // The held message is compared with it.
            self.wait_for_all().await?;
        }
        Ok(Some(StreamedMessage {
            written: self.written(),
            len: self.len,
            crc: self.content.clone().finalize(),
        }))
    }

    /// Result of the commit frame; if a slice failed earlier, that error, which is the cause.
    async fn ended<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.wait_for_all().await?;
        }
        result
    }

    /// The whole content of a message that is not large.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.partial.split().freeze()
    }

    /// With `MESSAGE_ID_REUSE=reject`: whether the message held under the key is the same; if it differs, that is an error.
    async fn is_held(
        &self,
        held: Option<Payload>,
        id: &MessageId,
        streamed: &StreamedMessage,
    ) -> Result<bool> {
        let Some(held) = held else { return Ok(false) };
        let pieces = StoredPieces::of_upload(self.intake.shared.clone(), id, streamed);
        if held.is_same(&Payload::Pieces(Arc::new(pieces))).await? {
            return Ok(true);
        }
        Err(StoreError::Conflict { id: id.to_string() })
    }
}

impl Drop for StreamUpload {
    fn drop(&mut self) {
        self.intake.shared.space.leave(Lane::Bulk, self.reserved);
        if self.written.take().is_some() {
            // The writer notes that the segments are no longer needed.
            self.intake.shared.queues[Lane::Bulk.index()].wake();
        }
    }
}

#[async_trait]
impl Upload for StreamUpload {
    fn len(&self) -> u64 {
        self.len
    }

    async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.may_go_on()?;
        let taken = self.take(bytes).await;
        self.noted(taken)
    }

    fn durable(&mut self) -> u64 {
        while let Some((len, synced)) = self.on_their_way.front_mut() {
            match synced.try_recv() {
                Ok(Ok(())) => self.durable += *len,
                Ok(Err(error)) => {
                    self.failed.get_or_insert(error);
                    break;
                }
                Err(oneshot::error::TryRecvError::Empty) => break,
                Err(oneshot::error::TryRecvError::Closed) => {
                    self.failed.get_or_insert(StoreError::Closed);
                    break;
                }
            }
            self.on_their_way.pop_front();
        }
        self.durable
    }

    async fn next_durable(&mut self) -> Result<u64> {
        self.may_go_on()?;
        if self.on_their_way.is_empty() {
            std::future::pending::<()>().await;
        }
        let done = self.wait_for_one().await;
        self.noted(done)?;
        Ok(self.durable())
    }

    async fn flush(&mut self) -> Result<()> {
        self.may_go_on()?;
        let done = self.wait_for_all().await;
        self.noted(done)
    }

    async fn accept(self: Box<Self>, receiver: &PartyId, id: &MessageId) -> Result<Sequence> {
        self.accept_as(receiver, id, None).await
    }

    async fn accept_as(
        mut self: Box<Self>,
        receiver: &PartyId,
        id: &MessageId,
        send: Option<SendKey>,
    ) -> Result<Sequence> {
        let Some(streamed) = self.finish().await? else {
            let message =
                Sending { receiver: receiver.clone(), id: id.clone(), payload: self.rest(), key: send };
            return self.intake.accept_checked(message).await;
        };
        if !self.intake.rejects_reuse() || self.intake.is_called(send) {
            let draft = Draft::streamed(Class::Outgoing, Some(receiver), id, streamed).called(send);
            if self.intake.may_be_pending(&draft) {
                // The message is compared with the pending one from the disk.
                self.wait_for_all().await?;
            }
            let accepted = self.intake.take_outgoing(draft).await;
            return self.ended(accepted).await;
        }
        let key = self.intake.key(Class::Outgoing, receiver.as_str(), id);
        let intake = self.intake.clone();
        let _alone = intake.alone(key).await;
        if let Some((sequence, held)) = intake.held_outgoing(key, id).await?
            && self.is_held(Some(held), id, &streamed).await?
        {
            let draft = Draft::streamed(Class::Outgoing, Some(receiver), id, streamed).called(send);
            let crc = draft.keyed.map_or(0, |keyed| keyed.content_crc);
            return intake.held_already(sequence, send, SendFingerprint::new(key, draft.len(), crc)).await;
        }
        let draft = Draft::streamed(Class::Outgoing, Some(receiver), id, streamed).called(send);
        intake.take_outgoing(draft).await
    }

    async fn store(
        mut self: Box<Self>,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let Some(streamed) = self.finish().await? else {
            let payload = self.rest();
            let arrival = Arrival { sender: sender.cloned(), id: id.clone(), payload, identity };
            return self.intake.store_checked(arrival).await;
        };
        if !self.intake.rejects_reuse() {
            let stored = self.intake.store_streamed(sender, id, streamed, identity).await;
            return self.ended(stored).await;
        }
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        let intake = self.intake.clone();
        let _alone = intake.alone(intake.key(class, sender.map_or("", PartyId::as_str), id)).await;
        let from = FromSender::from(sender.cloned());
        let known = identity.is_some_and(|identity| intake.is_known(sender, &identity));
        if !known && self.is_held(intake.held_mail(&from, id).await?, id, &streamed).await? {
            intake.barrier().await?;
            return Ok(Stored::Repeated);
        }
        intake.store_streamed(sender, id, streamed, identity).await
    }
}
