//! Where everything that happens to messages is told: counted in [`Meters`], remembered in the [`Journal`].

use std::time::Instant;

use petnet_storage::{DeadLetter, FromSender, MessageId, PartyId, Sequence, Stored};
use std::sync::atomic::Ordering;

use crate::journal::{Journal, What};
use crate::mailbox::Refusal;
use crate::meters::{Meters, now_ms};

/// One gateway's.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) meters: Meters,
    pub(crate) journal: Journal,
}

impl Record {
    /// A client's message of `len` bytes, which came at `since`, is accepted.
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

    /// Messages of one request are accepted: receiver, key of the id in the journal, length and place of each.
    pub(crate) fn accepted_many(&self, messages: Vec<(PartyId, u64, u64, Sequence)>, since: Instant) {
        let took = since.elapsed();
        for (_, _, len, _) in &messages {
            self.meters.accepted.add(*len);
            self.meters.accept_seconds.note(took.as_secs_f64());
        }
        let remembered = messages.into_iter().map(|(receiver, id, _, sequence)| (receiver, id, sequence));
        self.journal.accepted_many(remembered, took);
    }

    /// A peer's message is kept; a repetition is not counted.
    pub(crate) fn stored(&self, sender: Option<&PartyId>, id: &MessageId, len: u64, stored: Stored) {
        let Stored::New(sequence) = stored else { return };
        self.meters.arrived.add(len);
        if let Some(sender) = sender {
            self.meters.peer(sender).arrived.add(len);
        }
        self.journal.note(What::Arrived, sender, id, sequence);
    }

    /// A message is handed to a client.
    pub(crate) fn read(&self, sender: Option<&PartyId>, id: &MessageId, sequence: Sequence, len: u64) {
        self.meters.received.add(len);
        self.journal.note(What::Read, sender, id, sequence);
    }

    /// Whoever read a message needs it no more.
    pub(crate) fn released(&self, from: &FromSender, id: &MessageId) {
        self.meters.released.fetch_add(1, Ordering::Relaxed);
        let sender = if let FromSender::Party(party) = from { Some(party) } else { None };
        self.journal.note(What::Released, sender, id, Sequence(0));
    }

    /// As [`released`](Self::released), of a whole topic.
    pub(crate) fn released_topic(&self, messages: u64) {
        self.meters.released.fetch_add(messages, Ordering::Relaxed);
    }

    /// A peer has a message.
    pub(crate) fn delivered(&self, peer: &PartyId, id: &MessageId, sequence: Sequence, len: u64) {
        let meters = self.meters.peer(peer);
        meters.delivered.add(len);
        meters.last_delivery_ms.store(now_ms(), Ordering::Relaxed);
        self.journal.note(What::Delivered, Some(peer), id, sequence);
    }

    /// The operator ended a message.
    pub(crate) fn dropped(&self, what: What, peer: &PartyId, id: &MessageId, sequence: Sequence) {
        self.meters.dropped.fetch_add(1, Ordering::Relaxed);
        self.journal.note(what, Some(peer), id, sequence);
    }

    /// An attempt to deliver failed.
    pub(crate) fn failed(&self, peer: &PartyId, id: &MessageId, sequence: Sequence, why: &str) {
        self.meters.peer(peer).failed_attempts.fetch_add(1, Ordering::Relaxed);
        self.journal.note_why(What::Failed, peer, id, sequence, why);
    }

    /// A message became a dead letter.
    pub(crate) fn died(&self, letter: &DeadLetter) {
        self.meters.died(&letter.reason);
        let why = letter.reason.to_string();
        self.journal.note_why(What::Died, &letter.receiver, &letter.id, letter.sequence, &why);
    }

    /// A call, or a message of one, was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.meters.refused(refusal);
    }
}
