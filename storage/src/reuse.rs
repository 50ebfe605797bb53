//! `MESSAGE_ID_REUSE=reject`: an id that is held takes the same bytes again and no others.

use bytes::Bytes;

use crate::accept::Intake;
use crate::engine::IdReuse;
use crate::error::{Result, StoreError};
use crate::frame::Class;
use crate::keys;
use crate::log::lock;
use crate::message::{Arrival, FromSender, MessageId, PartyId, Sequence, Stored};
use crate::payload::Payload;
use crate::reader::Reader;
use crate::shared::blocking;

impl Intake {
    /// See [`Engine::accept`](crate::Engine::accept).
    pub(crate) async fn accept_checked(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        payload: Bytes,
    ) -> Result<Sequence> {
        if !self.rejects_reuse() {
            return self.accept(receiver, id, payload).await;
        }
        let key = self.key(Class::Outgoing, receiver.as_str(), id);
        let _alone = self.alone(key).await;
        if let Some((sequence, held)) = self.held_outgoing(key, id).await? {
            self.check(&held, id, &payload).await?;
            self.barrier().await?;
            return Ok(sequence);
        }
        self.accept(receiver, id, payload).await
    }

    /// See [`Engine::store`](crate::Engine::store).
    pub(crate) async fn store_checked(&self, arrival: Arrival) -> Result<Stored> {
        if !self.rejects_reuse() {
            return self.store(arrival).await;
        }
        let sender = arrival.sender.as_ref();
        let from = sender.cloned().map_or(FromSender::Unnamed, FromSender::Party);
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

    /// The index key of a message.
    pub(crate) fn key(&self, class: Class, party: &str, id: &MessageId) -> u128 {
        keys::key(self.shared.key_secret, class, party, id.as_str())
    }

    /// What is pending under a key.
    pub(crate) async fn held_outgoing(
        &self,
        key: u128,
        id: &MessageId,
    ) -> Result<Option<(Sequence, Payload)>> {
        self.enter_queued(&[key]).await?;
        let id = id.clone();
        blocking(&self.shared, move |shared| {
            let Some(entry) = crate::track::pending(shared, key)? else { return Ok(None) };
            let (_, payload) = (Reader { shared }).open(shared, key, &entry, Some(&id))?;
            Ok(Some((Sequence(entry.sequence), payload)))
        })
        .await
    }

    /// What is in the mailbox under an id.
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

    /// What is queued under some keys, left behind by callers who went away, is in the log when this returns.
    async fn enter_queued(&self, keys: &[u128]) -> Result<()> {
        let queued = {
            let state = lock(&self.shared.state);
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
