//! Lists messages page by page in the order of their sequences, merging memory and the index on disk. Lists the whole
//! mailbox of some senders, or messages of the mailbox or pending ones whose ids have a given prefix (`names.rs`).
//!
//! Invariants: the time for a page depends on what it looks at, not on where it begins; the lock of the index in memory is
//! held for at most [`CHUNK`] messages at a time; every message that exists from the beginning of a walk to its end is on
//! one of its pages.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;

use crate::core::shared::Shared;
use crate::face::direction::Class;
use crate::face::error::Result;
use crate::face::message::{FromSender, MessageId};
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::names::{NameMatch, NameSearch};
use crate::index::on_disk::{Cold, ColdError, DiskListItem};

/// A look is repeated while messages move during it, but at most this many times.
const LOOKS: usize = 16;
/// Messages that are examined in order before names are searched: if many ids have the prefix, these are enough for a page.
pub(crate) const NEAR: usize = 1000;
/// The same number on the further pages of a walk, each of which searches another bucket. There few ids have the prefix, so this
/// is only for a bucket in which nearly all do.
pub(crate) const NEAR_AGAIN: usize = 250;
/// Messages examined under one lock.
pub(crate) const CHUNK: usize = 1024;

/// A message on a page. It may have expired.
#[derive(Debug, Clone)]
pub(crate) struct ListedMessage {
    pub(crate) key: u128,
    pub(crate) entry: Entry,
    /// The id; `None` if the index does not say.
    pub(crate) id: Option<MessageId>,
}

/// A page of messages, in the order of their sequences.
#[derive(Debug)]
pub(crate) struct ListedPage {
    pub(crate) messages: Vec<ListedMessage>,
    /// There may be more after this sequence; `None` if there are no more.
    pub(crate) next: Option<u64>,
}

/// Which messages are listed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WhichMessages<'a> {
    /// The whole mailbox of some senders.
    Mail(&'a FromSender),
    /// Messages of a class whose ids begin with this prefix, for one party or all; and how many are examined in order before
    /// names are searched, [`NEAR`] or [`NEAR_AGAIN`].
    Named(Class, Option<u16>, &'a str, usize),
}

impl WhichMessages<'_> {
    /// The parties whose messages are meant, by their numbers, in order.
    fn parties(self, state: &State) -> Vec<u16> {
        match self {
            Self::Mail(from) => senders(state, from),
            Self::Named(_, Some(party), ..) => vec![party],
            Self::Named(Class::Outgoing, None, ..) => {
                let counts = state.parties.counts.iter().enumerate();
                counts.filter(|(_, count)| count.pending > 0).map(|(number, _)| number as u16).collect()
            }
            Self::Named(_, None, ..) => senders(state, &FromSender::Any),
        }
    }
}

/// The senders that are meant, by their numbers.
pub(crate) fn senders(state: &State, from: &FromSender) -> Vec<u16> {
    match from {
        FromSender::Unnamed => vec![0],
        FromSender::Party(party) => state.parties.find(party).into_iter().collect(),
        FromSender::Any => {
            let counts = state.parties.counts.iter().enumerate();
            counts.filter(|(_, count)| count.is_sender).map(|(number, _)| number as u16).collect()
        }
    }
}

