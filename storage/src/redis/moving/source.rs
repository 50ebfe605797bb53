//! A store in Redis that is read completely.

use std::hash::Hasher;
use std::sync::Arc;

use async_trait::async_trait;
use redis::FromRedisValue;
use siphasher::sip::SipHasher13;

use super::LockedStore;
use crate::face::direction::Class;
use crate::face::error::StoreError;
use crate::face::message::{Incarnation, PartyId, Sequence};
use crate::offline::transfer::{Fate, Moved, Remembered, Result, Source, Summary, Unreadable};
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::letters::why;
use crate::redis::content::pieces::RedisPieces;
use crate::redis::content::record;
use crate::redis::content::record::FIRST_SECOND;

/// Messages listed at a time.
const LIST: usize = 2000;
/// Bytes of records in one answer.
const GET_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MessageKind {
    Pending,
    Mailbox,
    Dead,
}

/// A store in Redis as the source of a move.
#[derive(Debug)]
pub struct RedisSource {
    locked: Arc<LockedStore>,
    /// In the order of their sequences.
    messages: Vec<(u64, MessageKind)>,
    /// Service time.
    now: u64,
    summary: Summary,
}

impl RedisSource {
    /// Locks the store of a party, and lists its messages.
    pub async fn open(options: RedisOptions) -> Result<Self> {
        let locked = LockedStore::open(options).await?;
        let opened = Self::of(locked.clone()).await;
        if opened.is_err() {
            locked.leave().await;
        }
        opened
    }

    pub(super) async fn of(locked: Arc<LockedStore>) -> Result<Self> {
        let inner = &locked.inner;
        let fields = ["seq", "incarnation", "time"];
        let (seq, incarnation, now): (Option<u64>, Option<String>, Option<u64>) = inner
            .ask_plainly(Way::Read, redis::cmd("HMGET").arg(format!("{}state", inner.prefix)).arg(&fields))
            .await?;
        let now = now.unwrap_or(FIRST_SECOND);
        let mut peers: Vec<String> = members(&locked, "peers").await?;
        peers.sort_unstable();
        let pending = peers.iter().map(|peer| (format!("pend:{peer}"), MessageKind::Pending));
        let others = [("mail".to_owned(), MessageKind::Mailbox), ("dead".to_owned(), MessageKind::Dead)];
        let (mut messages, mut bytes, mut oldest) = (Vec::new(), 0, now);
        for (key, kind) in pending.chain(others) {
            let mut after = 0;
            loop {
                let some: Vec<(u64, String, String)> = inner
                    .ask(Way::Read, &SCRIPTS.move_list, |call| {
                        call.arg(&key).arg(after).arg(LIST);
                    })
                    .await?;
                let Some((last, ..)) = some.last() else { break };
                after = *last;
                for (sequence, len, time) in some {
                    messages.push((sequence, kind));
                    bytes += len.parse::<u64>().unwrap_or_default();
                    oldest = oldest.min(time.parse().unwrap_or(now));
                }
            }
        }
        messages.sort_unstable();
        let newest = incarnation.as_deref().and_then(|text| text.parse::<Incarnation>().ok());
        let summary = Summary {
            name: locked.name.clone(),
            state: fingerprint(
                &messages,
                seq.unwrap_or_default(),
                incarnation.as_deref().unwrap_or_default(),
            ),
            messages: messages.len() as u64,
            bytes,
            last_sequence: Sequence(seq.unwrap_or_default()),
            newest_incarnation_ms: newest.map_or(0, |incarnation| incarnation.started_ms),
            oldest_age: now - oldest,
            clock_stands: true,
            damage: Vec::new(),
        };
        Ok(Self { locked, messages, now, summary })
    }

    fn moved(
        &self,
        sequence: u64,
        kind: MessageKind,
        bytes: Vec<u8>,
        reason: &[u8],
        read: u64,
    ) -> std::result::Result<Moved, Unreadable> {
        let unreadable = |what: &str| Unreadable { sequence: Sequence(sequence), what: what.to_owned() };
        let record = record::read(sequence, &bytes.into()).map_err(unreadable)?;
        let fate = match kind {
            MessageKind::Pending => Fate::Pending,
            MessageKind::Mailbox => Fate::Mailbox,
            MessageKind::Dead => {
                let reason = why(reason).ok_or_else(|| unreadable("its reason is missing"))?.reason;
                if record.class == Class::Outgoing { Fate::Dead(reason) } else { Fate::DeadMail(reason) }
            }
        };
        let payload = RedisPieces::of(&self.locked.inner, &record);
        let identity = (record.number > 0).then_some((record.incarnation, record.number));
        let age = self.now.saturating_sub(record.time);
        let read = (read > 0).then(|| self.now.saturating_sub(read));
        let (party, id) = (record.party, record.id);
        Ok(Moved { fate, party, id, payload, identity, age, read, sequence: Sequence(sequence) })
    }
}

