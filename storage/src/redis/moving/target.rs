//! A store in Redis that is filled.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Locked, RedisSource};
use crate::frame::Class;
use crate::message::{Incarnation, Sequence};
use crate::redis::keeper::{CHUNKS_KEPT, FIRST_SECOND};
use crate::redis::options::RedisOptions;
use crate::redis::outbox::reason_text;
use crate::redis::record::{self, CHUNK_BYTES, Content, WHOLE_BYTES};
use crate::redis::scripts::SCRIPTS;
use crate::redis::session::Way;
use crate::transfer::{Fate, Moved, Remembered, Result, Resume, Source, Summary, Target, TransferError};

/// Bytes of messages in one call.
const PUT_BYTES: usize = 1 << 20;
/// Ranges in one call.
const RANGES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct RedisTarget {
    locked: Arc<Locked>,
}

/// A message as the script takes it.
struct Put {
    sequence: u64,
    fate: char,
    number: String,
    time: u64,
    incarnation: String,
    made: Bytes,
    /// Of its content, chunks included: they expire if they wait long for their record.
    len: usize,
    why: String,
}

impl RedisTarget {
    /// Locks the store of a party.
    pub async fn open(options: RedisOptions) -> Result<Self> {
        Ok(Self { locked: Locked::open(options).await? })
    }

    /// The content of a message, where it is to be: that of a large one goes there now.
    async fn content(&self, message: &Moved) -> Result<Content> {
        let len = message.payload.len();
        if len <= WHOLE_BYTES as u64 {
            return Ok(Content::Whole(message.payload.whole().await?));
        }
        // The same one when it is put again.
        let token = format!("moved{:027}", message.sequence.0);
        let (mut number, mut at, mut rest) = (0u64, 0u64, Vec::new());
        while at < len || !rest.is_empty() {
            while rest.len() < CHUNK_BYTES && at < len {
                let piece = message.payload.piece(at).await?;
                if piece.is_empty() {
                    let (id, segment) = (message.id.to_string(), "the source".to_owned());
                    let what = "the content ends early".to_owned();
                    return Err(crate::error::StoreError::Damaged { id, segment, offset: at, what }.into());
                }
                at += piece.len() as u64;
                rest.extend_from_slice(&piece);
            }
            let chunk: Vec<u8> = rest.drain(..rest.len().min(CHUNK_BYTES)).collect();
            let kept = record::chunk(&token, number, &chunk);
            let put = self.locked.inner.ask::<u8>(Way::Bulk, &SCRIPTS.chunk, |call| {
                call.arg(&token).arg(number).arg(&kept[..]).arg(CHUNKS_KEPT.as_secs());
            });
            put.await?;
            number += 1;
        }
        Ok(Content::Chunks { token, len })
    }

    async fn message(&self, message: Moved) -> Result<Put> {
        let content = self.content(&message).await?;
        let party = message.party.as_ref();
        let (fate, class, why) = match &message.fate {
            Fate::Pending => ('p', Class::Outgoing, String::new()),
            Fate::Dead(reason) => ('d', Class::Outgoing, reason_text(reason)),
            Fate::Mailbox if party.is_some() => ('m', Class::Incoming, String::new()),
            Fate::Mailbox => ('m', Class::IncomingUnnamed, String::new()),
        };
        let name = party.map_or("", |party| party.as_str());
        let nothing = (Incarnation { started_ms: 0, random: 0 }, 0);
        let (incarnation, number) = message.identity.unwrap_or(nothing);
        let time = FIRST_SECOND.checked_sub(message.age).ok_or_else(|| TransferError::Unfit {
            sequence: message.sequence.0,
            why: format!("it is {} seconds old, more than can be said there", message.age),
        })?;
        Ok(Put {
            sequence: message.sequence.0,
            fate,
            number: format!("{number:016x}"),
            time,
            incarnation: incarnation.to_string(),
            made: record::make(class, name, message.id.as_str(), &content),
            len: content.len() as usize,
            why,
        })
    }

    async fn write(&self, batch: &[Put]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let put = self.locked.inner.ask::<u8>(Way::Write, &SCRIPTS.move_put, |call| {
            for Put { sequence, fate, number, time, incarnation, made, why, .. } in batch {
                call.arg(sequence).arg(fate.to_string()).arg(number).arg(time).arg(incarnation);
                call.arg(&made[..]).arg(why);
            }
        });
        Ok(put.await.map(drop)?)
    }
}

#[async_trait]
impl Target for RedisTarget {
    async fn begin(&self, source: &Summary) -> Result<Resume> {
        let state = format!("{:016x} {}", source.state, source.last_sequence.0);
        let begun: Option<(u64, u8)> = self
            .locked
            .inner
            .ask(Way::Write, &SCRIPTS.move_begin, |call| {
                call.arg(&state)
                    .arg(source.last_sequence.0)
                    .arg(format!("{:016x}", source.newest_incarnation_ms));
            })
            .await?;
        let Some((after, again)) = begun else {
            return Err(TransferError::Refused {
                target: self.locked.name.clone(),
                why: "it is not empty, and holds no unfinished migration of this store; choose another database, or delete its keys"
                    .into(),
            });
        };
        Ok(Resume { after: Sequence(after), again: again == 1 })
    }

    async fn remember(&self, memory: Vec<Remembered>) -> Result<()> {
        for (place, Remembered { sender, incarnation, low_water, ranges }) in memory.into_iter().enumerate() {
            let who = sender.as_ref().map_or("", |sender| sender.as_str());
            let ranges: Vec<_> =
                ranges.iter().map(|(start, end)| format!("{end:016x}:{start:016x}")).collect();
            let parts = if ranges.is_empty() { vec![&ranges[..]] } else { ranges.chunks(RANGES).collect() };
            for (n, part) in parts.into_iter().enumerate() {
                self.locked
                    .inner
                    .ask::<u8>(Way::Write, &SCRIPTS.move_remember, |call| {
                        call.arg(who)
                            .arg(incarnation.to_string())
                            .arg(format!("{low_water:016x}"))
                            .arg(place);
                        call.arg(u8::from(n == 0)).arg(part);
                    })
                    .await?;
            }
        }
        Ok(())
    }

    async fn put(&self, messages: Vec<Moved>) -> Result<()> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for message in messages {
            let put = self.message(message).await?;
            bytes += put.len;
            if bytes > PUT_BYTES {
                self.write(&batch).await?;
                batch.clear();
                bytes = put.len;
            }
            batch.push(put);
        }
        self.write(&batch).await
    }

    async fn read_back(&self) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(RedisSource::of(self.locked.clone()).await?))
    }

    async fn finish(&self) -> Result<()> {
        Ok(self.locked.end(true).await?)
    }
}
