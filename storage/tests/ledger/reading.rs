//! Mail that is read, and dead letters of either direction.

use std::sync::Arc;

use petnet_storage::{DeadLetter, Engine, FromSender, Handed};

use super::{Direction, Ledger};
use crate::common::{id, party};

/// Which way its message went.
pub(super) fn direction(letter: &DeadLetter) -> Direction {
    if letter.correspondent.is_from() { Direction::Incoming } else { Direction::Outgoing }
}

impl Ledger {
    /// Hands a message to a reader, if it is there.
    pub async fn read(&mut self, store: &Arc<dyn Engine>, sender: &'static str, name: &str) {
        let Ok(Some(held)) = store.open(&FromSender::Party(party(sender)), &id(name)).await else { return };
        let Ok(message) = held.read().await else { return };
        store.note_read(&[Handed::from(&message)]);
        let key = (Direction::Incoming, sender, name.to_owned());
        for attempt in self.keys.get_mut(&key).into_iter().flatten() {
            attempt.read |= attempt.bytes == message.payload;
        }
    }
}
