//! The [`Engine`] face of the Redis store: what each call asks of Redis.

use std::future::ready;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};

use crate::face::direction::Class;
use crate::face::engine::{Accepting, Engine, IdReuse, Pauses, StoreState, StoreStats, Tracked};
use crate::face::error::{Result, StoreError};
use crate::face::message::{
    Arrival, DeadLetter, DeliveryIdentity, FromSender, MessageId, Outcome, PartyId, Pending, SendKey,
    Sending, Sequence, Stored,
};
use crate::face::payload::{Found, Handed, Held, Outgoing, Payload, Upload};
use crate::redis::calls::sends;
use crate::redis::calls::store::RedisStore;
use crate::redis::calls::upload::{ChunkToken, ChunkUpload};
use crate::redis::calls::write_lane::{WriteOutcome, WriteRequest};
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::pieces::RedisPieces;
use crate::redis::content::record::{self, Content, FULL, WHOLE_BYTES};
use crate::redis::content::words::from_text;

impl RedisStore {
    /// The content of a message as it is queued; large ones are sent in chunks first. Also returns the checksum of what is in
    /// chunks.
    async fn content(&self, payload: Bytes) -> Result<(Content, Option<ChunkToken>, u32)> {
        if payload.len() <= WHOLE_BYTES {
            return Ok((Content::Whole(payload), None, 0));
        }
        let mut upload = ChunkUpload::new(self.clone());
        upload.push(payload).await?;
        upload.finish().await
    }

    /// Queues a message for a peer. `send`: see [`sends::text`].
    pub(crate) async fn queue_accept(
        &self,
        (receiver, id): (&PartyId, &MessageId),
        content: &Content,
        send: &str,
    ) -> Result<WriteAnswer> {
        let made = record::make(Class::Outgoing, receiver.as_str(), id.as_str(), content);
        self.lane.queue(WriteRequest::Message { made, identity: send.into() }).await
    }

    /// Accepts what is kept in `content`. In its own task: if the caller goes away, the chunks must not be removed with it.
    pub(crate) async fn accept_content(
        &self,
        (receiver, id): (&PartyId, &MessageId),
        content: Content,
        token: Option<ChunkToken>,
        send: String,
    ) -> Result<Sequence> {
        if token.is_none() {
            let queued = self.queue_accept((receiver, id), &content, &send).await?;
            return self.accepted(queued, (receiver, id), (&content, &send), None).await;
        }
        let (store, receiver, id) = (self.clone(), receiver.clone(), id.clone());
        let accepting = self.inner.tasks.spawn(async move {
            let queued = store.queue_accept((&receiver, &id), &content, &send).await?;
            store.accepted(queued, (&receiver, &id), (&content, &send), token).await
        });
        accepting.await.map_err(|_| StoreError::Closed)?
    }

    async fn accepted(
        &self,
        queued: WriteAnswer,
        (receiver, id): (&PartyId, &MessageId),
        (content, send): (&Content, &str),
        token: Option<ChunkToken>,
    ) -> Result<Sequence> {
        let mut outcome = self.outcome(queued, token).await?;
        if let WriteOutcome::Compare(held) = outcome {
            if self.is_held(held, content).await? {
                return self.same_as(held, (receiver, id), content, send).await;
            }
            if self.inner.options.id_reuse == IdReuse::Replace {
                // It is another message, which replaces the one that is held.
                let queued = self.queue_accept((receiver, id), content, sends::COMPARED).await?;
                outcome = self.outcome(queued, None).await?;
            }
        }
        match outcome {
            WriteOutcome::New(sequence) | WriteOutcome::Same(sequence) => Ok(Sequence(sequence)),
            other => Err(self.refusal(other, id)),
        }
    }

    /// The result of what was queued; its chunks are kept if it may have been carried out.
    pub(crate) async fn outcome(
        &self,
        queued: WriteAnswer,
        token: Option<ChunkToken>,
    ) -> Result<WriteOutcome> {
        let outcome = queued.await.unwrap_or(Err(StoreError::Closed));
        if let Some(token) = token
            && matches!(
                outcome,
                Ok(WriteOutcome::New(_) | WriteOutcome::Compare(_))
                    | Err(StoreError::InDoubt(_) | StoreError::Closed)
            )
        {
            token.keep();
        }
        outcome
    }

