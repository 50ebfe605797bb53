//! Mailbox messages by the beginning of their ids. The index knows ids by their hashes only, so this looks at every message
//! in the mailbox, and reads of each that is not in memory the head of its frame: a microsecond or two.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Result, StoreError};
use crate::frame::{Class, MessageFields};
use crate::job::{Job, Reply, Urgency};
use crate::keys;
use crate::log::lock;
use crate::message::{FromSender, MessageId, Sequence};
use crate::operations::end_mail;
use crate::past::End;
use crate::payload::{Found, Held};
use crate::reader::Reader;
use crate::settle;
use crate::shared::Shared;
use crate::state::{Entry, State};

/// Entries looked at under one lock.
const CHUNK: usize = 1024;
/// A look is repeated as long as messages move under it, but not for ever.
const LOOKS: usize = 16;
/// Releases queued before their records are on the disk.
const RELEASES: u64 = 4096;

/// What is looked for.
struct Topic<'a> {
    shared: &'a Arc<Shared>,
    prefix: &'a str,
    party: Option<u16>,
    from: &'a FromSender,
}

impl Topic<'_> {
    fn admits(&self, entry: &Entry) -> bool {
        let sender = match (self.from, entry.class) {
            (_, Class::Outgoing) => false,
            (FromSender::Any, _) => true,
            (FromSender::Unnamed, class) => class == Class::IncomingUnnamed,
            (FromSender::Party(_), class) => class == Class::Incoming && Some(entry.party) == self.party,
        };
        sender && !entry.is_expired(self.shared.now(), self.shared.message_ttl())
    }

    /// The id, if it is one of the topic. One that cannot be read is none: its reader is told of the damage.
    fn id(&self, key: u128, entry: &Entry) -> Option<MessageId> {
        let reader = Reader { shared: self.shared };
        let id = if let Some(id) = lock(&self.shared.state).cache.id(entry.sequence) {
            id
        } else {
            let fields = self.shared.log.read_fields(reader.lane(entry.place), entry.place).ok()?;
            let f = MessageFields::decode(&fields).ok()?;
            // They have no checksum of their own: the key is one.
            if keys::key(self.shared.key_secret, f.class, f.party, f.id) != key {
                return None;
            }
            MessageId::new(f.id).ok()?
        };
        id.as_str().starts_with(self.prefix).then_some(id)
    }

    /// Every message of the topic that is in the log, in no order, some perhaps twice.
    fn each(&self, mut each: impl FnMut(u128, Entry, MessageId) -> Result<()>) -> Result<()> {
        for _ in 0..LOOKS {
            let relocations = lock(&self.shared.state).relocations;
            self.look(&mut each)?;
            // One that came from disk to memory meanwhile may have been in neither.
            if lock(&self.shared.state).relocations == relocations {
                break;
            }
        }
        Ok(())
    }

    fn look(&self, each: &mut impl FnMut(u128, Entry, MessageId) -> Result<()>) -> Result<()> {
        let incoming = |state: &State| -> Vec<u128> {
            let entries = state.live.iter().filter(|(_, e)| e.class != Class::Outgoing);
            entries.map(|(key, _)| *key).collect()
        };
        let (keys, on_disk) = {
            let state = lock(&self.shared.state);
            (incoming(&state), state.cold_mail > 0)
        };
        for keys in keys.chunks(CHUNK) {
            let entries: Vec<(u128, Option<Entry>)> = {
                let state = lock(&self.shared.state);
                keys.iter().map(|key| (*key, state.live.get(key).copied())).collect()
            };
            for (key, entry) in entries {
                // One that is not there any more ended, or moved to the index on disk.
                let found = match entry {
                    Some(entry) => Some(entry),
                    None => (Reader { shared: self.shared }).find(&[key])?.map(|(_, entry)| entry),
                };
                if let Some(entry) = found.filter(|entry| self.admits(entry))
                    && let Some(id) = self.id(key, &entry)
                {
                    each(key, entry, id)?;
                }
            }
        }
        let Some(cold) = self.shared.cold().filter(|_| on_disk) else { return Ok(()) };
        for item in cold.all_mail() {
            let (key, entry) = item.map_err(|e| self.shared.cold_failed(&e))?;
            let current = {
                let state = lock(&self.shared.state);
                !state.live.contains_key(&key) && state.is_current_cold(&entry)
            };
            if current
                && self.admits(&entry)
                && let Some(id) = self.id(key, &entry)
            {
                each(key, entry, id)?;
            }
        }
        Ok(())
    }
}

