//! What a message holds: bytes in memory, or pieces that are read where they are kept, one at a time.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::error::Result;
use crate::message::{DeliveryIdentity, FromSender, Message, MessageId, PartyId, Sequence, Stored};

/// Content that is read in pieces, each verified.
#[async_trait]
pub trait Pieces: fmt::Debug + Send + Sync + 'static {
    /// Bytes of all.
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
    /// To be read.
    Pieces(Arc<dyn Pieces>),
}

impl Payload {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Pieces(pieces) => pieces.len(),
        }
    }

    /// What there is from byte `at` on: all of it where it is in memory, else a piece.
    pub async fn piece(&self, at: u64) -> Result<Bytes> {
        match self {
            Self::Whole(bytes) => Ok(bytes.slice((at as usize).min(bytes.len())..)),
            Self::Pieces(pieces) => pieces.piece(at).await,
        }
    }

    /// All of it, in memory.
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

    /// Whether both are the same bytes.
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
    /// What the receiver knows it by; the low-water mark is that of now.
    pub identity: DeliveryIdentity,
}

/// A message in the mailbox; its content may still be where it is kept.
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
}

/// A message on its way in, whose content comes in pieces. Nothing of it is visible before its end; dropped before, it
/// leaves nothing.
#[async_trait]
pub trait Upload: fmt::Debug + Send + Sync {
    /// Bytes that came so far.
    fn len(&self) -> u64;

    /// Takes more of it. Waits while too much is on its way to the disk; dropped meanwhile, it has taken what
    /// [`len`](Self::len) says then.
    async fn push(&mut self, bytes: Bytes) -> Result<()>;

    /// Bytes that are on the disk for good.
    fn durable(&mut self) -> u64;

    /// Waits until more of it is on the disk; gives what [`durable`](Self::durable) does then. For ever, when nothing is on
    /// its way there. Dropped while it waits, it loses nothing.
    async fn next_durable(&mut self) -> Result<u64>;

    /// Waits until everything that can be is on the disk (all but the beginning of a piece).
    async fn flush(&mut self) -> Result<()>;

    /// As [`accept`](crate::Engine::accept).
    async fn accept(self: Box<Self>, receiver: &PartyId, id: &MessageId) -> Result<Sequence>;

    /// As [`store`](crate::Engine::store).
    async fn store(
        self: Box<Self>,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored>;
}
