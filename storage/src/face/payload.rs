//! The content of a message: bytes in memory, or pieces that are read from where they are kept, one at a time.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::face::error::Result;
use crate::face::message::{
    DeliveryIdentity, FromSender, Message, MessageId, PartyId, SendKey, Sequence, Stored,
};

/// Content that is read in pieces, each verified.
#[async_trait]
pub trait Pieces: fmt::Debug + Send + Sync + 'static {
    /// Total length in bytes.
    fn len(&self) -> u64;

    /// The piece that holds byte `at`, from there to its end; at most 256 KiB. Errors:
    /// [`Damaged`](crate::StoreError::Damaged), [`Gone`](crate::StoreError::Gone).
    async fn piece(&self, at: u64) -> Result<Bytes>;
}

/// The content of a message.
#[derive(Debug, Clone)]
pub enum Payload {
    /// In memory.
    Whole(Bytes),
    /// To be read piece by piece.
    Pieces(Arc<dyn Pieces>),
}

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Pieces(pieces) => pieces.len(),
        }
    }

    /// The content from byte `at` on: all the rest if it is in memory, otherwise one piece.
    pub async fn piece(&self, at: u64) -> Result<Bytes> {
        match self {
            Self::Whole(bytes) => Ok(bytes.slice((at as usize).min(bytes.len())..)),
            Self::Pieces(pieces) => pieces.piece(at).await,
        }
    }

    /// The whole content, in memory.
    pub async fn whole(&self) -> Result<Bytes> {
        let pieces = match self {
            Self::Whole(bytes) => return Ok(bytes.clone()),
            Self::Pieces(pieces) => pieces,
        };
        let mut all = BytesMut::with_capacity(pieces.len() as usize);
        while (all.len() as u64) < pieces.len() {
            all.extend_from_slice(&pieces.piece(all.len() as u64).await?);
        }
        Ok(all.freeze())
    }

    /// Whether both hold the same bytes.
    pub(crate) async fn is_same(&self, other: &Self) -> Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        let mut at = 0;
        while at < self.len() {
            let (mine, theirs) = (self.piece(at).await?, other.piece(at).await?);
            let len = mine.len().min(theirs.len());
            if len == 0 || mine[..len] != theirs[..len] {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

/// A pending message with everything a delivery needs.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The receiving party.
    pub receiver: PartyId,
    /// The id.
    pub id: MessageId,
    /// The content.
    pub payload: Payload,
    /// Its place in our store.
    pub sequence: Sequence,
    /// Identifies the delivery to the receiver; contains the current low-water mark.
    pub identity: DeliveryIdentity,
}

/// A message in the mailbox; its content may not have been read from the store yet.
#[derive(Debug, Clone)]
pub struct Held {
    /// The sending party, where known.
    pub sender: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// Its place in our store.
    pub sequence: Sequence,
    /// The content.
    pub payload: Payload,
    /// Whether no reader has been handed it yet.
    pub unread: bool,
    /// Seconds of service time since it arrived.
    pub age: u64,
}

impl Held {
    /// The message with its content in memory.
    pub async fn read(self) -> Result<Message> {
        let payload = self.payload.whole().await?;
        Ok(Message { sender: self.sender, id: self.id, payload, sequence: self.sequence })
    }
}

impl FromSender {
    /// Whether a message of this sender is meant.
    pub fn admits(&self, sender: Option<&PartyId>) -> bool {
        match self {
            Self::Any => true,
            Self::Party(party) => sender == Some(party),
            Self::Unnamed => sender.is_none(),
        }
    }
}

/// A message in the mailbox, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The sending party, where known.
    pub sender: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// Its place in our store.
    pub sequence: Sequence,
    /// Payload bytes.
    pub len: u64,
    /// Whether no reader has been handed it yet.
    pub unread: bool,
    /// Seconds of service time since it arrived.
    pub age: u64,
}

/// Names a message that was handed to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// The sending party, where known.
    pub sender: Option<PartyId>,
    /// The id.
    pub id: MessageId,
    /// Its place in our store.
    pub sequence: Sequence,
}

impl From<&Held> for Handed {
    fn from(held: &Held) -> Self {
        Self { sender: held.sender.clone(), id: held.id.clone(), sequence: held.sequence }
    }
}

impl From<&Message> for Handed {
    fn from(message: &Message) -> Self {
        Self { sender: message.sender.clone(), id: message.id.clone(), sequence: message.sequence }
    }
}

/// A message on its way in, whose content comes in pieces. Nothing of it is visible before its end; if it is dropped before
/// that, nothing remains of it.
#[async_trait]
pub trait Upload: fmt::Debug + Send + Sync {
    /// Bytes received so far.
    fn len(&self) -> u64;

    /// Takes more of the content. Waits while too much is on its way to the disk; if the call is dropped while it waits,
    /// [`len`](Self::len) says how much was taken.
    async fn push(&mut self, bytes: Bytes) -> Result<()>;

    /// Bytes that are durable.
    fn durable(&mut self) -> u64;

    /// Waits until more of it is on the disk, and returns what [`durable`](Self::durable) then does. Waits for ever if
    /// nothing is on its way there. Nothing is lost if the call is dropped while it waits.
    async fn next_durable(&mut self) -> Result<u64>;

    /// Waits until everything that can be on the disk is (all but an incomplete piece at the end).
    async fn flush(&mut self) -> Result<()>;

    /// Ends the upload like [`accept`](crate::Engine::accept).
    async fn accept(self: Box<Self>, receiver: &PartyId, id: &MessageId) -> Result<Sequence>;

    /// Ends the upload like [`accept_one`](crate::Engine::accept_one).
    async fn accept_as(
        self: Box<Self>,
        receiver: &PartyId,
        id: &MessageId,
        key: Option<SendKey>,
    ) -> Result<Sequence> {
        let _ = key;
        self.accept(receiver, id).await
    }

    /// Ends the upload like [`store`](crate::Engine::store).
    async fn store(
        self: Box<Self>,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored>;
}
