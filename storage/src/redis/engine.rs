//! The [`Engine`] face of the Redis store: what each call asks of Redis.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};

use super::inner::Inner;
use super::lane::{Item, Lane, Outcome};
use super::mailbox::{from_text, sender_of};
use super::options::seconds;
use super::pieces::Kept;
use super::record::{self, Content, WHOLE_BYTES};
use super::scripts::SCRIPTS;
use super::session::Way;
use super::upload::{ChunkUpload, Token};
use crate::engine::{Accepting, Engine, StoreState, StoreStats, Tracked};
use crate::error::{Result, StoreError};
use crate::frame::Class;
use crate::log::lock;
use crate::message::{
    Arrival, DeadLetter, DeliveryIdentity, FromSender, MessageId, Outcome as End, PartyId, Pending, Sequence,
    Stored,
};
use crate::payload::{Found, Held, Outgoing, Payload, Upload};

/// A store that keeps its messages in Redis, with other gateways of its party. See [the module](crate::redis).
#[derive(Clone)]
pub struct RedisStore {
    pub(super) inner: Arc<Inner>,
    pub(super) lane: Arc<Lane>,
    pub(super) _life: Arc<Life>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisStore({})", self.inner.options.url)
    }
}

/// When the last handle of a store goes, so do its tasks.
#[derive(Debug)]
pub(super) struct Life(pub(super) Arc<Inner>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

/// What to do about a quota that is used up.
pub(super) const FULL: &str = "release or deliver messages, or raise STORE_MAX_BYTES";

impl RedisStore {
    /// A message as it is queued; large ones are sent in chunks before.
    async fn content(&self, payload: Bytes) -> Result<(Content, Option<Token>)> {
        if payload.len() <= WHOLE_BYTES {
            return Ok((Content::Whole(payload), None));
        }
        let mut upload = ChunkUpload::new(self.clone());
        upload.push(payload).await?;
        upload.finish().await
    }

    /// Queues a message for a peer.
    async fn queue_accept(&self, receiver: &PartyId, id: &MessageId, content: &Content) -> Result<Queued> {
        let made = record::make(Class::Outgoing, receiver.as_str(), id.as_str(), content);
        self.lane.queue(Item::Message { made, identity: String::new() }).await
    }

    /// Accepts what is kept in `content`. In a task of its own: when its caller goes away, chunks must not go with it.
    pub(super) async fn accept_content(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        content: Content,
        token: Option<Token>,
    ) -> Result<Sequence> {
        if token.is_none() {
            let queued = self.queue_accept(receiver, id, &content).await?;
            return self.accepted(queued, id, &content, None).await;
        }
        let (store, receiver, id) = (self.clone(), receiver.clone(), id.clone());
        let accepting = tokio::spawn(async move {
            let queued = store.queue_accept(&receiver, &id, &content).await?;
            store.accepted(queued, &id, &content, token).await
        });
        accepting.await.map_err(|_| StoreError::Closed)?
    }

    async fn accepted(
        &self,
        queued: Queued,
        id: &MessageId,
        content: &Content,
        token: Option<Token>,
    ) -> Result<Sequence> {
        let outcome = self.outcome(queued, token).await?;
        match outcome {
            Outcome::New(sequence) | Outcome::Same(sequence) => Ok(Sequence(sequence)),
            Outcome::Compare(held) if self.is_held(held, content).await? => Ok(Sequence(held)),
            other => Err(self.refusal(other, id)),
        }
    }

    /// What became of it; its chunks are kept where it may have been.
    async fn outcome(&self, queued: Queued, token: Option<Token>) -> Result<Outcome> {
        let outcome = queued.await.unwrap_or(Err(StoreError::Closed));
        if let Some(token) = token
            && matches!(
                outcome,
                Ok(Outcome::New(_) | Outcome::Compare(_)) | Err(StoreError::InDoubt(_) | StoreError::Closed)
            )
        {
            token.keep();
        }
        outcome
    }

    fn refusal(&self, outcome: Outcome, id: &MessageId) -> StoreError {
        let limit = self.inner.options.max_bytes;
        match outcome {
            Outcome::Full(used) => StoreError::Full { used, limit, remedy: FULL },
            Outcome::Conflict | Outcome::Compare(_) => StoreError::Conflict { id: id.to_string() },
            Outcome::Crowded => {
                let gaps = crate::delivered::MAX_RANGES as u64;
                let remedy = "the sender has too many gaps in what it delivered and must fill some first";
                StoreError::Full { used: gaps, limit: gaps, remedy }
            }
            _ => StoreError::Unavailable("parts of the message are missing in Redis; send it again".into()),
        }
    }

    /// Whether the message of a sequence has these very bytes.
    async fn is_held(&self, held: u64, content: &Content) -> Result<bool> {
        let mut get = redis::cmd("GET");
        get.arg(format!("{}m:{held}", self.inner.prefix));
        let found: Option<Vec<u8>> = self.inner.ask_plainly(Way::Read, &get).await?;
        let Some(found) = found else { return Ok(false) };
        let held = self.inner.record(held, &found.into())?;
        let mut mine = held.clone();
        mine.content = content.clone();
        Kept::of(&self.inner, &held).is_same(&Kept::of(&self.inner, &mine)).await
    }

    /// Queues what a peer delivers.
    async fn queue_arrival(&self, arrival: &Arrival, content: &Content) -> Result<Queued> {
        let sender = arrival.sender.as_ref();
        let (class, name) = sender.map_or((Class::IncomingUnnamed, ""), |s| (Class::Incoming, s.as_str()));
        let made = record::make(class, name, arrival.id.as_str(), content);
        self.lane.queue(Item::Message { made, identity: identity_text(arrival.identity) }).await
    }

    async fn stored(
        &self,
        queued: Queued,
        id: &MessageId,
        content: &Content,
        token: Option<Token>,
    ) -> Result<Stored> {
        match self.outcome(queued, token).await? {
            Outcome::New(sequence) => Ok(Stored::New(Sequence(sequence))),
            Outcome::Repeated | Outcome::Same(_) => Ok(Stored::Repeated),
            Outcome::Stale => Ok(Stored::Stale),
            Outcome::Compare(held) if self.is_held(held, content).await? => Ok(Stored::Repeated),
            other => Err(self.refusal(other, id)),
        }
    }

    /// Keeps what is in `content`, as [`accept_content`](Self::accept_content) does.
    pub(super) async fn store_content(
        &self,
        arrival: Arrival,
        content: Content,
        token: Option<Token>,
    ) -> Result<Stored> {
        let store = self.clone();
        let has_chunks = token.is_some();
        let storing = async move {
            let queued = store.queue_arrival(&arrival, &content).await?;
            store.stored(queued, &arrival.id, &content, token).await
        };
        if has_chunks { tokio::spawn(storing).await.map_err(|_| StoreError::Closed)? } else { storing.await }
    }
}

/// Resolves with what became of something queued.
type Queued = oneshot::Receiver<Result<Outcome>>;

/// Incarnation, number, the next number, low-water mark, as the scripts compare them; empty where there is none.
fn identity_text(identity: Option<DeliveryIdentity>) -> String {
    // Numbers count from 1, and the last one has no successor.
    let Some(i) = identity.filter(|i| i.number > 0 && i.number < u64::MAX) else { return String::new() };
    format!("{}{:016x}{:016x}{:016x}", i.incarnation, i.number, i.number + 1, i.low_water)
}

#[async_trait]
impl Engine for RedisStore {
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence> {
        let (content, token) = self.content(payload).await?;
        self.accept_content(receiver, id, content, token).await
    }

    async fn store(&self, arrival: Arrival) -> Result<Stored> {
        let (content, token) = self.content(arrival.payload.clone()).await?;
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
                self.stored(queued?, &arrival.id, &content, None).await
            }));
        }
        join_all(waiting).await
    }

    async fn accept_many(&self, messages: Vec<(PartyId, MessageId, Bytes)>) -> Accepting {
        let mut waiting: Vec<Accepting> = Vec::new();
        for (receiver, id, payload) in messages {
            if payload.len() > WHOLE_BYTES {
                // Its place in the order is taken when it is accepted.
                waiting.push(Box::pin(ready(vec![self.accept(&receiver, &id, payload).await])));
                continue;
            }
            let (store, content) = (self.clone(), Content::Whole(payload));
            let queued = self.queue_accept(&receiver, &id, &content).await;
            waiting.push(Box::pin(async move {
                match queued {
                    Ok(queued) => vec![store.accepted(queued, &id, &content, None).await],
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
        let known: u8 = self
            .inner
            .ask(Way::Read, &SCRIPTS.known, |call| {
                call.arg(sender.as_str())
                    .arg(identity.incarnation.to_string())
                    .arg(format!("{:016x}", identity.number));
            })
            .await?;
        if known == 1 && self.inner.options.wait_replicas > 0 {
            self.lane.write(Item::Probe).await?;
        }
        Ok(known == 1)
    }

    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        self.open_newest(from, id).await
    }

    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool> {
        let ttl = seconds(self.inner.options.message_ttl);
        let released: u64 = self
            .inner
            .change(&SCRIPTS.release, |call| {
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

    async fn settle_delivered(&self, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
        self.end(peer, 'd', sequences).await.map(drop)
    }

    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: End) -> Result<bool> {
        match outcome {
            End::Delivered => self.end(peer, 'd', &[sequence]).await,
            End::Dropped => self.end(peer, 'o', &[sequence]).await,
            End::Dead(reason) => self.bury(peer, sequence, reason).await,
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
        match self.lane.write(Item::Letter(sequence.0)).await? {
            Outcome::New(new) | Outcome::Same(new) => Ok(Some(Sequence(new))),
            Outcome::NoLetter => Ok(None),
            other => Err(self.refusal(other, &id)),
        }
    }

    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool> {
        let dropped: u8 = self
            .inner
            .change(&SCRIPTS.letters, |call| {
                call.arg("drop").arg(sequence.0);
            })
            .await?;
        Ok(dropped == 1)
    }

    fn delivers_to(&self, peer: &PartyId) -> bool {
        self.inner.delivers_to(peer)
    }

    fn stats(&self) -> StoreStats {
        let repeated = self.inner.repeated.load(Ordering::Relaxed);
        StoreStats { repeated, ..lock(&self.inner.stats).clone() }
    }

    fn state(&self) -> watch::Receiver<StoreState> {
        self.inner.sessions.state()
    }

    async fn close(&self) -> Result<()> {
        self.leave().await;
        Ok(())
    }
}

/// Makes what a script says of a message in the mailbox.
pub(super) fn found(sequence: u64, len: u64, sender: &str, class: u8, id: &MessageId) -> Option<Found> {
    let sender = sender_of(sender, class)?;
    Some(Found { sender, id: id.clone(), sequence: Sequence(sequence), len })
}