async fn members(locked: &LockedStore, set: &str) -> crate::face::error::Result<Vec<String>> {
    let inner = &locked.inner;
    inner.ask_plainly(Way::Read, redis::cmd("SMEMBERS").arg(format!("{}{set}", inner.prefix))).await
}

/// A number for what is there, which another store is very unlikely to have.
fn fingerprint(messages: &[(u64, MessageKind)], seq: u64, incarnation: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u64(seq);
    hasher.write(incarnation.as_bytes());
    for (sequence, kind) in messages {
        hasher.write_u64(*sequence);
        hasher.write_u8(*kind as u8);
    }
    hasher.finish()
}

/// Reads a range of numbers, written `end:start`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (end, start) = text.split_once(':')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[async_trait]
impl Source for RedisSource {
    async fn summary(&self) -> Result<Summary> {
        Ok(self.summary.clone())
    }

    async fn memory(&self) -> Result<Vec<Remembered>> {
        let inner = &self.locked.inner;
        let mut all = Vec::new();
        for who in members(&self.locked, "senders").await? {
            let key = |what: &str| format!("{}{what}:{who}", inner.prefix);
            let seen: Vec<String> =
                inner.ask_plainly(Way::Read, redis::cmd("ZRANGE").arg(key("seen")).arg(0).arg(-1)).await?;
            for incarnation in seen {
                let mark: Option<String> = inner
                    .ask_plainly(Way::Read, redis::cmd("HGET").arg(key("marks")).arg(&incarnation))
                    .await?;
                let had = format!("{}had:{incarnation}:{who}", inner.prefix);
                let ranges: Vec<String> =
                    inner.ask_plainly(Way::Read, redis::cmd("ZRANGE").arg(had).arg(0).arg(-1)).await?;
                let wrong = || StoreError::Damaged {
                    id: "(none)".into(),
                    segment: key("marks"),
                    offset: 0,
                    what: "the memory of deliveries cannot be read".into(),
                };
                let mark = mark.unwrap_or_else(|| "0".into());
                all.push(Remembered {
                    sender: if who.is_empty() { None } else { PartyId::new(&who).ok() },
                    incarnation: incarnation.parse().map_err(|_| wrong())?,
                    low_water: u64::from_str_radix(&mark, 16).map_err(|_| wrong())?,
                    ranges: ranges
                        .iter()
                        .map(|text| range(text).ok_or_else(wrong))
                        .collect::<crate::face::error::Result<_>>()?,
                });
            }
        }
        Ok(all)
    }

    async fn next(
        &self,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<std::result::Result<Moved, Unreadable>>> {
        let from = self.messages.partition_point(|(sequence, _)| *sequence <= after.0);
        let to = from.saturating_add(limit).min(self.messages.len());
        let wanted = &self.messages[from..to];
        let mut all = Vec::with_capacity(wanted.len());
        while all.len() < wanted.len() {
            let rest = &wanted[all.len()..];
            let numbers: Vec<u64> = rest.iter().map(|(sequence, _)| *sequence).collect();
            let some: Vec<redis::Value> = self
                .locked
                .inner
                .ask(Way::Bulk, &SCRIPTS.move_get, |call| {
                    call.arg(GET_BYTES).arg(&numbers);
                })
                .await?;
            if some.is_empty() {
                return Err(StoreError::Unavailable("an answer of Redis is empty".into()).into());
            }
            for ((sequence, kind), value) in rest.iter().zip(some) {
                let got = <(Vec<u8>, Vec<u8>, u64)>::from_redis_value(value);
                let (bytes, reason, read) =
                    got.map_err(|why| StoreError::Unavailable(why.to_string().into()))?;
                all.push(self.moved(*sequence, *kind, bytes, &reason, read));
            }
        }
        Ok(all)
    }

    async fn leave(&self) {
        self.locked.leave().await;
    }
}
