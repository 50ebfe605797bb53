//! Messages whose content comes in pieces: chunks go to Redis as they come, and the message counts from its record on.
//!
//! Invariants: of one upload at most [`WINDOW`] chunks are on their way; what is dropped leaves chunks that expire, and are
//! taken away at once where that can be done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::engine::{FULL, RedisStore};
use super::inner::Inner;
use super::keeper::CHUNKS_KEPT;
use super::record::{self, CHUNK_BYTES, Content, WHOLE_BYTES};
use super::scripts::SCRIPTS;
use super::session::Way;
use crate::error::{Result, StoreError};
use crate::log::lock;
use crate::message::{Arrival, DeliveryIdentity, MessageId, PartyId, Sequence, Stored};
use crate::payload::Upload;

/// Chunks of one upload that are on their way at a time.
const WINDOW: usize = 16;

/// See the module.
pub(super) struct ChunkUpload {
    store: RedisStore,
    /// With the first chunk.
    token: Option<Token>,
    len: u64,
    durable: u64,
    chunks: u64,
    /// What is not in a chunk yet.
    partial: BytesMut,
    on_their_way: VecDeque<(u64, JoinHandle<Result<()>>)>,
    failed: Option<StoreError>,
    /// Bytes that count as used while it comes.
    reserved: u64,
}

impl std::fmt::Debug for ChunkUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkUpload({} bytes)", self.len)
    }
}

impl Drop for ChunkUpload {
    fn drop(&mut self) {
        self.store.inner.upload_bytes.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

/// The name of chunks that nothing refers to yet; dropped, they are taken away.
#[derive(Debug)]
pub(super) struct Token {
    inner: Arc<Inner>,
    pub(super) name: String,
    is_kept: bool,
}

impl Token {
    fn new(inner: &Arc<Inner>) -> Self {
        let number = inner.tokens.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number:016x}", inner.name);
        lock(&inner.uploads).insert(name.clone());
        Self { inner: inner.clone(), name, is_kept: false }
    }

    /// A message refers to them, or may.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        lock(&self.inner.uploads).remove(&self.name);
        if self.is_kept {
            return;
        }
        let (inner, key) = (self.inner.clone(), format!("{}body:{}", self.inner.prefix, self.name));
        let unlink = async move {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(key);
            // They expire in any case.
            drop(inner.ask_plainly::<i64>(Way::Bulk, &unlink).await);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(unlink);
        }
    }
}

impl ChunkUpload {
    pub(super) fn new(store: RedisStore) -> Self {
        Self {
            store,
            token: None,
            len: 0,
            durable: 0,
            chunks: 0,
            partial: BytesMut::new(),
            on_their_way: VecDeque::new(),
            failed: None,
            reserved: 0,
        }
    }

    /// Room for so many bytes of it, those that came included. What the heartbeats say is some seconds old; the script that
    /// accepts it has the last word.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.reserved);
        let inner = &self.store.inner;
        let coming = inner.upload_bytes.load(Ordering::Relaxed);
        let (used, limit) = (lock(&inner.stats).used_bytes, inner.options.max_bytes);
        if limit > 0 && used.saturating_add(coming).saturating_add(more) > limit {
            return Err(StoreError::Full { used, limit, remedy: FULL });
        }
        if limit > 0 {
            inner.upload_bytes.fetch_add(more, Ordering::Relaxed);
            self.reserved += more;
        }
        Ok(())
    }

    /// Sends a chunk. There is room for it.
    fn send(&mut self, content: &Bytes) {
        let inner = self.store.inner.clone();
        let token = self.token.get_or_insert_with(|| Token::new(&inner)).name.clone();
        let number = self.chunks;
        self.chunks += 1;
        let kept = record::chunk(&token, number, content);
        let sending = async move {
            let put = inner.ask::<i64>(Way::Bulk, &SCRIPTS.chunk, |call| {
                call.arg(&token).arg(number).arg(&kept[..]).arg(CHUNKS_KEPT.as_secs());
            });
            put.await.map(drop)
        };
        self.on_their_way.push_back((content.len() as u64, tokio::spawn(sending)));
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<()> {
        // Up to a certain size it is no large message.
        while self.len + bytes.len() as u64 > WHOLE_BYTES as u64
            && self.partial.len() + bytes.len() >= CHUNK_BYTES
        {
            while self.on_their_way.len() >= WINDOW {
                self.wait_for_one().await?;
            }
            let chunk = if self.partial.len() >= CHUNK_BYTES {
                self.partial.split_to(CHUNK_BYTES).freeze()
            } else {
                let more = bytes.split_to(CHUNK_BYTES - self.partial.len());
                self.len += more.len() as u64;
                self.partial.extend_from_slice(&more);
                self.partial.split().freeze()
            };
            self.reserve((self.chunks + 1) * CHUNK_BYTES as u64)?;
            self.send(&chunk);
        }
        self.len += bytes.len() as u64;
        self.partial.extend_from_slice(&bytes);
        Ok(())
    }

    async fn wait_for_one(&mut self) -> Result<()> {
        if let Some((len, sending)) = self.on_their_way.front_mut() {
            sending.await.map_err(|_| StoreError::Closed)??;
            self.durable += *len;
            self.on_their_way.pop_front();
        }
        Ok(())
    }

    async fn wait_for_all(&mut self) -> Result<()> {
        while !self.on_their_way.is_empty() {
            self.wait_for_one().await?;
        }
        Ok(())
    }

    /// A failed chunk fails the upload for good: what came after it would have a hole.
    fn noted<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    fn may_go_on(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// All of it is kept, or little enough to be kept with its record.
    pub(super) async fn finish(mut self) -> Result<(Content, Option<Token>)> {
        self.may_go_on()?;
        if self.len <= WHOLE_BYTES as u64 {
            return Ok((Content::Whole(self.partial.split().freeze()), None));
        }
        if !self.partial.is_empty() {
            let rest = self.partial.split().freeze();
            self.send(&rest);
        }
        self.wait_for_all().await?;
        let token = self.token.take().ok_or(StoreError::Closed)?;
        Ok((Content::Chunks { token: token.name.clone(), len: self.len }, Some(token)))
    }
}

#[async_trait]
impl Upload for ChunkUpload {
    fn len(&self) -> u64 {
        self.len
    }

    async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.may_go_on()?;
        let taken = self.take(bytes).await;
        self.noted(taken)
    }

    fn durable(&mut self) -> u64 {
        while let Some((_, sending)) = self.on_their_way.front_mut() {
            if !sending.is_finished() {
                break;
            }
            let Some(done) = futures_util::FutureExt::now_or_never(sending) else { break };
            match done.unwrap_or(Err(StoreError::Closed)) {
                Ok(()) => {
                    if let Some((len, _)) = self.on_their_way.pop_front() {
                        self.durable += len;
                    }
                }
                Err(error) => {
                    self.failed.get_or_insert(error);
                    self.on_their_way.pop_front();
                    break;
                }
            }
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
        let store = self.store.clone();
        let (content, token) = self.finish().await?;
        store.accept_content(receiver, id, content, token).await
    }

    async fn store(
        self: Box<Self>,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let store = self.store.clone();
        let (content, token) = self.finish().await?;
        let arrival = Arrival { sender: sender.cloned(), id: id.clone(), payload: Bytes::new(), identity };
        store.store_content(arrival, content, token).await
    }
}
