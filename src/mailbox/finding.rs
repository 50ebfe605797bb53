//! Finding messages for clients, and waiting for them.
//!
//! Invariants: a receive that waits is registered before it looks, so nothing that arrives is missed; it goes on waiting while
//! the store cannot be read, and looks again when it can.

use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{FromSender, Held, Message, MessageId, StoreError, StoreState};
use tokio::time::Instant;

use super::{Mailbox, Refusal};
use crate::calls::Call;

/// Pause before a message that could not be read is read again, unless the store says itself that it is back.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Mailbox {
    /// Finds a message for a client, waiting up to `wait` for it; `None`: not there yet.
    pub(crate) async fn find(
        &self,
        from: &FromSender,
        id: &MessageId,
        wait: Duration,
    ) -> Result<Option<Held>, Refusal> {
        self.open()?;
        let until = Instant::now() + wait;
        if wait.is_zero() {
            return self.look(from, id, until).await;
        }
        // Registered before the look: what arrives between the two wakes us.
        let mut look_again = self.waiters.look_again();
        let waiter = self.waiters.register(from.clone(), id.clone());
        let mut found = self.look(from, id, until).await;
        // Too many wait already: this one asks again, as it would have to with an old gateway.
        let Some(mut waiter) = waiter else { return found };
        loop {
            // A store that cannot be read for now is no answer yet.
            if !matches!(found, Ok(None) | Err(Refusal::CannotLook(_))) {
                return found;
            }
            tokio::select! {
                biased;
                message = waiter.message() => return Ok(Some(message)),
                () = self.draining.cancelled() => return Ok(None),
                () = tokio::time::sleep_until(until) => return found,
                Ok(()) = look_again.changed() => {}
            }
            found = self.look(from, id, until).await.or_else(|refusal| match (refusal, found) {
                // It was not there when that could be seen, and would have been told of.
                (Refusal::CannotLook(_), Ok(None)) => Ok(None),
                (refusal, _) => Err(refusal),
            });
        }
    }

    /// Finds a message that is there. A store that does not answer is not waited for beyond `until`.
    async fn look(&self, from: &FromSender, id: &MessageId, until: Instant) -> Result<Option<Held>, Refusal> {
        let opened = tokio::select! {
            biased;
            opened = self.engine.open(from, id) => opened,
            why = self.away_at(until) => return Err(Refusal::CannotLook(why)),
        };
        opened.map_err(cannot_look)
    }

    /// Resolves at `until` or later, once the store cannot be reached.
    async fn away_at(&self, until: Instant) -> Arc<str> {
        tokio::time::sleep_until(until).await;
        let mut state = self.engine.state();
        loop {
            if let StoreState::Unavailable(why) = &*state.borrow_and_update() {
                return why.clone();
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Hands a client a message, as [`find`](Self::find) does, in memory. `call` makes room for it.
    pub(crate) async fn receive(
        &self,
        from: FromSender,
        id: &str,
        wait: Duration,
        call: Option<&Call>,
    ) -> Result<Option<Message>, Refusal> {
        let id = MessageId::new(id)?;
        let until = Instant::now() + wait;
        let mut wait = wait;
        loop {
            let Some(held) = self.find(&from, &id, wait).await? else { return Ok(None) };
            let (len, limit) = (held.payload.len(), self.max_message_bytes);
            if len > limit {
                return Err(Refusal::NeedsStream { len, limit });
            }
            if let Some(call) = call {
                call.room_for_answer(len).await;
            }
            match held.read().await {
                // It ended meanwhile; there may be another one.
                Err(StoreError::Gone { .. }) => {}
                // It is there, and Redis went away before it was read.
                Err(StoreError::Unavailable(why)) => self.until_back(until, why).await?,
                read => {
                    let message = read?;
                    self.record.read(message.sender.as_ref(), &message.id, message.sequence, len);
                    return Ok(Some(message));
                }
            }
            wait = until.saturating_duration_since(Instant::now());
        }
    }

    /// A moment, or until the store may be back; at `until` there is nothing more to wait for.
    async fn until_back(&self, until: Instant, why: Arc<str>) -> Result<(), Refusal> {
        let mut look_again = self.waiters.look_again();
        let next = until.min(Instant::now() + TRY_AGAIN);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.draining.cancelled() => return Err(Refusal::Draining),
            Ok(()) = look_again.changed() => {}
        }
        if Instant::now() < until { Ok(()) } else { Err(Refusal::CannotLook(why)) }
    }
}

/// A reader asks again, and old ones do so only when they are told that it may be of use.
fn cannot_look(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(why) => Refusal::CannotLook(why),
        other => other.into(),
    }
}
