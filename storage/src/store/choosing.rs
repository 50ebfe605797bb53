//! Which message of the mailbox a reader is handed: the candidate of each sender in question, and the rule that chooses among
//! them.
//!
//! For each sender, a message in the log takes precedence over one that is still queued: what is in the log survives a kill,
//! what is queued does not. If the queued one were shown first, a reader could be handed the older one after a kill.

use crate::core::shared::Shared;
use crate::face::error::{Result, StoreError};
use crate::face::message::{MessageId, Sequence};
use crate::face::payload::{Held, Payload};
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::unwritten::QueuedMessage;
use crate::read::frames::Reader;
use crate::store::embedded::Store;
use crate::store::plain_receive::{Candidate, Choice, choose};

/// The message found under a key.
#[derive(Debug, Clone)]
pub(crate) enum FoundUnderKey {
    /// In the log.
    Logged(u128, Entry),
    /// On its way into the log.
    Queued(Box<QueuedMessage>),
}

impl FoundUnderKey {
    fn entry(&self) -> &Entry {
        match self {
            Self::Logged(_, entry) => entry,
            Self::Queued(message) => &message.entry,
        }
    }

    fn key(&self) -> u128 {
        match self {
            Self::Logged(key, _) => *key,
            Self::Queued(message) => message.key,
        }
    }

    /// The candidate that the rule chooses among.
    fn candidate(self, state: &State) -> Candidate<Self> {
        let last_read = state.last_read(self.key(), self.entry());
        Candidate { sequence: self.entry().sequence, last_read, what: self }
    }
}

/// A queued message as its reader gets it; since it is shown, it has its payload.
pub(crate) fn held(shared: &Shared, message: QueuedMessage) -> Held {
    let QueuedMessage { entry, id, party, payload, .. } = message;
    let payload = Payload::Whole(payload.unwrap_or_default());
    let (unread, age) = (entry.is_unread(), entry.age(shared.now()));
    Held { sender: party, id, sequence: Sequence(entry.sequence), payload, unread, age }
}

impl Reader<'_> {
    /// Chooses, as far as memory can tell; `None` if the index on disk must be asked. Does not block.
    pub(crate) fn choose_in_memory(self, keys: &[u128]) -> Option<Choice<FoundUnderKey>> {
        let state = self.shared.state.lock();
        let (now, ttl) = (self.shared.now(), self.shared.message_ttl());
        let mut there = Vec::with_capacity(keys.len());
        for key in keys {
            match state.live.get(key) {
                Some(entry) if entry.is_over(now, ttl) => {}
                Some(entry) => there.push(FoundUnderKey::Logged(*key, *entry)),
                None if state.cold_mail > 0 => return None,
                None => there.extend(queued(&state, *key)),
            }
        }
        let candidates: Vec<_> = there.into_iter().map(|one| one.candidate(&state)).collect();
        Some(choose(candidates))
    }

    /// Chooses. Blocks.
    pub(crate) fn choose(self, keys: &[u128]) -> Result<Choice<FoundUnderKey>> {
        let mut there = Vec::with_capacity(keys.len());
        for key in keys {
            // The queued message first: it may enter the log between the two looks.
            let queued = queued(&self.shared.state.lock(), *key);
            match self.find(&[*key])? {
                Some((key, entry)) => there.push(FoundUnderKey::Logged(key, entry)),
                None => there.extend(queued),
            }
        }
        let state = self.shared.state.lock();
        let candidates: Vec<_> = there.into_iter().map(|one| one.candidate(&state)).collect();
        Ok(choose(candidates))
    }
}

fn queued(state: &State, key: u128) -> Option<FoundUnderKey> {
    state.queued.newest(key).map(|message| FoundUnderKey::Queued(Box::new(message.clone())))
}

impl Store {
    /// See [`Engine::open`](crate::Engine::open).
    pub(crate) async fn open_chosen(&self, keys: Vec<u128>, id: &MessageId) -> Result<Option<Held>> {
        let mut last = None;
        // A message can move in the log between finding and reading it: then it is looked up again.
        loop {
            let in_memory = self.reader().choose_in_memory(&keys);
            let choice = if let Some(choice) = in_memory {
                choice
            } else {
                let keys = keys.clone();
                self.blocking(move |shared| Reader { shared }.choose(&keys)).await?
            };
            let (key, entry) = match choice {
                Choice::None => return Ok(None),
                Choice::One(FoundUnderKey::Queued(message)) => {
                    return Ok(Some(held(&self.shared, *message)).filter(|m| m.id == *id));
                }
                Choice::One(FoundUnderKey::Logged(key, entry)) => (key, entry),
                Choice::Ambiguous(all) => {
                    let senders = all.iter().map(|one| self.reader().party(one.entry().party));
                    return Err(StoreError::ambiguous(id, senders));
                }
            };
            let opened = if let Some(loaded) = self.reader().cached(&entry) {
                Ok((loaded.id, Payload::Whole(loaded.payload)))
            } else {
                let id = id.clone();
                self.blocking(move |shared| Reader { shared }.open(shared, key, &entry, Some(&id))).await
            };
            match opened {
                Ok((found, _)) if found != *id => return Ok(None),
                Ok((id, payload)) => {
                    let sender = self.reader().party(entry.party);
                    let (unread, age) = (entry.is_unread(), entry.age(self.shared.now()));
                    let sequence = Sequence(entry.sequence);
                    return Ok(Some(Held { sender, id, sequence, payload, unread, age }));
                }
                Err(StoreError::Damaged { segment, offset, what, .. }) if last == Some(entry.place) => {
                    return Err(StoreError::Damaged { id: id.to_string(), segment, offset, what });
                }
                Err(StoreError::Damaged { .. }) => last = Some(entry.place),
                Err(StoreError::Gone { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }
}
