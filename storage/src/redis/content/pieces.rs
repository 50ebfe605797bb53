//! The content of messages kept in Redis: read when it is asked for, and verified.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::face::error::{Result, StoreError};
use crate::face::message::MessageId;
use crate::face::payload::{Payload, Pieces};
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::record::{self, CHUNK_BYTES, Content, Record};
use crate::redis::shared::RedisShared;

/// Content that is read from Redis.
#[derive(Debug)]
pub(crate) struct RedisPieces {
    inner: Arc<RedisShared>,
    sequence: u64,
    id: MessageId,
    len: u64,
    /// Where the content is; if that is not known, it is looked up with the first piece.
    content: OnceCell<Content>,
}

impl RedisPieces {
    /// The content of a message in the mailbox of which only this much is known.
    pub(crate) fn somewhere(inner: &Arc<RedisShared>, sequence: u64, id: MessageId, len: u64) -> Payload {
        let kept = Self { inner: inner.clone(), sequence, id, len, content: OnceCell::new() };
        Payload::Pieces(Arc::new(kept))
    }

    /// The content of a record's message.
    pub(crate) fn of(inner: &Arc<RedisShared>, record: &Record) -> Payload {
        match &record.content {
            Content::Whole(bytes) => Payload::Whole(bytes.clone()),
            content @ Content::Chunks { len, .. } => {
                let (sequence, id) = (record.sequence, record.id.clone());
                let content = OnceCell::new_with(Some(content.clone()));
                Payload::Pieces(Arc::new(Self { inner: inner.clone(), sequence, id, len: *len, content }))
            }
        }
    }

    fn gone(&self) -> StoreError {
        StoreError::Gone { id: self.id.to_string() }
    }

    async fn find(&self) -> Result<Content> {
        let found: Option<(Vec<u8>, u8, u64)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.fetch, |call| {
                call.arg(self.sequence).arg(self.inner.rules().message_ttl());
            })
            .await?;
        let (bytes, ..) = found.ok_or_else(|| self.gone())?;
        let record = self.inner.record(self.sequence, &bytes.into())?;
        if record.id != self.id || record.content.len() != self.len {
            return Err(self.gone());
        }
        Ok(record.content)
    }

    async fn chunk(&self, token: &str, at: u64) -> Result<Bytes> {
        let number = at / CHUNK_BYTES as u64;
        let key = format!("{}body:{token}", self.inner.prefix);
        let mut get = redis::cmd("HGET");
        get.arg(&key).arg(number);
        let kept: Option<Vec<u8>> = self.inner.ask_plainly(Way::Bulk, &get).await?;
        let Some(kept) = kept else { return Err(self.missing(&key, number).await) };
        let kept = Bytes::from(kept);
        let whole = record::chunk_content(token, number, &kept);
        let begin = number * CHUNK_BYTES as u64;
        let wanted = (self.len - begin).min(CHUNK_BYTES as u64);
        match whole.filter(|bytes| bytes.len() as u64 == wanted) {
            Some(bytes) => Ok(bytes.slice((at - begin) as usize..)),
            None => Err(self.damaged(&key, number, "it does not match its checksum")),
        }
    }

    fn damaged(&self, key: &str, number: u64, what: &str) -> StoreError {
        StoreError::Damaged {
            id: self.id.to_string(),
            segment: format!("{key}, chunk {number}"),
            offset: number * CHUNK_BYTES as u64,
            what: what.into(),
        }
    }

    /// Why a chunk is missing: record and chunks end together, so a record without chunks has lost them.
    async fn missing(&self, key: &str, number: u64) -> StoreError {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(format!("{}m:{}", self.inner.prefix, self.sequence));
        match self.inner.ask_plainly::<bool>(Way::Bulk, &exists).await {
            Ok(true) => self.damaged(key, number, "it is missing"),
            Ok(false) => self.gone(),
            Err(error) => error,
        }
    }
}

#[async_trait]
impl Pieces for RedisPieces {
    fn len(&self) -> u64 {
        self.len
    }

    async fn piece(&self, at: u64) -> Result<Bytes> {
        if at >= self.len {
            return Ok(Bytes::new());
        }
        match self.content.get_or_try_init(|| self.find()).await? {
            Content::Whole(bytes) => {
                let at = at as usize;
                Ok(bytes.slice(at..bytes.len().min(at + CHUNK_BYTES)))
            }
            Content::Chunks { token, .. } => self.chunk(token, at).await,
        }
    }
}

impl RedisShared {
    /// Reads a record, or says that it is damaged.
    pub(crate) fn record(&self, sequence: u64, bytes: &Bytes) -> Result<Record> {
        record::read(sequence, bytes).map_err(|what| StoreError::Damaged {
            id: "(unreadable)".into(),
            segment: format!("{}m:{sequence}", self.prefix),
            offset: 0,
            what: what.into(),
        })
    }
}