    pub(crate) fn refusal(&self, outcome: WriteOutcome, id: &MessageId) -> StoreError {
        let limit = self.inner.rules().max_bytes();
        match outcome {
            WriteOutcome::Full(used) => StoreError::Full { used, limit, remedy: FULL },
            WriteOutcome::OtherName => StoreError::OtherSend { what: "another receiver or message id" },
            WriteOutcome::OtherBytes => StoreError::OtherSend { what: "other bytes" },
            WriteOutcome::Conflict | WriteOutcome::Compare(_) => StoreError::Conflict { id: id.to_string() },
            WriteOutcome::Crowded => {
                let gaps = crate::index::seen_deliveries::MAX_RANGES as u64;
                let remedy = "the sender has too many gaps in what it delivered and must fill some first";
                StoreError::Full { used: gaps, limit: gaps, remedy }
            }
            _ => StoreError::Unavailable("parts of the message are missing in Redis; send it again".into()),
        }
    }

    /// Whether the message with this sequence has exactly these bytes.
    async fn is_held(&self, held: u64, content: &Content) -> Result<bool> {
        let mut get = redis::cmd("GET");
        get.arg(format!("{}m:{held}", self.inner.prefix));
        let found: Option<Vec<u8>> = self.inner.ask_plainly(Way::Read, &get).await?;
        let Some(found) = found else { return Ok(false) };
        let held = self.inner.record(held, &found.into())?;
        let mut mine = held.clone();
        mine.content = content.clone();
        RedisPieces::of(&self.inner, &held).is_same(&RedisPieces::of(&self.inner, &mine)).await
    }

    /// Queues what a peer delivers.
    async fn queue_arrival(&self, arrival: &Arrival, content: &Content) -> Result<WriteAnswer> {
        let sender = arrival.sender.as_ref();
        let (class, name) = sender.map_or((Class::IncomingUnnamed, ""), |s| (Class::Incoming, s.as_str()));
        let made = record::make(class, name, arrival.id.as_str(), content);
        self.lane.queue(WriteRequest::Message { made, identity: identity_text(arrival.identity) }).await
    }

    async fn stored(
        &self,
        queued: WriteAnswer,
        arrival: &Arrival,
        content: &Content,
        token: Option<ChunkToken>,
    ) -> Result<Stored> {
        let outcome = self.outcome(queued, token).await?;
        if outcome == WriteOutcome::TooOld
            && let Some(DeliveryIdentity { incarnation, .. }) = arrival.identity
        {
            return Err(StoreError::TooOld { incarnation });
        }
        match outcome {
            WriteOutcome::New(sequence) => Ok(Stored::New(Sequence(sequence))),
            WriteOutcome::Repeated | WriteOutcome::Same(_) => Ok(Stored::Repeated),
            WriteOutcome::Stale => Ok(Stored::Stale),
            WriteOutcome::Compare(held) if self.is_held(held, content).await? => Ok(Stored::Repeated),
            other => Err(self.refusal(other, &arrival.id)),
        }
    }

    /// Stores what is in `content`, as [`accept_content`](Self::accept_content) accepts it.
    pub(crate) async fn store_content(
        &self,
        arrival: Arrival,
        content: Content,
        token: Option<ChunkToken>,
    ) -> Result<Stored> {
        let store = self.clone();
        let has_chunks = token.is_some();
        let storing = async move {
            let queued = store.queue_arrival(&arrival, &content).await?;
            store.stored(queued, &arrival, &content, token).await
        };
        if has_chunks {
            self.inner.tasks.spawn(storing).await.map_err(|_| StoreError::Closed)?
        } else {
            storing.await
        }
    }
}

/// Resolves with the result of what was queued.
type WriteAnswer = oneshot::Receiver<Result<WriteOutcome>>;

/// Incarnation, number, the next number and low-water mark, as the scripts compare them; empty if there is no identity.
fn identity_text(identity: Option<DeliveryIdentity>) -> String {
    let Some(i) = identity.filter(DeliveryIdentity::is_numbered) else { return String::new() };
    format!("{}{:016x}{:016x}{:016x}", i.incarnation, i.number, i.number + 1, i.low_water)
}

#[async_trait]
impl Engine for RedisStore {
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence> {
        let (receiver, id) = (receiver.clone(), id.clone());
        self.accept_one(Sending { receiver, id, payload, key: None }).await
    }

