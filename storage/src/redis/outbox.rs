//! Pending messages and dead letters: listing, loading, settling.

use super::engine::RedisStore;
use super::keeper::tell_gone;
use super::lane::Item;
use super::mailbox::tracked;
use super::options::seconds;
use super::pieces::Kept;
use super::scripts::SCRIPTS;
use super::session::Way;
use crate::engine::Tracked;
use crate::error::{Result, StoreError};
use crate::frame::Class;
use crate::log::lock;
use crate::message::{DeadLetter, DeadReason, DeliveryIdentity, MessageId, PartyId, Pending, Sequence};
use crate::payload::{Outgoing, Payload};

/// Bytes of records in one answer.
const LOAD_BYTES: usize = 1 << 20;

impl RedisStore {
    fn send_ttl(&self) -> u64 {
        seconds(self.inner.options.send_ttl)
    }

    /// Whether this gateway delivers to a peer. Where nobody does yet, that is agreed on first.
    async fn has(&self, peer: &PartyId) -> bool {
        // The first time may have begun before the peer had messages.
        for _ in 0..2 {
            if self.inner.delivers_to(peer) || lock(&self.inner.leases).is_owned(peer) {
                break;
            }
            self.agree().await;
        }
        self.inner.delivers_to(peer)
    }

    /// Nothing for a peer that another gateway delivers to.
    pub(super) async fn list_pending(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Pending>> {
        if !self.has(peer).await {
            return Ok(Vec::new());
        }
        Ok(self.list_with_ids(peer, after, limit).await?.into_iter().map(|(pending, _)| pending).collect())
    }

    /// Also where another gateway delivers.
    pub(super) async fn list_with_ids(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(Pending, Option<MessageId>)>> {
        let all: Vec<(u64, u64, u64, String)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.list, |call| {
                call.arg(peer.as_str()).arg(after.0).arg(limit);
            })
            .await?;
        let pending = |(sequence, len, age, id): (u64, u64, u64, String)| {
            let id = MessageId::new(id).ok()?;
            let id_key = self.inner.key(Class::Outgoing, peer.as_str(), &id);
            let expires_in = self.inner.options.send_ttl.map(|ttl| ttl.as_secs().saturating_sub(age));
            Some((Pending { sequence: Sequence(sequence), id_key, len, age, expires_in }, Some(id)))
        };
        Ok(all.into_iter().filter_map(pending).collect())
    }

    pub(super) async fn load_all(
        &self,
        peer: &PartyId,
        sequences: &[Sequence],
    ) -> Vec<Result<Option<Outgoing>>> {
        let mut loaded = Vec::with_capacity(sequences.len());
        while loaded.len() < sequences.len() {
            let wanted = &sequences[loaded.len()..];
            if !self.has(peer).await {
                loaded.extend(wanted.iter().map(|_| Ok(None)));
                break;
            }
            match self.load_some(peer, wanted).await {
                Ok(some) if !some.is_empty() => loaded.extend(some),
                Ok(_) => loaded.extend(wanted.iter().map(|_| Ok(None))),
                Err(error) => loaded.extend(wanted.iter().map(|_| Err(error.clone()))),
            }
        }
        loaded
    }

    async fn load_some(&self, peer: &PartyId, wanted: &[Sequence]) -> Result<Vec<Result<Option<Outgoing>>>> {
        let answer: Vec<redis::Value> = self
            .inner
            .ask(Way::Read, &SCRIPTS.load, |call| {
                call.arg(peer.as_str()).arg(self.send_ttl()).arg(LOAD_BYTES);
                call.arg(numbers(wanted));
            })
            .await?;
        // A mark may tell the peer that messages ended; so the replicas must know of their ends, should one take over.
        // While there are none, deliveries go on, without marks.
        let is_sure = self.inner.options.wait_replicas == 0
            || (!self.inner.sessions.is_refusing() && self.lane.write(Item::Probe).await.is_ok());
        let load = |(sequence, value): (&Sequence, redis::Value)| {
            let redis::Value::Array(_) = &value else { return Ok(None) };
            let (bytes, low): (Vec<u8>, String) = redis::from_redis_value(value)
                .map_err(|why| StoreError::Unavailable(why.to_string().into()))?;
            let record = self.inner.record(sequence.0, &bytes.into())?;
            let low_water = u64::from_str_radix(&low, 16).unwrap_or(0);
            Ok(Some(Outgoing {
                receiver: peer.clone(),
                payload: Kept::of(&self.inner, &record),
                id: record.id,
                sequence: *sequence,
                identity: DeliveryIdentity {
                    incarnation: record.incarnation,
                    number: record.number,
                    low_water: if is_sure { low_water } else { 0 },
                },
            }))
        };
        Ok(wanted.iter().zip(answer).map(load).collect())
    }

    /// Ends pending messages: `d` delivered, `o` dropped. Whether one was pending.
    pub(super) async fn end(&self, peer: &PartyId, how: char, sequences: &[Sequence]) -> Result<bool> {
        if sequences.is_empty() {
            return Ok(false);
        }
        let ended: Vec<u8> = self
            .inner
            .change(&SCRIPTS.settle, |call| {
                call.arg(peer.as_str()).arg(how.to_string());
                call.arg(numbers(sequences));
            })
            .await?;
        Ok(ended.contains(&1))
    }

    pub(super) async fn bury(&self, peer: &PartyId, sequence: Sequence, reason: DeadReason) -> Result<bool> {
        let gone: Option<u64> = self
            .inner
            .change(&SCRIPTS.bury, |call| {
                call.arg(peer.as_str())
                    .arg(sequence.0)
                    .arg(reason_text(&reason))
                    .arg(self.inner.options.dead_letter_bytes);
            })
            .await?;
        let Some(gone) = gone else { return Ok(false) };
        tell_gone(gone);
        let mut letters = self.letters(Sequence(sequence.0 - 1), 1).await?;
        if let Some(letter) = letters.pop().filter(|letter| letter.sequence == sequence) {
            self.inner.observer.0.died(&letter);
        }
        Ok(true)
    }

    pub(super) async fn letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        let all: Vec<Letter> = self
            .inner
            .ask(Way::Read, &SCRIPTS.letters, |call| {
                call.arg("list").arg(after.0).arg(limit);
            })
            .await?;
        Ok(all.into_iter().filter_map(letter).collect())
    }

