//! A message that comes in parts over a link: it is written as it comes, and its durable length is reported.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{MessageId, PartyId, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::identity;
use super::resume::{HeldUpload, PartialUploads, UploadedDelivery};
use crate::mailbox::uploads::UploadSeat;
use crate::mailbox::{Mailbox, SeatedUpload};
use crate::proto::peer::{Delivery, Part, Progress};
use crate::rules::refusal::Refusal;
use crate::server::calls::Room;
use crate::server::peer_calls;

/// While there is no seat: how often to check whether an upload that is only kept can be given up.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A part, and the room that its frame takes.
#[derive(Debug)]
pub(super) struct IncomingPart {
    pub(super) part: Part,
    pub(super) _room: Option<Arc<Room>>,
}

/// One large message that is coming.
pub(super) struct IncomingLarge {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) partials: Arc<PartialUploads>,
    pub(super) sender: PartyId,
    pub(super) delivery: Delivery,
    pub(super) len: u64,
    pub(super) progress: mpsc::Sender<Progress>,
}

impl IncomingLarge {
    /// Takes the parts of the message and stores it. If interrupted, what came is kept for the next stream.
    pub(super) async fn receive(self, parts: mpsc::Receiver<IncomingPart>) -> Result<(), Refusal> {
        let identity = identity(&self.delivery)?;
        self.mailbox.may_deliver(Some(&self.sender))?;
        let id = MessageId::new(self.delivery.message_id.as_str())?;
        self.mailbox.check_stream(self.len)?;
        let mut lease = self.partials.lease(UploadedDelivery::new(&self.sender, &identity)).await;
        // Only asked now that nobody else is storing it.
        if self.mailbox.engine.knows(&self.sender, &identity).await? {
            tracing::debug!(sender = %self.sender, message_id = %id, "repeated delivery");
            lease.take();
            return Ok(());
        }
        if let Err(refusal) = self.take(&mut lease, parts).await {
            if matches!(refusal, Refusal::Interrupted) {
                tracing::debug!(sender = %self.sender, message_id = %id, "a large message is interrupted");
            } else {
                lease.take();
            }
            return Err(refusal);
        }
        let Some(SeatedUpload { upload, seat }) = lease.take() else { return Err(Refusal::Interrupted) };
        // Done in a task of its own: all of it is here, and if the stream breaks now, the next one finds the message known.
        let (sender, named, len) = (self.sender.clone(), id.clone(), self.len);
        let record = self.mailbox.record.clone();
        let storing = tokio::spawn(async move {
            let stored = upload.store(Some(&sender), &named, Some(identity)).await;
            if let Ok(stored) = stored {
                record.stored(Some(&sender), &named, len, stored);
            }
            drop((lease, seat));
            stored
        });
        let stored = storing.await.unwrap_or(Err(StoreError::Closed));
        peer_calls::tell(Some(&self.sender), id.as_str(), stored.map_err(Refusal::from))
    }

    /// Takes parts; returns when all of the message is here.
    async fn take(
        &self,
        lease: &mut HeldUpload,
        mut parts: mpsc::Receiver<IncomingPart>,
    ) -> Result<(), Refusal> {
        let wanted = lease.wanted.clone();
        let len = self.len;
        if lease.upload().is_none_or(|begun| begun.upload.len() > len) {
            // What was there gives up its seat first.
            lease.take();
            let seat = self.seat(&wanted, &mut parts).await?;
            lease.begin(self.mailbox.begin_delivery(seat, len)?);
        }
        let Some(SeatedUpload { upload, .. }) = lease.upload() else { return Err(Refusal::Interrupted) };
        // This includes what is only in memory, since that lives as long as this stream's upload.
        self.tell(upload.len()).await?;
        let mut told = 0;
        while upload.len() < len {
            let next = tokio::select! {
                biased;
                () = wanted.cancelled() => None,
                next = parts.recv() => next,
                durable = upload.next_durable() => {
                    told = durable?;
                    self.tell(told).await?;
                    continue;
                }
            };
            let Some(IncomingPart { part, .. }) = next else { return Err(Refusal::Interrupted) };
            let wanted = upload.len();
            if part.offset != wanted || part.payload.is_empty() || part.payload.len() as u64 > len - wanted {
                let (at, len) = (part.offset, part.payload.len());
                return Err(Refusal::Invalid(format!(
                    "a part of {len} bytes at {at} where {wanted} is next"
                )));
            }
            upload.push(part.payload).await?;
            if upload.durable() > told {
                told = upload.durable();
                self.tell(told).await?;
            }
        }
        Ok(())
    }

    /// Waits for a seat. No part may come before the peer was told that there is one.
    async fn seat(
        &self,
        wanted: &CancellationToken,
        parts: &mut mpsc::Receiver<IncomingPart>,
    ) -> Result<UploadSeat, Refusal> {
        let peers = &self.mailbox.uploads.peers;
        if let Some(seat) = peers.try_take(&self.sender) {
            return Ok(seat);
        }
        let mut seat = pin!(peers.take(&self.sender));
        loop {
            self.partials.make_room_for(&self.sender);
            tokio::select! {
                biased;
                () = wanted.cancelled() => return Err(Refusal::Interrupted),
                seat = &mut seat => return seat.ok_or(Refusal::TooManyUploads),
                part = parts.recv() => return Err(match part {
                    None => Refusal::Interrupted,
                    Some(_) => Refusal::Invalid("a part of a message that has not been begun".into()),
                }),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn tell(&self, bytes: u64) -> Result<(), Refusal> {
        let progress = Progress { tag: self.delivery.tag, bytes };
        self.progress.send(progress).await.map_err(|_| Refusal::Interrupted)
    }
}