/// At most `most` messages that the index has after a sequence, in memory and on disk. For
/// [`WhichMessages::Named`] those of one bucket. Blocks.
pub(crate) fn page(shared: &Shared, which: WhichMessages<'_>, after: u64, most: usize) -> Result<ListedPage> {
    let mut looks = 0;
    loop {
        looks += 1;
        let (parties, relocations) = {
            let state = shared.state.lock();
            (which.parties(&state), state.relocations)
        };
        let mut found = match which {
            WhichMessages::Mail(_) => in_memory(shared, &parties, after, most),
            WhichMessages::Named(class, _, prefix, near) => {
                named_in_memory(shared, (class, &parties, prefix), after, (near, most))
            }
        };
        // Read after memory: what moves to the disk in the meantime is in both, and counts once.
        let is_on_disk = !shared.state.lock().is_cold_empty();
        if let Some(cold) = shared.cold().filter(|_| is_on_disk) {
            let on_disk = match which {
                WhichMessages::Mail(_) => on_disk(shared, &cold, &parties, after, most),
                WhichMessages::Named(class, _, prefix, near) => {
                    named_on_disk(shared, &cold, (class, &parties, prefix), after, (near, most))
                }
            };
            let on_disk = match on_disk {
                Ok(found) => found,
                // If the index was given up, everything is in memory and is searched for there.
                Err(error) => {
                    shared.index_failed(&cold, &error)?;
                    continue;
                }
            };
            found = joined(shared, found, &on_disk);
        }
        // A message that moved from disk to memory between the two looks was seen in neither.
        if looks >= LOOKS || shared.state.lock().relocations == relocations {
            return Ok(found);
        }
    }
}

/// Whether [`WhichMessages::Named`] lists everything. Soon after a start that is not known yet.
pub(crate) fn knows_names(shared: &Shared) -> bool {
    shared.cold().is_none_or(|cold| cold.knows_names())
}

fn count(shared: &Shared, looked_at: u64) {
    shared.counters.listed.fetch_add(looked_at, Ordering::Relaxed);
}

fn item(key: u128, entry: Entry, id: Option<&str>) -> ListedMessage {
    ListedMessage { key, entry, id: id.and_then(|id| MessageId::new(id).ok()) }
}

fn in_memory(shared: &Shared, senders: &[u16], after: u64, most: usize) -> ListedPage {
    let Some(first) = after.checked_add(1) else { return ListedPage { messages: Vec::new(), next: None } };
    let (found, next) = {
        let state = shared.state.lock();
        let of = |sender: &u16| {
            let range = state.arrivals.range((*sender, first)..=(*sender, u64::MAX));
            range.map(|((_, sequence), key)| (*sequence, *key))
        };
        first_of(merged(senders.iter().map(of).collect()), most)
    };
    count(shared, found.len() as u64);
    ListedPage { messages: there(shared, &found), next }
}

/// The messages among `found` that are still in memory.
fn there(shared: &Shared, found: &[(u64, u128)]) -> Vec<ListedMessage> {
    let mut messages = Vec::with_capacity(found.len());
    for some in found.chunks(CHUNK) {
        let state = shared.state.lock();
        messages.extend(some.iter().filter_map(|(sequence, key)| {
            let entry = *state.live.get(key).filter(|entry| entry.sequence == *sequence)?;
            Some(ListedMessage { key: *key, entry, id: state.names.id(*sequence).and_then(MessageId::kept) })
        }));
    }
    messages
}

fn named_in_memory(
    shared: &Shared,
    meant: (Class, &[u16], &str),
    after: u64,
    (nearest, most): (usize, usize),
) -> ListedPage {
    let (class, parties, prefix) = meant;
    let near = {
        let state = shared.state.lock();
        let all = if class == Class::Outgoing { &state.pending } else { &state.arrivals };
        let of = |party: &u16| {
            let range = all.range((*party, after.saturating_add(1))..=(*party, u64::MAX));
            range.map(|((party, sequence), key)| (*sequence, (*key, *party)))
        };
        let is_meant = |sequence, _: &_| {
            Ok::<_, Infallible>(state.names.id(sequence).is_some_and(|id| id.starts_with(prefix)))
        };
        let Ok(near) = near(shared, &mut merged(parties.iter().map(of).collect()), (nearest, most), is_meant);
        near
    };
    let search = |search: &mut NameSearch<'_>| {
        let mut at = Some(search.start());
        while let Some(from) = at {
            at = shared.state.lock().names.search(search, from, CHUNK);
        }
        Ok::<_, Infallible>(())
    };
    let Ok((found, next)) = searched(shared, meant, near, most, search);
    let found: Vec<_> = found.into_iter().map(|(sequence, key, _)| (sequence, key)).collect();
    ListedPage { messages: there(shared, &found), next }
}