    pub(super) async fn newest_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let newest: Vec<Letter> = self
            .inner
            .ask(Way::Read, &SCRIPTS.letters, |call| {
                call.arg("newest").arg(limit);
            })
            .await?;
        Ok(newest.into_iter().filter_map(letter).collect())
    }

    pub(super) async fn open_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>> {
        let before = Sequence(sequence.0.saturating_sub(1));
        let found = self.letters(before, 1).await?.into_iter().find(|letter| letter.sequence == sequence);
        let Some(letter) = found else { return Ok(None) };
        let mut get = redis::cmd("GET");
        get.arg(format!("{}m:{}", self.inner.prefix, sequence.0));
        let kept: Option<Vec<u8>> = self.inner.ask_plainly(Way::Bulk, &get).await?;
        let Some(kept) = kept else { return Ok(None) };
        let record = self.inner.record(sequence.0, &kept.into())?;
        Ok(Some((letter, Kept::of(&self.inner, &record))))
    }

    pub(super) async fn track_outgoing(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked> {
        let pending: Option<(u64, u64)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.sent, |call| {
                call.arg(receiver.as_str()).arg(id.as_str());
            })
            .await?;
        if let Some((sequence, len)) = pending {
            return Ok(Tracked::Pending { sequence: Sequence(sequence), len });
        }
        let letters: Vec<Letter> = self
            .inner
            .ask(Way::Read, &SCRIPTS.letters, |call| {
                call.arg("of").arg(receiver.as_str()).arg(id.as_str());
            })
            .await?;
        let letter = letters.into_iter().next().and_then(letter);
        let past = lock(&self.inner.past).last(self.inner.key(Class::Outgoing, receiver.as_str(), id));
        Ok(match (past, letter) {
            (past, Some(letter)) if past.is_none_or(|(ended, _)| ended < letter.sequence.0) => {
                Tracked::Dead { sequence: letter.sequence, len: letter.len, reason: letter.reason }
            }
            (past, _) => past.map_or(Tracked::Unknown, tracked),
        })
    }
}

fn numbers(sequences: &[Sequence]) -> Vec<u64> {
    sequences.iter().map(|sequence| sequence.0).collect()
}

/// As much of a reason as is kept, as in the embedded store.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(crate::settle::MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The reason and the receiver of a dead letter.
pub(super) fn reason_of(why: &[u8]) -> Option<(DeadReason, PartyId)> {
    let why = String::from_utf8_lossy(why);
    let (reason, receiver) = why.rsplit_once('\0')?;
    let reason = match reason.split_at_checked(1)? {
        ("0", _) => DeadReason::Expired,
        ("1", text) => DeadReason::Refused(text.into()),
        (_, text) => DeadReason::Damaged(text.into()),
    };
    Some((reason, PartyId::new(receiver).ok()?))
}

/// The id of a dead letter, or a word for one whose record is damaged.
pub(super) fn id_of_letter(id: &[u8]) -> Option<MessageId> {
    let id = std::str::from_utf8(id).ok().and_then(|id| MessageId::new(id).ok());
    id.or_else(|| MessageId::new("(unreadable)").ok())
}

/// What a script says of a dead letter: sequence, reason and receiver, id, length.
type Letter = (u64, Vec<u8>, Vec<u8>, u64);

/// `0` expired, `1` refused, `2` damaged, and the words.
pub(super) fn reason_text(reason: &DeadReason) -> String {
    match reason {
        DeadReason::Expired => "0".into(),
        DeadReason::Refused(why) => format!("1{}", shortened(why)),
        DeadReason::Damaged(what) => format!("2{}", shortened(what)),
    }
}

fn letter((sequence, why, id, len): Letter) -> Option<DeadLetter> {
    let (reason, receiver) = reason_of(&why)?;
    let id = id_of_letter(&id)?;
    Some(DeadLetter { sequence: Sequence(sequence), receiver, id, len, reason })
}
