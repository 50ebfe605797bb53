//! Pending messages: listing, loading, settling.

use crate::face::direction::Class;
use crate::face::engine::Tracked;
use crate::face::error::{Result, StoreError};
use crate::face::message::{DeadReason, DeliveryIdentity, MessageId, PartyId, Pending, Sequence};
use crate::face::payload::Outgoing;
use crate::redis::calls::store::RedisStore;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::letters::{GoneLetter, reason_text, tell_gone};
use crate::redis::content::pieces::RedisPieces;
use crate::redis::content::words::tracked_end;

/// Bytes of records in one answer.
const LOAD_BYTES: usize = 1 << 20;

impl RedisStore {
    fn send_ttl(&self) -> u64 {
        self.inner.rules().send_ttl()
    }

    /// Whether this gateway delivers to a peer. If no gateway does yet, that is agreed on first.
    async fn has(&self, peer: &PartyId) -> bool {
        // The first agreement may have begun before the peer had messages.
        for _ in 0..2 {
            if self.inner.delivers_to(peer) || self.inner.leases.lock().is_owned(peer) {
                break;
            }
            self.agree().await;
        }
        self.inner.delivers_to(peer)
    }

    /// Lists pending messages; none for a peer that another gateway delivers to.
    pub(crate) async fn list_pending(
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

    /// Lists pending messages with their ids, even if another gateway delivers to the peer.
    pub(crate) async fn list_with_ids(
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
            let ttl = self.send_ttl();
            let expires_in = (ttl > 0).then(|| ttl.saturating_sub(age));
            Some((Pending { sequence: Sequence(sequence), id_key, len, age, expires_in }, Some(id)))
        };
        Ok(all.into_iter().filter_map(pending).collect())
    }

    /// Lists pending messages without their ids, even if another gateway delivers to the peer.
    pub(crate) async fn list_anywhere(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Pending>> {
        let all = self.list_with_ids(peer, after, limit).await?;
        Ok(all.into_iter().map(|(pending, _)| pending).collect())
    }

    pub(crate) async fn load_all(
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

    pub(crate) async fn load_some(
        &self,
        peer: &PartyId,
        wanted: &[Sequence],
    ) -> Result<Vec<Result<Option<Outgoing>>>> {
        let (answer, session): (Vec<redis::Value>, _) = self
            .inner
            .ask_at(Way::Read, &SCRIPTS.load, |call| {
                call.arg(peer.as_str()).arg(self.send_ttl()).arg(LOAD_BYTES);
                call.arg(numbers(wanted));
            })
            .await?;
        // A mark may tell the peer that messages have ended; so the replicas must know of their ends, in case one takes over.
        // Without enough replicas deliveries continue, but without marks.
        let is_sure = self.inner.options.wait_replicas == 0
            || (!self.inner.sessions.is_refusing() && self.inner.kept(&session).await.is_ok());
        let load = |(sequence, value): (&Sequence, redis::Value)| {
            let redis::Value::Array(_) = &value else { return Ok(None) };
            let (bytes, low): (Vec<u8>, String) = redis::from_redis_value(value)
                .map_err(|why| StoreError::Unavailable(why.to_string().into()))?;
            let record = self.inner.record(sequence.0, &bytes.into())?;
            let low_water = u64::from_str_radix(&low, 16).unwrap_or(0);
            Ok(Some(Outgoing {
                receiver: peer.clone(),
                payload: RedisPieces::of(&self.inner, &record),
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

    /// Ends pending messages: `d` delivered, `o` dropped. Returns whether any was pending.
    pub(crate) async fn end(&self, peer: &PartyId, how: char, sequences: &[Sequence]) -> Result<bool> {
        if sequences.is_empty() {
            return Ok(false);
        }
        let settle = |call: &mut redis::Cmd| {
            call.arg(peer.as_str()).arg(how.to_string());
            call.arg(numbers(sequences));
        };
        // Losing the record of a delivery costs a repeated delivery; but that a message was dropped is somebody's decision.
        let ended: Vec<u8> = if how == 'd' {
            self.inner.change(&SCRIPTS.settle, settle).await?
        } else {
            self.inner.change_for_good(&SCRIPTS.settle, settle).await?
        };
        Ok(ended.contains(&1))
    }

    pub(crate) async fn bury(&self, peer: &PartyId, sequence: Sequence, reason: DeadReason) -> Result<bool> {
        let gone: Option<Vec<GoneLetter>> = self
            .inner
            .change(&SCRIPTS.bury, |call| {
                call.arg(peer.as_str())
                    .arg(sequence.0)
                    .arg(reason_text(&reason, false))
                    .arg(self.inner.rules().dead_letter_bytes());
            })
            .await?;
        let Some(gone) = gone else { return Ok(false) };
        tell_gone(&gone, self.inner.rules().dead_letter_bytes());
        let mut letters = self.letters(Sequence(sequence.0 - 1), 1).await?;
        if let Some(letter) = letters.pop().filter(|letter| letter.sequence == sequence) {
            self.inner.observer.0.died(&letter);
        }
        Ok(true)
    }

    pub(crate) async fn track_outgoing(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked> {
        let pending: Option<(u64, u64)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.sent, |call| {
                call.arg(receiver.as_str()).arg(id.as_str());
            })
            .await?;
        if let Some((sequence, len)) = pending {
            return Ok(Tracked::Pending { sequence: Sequence(sequence), len });
        }
        let letter = self.letter_to(receiver, id).await?;
        let past = self.inner.past.lock().last(self.inner.key(Class::Outgoing, receiver.as_str(), id));
        Ok(tracked_end(past, letter))
    }
}

fn numbers(sequences: &[Sequence]) -> Vec<u64> {
    sequences.iter().map(|sequence| sequence.0).collect()
}
