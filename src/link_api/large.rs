//! A message that comes in parts over a link: written as it comes, and told of as far as it is durable.

use std::sync::Arc;

use petnet_storage::{MessageId, PartyId, StoreError};
use tokio::sync::mpsc;

use super::identity;
use super::resume::{Key, Lease, Partials};
use crate::calls::Room;
use crate::mailbox::{Mailbox, Refusal, Uploader, Uploading};
use crate::peer_api;
use crate::proto::peer::{Delivery, Part, Progress};

/// Parts of one message that may wait here: as many as a peer sends ahead of what it was told is durable
/// (`LINK_WINDOW` at its largest).
pub(crate) const WINDOW_PARTS: usize = 1024;

/// A part, and the room that its frame takes.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) part: Part,
    pub(super) _room: Option<Arc<Room>>,
}

/// One message.
pub(super) struct Large {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) partials: Arc<Partials>,
    pub(super) sender: PartyId,
    pub(super) delivery: Delivery,
    pub(super) len: u64,
    pub(super) progress: mpsc::Sender<Progress>,
}

impl Large {
    /// Takes its parts. Interrupted, it stays for the next stream.
    pub(super) async fn receive(self, parts: mpsc::Receiver<Incoming>) -> Result<(), Refusal> {
        let identity = identity(&self.delivery)?;
        self.mailbox.may_deliver(Some(&self.sender))?;
        let id = MessageId::new(self.delivery.message_id.as_str())?;
        self.mailbox.check_stream(self.len)?;
        let mut lease = self.partials.lease(Key::new(&self.sender, &identity)).await;
        // Asked when nobody else stores it.
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
        let Some(Uploading { upload, seat }) = lease.take() else { return Err(Refusal::Interrupted) };
        // A task of its own: all of it is here, and should the stream break now, the next one finds it known.
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
        peer_api::tell(Some(&self.sender), id.as_str(), stored.map_err(Refusal::from))
    }

    /// Returns when all of it is here.
    async fn take(&self, lease: &mut Lease, mut parts: mpsc::Receiver<Incoming>) -> Result<(), Refusal> {
        let wanted = lease.wanted.clone();
        let len = self.len;
        let upload = match lease.upload() {
            Some(begun) if begun.upload.len() <= len => &mut begun.upload,
            _ => &mut lease.begin(self.mailbox.begin(Uploader::Peer, Some(len))?).upload,
        };
        // What is in memory of it counts, too: it lives as long as this does.
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
            let Some(Incoming { part, .. }) = next else { return Err(Refusal::Interrupted) };
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

    async fn tell(&self, bytes: u64) -> Result<(), Refusal> {
        let progress = Progress { tag: self.delivery.tag, bytes };
        self.progress.send(progress).await.map_err(|_| Refusal::Interrupted)
    }
}
