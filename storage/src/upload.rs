//! Messages whose content comes in pieces: each slice goes to the log as it comes, and the message counts from its commit
//! frame on, which is queued behind them.
//!
//! Invariants: of one upload at most [`WINDOW`] slices are on their way to the disk; an upload that is dropped leaves only
//! slices to which nothing refers; segments that hold slices of one that goes on are not given back.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::accept::{Intake, PERMIT_BYTES, Streamed};
use crate::error::{Result, StoreError};
use crate::frame::{Class, EXTENT_BYTES, Extent, Kind, MAX_BODY_BYTES, SLICE_BYTES, Slices};
use crate::job::{Append, Effect, Job, Reply, Urgency};
use crate::log::lock;
use crate::message::{Arrival, DeliveryIdentity, FromSender, MessageId, PartyId, Sequence, Stored};
use crate::payload::{Payload, Upload};
use crate::segment::Lane;
use crate::shared::Shared;
use crate::space;
use crate::stored::StoredPieces;

/// Slices of one upload that are on their way to the disk at a time.
const WINDOW: usize = 16;

/// What the bulk lane's writer notes of an upload.
#[derive(Debug)]
pub(crate) struct Written {
    /// In the headers of its slices.
    pub(crate) sequence: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    extents: Vec<Extent>,
    /// That hold them, in the order of writing.
    segments: Vec<u32>,
}

impl Written {
    /// A slice is in the log.
    pub(crate) fn add(&self, extent: Extent) {
        let mut inner = lock(&self.inner);
        if inner.segments.last() != Some(&extent.place.segment) {
            inner.segments.push(extent.place.segment);
        }
        inner.extents.push(extent);
    }

    /// Adds the segments that it needs.
    pub(crate) fn add_segments(&self, segments: &mut BTreeSet<u32>) {
        segments.extend(&lock(&self.inner).segments);
    }

    /// What is written.
    pub(crate) fn slices(&self) -> Slices {
        Slices { of: Some(self.sequence), extents: lock(&self.inner).extents.clone() }
    }
}

/// Whether a message may be so long: the list of its slices must fit one frame of a segment. With the usual segments it
/// may have 42 GiB.
pub(crate) fn fits_the_log(shared: &Shared, len: u64) -> Result<()> {
    let most = (shared.segment_bytes / 4).min(u64::from(MAX_BODY_BYTES) / 2) / EXTENT_BYTES as u64;
    let limit = most * SLICE_BYTES as u64;
    if len > limit {
        let remedy = "a message of more bytes than this does not fit the log; send it as several";
        return Err(StoreError::Full { used: len, limit, remedy });
    }
    Ok(())
}

/// See the module.
#[derive(Debug)]
pub(crate) struct StreamUpload {
    intake: Arc<Intake>,
    /// Made with the first slice.
    written: Option<Arc<Written>>,
    len: u64,
    durable: u64,
    slices: u64,
    /// The beginning of a slice.
    partial: BytesMut,
    on_their_way: VecDeque<(u64, oneshot::Receiver<Result<()>>)>,
    failed: Option<StoreError>,
    /// Room that is admitted for what is still to come.
    reserved: u64,
}

impl StreamUpload {
    /// With the length of all of it, there is room for it from now on.
    pub(crate) fn new(intake: Arc<Intake>, len: Option<u64>) -> Result<Self> {
        if let Some(error) = intake.shared.state_error() {
            return Err(error);
        }
        let mut reserved = 0;
        if let Some(len) = len {
            fits_the_log(&intake.shared, len)?;
            reserved = space::cost(len as usize, 0);
            intake.shared.space.admit(Lane::Bulk, reserved)?;
        }
        Ok(Self {
            reserved,
            intake,
            written: None,
            len: 0,
            durable: 0,
            slices: 0,
            partial: BytesMut::new(),
            on_their_way: VecDeque::new(),
            failed: None,
        })
    }

    fn written(&mut self) -> Arc<Written> {
        let shared = &self.intake.shared;
        let written = self.written.get_or_insert_with(|| {
            let sequence = {
                let mut state = lock(&shared.state);
                state.last_sequence += 1;
                state.last_sequence
            };
            let written = Arc::new(Written { sequence, inner: Mutex::default() });
            lock(&shared.uploads).push(Arc::downgrade(&written));
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
        let cost = space::cost(slice.len(), 0);
        if self.reserved >= cost {
            self.reserved -= cost;
        } else {
            shared.space.admit(Lane::Bulk, cost)?;
        }
        let len = slice.len() as u64;
        let (reply, synced) = Reply::new(Some(permit));
        let written = self.written();
        let append = Append {
            kind: Kind::Part,
            sequence: written.sequence,
            time: shared.now(),
            fields: Vec::new(),
            crc: crc32fast::hash(&slice),
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

    /// Dropped while it waits, it has taken what [`len`](Upload::len) says.
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

    /// A failed slice fails the upload for good: what came after it would have a hole.
    fn noted<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    fn may_go_on(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Everything is queued, or with `reject` on the disk. `None`: there is so little that it is no large message.
    pub(crate) async fn finish(&mut self) -> Result<Option<Streamed>> {
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
            // What is held is compared with it.
            self.wait_for_all().await?;
        }
        Ok(Some(Streamed { written: self.written(), len: self.len }))
    }

    /// The commit frame's answer; an earlier failure is the reason of its own.
    async fn ended<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.wait_for_all().await?;
        }
        result
    }

    /// What there is of a message that is no large one.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.partial.split().freeze()
    }

    /// With `MESSAGE_ID_REUSE=reject`: whether what is held under the key is the same.
    async fn is_held(&self, held: Option<Payload>, id: &MessageId, streamed: &Streamed) -> Result<bool> {
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
            // It notes that the segments are needed no more.
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

    async fn accept(mut self: Box<Self>, receiver: &PartyId, id: &MessageId) -> Result<Sequence> {
        let Some(streamed) = self.finish().await? else {
            let payload = self.rest();
            return self.intake.accept_checked(receiver, id, payload).await;
        };
        if !self.intake.rejects_reuse() {
            let accepted = self.intake.accept_streamed(receiver, id, streamed).await;
            return self.ended(accepted).await;
        }
        let key = self.intake.key(Class::Outgoing, receiver.as_str(), id);
        let intake = self.intake.clone();
        let _alone = intake.alone(key).await;
        if let Some((sequence, held)) = intake.held_outgoing(key, id).await?
            && self.is_held(Some(held), id, &streamed).await?
        {
            intake.barrier().await?;
            return Ok(sequence);
        }
        intake.accept_streamed(receiver, id, streamed).await
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
        let from = sender.cloned().map_or(FromSender::Unnamed, FromSender::Party);
        let known = identity.is_some_and(|identity| intake.is_known(sender, &identity));
        if !known && self.is_held(intake.held_mail(&from, id).await?, id, &streamed).await? {
            intake.barrier().await?;
            return Ok(Stored::Repeated);
        }
        intake.store_streamed(sender, id, streamed, identity).await
    }
}