    async fn accept_one(&self, message: Sending) -> Result<Sequence> {
        let Sending { receiver, id, payload, key } = message;
        let (content, token, crc) = match self.content(payload.clone()).await {
            Ok(made) => made,
            // What was accepted before needs no room.
            Err(full @ StoreError::Full { .. }) => {
                let Some(key) = key else { return Err(full) };
                let bytes = (Some(payload.len() as u64), Some(crc32fast::hash(&payload)));
                return self.known_send(&receiver, &id, bytes, key).await?.ok_or(full);
            }
            Err(error) => return Err(error),
        };
        let send = sends::text(key, &content, crc);
        self.accept_content((&receiver, &id), content, token, send).await
    }

    async fn accepted_before(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        len: Option<u64>,
        key: SendKey,
    ) -> Result<Option<Sequence>> {
        self.known_send(receiver, id, (len, None), key).await
    }

    async fn store(&self, arrival: Arrival) -> Result<Stored> {
        let (content, token, _) = self.content(arrival.payload.clone()).await?;
        self.store_content(arrival, content, token).await
    }

    async fn store_many(&self, arrivals: Vec<Arrival>) -> Vec<Result<Stored>> {
        let mut waiting = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            if arrival.payload.len() > WHOLE_BYTES {
                // Its place in the order is taken when it is kept.
                waiting.push(futures_util::future::Either::Left(ready(self.store(arrival).await)));
                continue;
            }
            let content = Content::Whole(arrival.payload.clone());
            let queued = self.queue_arrival(&arrival, &content).await;
            waiting.push(futures_util::future::Either::Right(async move {
                self.stored(queued?, &arrival, &content, None).await
            }));
        }
        join_all(waiting).await
    }

    async fn accept_all(&self, messages: Vec<Sending>) -> Accepting {
        let mut waiting: Vec<Accepting> = Vec::new();
        for message in messages {
            if message.payload.len() > WHOLE_BYTES {
                // Its place in the order is taken when it is accepted.
                waiting.push(Box::pin(ready(vec![self.accept_one(message).await])));
                continue;
            }
            let Sending { receiver, id, payload, key } = message;
            let (store, content) = (self.clone(), Content::Whole(payload));
            let send = sends::text(key, &content, 0);
            let queued = self.queue_accept((&receiver, &id), &content, &send).await;
            waiting.push(Box::pin(async move {
                match queued {
                    Ok(queued) => {
                        vec![store.accepted(queued, (&receiver, &id), (&content, &send), None).await]
                    }
                    Err(error) => vec![Err(error)],
                }
            }));
        }
        Box::pin(async move { join_all(waiting).await.into_iter().flatten().collect() })
    }

    fn begin(&self, len: Option<u64>) -> Result<Box<dyn Upload>> {
        if let StoreState::Closed = *self.state().borrow() {
            return Err(StoreError::Closed);
        }
        let mut upload = ChunkUpload::new(self.clone());
        upload.reserve(len.unwrap_or(0))?;
        Ok(Box::new(upload))
    }

    async fn knows(&self, sender: &PartyId, identity: &DeliveryIdentity) -> Result<bool> {
        let (known, session): (u8, _) = self
            .inner
            .ask_at(Way::Read, &SCRIPTS.known, |call| {
                call.arg(sender.as_str())
                    .arg(identity.incarnation.to_string())
                    .arg(format!("{:016x}", identity.number));
            })
            .await?;
        if known == 2 {
            return Err(StoreError::TooOld { incarnation: identity.incarnation });
        }
        if known == 1 {
            self.inner.kept(&session).await?;
        }
        Ok(known == 1)
    }

    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        self.open_one(from, id).await
    }

    fn note_read(&self, messages: &[Handed]) {
        let now = self.inner.service.now();
        for read in messages {
            self.inner.reads.note(&read.id, read.sequence, now);
        }
    }

    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool> {
        let ttl = self.inner.rules().message_ttl();
        let released: u64 = self
            .inner
            .change_for_good(&SCRIPTS.release, |call| {
                call.arg("id").arg(from_text(from)).arg(id.as_str()).arg(ttl);
            })
            .await?;
        Ok(released > 0)
    }

    async fn held(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>> {
        self.list(from, id).await
    }

    async fn open_found(&self, found: &Found) -> Result<Option<Held>> {
        let opened = self.fetch(found.sequence).await?;
        Ok(opened.filter(|held| held.id == found.id && held.sender == found.sender))
    }

    async fn topic(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>> {
        self.look(from, prefix, after, limit).await
    }

    async fn release_topic(&self, from: &FromSender, prefix: &str) -> Result<u64> {
        self.release_all(from, prefix).await
    }

    async fn track_sent(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked> {
        self.track_outgoing(receiver, id).await
    }

    async fn track_received(&self, from: &FromSender, id: &MessageId) -> Result<Tracked> {
        if let Some(found) = self.list(from, id).await?.into_iter().next() {
            return Ok(Tracked::Held { sender: found.sender, sequence: found.sequence, len: found.len });
        }
        self.track_past(from, id).await
    }

    async fn pending(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>> {
        self.list_pending(peer, after, limit).await
    }

    async fn pending_with_ids(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(Pending, Option<MessageId>)>> {
        self.list_with_ids(peer, after, limit).await
    }

    async fn pending_anywhere(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>> {
        self.list_anywhere(peer, after, limit).await
    }

    async fn peers_with_pending(&self) -> Result<Vec<PartyId>> {
        let peers: Vec<String> = self.inner.ask(Way::Read, &SCRIPTS.peers, |_| {}).await?;
        Ok(peers.into_iter().filter_map(|peer| PartyId::new(peer).ok()).collect())
    }

    async fn load(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>> {
        self.load_all(peer, &[sequence]).await.pop().unwrap_or(Ok(None))
    }

    async fn load_many(&self, peer: &PartyId, sequences: &[Sequence]) -> Vec<Result<Option<Outgoing>>> {
        self.load_all(peer, sequences).await
    }

    async fn open_pending(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>> {
        self.load_some(peer, &[sequence]).await?.pop().unwrap_or(Ok(None))
    }

    fn pauses(&self) -> Option<Pauses> {
        Some(self.inner.paused.subscribe())
    }

    async fn pause(&self, peer: &PartyId, paused: bool) -> Result<bool> {
        self.pause_at_all(peer, paused).await
    }

    async fn try_at_once(&self, peers: &[PartyId]) -> Result<()> {
        self.tell_to_try(peers).await
    }

    async fn settle_delivered(&self, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
        self.end(peer, 'd', sequences).await.map(drop)
    }

    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: Outcome) -> Result<bool> {
        match outcome {
            Outcome::Delivered => self.end(peer, 'd', &[sequence]).await,
            Outcome::Dropped => self.end(peer, 'o', &[sequence]).await,
            Outcome::Dead(reason) => self.bury(peer, sequence, reason).await,
        }
    }

    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        self.letters(after, limit).await
    }

    async fn newest_dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        self.newest_letters(limit).await
    }

    async fn open_dead_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>> {
        self.open_letter(sequence).await
    }

    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>> {
        let id = MessageId::new("(the dead letter)").map_err(|_| StoreError::Closed)?;
        match self.lane.write(WriteRequest::Letter(sequence.0)).await? {
            WriteOutcome::New(new) | WriteOutcome::Same(new) => Ok(Some(Sequence(new))),
            WriteOutcome::NoLetter => Ok(None),
            other => Err(self.refusal(other, &id)),
        }
    }

    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool> {
        let dropped: u8 = self
            .inner
            .change_for_good(&SCRIPTS.letters, |call| {
                call.arg("drop").arg(sequence.0);
            })
            .await?;
        Ok(dropped == 1)
    }

    fn delivers_to(&self, peer: &PartyId) -> bool {
        self.inner.delivers_to(peer)
    }

    fn holds(&self, peer: &PartyId) -> bool {
        self.inner.holds(peer)
    }

    async fn may_deliver(&self, peer: &PartyId) -> Result<bool> {
        self.holds_lease(peer).await
    }

    fn stats(&self) -> StoreStats {
        let repeated = self.inner.repeated.load(Ordering::Relaxed);
        StoreStats { repeated, ..self.inner.stats.lock().clone() }
    }

    fn state(&self) -> watch::Receiver<StoreState> {
        self.inner.sessions.state()
    }

    async fn close(&self) -> Result<()> {
        self.leave().await;
        Ok(())
    }
}
