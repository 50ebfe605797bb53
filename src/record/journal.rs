//! What happened to individual messages recently: the memory behind `petnet track`.
//!
//! Two rings in memory: what happens to every message, and what went wrong. Failures are few, and are therefore remembered
//! for a long time even under load. Writing takes one short lock and no search; reading goes through everything, because it
//! is rare. Invariant: memory is bounded, whatever ids, reasons and traffic there are.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use petnet_storage::{MessageId, PartyId, Sequence};

use crate::wire::wall_clock::now_ms;

/// Usual events that are remembered: 64 bytes each.
const USUAL: usize = 65_536;
/// Failures that are remembered, each with a reason of at most [`MAX_REASON`] bytes.
const FAILURES: usize = 16_384;
/// At most this many bytes of a reason are kept.
const MAX_REASON: usize = 500;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// A client's message is durable; `took` is the time since it came.
    Accepted,
    /// The peer has it.
    Delivered,
    /// An attempt failed.
    Failed,
    /// It became a dead letter.
    Died,
    /// A message that had arrived became a dead letter.
    DiedUnread,
    /// A dead letter was accepted again.
    Retried,
    /// A dead letter that had arrived is back in the mailbox.
    PutBack,
    /// The operator dropped it.
    Dropped,
    /// The operator dropped a dead letter that had arrived.
    DroppedUnread,
    /// A peer's message is durable here.
    Arrived,
    /// It was handed to a client.
    Read,
    /// A client, or the operator, no longer needs it.
    Released,
}

impl EventKind {
    /// Whether it concerns a message from us to another party.
    pub(crate) fn is_of_sent(self) -> bool {
        !matches!(
            self,
            Self::Arrived
                | Self::Read
                | Self::Released
                | Self::DiedUnread
                | Self::PutBack
                | Self::DroppedUnread
        )
    }

    fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Died | Self::DiedUnread)
    }
}

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    id: u64,
    /// 0 if not known.
    pub(crate) sequence: u64,
    /// Milliseconds since the epoch.
    pub(crate) at_ms: u64,
    /// How long it took, in microseconds; at most 71 minutes.
    pub(crate) took_us: u32,
    pub(crate) what: EventKind,
    /// The other party, if known.
    pub(crate) party: Option<PartyId>,
    pub(crate) detail: Option<Arc<str>>,
}

/// The events that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    hasher: RandomState,
    rings: Mutex<Rings>,
}

#[derive(Debug, Default)]
struct Rings {
    usual: VecDeque<Event>,
    failures: VecDeque<Event>,
    /// Most consecutive failures have the same reason, and share its text.
    last_reason: Option<Arc<str>>,
}

impl Journal {
    /// Notes that something happened to a message.
    pub(crate) fn note(&self, what: EventKind, party: Option<&PartyId>, id: &MessageId, sequence: Sequence) {
        self.push(self.event(what, party, id, sequence));
    }

    /// The number that stands for an id in [`accepted_many`](Self::accepted_many).
    pub(crate) fn key(&self, id: &MessageId) -> u64 {
        self.hasher.hash_one(id)
    }

    /// Notes that messages were accepted, `took` after they came: receiver, [key](Self::key) of the id, place. It takes one
    /// look at the clock, and one lock, for all of them.
    pub(crate) fn accepted_many(
        &self,
        messages: impl Iterator<Item = (PartyId, u64, Sequence)>,
        took: Duration,
    ) {
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let at_ms = now_ms();
        let mut rings = self.lock();
        for (party, id, sequence) in messages {
            let (what, party, detail) = (EventKind::Accepted, Some(party), None);
            rings.push(Event { id, sequence: sequence.0, at_ms, took_us, what, party, detail });
        }
    }

    /// Notes that a message was accepted, `took` after it came.
    pub(crate) fn accepted(&self, party: &PartyId, id: &MessageId, sequence: Sequence, took: Duration) {
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.push(Event { took_us, ..self.event(EventKind::Accepted, Some(party), id, sequence) });
    }

    /// Notes that something went wrong or ended a message, and why.
    pub(crate) fn note_why(
        &self,
        what: EventKind,
        party: Option<&PartyId>,
        id: &MessageId,
        sequence: Sequence,
        why: &str,
    ) {
        let why = &why[..why.floor_char_boundary(MAX_REASON)];
        let event = self.event(what, party, id, sequence);
        let mut rings = self.lock();
        let detail = match &rings.last_reason {
            Some(last) if **last == *why => last.clone(),
            _ => Arc::from(why),
        };
        rings.last_reason = Some(detail.clone());
        rings.push(Event { detail: Some(detail), ..event });
    }

