//! Where everything that happens to messages is recorded: counted in [`Meters`], remembered in the [`Journal`].

use std::time::Instant;

use petnet_storage::{DeadLetter, FromSender, MessageId, PartyId, Sequence, Stored};
use std::sync::atomic::Ordering;

use crate::record::journal::{EventKind, Journal};
use crate::record::meters::Meters;
use crate::record::plain_reads::PlainReads;
use crate::rules::refusal::Refusal;
use crate::wire::wall_clock::now_ms;

/// The record of one gateway.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) meters: Meters,
    pub(crate) journal: Journal,
    /// Whose messages plain receives were handed.
    pub(crate) plain_reads: PlainReads,
}

impl Record {
    /// Records that a client's message of `len` bytes, which came at `since`, was accepted.
    pub(crate) fn accepted(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        sequence: Sequence,
        len: u64,
        since: Instant,
    ) {
        let took = since.elapsed();
        self.meters.accepted.add(len);
        self.meters.accept_seconds.note(took.as_secs_f64());
        self.journal.accepted(receiver, id, sequence, took);
    }

    /// Records that the messages of one request were accepted: receiver, key of the id in the journal, length and place of
    /// each.
    pub(crate) fn accepted_many(&self, messages: Vec<(PartyId, u64, u64, Sequence)>, since: Instant) {
        let took = since.elapsed();
        for (_, _, len, _) in &messages {
            self.meters.accepted.add(*len);
            self.meters.accept_seconds.note(took.as_secs_f64());
        }
        let remembered = messages.into_iter().map(|(receiver, id, _, sequence)| (receiver, id, sequence));
        self.journal.accepted_many(remembered, took);
    }

    /// Records that a peer's message was stored; a repetition is not counted.
    pub(crate) fn stored(&self, sender: Option<&PartyId>, id: &MessageId, len: u64, stored: Stored) {
        let Stored::New(sequence) = stored else { return };
        self.meters.arrived.add(len);
        if let Some(sender) = sender {
            self.meters.peer(sender).arrived.add(len);
        }
        self.journal.note(EventKind::Arrived, sender, id, sequence);
    }

    /// Records that a message was handed to a client.
    pub(crate) fn read(&self, sender: Option<&PartyId>, id: &MessageId, sequence: Sequence, len: u64) {
        self.meters.received.add(len);
        self.journal.note(EventKind::Read, sender, id, sequence);
    }

    /// Records that a message was released, because its reader no longer needs it.
    pub(crate) fn released(&self, from: &FromSender, id: &MessageId) {
        self.meters.released.fetch_add(1, Ordering::Relaxed);
        let sender = if let FromSender::Party(party) = from { Some(party) } else { None };
        self.journal.note(EventKind::Released, sender, id, Sequence(0));
    }

    /// Counts the release of a whole topic, without an event for each message.
    pub(crate) fn released_topic(&self, messages: u64) {
        self.meters.released.fetch_add(messages, Ordering::Relaxed);
    }

    /// Records that a peer accepted a message.
    pub(crate) fn delivered(&self, peer: &PartyId, id: &MessageId, sequence: Sequence, len: u64) {
        let meters = self.meters.peer(peer);
        meters.delivered.add(len);
        meters.last_delivery_ms.store(now_ms(), Ordering::Relaxed);
        self.journal.note(EventKind::Delivered, Some(peer), id, sequence);
    }

    /// Records that the operator ended a message.
    pub(crate) fn dropped(
        &self,
        what: EventKind,
        peer: Option<&PartyId>,
        id: &MessageId,
        sequence: Sequence,
    ) {
        self.meters.dropped.fetch_add(1, Ordering::Relaxed);
        self.journal.note(what, peer, id, sequence);
    }

    /// Records that an attempt to deliver failed.
    pub(crate) fn failed(&self, peer: &PartyId, id: &MessageId, sequence: Sequence, why: &str) {
        self.meters.peer(peer).failed_attempts.fetch_add(1, Ordering::Relaxed);
        self.journal.note_why(EventKind::Failed, Some(peer), id, sequence, why);
    }

    /// Records that a message became a dead letter.
    pub(crate) fn died(&self, letter: &DeadLetter) {
        self.meters.died(&letter.reason);
        let why = letter.reason.to_string();
        let what = if letter.correspondent.is_from() { EventKind::DiedUnread } else { EventKind::Died };
        self.journal.note_why(what, letter.correspondent.party(), &letter.id, letter.sequence, &why);
    }

    /// Records that a call, or a message in one, was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.meters.refused(refusal);
    }
}
