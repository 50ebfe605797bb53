//! Messages that are queued for the log but not in it yet. They are already visible: a reader or a delivery that waits for one
//! need not wait for the disk; its sender gets an answer only after the sync.
//!
//! Pure. Invariants: a message is here or in the index, never in both; for one key the highest sequence is the newest; what has
//! been given out for delivery is never refused afterwards. Bounded by the room of the writers' queues.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::face::direction::Class;
use crate::face::message::{DeliveryIdentity, MessageId, PartyId};
use crate::index::entry::Entry;
use crate::index::maps::Map;
use crate::log::frame::KeyedContent;

/// A message on its way into the log; its entry has no place yet.
#[derive(Debug, Clone)]
pub(crate) struct QueuedMessage {
    pub(crate) key: u128,
    pub(crate) entry: Entry,
    pub(crate) id: MessageId,
    pub(crate) party: Option<PartyId>,
    /// `None` if its slices are in the log already; it is then not shown until it is in the log itself.
    pub(crate) payload: Option<Bytes>,
    /// Delivery identity of an arrival.
    pub(crate) identity: Option<DeliveryIdentity>,
    /// The client's key for the send.
    pub(crate) keyed: Option<KeyedContent>,
    /// Whether it has been given out for delivery.
    pub(crate) exposed: bool,
    /// It was delivered and settled, or a newer one is in the index: it has no further use once it is in the log.
    pub(crate) ended: bool,
}

impl QueuedMessage {
    /// Whether it must not be delivered before its sync: its key must be as durable as what its receiver gets. Otherwise a send
    /// that is repeated after a kill would be a new message, and its receiver would have both.
    pub(crate) fn waits_for_its_sync(&self) -> bool {
        self.keyed.is_some() && self.entry.class == Class::Outgoing
    }
}

/// All messages that are queued but not yet in the log.
#[derive(Debug, Default)]
pub(crate) struct UnwrittenMessages {
    messages: Map<u64, QueuedMessage>,
    by_key: BTreeSet<(u128, u64)>,
    outgoing: BTreeSet<(u16, u64)>,
}

impl UnwrittenMessages {
    pub(crate) fn push(&mut self, message: QueuedMessage) {
        let Entry { sequence, party, class, .. } = message.entry;
        self.by_key.insert((message.key, sequence));
        if class == Class::Outgoing {
            self.outgoing.insert((party, sequence));
        }
        self.messages.insert(sequence, message);
    }

    /// Takes a message out: it is in the log, or will never be.
    pub(crate) fn take(&mut self, sequence: u64) -> Option<QueuedMessage> {
        let message = self.messages.remove(&sequence)?;
        self.by_key.remove(&(message.key, sequence));
        self.outgoing.remove(&(message.entry.party, sequence));
        Some(message)
    }

    /// The newest message under a key that is shown and has not ended.
    pub(crate) fn newest(&self, key: u128) -> Option<&QueuedMessage> {
        let of_key = self.by_key.range((key, 0)..=(key, u64::MAX)).rev();
        of_key
            .filter_map(|(_, sequence)| self.messages.get(sequence))
            .find(|message| !message.ended && message.payload.is_some())
    }

    /// The newest message under a key that has not ended, shown or not.
    pub(crate) fn last(&self, key: u128) -> Option<&QueuedMessage> {
        let of_key = self.by_key.range((key, 0)..=(key, u64::MAX)).rev();
        of_key.filter_map(|(_, sequence)| self.messages.get(sequence)).find(|message| !message.ended)
    }

    /// One queued message.
    pub(crate) fn get(&self, sequence: u64) -> Option<&QueuedMessage> {
        self.messages.get(&sequence)
    }

    /// A queued message that is handed to a reader.
    pub(crate) fn read(&mut self, key: u128, sequence: u64) -> Option<&mut QueuedMessage> {
        self.messages.get_mut(&sequence).filter(|message| message.key == key)
    }