    /// Everything that is remembered about messages with an id, oldest first.
    pub(crate) fn of(&self, id: &MessageId) -> Vec<Event> {
        let hash = self.hasher.hash_one(id);
        let rings = self.lock();
        let all = rings.usual.iter().chain(&rings.failures);
        let mut found: Vec<Event> = all.filter(|event| event.id == hash).cloned().collect();
        drop(rings);
        found.sort_by_key(|event| event.at_ms);
        found
    }

    /// Failed attempts at these messages, by sequence: how many, and the last reason.
    pub(crate) fn failures_of(&self, sequences: &[Sequence]) -> Vec<(u64, Option<Arc<str>>)> {
        let mut found = vec![(0, None); sequences.len()];
        let places: std::collections::HashMap<u64, usize> =
            sequences.iter().enumerate().map(|(at, sequence)| (sequence.0, at)).collect();
        for event in self.lock().failures.iter().filter(|event| event.what == EventKind::Failed) {
            if let Some(at) = places.get(&event.sequence) {
                found[*at] = (found[*at].0 + 1, event.detail.clone());
            }
        }
        found
    }

    fn event(&self, what: EventKind, party: Option<&PartyId>, id: &MessageId, sequence: Sequence) -> Event {
        Event {
            id: self.hasher.hash_one(id),
            sequence: sequence.0,
            at_ms: now_ms(),
            took_us: 0,
            what,
            party: party.cloned(),
            detail: None,
        }
    }

    fn push(&self, event: Event) {
        self.lock().push(event);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Rings> {
        self.rings.lock()
    }
}

impl Rings {
    fn push(&mut self, event: Event) {
        let (ring, most) =
            if event.what.is_failure() { (&mut self.failures, FAILURES) } else { (&mut self.usual, USUAL) };
        if ring.len() >= most {
            ring.pop_front();
        }
        ring.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{message_id, party};

    #[test]
    fn events_of_an_id_come_in_their_order_with_their_reasons() {
        let journal = Journal::default();
        let (peer, id) = (party("party_b"), message_id("m"));
        journal.accepted(&peer, &id, Sequence(7), Duration::from_millis(3));
        journal.note_why(EventKind::Failed, Some(&peer), &id, Sequence(7), "connection refused");
        journal.note(EventKind::Delivered, Some(&peer), &id, Sequence(7));
        journal.note(EventKind::Delivered, Some(&peer), &message_id("other"), Sequence(8));
        let events = journal.of(&id);
        let whats: Vec<_> = events.iter().map(|event| (event.what, event.sequence)).collect();
        assert_eq!(whats.len(), 3);
        assert!(whats.contains(&(EventKind::Failed, 7)) && whats.contains(&(EventKind::Delivered, 7)));
        let failed = events.iter().find(|event| event.what == EventKind::Failed).unwrap();
        assert_eq!(failed.detail.as_deref(), Some("connection refused"));
        assert_eq!(events.iter().map(|event| event.took_us).max(), Some(3000));
        assert_eq!(journal.failures_of(&[Sequence(8), Sequence(7)]).map_counts(), [0, 1]);
    }

    trait MapCounts {
        fn map_counts(&self) -> Vec<u64>;
    }

    impl MapCounts for Vec<(u64, Option<Arc<str>>)> {
        fn map_counts(&self) -> Vec<u64> {
            self.iter().map(|(count, _)| *count).collect()
        }
    }

    #[test]
    fn failures_are_remembered_beside_any_number_of_other_events_within_the_bounds() {
        let journal = Journal::default();
        let (peer, id) = (party("party_b"), message_id("m"));
        journal.note_why(EventKind::Failed, Some(&peer), &id, Sequence(1), &"é".repeat(1000));
        for n in 0..(USUAL as u64 + 10) {
            journal.note(EventKind::Read, Some(&peer), &message_id("busy"), Sequence(n));
        }
        let events = journal.of(&id);
        assert_eq!(events.len(), 1);
        assert!(events[0].detail.as_ref().unwrap().len() <= MAX_REASON);
        assert_eq!(journal.of(&message_id("busy")).len(), USUAL);
    }
}
