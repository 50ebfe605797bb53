//! A store in Redis that is being filled.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{LockedStore, RedisSource};
use crate::face::direction::Class;
use crate::face::message::{Incarnation, Sequence};
use crate::offline::transfer::{
    Fate, Moved, Remembered, Result, Resume, Source, Summary, Target, TransferError,
};
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::letters::reason_text;
use crate::redis::content::record::{self, CHUNK_BYTES, CHUNKS_KEPT, Content, FIRST_SECOND, WHOLE_BYTES};

/// Bytes of messages per call.
const PUT_BYTES: usize = 1 << 20;
/// Ranges per call.
const RANGES: usize = 4096;

/// A store in Redis as the target of a move.
#[derive(Debug)]
pub struct RedisTarget {
    locked: Arc<LockedStore>,
}

/// A message in the form that the script takes.
struct ScriptMessage {
    sequence: u64,
    fate: char,
    number: String,
    time: u64,
    incarnation: String,
    made: Bytes,
    /// Length of its content, chunks included: chunks expire if they wait too long for their record.
    len: usize,
    why: String,
    /// Service time of the first read; 0 if it is unread.
    read: u64,
}

impl RedisTarget {
    /// Locks the store of a party.
    pub async fn open(options: RedisOptions) -> Result<Self> {
        Ok(Self { locked: LockedStore::open(options).await? })
    }

    /// The content of a message, where it is to be kept: that of a large one is sent there now.
    async fn content(&self, message: &Moved) -> Result<Content> {
        let len = message.payload.len();
        if len <= WHOLE_BYTES as u64 {
            return Ok(Content::Whole(message.payload.whole().await?));
        }
        // The same name if it is put again.
        let token = format!("moved{:027}", message.sequence.0);
        let (mut number, mut at, mut rest) = (0u64, 0u64, Vec::new());
        while at < len || !rest.is_empty() {
            while rest.len() < CHUNK_BYTES && at < len {
                let piece = message.payload.piece(at).await?;
                if piece.is_empty() {
                    let (id, segment) = (message.id.to_string(), "the source".to_owned());
                    let what = "the content ends early".to_owned();
                    return Err(
                        crate::face::error::StoreError::Damaged { id, segment, offset: at, what }.into()
                    );
                }
                at += piece.len() as u64;
                rest.extend_from_slice(&piece);
            }
            let chunk: Vec<u8> = rest.drain(..rest.len().min(CHUNK_BYTES)).collect();
            let kept = record::chunk(&token, number, &chunk);
            let put = self.locked.inner.ask::<u8>(Way::Bulk, &SCRIPTS.chunk, |call| {
                call.arg(&token).arg(number).arg(&kept[..]).arg(CHUNKS_KEPT.as_secs());
                // No quota: the messages were already accepted under one.
                call.arg(0).arg(0);
            });
            put.await?;
            number += 1;
        }
        Ok(Content::Chunks { token, len })
    }

    async fn message(&self, message: Moved) -> Result<ScriptMessage> {
        let content = self.content(&message).await?;
        let party = message.party.as_ref();
        let arrived = if party.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        let (fate, class, why) = match &message.fate {
            Fate::Pending => ('p', Class::Outgoing, String::new()),
            Fate::Dead(reason) => ('d', Class::Outgoing, reason_text(reason, false)),
            Fate::DeadMail(reason) => ('d', arrived, reason_text(reason, true)),
            Fate::Mailbox => ('m', arrived, String::new()),
        };
        let name = party.map_or("", |party| party.as_str());
        let nothing = (Incarnation { started_ms: 0, random: 0 }, 0);
        let (incarnation, number) = message.identity.unwrap_or(nothing);
        let time = FIRST_SECOND.checked_sub(message.age).ok_or_else(|| TransferError::Unfit {
            sequence: message.sequence.0,
            why: format!("it is {} seconds old, more than can be said there", message.age),
        })?;
        Ok(ScriptMessage {
            sequence: message.sequence.0,
            fate,
            number: format!("{number:016x}"),
            time,
            incarnation: incarnation.to_string(),
            made: record::make(class, name, message.id.as_str(), &content),
            len: content.len() as usize,
            why,
            // If it was read before service time began there, this is the earliest time that can be recorded.
            read: message.read.map_or(0, |ago| FIRST_SECOND.saturating_sub(ago).max(1)),
        })
    }

    async fn write(&self, batch: &[ScriptMessage]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let put = self.locked.inner.ask::<u8>(Way::Write, &SCRIPTS.move_put, |call| {
            for ScriptMessage { sequence, fate, number, time, incarnation, made, why, read, .. } in batch {
                call.arg(sequence).arg(fate.to_string()).arg(number).arg(time).arg(incarnation);
                call.arg(&made[..]).arg(why).arg(read);
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
        Ok(Resume { after: Sequence(after), again: again > 0, ended: again == 2 })
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

    async fn leave(&self) {
        self.locked.leave().await;
    }
}
