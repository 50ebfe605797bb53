//! `MESSAGE_ID_REUSE=reject`: an id that is held accepts the same bytes again and no others.

use bytes::Bytes;

use crate::core::reply::Reply;
use crate::core::shared::blocking;
use crate::core::write_queue::{Append, Effect, Job, Urgency};
use crate::face::direction::Class;
use crate::face::engine::IdReuse;
use crate::face::error::{Result, StoreError};
use crate::face::message::{Arrival, FromSender, MessageId, PartyId, SendKey, Sending, Sequence, Stored};
use crate::face::payload::Payload;
use crate::index::key;
use crate::index::sends::{AnotherSendKey, KnownSend, SendFingerprint};
use crate::intake::accept::Intake;
use crate::log::frame::Kind;
use crate::log::segment::Lane;
use crate::read::frames::Reader;

impl Intake {
    /// See [`Engine::accept`](crate::Engine::accept).
    pub(crate) async fn accept_checked(&self, message: Sending) -> Result<Sequence> {
        let Sending { receiver, id, payload, key: send } = message;
        if !self.rejects_reuse() || self.is_called(send) {
            return self.accept(&receiver, &id, payload, send).await;
        }
        let key = self.key(Class::Outgoing, receiver.as_str(), &id);
        let _alone = self.alone(key).await;
        if !self.is_called(send)
            && let Some((sequence, held)) = self.held_outgoing(key, &id).await?
        {
            self.check(&held, &id, &payload).await?;
            let crc = send.map_or(0, |_| crc32fast::hash(&payload));
            return self
                .held_already(sequence, send, SendFingerprint::new(key, payload.len() as u64, crc))
                .await;
        }
        self.accept(&receiver, &id, payload, send).await
    }

    /// A send turned out to be the message that is held: answers when that is durable, and so is the record that the send's
    /// key names it. The record comes after the sync of the message: a power cut must not leave a key that names nothing.
    pub(crate) async fn held_already(
        &self,
        sequence: Sequence,
        send: Option<SendKey>,
        print: SendFingerprint,
    ) -> Result<Sequence> {
        self.barrier().await?;
        let Some(key) = send else { return Ok(sequence) };
        let place = self.shared.state.lock().last_sequence;
        let named = AnotherSendKey { key, sent: KnownSend { sequence: sequence.0, print }, place };
        let fields = named.encode();
        let (reply, synced) = Reply::new(None);
        let record = Append {
            kind: Kind::Named,
            sequence: sequence.0,
            time: self.shared.now(),
            crc: crc32fast::hash(&fields),
            fields,
            payload: Bytes::new(),
            cost: 0,
            effect: Effect::Named(Box::new(named)),
            reply,
        };
        self.shared.queues[Lane::Small.index()].push(Job::Append(record), Urgency::AtOnce);
        synced.await.map_err(|_| StoreError::Closed)??;
        Ok(sequence)
    }

    /// Whether a send with this key is known: then this one is that send, or is refused because it differs.
    pub(crate) fn is_called(&self, key: Option<SendKey>) -> bool {
        key.is_some_and(|key| self.shared.state.lock().sends.find(&key).is_some())
    }

    /// See [`Engine::store`](crate::Engine::store).
    pub(crate) async fn store_checked(&self, arrival: Arrival) -> Result<Stored> {
        if !self.rejects_reuse() {
            return self.store(arrival).await;
        }
        let sender = arrival.sender.as_ref();
        let from = FromSender::from(sender.cloned());
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        let _alone = self.alone(self.key(class, sender.map_or("", PartyId::as_str), &arrival.id)).await;
        let known = arrival.identity.is_some_and(|identity| self.is_known(sender, &identity));
        if !known && let Some(held) = self.held_mail(&from, &arrival.id).await? {
            self.check(&held, &arrival.id, &arrival.payload).await?;
            self.barrier().await?;
            return Ok(Stored::Repeated);
        }
        self.store(arrival).await
    }

    pub(crate) fn rejects_reuse(&self) -> bool {
        self.shared.options.id_reuse == IdReuse::Reject
    }

    /// Index key of a message.
    pub(crate) fn key(&self, class: Class, party: &str, id: &MessageId) -> u128 {
        key::key(self.shared.key_secret, class, party, id.as_str())
    }

    /// The pending message under a key.
    pub(crate) async fn held_outgoing(
        &self,
        key: u128,
        id: &MessageId,
    ) -> Result<Option<(Sequence, Payload)>> {
        self.enter_queued(&[key]).await?;
        let id = id.clone();
        blocking(&self.shared, move |shared| {
            let Some(entry) = crate::read::find::pending(shared, key)? else { return Ok(None) };
            let (_, payload) = (Reader { shared }).open(shared, key, &entry, Some(&id))?;
            Ok(Some((Sequence(entry.sequence), payload)))
        })
        .await
    }

    /// The content of the mailbox message under an id.
    pub(crate) async fn held_mail(&self, from: &FromSender, id: &MessageId) -> Result<Option<Payload>> {
        let keys = (Reader { shared: &self.shared }).mail_keys(from, id);
        self.enter_queued(&keys).await?;
        let id = id.clone();
        blocking(&self.shared, move |shared| {
            let reader = Reader { shared };
            let Some((key, entry)) = reader.find(&keys)? else { return Ok(None) };
            Ok(Some(reader.open(shared, key, &entry, Some(&id))?.1))
        })
        .await
    }

    /// Waits until what is queued under some keys, left behind by callers that went away, is in the log.
    async fn enter_queued(&self, keys: &[u128]) -> Result<()> {
        let queued = {
            let state = self.shared.state.lock();
            keys.iter().any(|key| state.queued.has(*key))
        };
        if queued { self.barrier().await } else { Ok(()) }
    }

    async fn check(&self, held: &Payload, id: &MessageId, payload: &Bytes) -> Result<()> {
        if held.is_same(&Payload::Whole(payload.clone())).await? {
            return Ok(());
        }
        Err(StoreError::Conflict { id: id.to_string() })
    }
}
