//! Mailbox messages by the beginning of their ids, in order of arrival from a given sequence on, up to a limit. The time for a
//! page is proportional to its messages, whether all, half or few of the ids have the prefix (`arrivals.rs`, `names.rs`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::core::reply::Reply;
use crate::core::shared::Shared;
use crate::core::write_queue::{Job, Urgency};
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{FromSender, MessageId, Sequence};
use crate::face::payload::{Found, Held};
use crate::index::entry::Entry;
use crate::index::memory::recent_ends::MessageEnd;
use crate::read::arrivals::{self, CHUNK, ListedMessage, NEAR, NEAR_AGAIN, WhichMessages};
use crate::read::frames::Reader;
use crate::write::settle;
use crate::write::settle::end_mail;

/// Messages per page if all of a topic is wanted.
const PAGE: usize = 16_384;
/// How often a message that moves in the log while it is being read is looked up again.
const MOVES: usize = 16;
/// Releases that are queued before waiting for their records to be on disk.
const RELEASES: u64 = 4096;

/// A search for the messages of a topic.
struct TopicSearch<'a> {
    shared: &'a Arc<Shared>,
    prefix: &'a str,
    party: Option<u16>,
    from: &'a FromSender,
}

impl TopicSearch<'_> {
    fn admits(&self, entry: &Entry) -> bool {
        let sender = match (self.from, entry.class) {
            (_, Class::Outgoing) => false,
            (FromSender::Any, _) => true,
            (FromSender::Unnamed, class) => class == Class::IncomingUnnamed,
            (FromSender::Party(_), class) => class == Class::Incoming && Some(entry.party) == self.party,
        };
        sender && !entry.is_over(self.shared.now(), self.shared.message_ttl())
    }

    /// The id of a message; `None` if it cannot be read: the damage is reported to its reader.
    fn id(&self, key: u128, entry: &Entry) -> Result<Option<MessageId>> {
        let cached = self.shared.state.lock().cache.id(entry.sequence);
        if cached.is_some() {
            return Ok(cached);
        }
        let id = Reader { shared: self.shared }.id_of(key, entry)?;
        Ok(id.and_then(|id| MessageId::new(&*id).ok()))
    }

    /// A message with its id, at its current place; `None` if it has ended or cannot be read.
    fn named(&self, item: ListedMessage) -> Result<Option<(Entry, MessageId)>> {
        let ListedMessage { key, mut entry, id } = item;
        if let Some(id) = id {
            return Ok(Some((entry, id)));
        }
        // An entry written by an earlier version, or one whose id could not be read at the start.
        for _ in 0..MOVES {
            if let Some(id) = self.id(key, &entry)? {
                return Ok(Some((entry, id)));
            }
            let found = (Reader { shared: self.shared }).find(&[key])?.map(|(_, found)| found);
            match found.filter(|found| found.sequence == entry.sequence && found.place != entry.place) {
                Some(moved) => entry = moved,
                None => break,
            }
        }
        Ok(None)
    }

    /// Calls `each` for the messages of the topic that are in the log, after a sequence and in order, until it breaks off, which
    /// is expected after `most`.
    fn each(
        &self,
        mut after: u64,
        most: usize,
        mut each: impl FnMut(u128, Entry, MessageId) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let all = WhichMessages::Mail(self.from);
        let named = match self.from {
            FromSender::Any => Some(None),
            FromSender::Unnamed => Some(Some(0)),
            // An unknown sender has no messages.
            FromSender::Party(_) => self.party.map(Some),
        };
        let mut near = NEAR;
        let by_name = || arrivals::knows_names(self.shared) && !self.prefix.is_empty();
        loop {
            let named = named.map(|party| WhichMessages::Named(Class::Incoming, party, self.prefix, near));
            near = NEAR_AGAIN;
            let (which, chunk) = match named.filter(|_| by_name()) {
                // Large pages if no early end is expected: a bucket is searched for each page.
                Some(named) => (named, if most > CHUNK { PAGE } else { most.max(1) }),
                None if self.prefix.is_empty() => (all, most.clamp(1, CHUNK)),
                None => (all, CHUNK),
            };
            let page = arrivals::page(self.shared, which, after, chunk)?;
            for item in page.messages {
                let key = item.key;
                if self.admits(&item.entry)
                    && let Some((entry, id)) = self.named(item)?
                    && id.as_str().starts_with(self.prefix)
                    && each(key, entry, id)?.is_break()
                {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }
}

fn topic<'a>(shared: &'a Arc<Shared>, from: &'a FromSender, prefix: &'a str) -> TopicSearch<'a> {
    let party = match from {
        FromSender::Party(party) => shared.state.lock().parties.find(party),
        FromSender::Any | FromSender::Unnamed => None,
    };
    TopicSearch { shared, prefix, party, from }
}

