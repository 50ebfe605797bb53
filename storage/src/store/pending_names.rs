//! Pending messages by the beginning of their ids, for the operator.

use std::collections::BTreeMap;

use crate::core::shared::Shared;
use crate::face::direction::Class;
use crate::face::engine::NamedPending;
use crate::face::error::Result;
use crate::face::message::{MessageId, PartyId, Pending, Sequence};
use crate::index::entry::Entry;
use crate::read::arrivals::{self, ListedMessage, NEAR, NEAR_AGAIN, WhichMessages};
use crate::read::frames::Reader;

/// A pending message as callers see it.
pub(crate) fn shown(shared: &Shared, key: u128, entry: &Entry) -> Pending {
    let (now, ttl) = (shared.now(), shared.send_ttl());
    Pending {
        sequence: Sequence(entry.sequence),
        id_key: key,
        len: entry.len,
        age: entry.age(now),
        expires_in: entry.expires_in(now, ttl),
    }
}

/// The first `limit` messages after a sequence, in order of acceptance, for one receiver or all. `None` if that is not known
/// yet. Blocks.
pub(crate) fn pending(
    shared: &Shared,
    peer: Option<&PartyId>,
    prefix: &str,
    after: Sequence,
    limit: usize,
) -> Result<Option<NamedPending>> {
    if !arrivals::knows_names(shared) {
        return Ok(None);
    }
    let party = match peer {
        None => None,
        Some(peer) => match shared.state.lock().parties.find(peer) {
            None => return Ok(Some(NamedPending::default())),
            party => party,
        },
    };
    let mut found: BTreeMap<u64, (u128, Entry, MessageId)> = BTreeMap::new();
    // What is on its way into the log is already pending; it may enter the log between the two looks.
    let queued: Vec<(u128, Entry, MessageId)> = {
        let state = shared.state.lock();
        let of_prefix = state.queued.shown().filter(|m| {
            let Entry { class, party: of, sequence, .. } = m.entry;
            class == Class::Outgoing
                && party.is_none_or(|party| party == of)
                && sequence > after.0
                && m.id.as_str().starts_with(prefix)
        });
        of_prefix.map(|m| (m.key, m.entry, m.id.clone())).collect()
    };
    let (mut from, mut is_end, mut near) = (after.0, false, NEAR);
    while !is_end && found.len() < limit {
        let which = WhichMessages::Named(Class::Outgoing, party, prefix, near);
        near = NEAR_AGAIN;
        let page = arrivals::page(shared, which, from, limit - found.len())?;
        let named = |ListedMessage { key, entry, id }| id.map(|id| (entry.sequence, (key, entry, id)));
        found.extend(page.messages.into_iter().filter_map(named));
        match page.next {
            Some(next) => from = next,
            None => is_end = true,
        }
    }
    found.extend(queued.into_iter().map(|found| (found.1.sequence, found)));
    let is_all = is_end && found.len() <= limit;
    let reader = Reader { shared };
    let with_peer = |(key, entry, id): (u128, Entry, MessageId)| {
        Some((reader.party(entry.party)?, shown(shared, key, &entry), id))
    };
    let messages: Vec<_> = found.into_values().take(limit).filter_map(with_peer).collect();
    let next = messages.last().filter(|_| !is_all).map(|(_, pending, _)| pending.sequence);
    Ok(Some(NamedPending { messages, next }))
}