/// The near messages and, if they are fewer than `most`, what a search of the names finds after them.
fn searched<E>(
    shared: &Shared,
    (class, parties, prefix): (Class, &[u16], &str),
    (near, mut next): NearMessages<(u128, u16)>,
    most: usize,
    search_names: impl FnOnce(&mut NameSearch<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(Vec<NameMatch>, Option<u64>), E> {
    let mut found: Vec<NameMatch> =
        near.into_iter().map(|(sequence, (key, party))| (sequence, key, party)).collect();
    if let Some(after) = next.filter(|_| found.len() < most)
        && let Some(mut search) = NameSearch::new(class, parties, prefix, after)
    {
        search_names(&mut search)?;
        count(shared, search.seen);
        let (more, behind) = search.end(most - found.len());
        found.extend(more);
        next = behind;
    }
    Ok((found, next))
}

/// Messages by their sequences, and the sequence after which there may be more.
type NearMessages<T> = (Vec<(u64, T)>, Option<u64>);

/// Those of the next `nearest` messages that are meant, `most` at most; and after what there may be more.
fn near<T, E>(
    shared: &Shared,
    all: &mut dyn Iterator<Item = (u64, T)>,
    (nearest, most): (usize, usize),
    mut is_meant: impl FnMut(u64, &T) -> std::result::Result<bool, E>,
) -> std::result::Result<NearMessages<T>, E> {
    let (mut found, mut seen, mut next) = (Vec::new(), 0, None);
    for (sequence, one) in all {
        seen += 1;
        if is_meant(sequence, &one)? {
            found.push((sequence, one));
        }
        if seen == nearest || found.len() >= most {
            next = Some(sequence);
            break;
        }
    }
    count(shared, seen as u64);
    Ok((found, next))
}

fn on_disk(
    shared: &Shared,
    cold: &Cold,
    senders: &[u16],
    after: u64,
    most: usize,
) -> std::result::Result<ListedPage, ColdError> {
    let of = |sender: &u16| cold.arrivals_after(*sender, after);
    let (found, next) = going_well(senders.iter().map(of).collect(), |all| first_of(all, most))?;
    count(shared, found.len() as u64);
    let mut messages = Vec::with_capacity(found.len());
    for (sequence, (key, ..)) in found {
        messages.extend(mail(cold, sequence, key)?);
    }
    Ok(ListedPage { messages, next })
}

/// The result of `look` on all items of these iterators, in the order of their sequences; or the first failure of one.
fn going_well<T: Ord, R>(
    all: Vec<impl Iterator<Item = std::result::Result<(u64, T), ColdError>>>,
    look: impl FnOnce(&mut dyn Iterator<Item = (u64, T)>) -> R,
) -> std::result::Result<R, ColdError> {
    let failed = RefCell::new(None);
    let failure = &failed;
    let well = |of_one: _| {
        Iterator::map_while(of_one, move |item: std::result::Result<_, _>| {
            item.map_err(|error| failure.replace(Some(error))).ok()
        })
    };
    let found = look(&mut merged(all.into_iter().map(well).collect()));
    failed.into_inner().map_or(Ok(found), Err)
}

/// A mailbox message; `None` if another one is under the key, because it was replaced.
fn mail(cold: &Cold, sequence: u64, key: u128) -> std::result::Result<Option<ListedMessage>, ColdError> {
    let found = cold.mail_with_id(key)?.filter(|(entry, _)| entry.sequence == sequence);
    Ok(found.map(|(entry, id)| item(key, entry, id.as_deref())))
}

fn named_on_disk(
    shared: &Shared,
    cold: &Cold,
    meant: (Class, &[u16], &str),
    after: u64,
    (nearest, most): (usize, usize),
) -> std::result::Result<ListedPage, ColdError> {
    let (class, parties, prefix) = meant;
    let is_meant = |sequence: u64, (key, _, id): &DiskListItem| -> std::result::Result<_, ColdError> {
        match id {
            None if class != Class::Outgoing => {
                let found = mail(cold, sequence, *key)?.and_then(|item| item.id);
                Ok(found.is_some_and(|id| id.as_str().starts_with(prefix)))
            }
            id => Ok(id.as_ref().is_some_and(|id| id.starts_with(prefix))),
        }
    };
    let (near, next) = if class == Class::Outgoing {
        let all = parties.iter().map(|party| cold.listed_pending(*party, after)).collect();
        going_well(all, |all| near(shared, all, (nearest, most), is_meant))??
    } else {
        let all = parties.iter().map(|party| cold.arrivals_after(*party, after)).collect();
        going_well(all, |all| near(shared, all, (nearest, most), is_meant))??
    };
    let near = near.into_iter().map(|(sequence, (key, party, _))| (sequence, (key, party))).collect();
    let (found, next) = searched(shared, meant, (near, next), most, |search| cold.search(search))?;
    let mut messages = Vec::with_capacity(found.len());
    for (sequence, key, party) in found {
        if class == Class::Outgoing {
            let found = cold.pending_with_id(party, sequence)?;
            messages.extend(found.map(|(key, entry, id)| item(key, entry, id.as_deref())));
        } else {
            messages.extend(mail(cold, sequence, key)?);
        }
    }
    Ok(ListedPage { messages, next })
}

/// Merges iterators that are each ordered by sequence into one in that order.
fn merged<T: Ord>(mut all: Vec<impl Iterator<Item = (u64, T)>>) -> impl Iterator<Item = (u64, T)> {
    let mut first = BinaryHeap::with_capacity(all.len());
    for (at, of_one) in all.iter_mut().enumerate() {
        first.extend(of_one.next().map(|(sequence, what)| Reverse((sequence, at, what))));
    }
    std::iter::from_fn(move || {
        let Reverse((sequence, at, what)) = first.pop()?;
        first.extend(all[at].next().map(|(sequence, what)| Reverse((sequence, at, what))));
        Some((sequence, what))
    })
}

/// The first `most` items, and the sequence after which there may be more.
fn first_of<T>(all: impl Iterator<Item = (u64, T)>, most: usize) -> (Vec<(u64, T)>, Option<u64>) {
    let found: Vec<_> = all.take(most).collect();
    let next = found.last().filter(|_| found.len() >= most).map(|(sequence, _)| *sequence);
    (found, next)
}

/// Joins both pages into one, as far as both reach.
fn joined(shared: &Shared, memory: ListedPage, disk: &ListedPage) -> ListedPage {
    let next = match (memory.next, disk.next) {
        (Some(memory), Some(disk)) => Some(memory.min(disk)),
        (memory, disk) => memory.or(disk),
    };
    let mut messages = memory.messages;
    for some in disk.messages.chunks(CHUNK) {
        let state = shared.state.lock();
        messages.extend(some.iter().filter_map(|item| {
            let entry = match state.live.get(&item.key) {
                // It moved in the log since memory was examined, and is in memory by now.
                Some(live) if live.sequence == item.entry.sequence => *live,
                None if state.is_current_cold(&item.entry) => state.with_mark(item.key, item.entry),
                Some(_) | None => return None,
            };
            Some(ListedMessage { entry, ..item.clone() })
        }));
    }
    if let Some(next) = next {
        messages.retain(|item| item.entry.sequence <= next);
    }
    messages.sort_by_key(|item| item.entry.sequence);
    messages.dedup_by_key(|item| item.entry.sequence);
    ListedPage { messages, next }
}