/// The messages with an id, by the keys of their senders; newest first. Blocks.
pub(crate) fn of_id(shared: &Arc<Shared>, keys: &[u128], id: &MessageId) -> Result<Vec<Found>> {
    let reader = Reader { shared };
    let mut found = Vec::new();
    for key in keys {
        let queued = shared.state.lock().queued.newest(*key).map(|message| message.entry);
        let entry = match queued {
            Some(entry) => Some(entry),
            None => reader.find(&[*key])?.map(|(_, entry)| entry),
        };
        found.extend(entry.map(|entry| shown(reader, id.clone(), &entry)));
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.sequence));
    Ok(found)
}

/// A message, without its content.
fn shown(reader: Reader<'_>, id: MessageId, entry: &Entry) -> Found {
    Found {
        sender: reader.party(entry.party),
        id,
        sequence: Sequence(entry.sequence),
        len: entry.len,
        unread: entry.is_unread(),
        age: entry.age(reader.shared.now()),
    }
}

/// Opens a message that was found, by the key of its sender. Blocks.
pub(crate) fn open(shared: &Arc<Shared>, keys: &[u128], found: Found) -> Result<Option<Held>> {
    let reader = Reader { shared };
    loop {
        let Some((key, entry)) = reader.find(keys)? else { return Ok(None) };
        if entry.sequence != found.sequence.0 {
            return Ok(None);
        }
        match reader.open(shared, key, &entry, Some(&found.id)) {
            // It has moved.
            Err(StoreError::Gone { .. }) => {}
            Ok((id, _)) if id != found.id => return Ok(None),
            opened => {
                let (_, payload) = opened?;
                let Found { sender, id, sequence, .. } = found;
                let (unread, age) = (entry.is_unread(), entry.age(shared.now()));
                return Ok(Some(Held { sender, id, sequence, payload, unread, age }));
            }
        }
    }
}

/// The first `limit` messages of a topic after `after`, in order of arrival. Blocks.
pub(crate) fn find(
    shared: &Arc<Shared>,
    from: &FromSender,
    prefix: &str,
    after: Sequence,
    limit: usize,
) -> Result<Vec<Found>> {
    let mut found = BTreeMap::new();
    let topic = topic(shared, from, prefix);
    // What is on its way into the log already exists for readers.
    let queued: Vec<(Entry, MessageId)> = {
        let state = shared.state.lock();
        let of_topic = |entry: &Entry, id: &MessageId| topic.admits(entry) && id.as_str().starts_with(prefix);
        state.queued.shown().filter(|m| of_topic(&m.entry, &m.id)).map(|m| (m.entry, m.id.clone())).collect()
    };
    let reader = Reader { shared };
    topic.each(after.0, limit, |_, entry, id| {
        found.insert(entry.sequence, shown(reader, id, &entry));
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    for (entry, id) in queued.into_iter().filter(|(entry, _)| entry.sequence > after.0) {
        found.insert(entry.sequence, shown(reader, id, &entry));
    }
    Ok(found.into_values().take(limit).collect())
}

/// Ends every message of a topic; returns how many there were. Blocks.
pub(crate) fn release(shared: &Arc<Shared>, from: &FromSender, prefix: &str) -> Result<u64> {
    let mut released = 0;
    topic(shared, from, prefix).each(0, usize::MAX, |key, entry, _| {
        settle::older_in_cold(shared, key, &entry)?;
        released += u64::from(end_mail(shared, key, entry, MessageEnd::Released)?);
        if released % RELEASES == 0 {
            // The records of these ends wait in memory to be written.
            let (reply, synced) = Reply::new(None);
            shared.queues[0].push(Job::Barrier(reply), Urgency::AtOnce);
            match synced.blocking_recv().map_err(|_| StoreError::Closed)? {
                Ok(()) | Err(StoreError::Full { .. } | StoreError::NoSegment { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(released)
}