fn topic<'a>(shared: &'a Arc<Shared>, from: &'a FromSender, prefix: &'a str) -> Topic<'a> {
    let party = match from {
        FromSender::Party(party) => lock(&shared.state).parties.find(party),
        FromSender::Any | FromSender::Unnamed => None,
    };
    Topic { shared, prefix, party, from }
}

/// What is there under an id, by the keys of its senders; newest first. Blocks.
pub(crate) fn of_id(shared: &Arc<Shared>, keys: &[u128], id: &MessageId) -> Result<Vec<Found>> {
    let reader = Reader { shared };
    let mut found = Vec::new();
    for key in keys {
        let queued = lock(&shared.state).queued.newest(*key).map(|message| message.entry);
        let entry = match queued {
            Some(entry) => Some(entry),
            None => reader.find(&[*key])?.map(|(_, entry)| entry),
        };
        found.extend(entry.map(|entry| Found {
            sender: reader.party(entry.party),
            id: id.clone(),
            sequence: Sequence(entry.sequence),
            len: entry.len,
        }));
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.sequence));
    Ok(found)
}

/// Opens what was found, by the key of its sender. Blocks.
pub(crate) fn open(shared: &Arc<Shared>, keys: &[u128], found: Found) -> Result<Option<Held>> {
    let reader = Reader { shared };
    loop {
        let Some((key, entry)) = reader.find(keys)? else { return Ok(None) };
        if entry.sequence != found.sequence.0 {
            return Ok(None);
        }
        match reader.open(shared, key, &entry, Some(&found.id)) {
            // It moved.
            Err(StoreError::Gone { .. }) => {}
            Ok((id, _)) if id != found.id => return Ok(None),
            opened => {
                let (_, payload) = opened?;
                let Found { sender, id, sequence, .. } = found;
                return Ok(Some(Held { sender, id, sequence, payload }));
            }
        }
    }
}

/// The first `limit` messages of a topic after `after`, in the order of their arrival. Blocks.
pub(crate) fn find(
    shared: &Arc<Shared>,
    from: &FromSender,
    prefix: &str,
    after: Sequence,
    limit: usize,
) -> Result<Vec<Found>> {
    let mut found = BTreeMap::new();
    let topic = topic(shared, from, prefix);
    // What is on its way into the log is there already, for readers.
    let queued: Vec<(Entry, MessageId)> = {
        let state = lock(&shared.state);
        let of_topic = |entry: &Entry, id: &MessageId| topic.admits(entry) && id.as_str().starts_with(prefix);
        state.queued.shown().filter(|m| of_topic(&m.entry, &m.id)).map(|m| (m.entry, m.id.clone())).collect()
    };
    let mut take = |entry: Entry, id| {
        let is_early =
            found.len() < limit || found.last_key_value().is_some_and(|(s, _)| entry.sequence < *s);
        if entry.sequence > after.0 && is_early {
            let sender = (Reader { shared }).party(entry.party);
            let sequence = Sequence(entry.sequence);
            found.insert(entry.sequence, Found { sender, id, sequence, len: entry.len });
            if found.len() > limit {
                found.pop_last();
            }
        }
    };
    for (entry, id) in queued {
        take(entry, id);
    }
    topic.each(|_, entry, id| {
        take(entry, id);
        Ok(())
    })?;
    Ok(found.into_values().collect())
}

/// Ends every message of a topic; how many there were. Blocks.
pub(crate) fn release(shared: &Arc<Shared>, from: &FromSender, prefix: &str) -> Result<u64> {
    let mut released = 0;
    topic(shared, from, prefix).each(|key, entry, _| {
        settle::older_in_cold(shared, key, &entry)?;
        released += u64::from(end_mail(shared, key, entry, End::Released)?);
        if released % RELEASES == 0 {
            // The records of what ended wait for a write in memory.
            let (reply, synced) = Reply::new(None);
            shared.queues[0].push(Job::Barrier(reply), Urgency::AtOnce);
            match synced.blocking_recv().map_err(|_| StoreError::Closed)? {
                Ok(()) | Err(StoreError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    Ok(released)
}
