//! Finding messages for clients, and waiting for them.
//!
//! Invariants: a receive that waits is registered before it looks, so it misses nothing that arrives; it goes on waiting
//! while the store cannot be read, and looks again when it can be, with or without a notification.

use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{FromSender, Held, Message, MessageId, StoreError, StoreState};
use tokio::time::Instant;

use super::Mailbox;
use super::handed::HandedMessage;
use crate::rules::refusal::Refusal;

/// Pause before a message that could not be read is tried again, unless the store itself reports that it is back.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The caller that asks for a message.
pub(crate) trait AskingCaller: Sync {
    /// The caller's number, by which waits are counted.
    fn caller(&self) -> u64;
    /// Makes room for a message of `len` bytes in the memory of calls, waiting for it if necessary.
    fn make_room(&self, len: u64) -> impl Future<Output = ()> + Send;
}

impl Mailbox {
    /// Finds a message for a client, waiting up to `wait` for it; `None` if it is not there yet. `caller` is the one that
    /// waits.
    pub(crate) async fn find(
        &self,
        caller: u64,
        from: &FromSender,
        id: &MessageId,
        wait: Duration,
    ) -> Result<Option<Held>, Refusal> {
        self.open()?;
        let until = Instant::now() + wait;
        if wait.is_zero() {
            return self.look(from, id, until).await;
        }
        // Registered before the look, so that a message that arrives between the two wakes us.
        let mut look_again = self.waiters.look_again();
        let waiter = self.waiters.register(caller, from.clone(), id.clone());
        let mut found = self.look(from, id, until).await;
        // Too many wait already: this caller has to ask again, as it would with an old gateway.
        let Some(mut waiter) = waiter else { return found };
        // Whether a look has succeeded and found nothing; an arrival since then would have woken us.
        let mut was_absent = false;
        loop {
            // That the store cannot be read at the moment is not yet an answer.
            let is_away = matches!(found, Err(Refusal::CannotLook(_)));
            if !is_away && !matches!(found, Ok(None)) {
                return found;
            }
            was_absent |= !is_away;
            tokio::select! {
                biased;
                message = waiter.message() => return Ok(Some(message)),
                () = self.draining.cancelled() => return Ok(None),
                () = tokio::time::sleep_until(until) => return if was_absent { Ok(None) } else { found },
                Ok(()) = look_again.changed() => {}
                // After a look that was refused there may be no signal: nothing announces that the next look would succeed.
                () = tokio::time::sleep(TRY_AGAIN), if is_away => {}
            }
            found = self.look(from, id, until).await;
        }
    }

    /// Finds a message that is there. Does not wait beyond `until` for a store that does not answer.
    async fn look(&self, from: &FromSender, id: &MessageId, until: Instant) -> Result<Option<Held>, Refusal> {
        let opened = tokio::select! {
            biased;
            opened = self.engine.open(from, id) => opened,
            why = self.away_at(until) => return Err(Refusal::CannotLook(why)),
        };
        opened.map_err(cannot_look)
    }

    /// Resolves at `until`, or later as soon as the store cannot be reached.
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

    /// Hands a client a message in memory, after finding it as [`find`](Self::find) does.
    pub(crate) async fn receive(
        &self,
        asking: &impl AskingCaller,
        from: FromSender,
        id: &str,
        wait: Duration,
    ) -> Result<Option<Message>, Refusal> {
        let id = MessageId::new(id)?;
        let until = Instant::now() + wait;
        let mut wait = wait;
        loop {
            let Some(held) = self.find(asking.caller(), &from, &id, wait).await? else { return Ok(None) };
            let (len, limit) = (held.payload.len(), self.max_message_bytes);
            if len > limit {
                return Err(Refusal::NeedsStream { len, limit });
            }
            asking.make_room(len).await;
            let handing = HandedMessage::new(&from, &held);
            match held.read().await {
                // The message ended meanwhile; there may be another one.
                Err(StoreError::Gone { .. }) => {}
                // The message is there, but Redis went away before it was read.
                Err(StoreError::Unavailable(why)) => self.until_back(until, why).await?,
                read => {
                    let message = read?;
                    self.handed(&handing);
                    return Ok(Some(message));
                }
            }
            wait = until.saturating_duration_since(Instant::now());
        }
    }

    /// Waits a moment, or until the store may be back; fails at `until`, when there is nothing more to wait for.
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

/// Readers ask again, but old ones do so only if they are told that it may help.
fn cannot_look(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(why) => Refusal::CannotLook(why),
        other => other.into(),
    }
}
