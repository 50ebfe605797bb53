//! A message that comes in pieces, for the engine in memory.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use petnet_storage::{
    Arrival, DeliveryIdentity, Engine, MessageId, PartyId, Result, Sequence, Stored, Upload,
};

use super::FakeEngine;

/// Keeps the pieces until the end.
pub(super) struct FakeUpload {
    pub(super) engine: Arc<FakeEngine>,
    pub(super) bytes: Vec<u8>,
}

impl fmt::Debug for FakeUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[async_trait]
impl Upload for FakeUpload {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.engine.sync().await?;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn durable(&mut self) -> u64 {
        self.len()
    }

    async fn next_durable(&mut self) -> Result<u64> {
        std::future::pending().await
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    async fn accept(self: Box<Self>, receiver: &PartyId, id: &MessageId) -> Result<Sequence> {
        self.engine.accept(receiver, id, self.bytes.into()).await
    }

    async fn store(
        self: Box<Self>,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let payload = self.bytes.into();
        self.engine.store(Arrival { sender: sender.cloned(), id: id.clone(), payload, identity }).await
    }
}
