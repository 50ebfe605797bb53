//! Messages whose content comes in pieces: chunks are sent to Redis as they come, and the message exists from its record on.
//!
//! Invariants: at most [`WINDOW`] chunks of one upload are on their way; an upload that is dropped leaves chunks that expire,
//! and that are removed at once if possible.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use crate::face::error::{Result, StoreError};
use crate::face::message::{Arrival, DeliveryIdentity, MessageId, PartyId, SendKey, Sequence, Stored};
use crate::face::payload::Upload;
use crate::redis::calls::sends;
use crate::redis::calls::store::RedisStore;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::record::{self, CHUNK_BYTES, CHUNKS_KEPT, Content, FULL, WHOLE_BYTES};
use crate::redis::shared::RedisShared;

/// Chunks of one upload that may be on their way at a time.
const WINDOW: usize = 16;

/// A message that is being uploaded in chunks.
pub(crate) struct ChunkUpload {
    store: RedisStore,
    /// Made with the first chunk.
    token: Option<ChunkToken>,
    len: u64,
    durable: u64,
    chunks: u64,
    /// Bytes that are not in a chunk yet.
    partial: BytesMut,
    /// Checksum of the bytes in chunks.
    content: crc32fast::Hasher,
    on_their_way: VecDeque<(u64, JoinHandle<Result<()>>)>,
    failed: Option<StoreError>,
    /// Bytes that count as used during the upload.
    reserved: u64,
}

impl std::fmt::Debug for ChunkUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkUpload({} bytes)", self.len)
    }
}

impl Drop for ChunkUpload {
    fn drop(&mut self) {
        if let Some(token) = &mut self.token {
            token.on_their_way = self.on_their_way.drain(..).map(|(_, sending)| sending).collect();
        }
        self.store.inner.upload_bytes.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

/// The name of chunks that nothing refers to yet; when it is dropped, they are removed.
#[derive(Debug)]
pub(crate) struct ChunkToken {
    inner: Arc<RedisShared>,
    pub(crate) name: String,
    is_kept: bool,
    /// Chunks that were still on their way when the upload was given up.
    on_their_way: Vec<JoinHandle<Result<()>>>,
}

impl ChunkToken {
    fn new(inner: &Arc<RedisShared>) -> Self {
        let number = inner.tokens.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number:016x}", inner.name);
        inner.uploads.lock().insert(name.clone());
        Self { inner: inner.clone(), name, is_kept: false, on_their_way: Vec::new() }
    }

    /// A message refers to the chunks, or may do so.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for ChunkToken {
    fn drop(&mut self) {
        self.inner.uploads.lock().remove(&self.name);
        if self.is_kept {
            return;
        }
        let (inner, name) = (self.inner.clone(), std::mem::take(&mut self.name));
        let on_their_way = std::mem::take(&mut self.on_their_way);
        let unlink = async move {
            // A chunk that came later would take room until it expires.
            futures_util::future::join_all(on_their_way).await;
            // They expire in any case.
            drop(
                inner
                    .ask::<i64>(Way::Bulk, &SCRIPTS.chunks_gone, |call| {
                        call.arg(&name);
                    })
                    .await,
            );
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(unlink);
        }
    }
}

impl ChunkUpload {
    pub(crate) fn new(store: RedisStore) -> Self {
        Self {
            store,
            token: None,
            len: 0,
            durable: 0,
            chunks: 0,
            partial: BytesMut::new(),
            content: crc32fast::Hasher::new(),
            on_their_way: VecDeque::new(),
            failed: None,
            reserved: 0,
        }
    }

    /// Reserves room for this many bytes of the message, those received so far included. The figures of the heartbeats are some
    /// seconds old; the script that accepts the message has the last word.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.reserved);
        let inner = &self.store.inner;
        let coming = inner.upload_bytes.load(Ordering::Relaxed);
        let (used, limit) = (inner.stats.lock().used_bytes, inner.rules().max_bytes());
        if limit > 0 && used.saturating_add(coming).saturating_add(more) > limit {
            return Err(StoreError::Full { used, limit, remedy: FULL });
        }
        if limit > 0 {
            inner.upload_bytes.fetch_add(more, Ordering::Relaxed);
            self.reserved += more;
        }
        Ok(())
    }

    /// Sends a chunk, for which there is room.
    fn send(&mut self, content: &Bytes) {
        let inner = self.store.inner.clone();
        let token = self.token.get_or_insert_with(|| ChunkToken::new(&inner)).name.clone();
        let number = self.chunks;
        self.chunks += 1;
        self.content.update(content);
        let kept = record::chunk(&token, number, content);
        let (bytes, limit) = (self.reserved.max(self.len), inner.rules().max_bytes());
        let tasks = inner.tasks.clone();
        let sending = async move {
            let put = inner.ask::<i64>(Way::Bulk, &SCRIPTS.chunk, |call| {
                call.arg(&token).arg(number).arg(&kept[..]).arg(CHUNKS_KEPT.as_secs()).arg(bytes).arg(limit);
            });
            let put = put.await?;
            if put < 0 {
                return Err(StoreError::Full { used: (-1 - put).unsigned_abs(), limit, remedy: FULL });
            }
            Ok(())
        };
        self.on_their_way.push_back((content.len() as u64, tasks.spawn(sending)));
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<()> {
        // Up to this size it is not a large message.
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
            let (len, done) = (*len, sending.await);
            self.on_their_way.pop_front();
            done.map_err(|_| StoreError::Closed)??;
            self.durable += len;
        }
        Ok(())
    }

    async fn wait_for_all(&mut self) -> Result<()> {
        while !self.on_their_way.is_empty() {
            self.wait_for_one().await?;
        }
        Ok(())
    }

    /// A failed chunk fails the upload for good: with what came after it, there would be a gap.
    fn noted<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    fn may_go_on(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Everything is kept, or small enough to be kept in its record. Also returns the checksum of what is in chunks.
    pub(crate) async fn finish(mut self) -> Result<(Content, Option<ChunkToken>, u32)> {
        self.may_go_on()?;
        if self.len <= WHOLE_BYTES as u64 {
            return Ok((Content::Whole(self.partial.split().freeze()), None, 0));
        }
        if !self.partial.is_empty() {
            let rest = self.partial.split().freeze();
            self.send(&rest);
        }
        self.wait_for_all().await?;
        let token = self.token.take().ok_or(StoreError::Closed)?;
        let crc = self.content.clone().finalize();
        Ok((Content::Chunks { token: token.name.clone(), len: self.len }, Some(token), crc))
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
        self.accept_as(receiver, id, None).await
    }

    async fn accept_as(
        self: Box<Self>,
        receiver: &PartyId,
        id: &MessageId,
        key: Option<SendKey>,
    ) -> Result<Sequence> {
        let store = self.store.clone();
        let (content, token, crc) = self.finish().await?;
        let send = sends::text(key, &content, crc);
        store.accept_content((receiver, id), content, token, send).await
    }

    async fn store(
        self: Box<Self>,
        sender: Option<&PartyId>,
        id: &MessageId,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored> {
        let store = self.store.clone();
        let (content, token, _) = self.finish().await?;
        let arrival = Arrival { sender: sender.cloned(), id: id.clone(), payload: Bytes::new(), identity };
        store.store_content(arrival, content, token).await
    }
}