    /// All messages that are shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &QueuedMessage> {
        self.messages.values().filter(|message| !message.ended && message.payload.is_some())
    }

    /// Whether a message under the key is here that has not ended, shown or not.
    pub(crate) fn has(&self, key: u128) -> bool {
        let of_key = self.by_key.range((key, 0)..=(key, u64::MAX));
        of_key.filter_map(|(_, sequence)| self.messages.get(sequence)).any(|message| !message.ended)
    }

    /// Whether no newer message under its key is here.
    fn is_newest(&self, message: &QueuedMessage) -> bool {
        self.newest(message.key).is_some_and(|newest| newest.entry.sequence == message.entry.sequence)
    }

    /// A pending message that no newer one supersedes, and that may be delivered.
    pub(crate) fn deliverable(&mut self, party: u16, sequence: u64) -> Option<&mut QueuedMessage> {
        self.pending(party, sequence).filter(|message| !message.waits_for_its_sync())
    }

    /// A pending message that no newer one supersedes.
    pub(crate) fn pending(&mut self, party: u16, sequence: u64) -> Option<&mut QueuedMessage> {
        let message = self.messages.get(&sequence)?;
        let is_pending = self.outgoing.contains(&(party, sequence)) && self.is_newest(message);
        self.messages.get_mut(&sequence).filter(|_| is_pending)
    }

    /// Pending messages of a party after a sequence, in order.
    pub(crate) fn pending_after(&self, party: u16, after: u64) -> impl Iterator<Item = &QueuedMessage> {
        let of_party = self.outgoing.range((party, after.saturating_add(1))..=(party, u64::MAX));
        of_party.filter_map(|(_, sequence)| self.messages.get(sequence)).filter(|m| self.is_newest(m))
    }

    /// Pending messages of a party, and their payload bytes.
    pub(crate) fn pending_of(&self, party: u16) -> (u64, u64) {
        self.pending_after(party, 0).fold((0, 0), |(count, bytes), m| (count + 1, bytes + m.entry.len))
    }

    /// A message has ended, although it is not in the log yet.
    pub(crate) fn end(&mut self, sequence: u64) {
        if let Some(message) = self.messages.get_mut(&sequence) {
            message.ended = true;
            self.outgoing.remove(&(message.entry.party, sequence));
        }
    }

    /// A newer message under the key is in the index.
    pub(crate) fn end_older(&mut self, key: u128, than: u64) {
        let older: Vec<u64> =
            self.by_key.range((key, 0)..(key, than)).map(|(_, sequence)| *sequence).collect();
        for sequence in older {
            self.end(sequence);
        }
    }

    /// Whether it was given out for delivery.
    pub(crate) fn is_exposed(&self, sequence: u64) -> bool {
        self.messages.get(&sequence).is_some_and(|message| message.exposed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: u128, sequence: u64, class: Class) -> QueuedMessage {
        let entry = Entry { sequence, number: sequence, ..Entry::new(class, 3, 1, 0) };
        let id = MessageId::new("m").expect("valid");
        let payload = Some(Bytes::from_static(b"x"));
        QueuedMessage {
            key,
            entry,
            id,
            party: None,
            payload,
            identity: None,
            keyed: None,
            exposed: false,
            ended: false,
        }
    }

    #[test]
    fn the_newest_under_a_key_falls_back_when_it_is_taken_out() {
        let mut queued = UnwrittenMessages::default();
        queued.push(message(7, 1, Class::Incoming));
        queued.push(message(7, 2, Class::Incoming));
        queued.push(message(8, 3, Class::Incoming));
        let newest = |queued: &UnwrittenMessages| queued.newest(7).map(|m| m.entry.sequence);
        assert_eq!(newest(&queued), Some(2));
        assert!(queued.take(2).is_some() && queued.take(2).is_none());
        assert_eq!(newest(&queued), Some(1));
        queued.end_older(7, 2);
        assert_eq!(newest(&queued), None, "a newer one is in the index");
        assert!(queued.take(1).is_some_and(|m| m.ended));
    }

    #[test]
    fn pending_ones_are_listed_in_order_until_they_end() {
        let mut queued = UnwrittenMessages::default();
        for sequence in [5, 2, 9] {
            queued.push(message(u128::from(sequence), sequence, Class::Outgoing));
        }
        queued.push(message(1, 1, Class::Incoming));
        let listed = |queued: &UnwrittenMessages, after| -> Vec<u64> {
            queued.pending_after(3, after).map(|m| m.entry.sequence).collect()
        };
        assert_eq!(listed(&queued, 0), [2, 5, 9]);
        assert_eq!(listed(&queued, 2), [5, 9]);
        queued.end(5);
        assert_eq!(listed(&queued, 0), [2, 9]);
        assert!(queued.pending(3, 5).is_none() && queued.pending(3, 1).is_none());
        queued.push(message(2, 10, Class::Outgoing));
        assert_eq!(listed(&queued, 0), [9, 10], "2 is superseded");
        assert!(queued.pending(3, 2).is_none() && queued.pending(3, 10).is_some());
        queued.take(10);
        queued.take(9);
        assert_eq!(listed(&queued, 0), [2]);
    }
}
