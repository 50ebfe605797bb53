//! Enters messages of another store with the place in the order, the identity and the age that they had there.
//!
//! Invariants: when [`Filling::put`] returns, everything is durable, and dead letters are dead letters; a message that is
//! already there is not entered again; if several messages share an id, a dead letter becomes one before the next message is
//! entered.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::digest::ends_early;
use super::folder_target::Filling;
use super::{Fate, Moved, Result, TransferError};
use crate::core::reply::Reply;
use crate::core::slices_written::StreamedMessage;
use crate::core::write_queue::Urgency;
use crate::face::direction::Class;
use crate::face::error::StoreError;
use crate::face::message::{DeadReason, Incarnation, PartyId, Sequence};
use crate::face::payload::Payload;
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::unwritten::QueuedMessage;
use crate::intake::accept::Intake;
use crate::intake::draft::Draft;
use crate::intake::upload::StreamUpload;
use crate::log::frame::MessageFields;
use crate::read::frames::Reader;
use crate::write::settle;

/// Messages that are on their way to the disk.
#[derive(Debug, Default)]
struct OnTheirWay {
    synced: Vec<oneshot::Receiver<crate::face::error::Result<()>>>,
    letters: Vec<(u128, FutureLetter, DeadReason)>,
    /// Index keys of those letters.
    buried: HashSet<u128>,
}

/// Where the message that is to become a dead letter is.
#[derive(Debug)]
enum FutureLetter {
    /// Pending for a receiver.
    Pending(PartyId, Sequence),
    /// In the mailbox.
    Mail(Sequence),
}

impl Filling {
    /// Keeps a batch.
    pub(super) async fn put(&self, batch: &[Moved]) -> Result<()> {
        let mut way = OnTheirWay::default();
        for message in batch {
            let party = message.party.as_ref().map_or("", PartyId::as_str);
            let key = self.store.intake.key(class(message), party, &message.id);
            if way.buried.contains(&key) {
                // Until that message has become a dead letter, this one would replace it.
                self.arrive(std::mem::take(&mut way)).await?;
            }
            if !self.there.contains(&message.sequence.0) {
                self.enter(message, &mut way).await?;
            } else if let Some(read) = message.read {
                // The record of the read may not have been written with the message.
                let shared = &self.store.shared;
                let at = u64::from(shared.now()).saturating_sub(read) as u32;
                shared.state.lock().note_read(key, message.sequence.0, at);
            }
            let (letter, reason) = match &message.fate {
                Fate::Dead(reason) => {
                    (FutureLetter::Pending(receiver(message)?.clone(), message.sequence), reason)
                }
                Fate::DeadMail(reason) => (FutureLetter::Mail(message.sequence), reason),
                Fate::Pending | Fate::Mailbox => continue,
            };
            way.buried.insert(key);
            way.letters.push((key, letter, reason.clone()));
        }
        self.arrive(way).await
    }

    /// Waits for the disk, then turns messages into the dead letters that they are to be.
    async fn arrive(&self, way: OnTheirWay) -> Result<()> {
        for synced in way.synced {
            synced.await.map_err(|_| StoreError::Closed)??;
        }
        let mut burials = Vec::with_capacity(way.letters.len());
        for (key, letter, reason) in way.letters {
            let bury = move |shared: &std::sync::Arc<crate::core::shared::Shared>| {
                let reader = Reader { shared };
                let found = match letter {
                    FutureLetter::Pending(receiver, sequence) => {
                        let party = shared.state.lock().parties.find(&receiver);
                        party.map(|party| reader.pending_entry(party, sequence)).transpose()?.flatten()
                    }
                    FutureLetter::Mail(sequence) => {
                        reader.find(&[key])?.filter(|(_, e)| e.sequence == sequence.0)
                    }
                };
                // It is already a dead letter.
                let Some((key, entry)) = found else { return Ok(None) };
                settle::bury(shared, key, entry, reason).map(Some)
            };
            burials.extend(self.blocking(bury).await?);
        }
        for burial in burials {
            burial.wait(self.store.shared.clone()).await?;
        }
        Ok(())
    }

    async fn enter(&self, message: &Moved, way: &mut OnTheirWay) -> Result<()> {
        let shared = &self.store.shared;
        let time = u64::from(shared.now()).checked_sub(message.age).map(|time| time as u32);
        let Some(time) = time else {
            let why = format!("it is {} s old, and the source said that none is", message.age);
            return Err(TransferError::Unfit { sequence: message.sequence.0, why });
        };
        let class = class(message);
        if class == Class::Outgoing {
            receiver(message)?;
        }
        let (party, id, intake) = (message.party.as_ref(), &message.id, &self.store.intake);
        let payload = match &message.payload {
            Payload::Whole(payload) => payload.clone(),
            pieces @ Payload::Pieces(_) => {
                let mut upload = StreamUpload::new(intake.clone(), Some(pieces.len()))?;
                if let Some(streamed) = upload.take_all(pieces).await? {
                    let draft = Draft::streamed(class, party, id, streamed);
                    let synced = intake.enter_moved(&draft, message, time).await?;
                    // The upload holds its slices until the message is in the index.
                    synced.await.map_err(|_| StoreError::Closed)??;
                    return Ok(());
                }
                upload.rest()
            }
        };
        let draft = Draft::new(class, party, id, payload).await?;
        way.synced.push(intake.enter_moved(&draft, message, time).await?);
        Ok(())
    }
}

fn class(message: &Moved) -> Class {
    match (&message.fate, &message.party) {
        (Fate::Pending | Fate::Dead(_), _) => Class::Outgoing,
        (Fate::Mailbox | Fate::DeadMail(_), Some(_)) => Class::Incoming,
        (Fate::Mailbox | Fate::DeadMail(_), None) => Class::IncomingUnnamed,
    }
}

fn receiver(message: &Moved) -> Result<&PartyId> {
    let why = || format!("a {} has no receiver", message.fate);
    message.party.as_ref().ok_or_else(|| TransferError::Unfit { sequence: message.sequence.0, why: why() })
}

impl StreamUpload {
    /// Takes a whole content. `None` if it is not a large message; [`rest`](Self::rest) then has it.
    async fn take_all(&mut self, payload: &Payload) -> crate::face::error::Result<Option<StreamedMessage>> {
        use crate::face::payload::Upload;
        while self.len() < payload.len() {
            let piece = payload.piece(self.len()).await?;
            if piece.is_empty() {
                return Err(ends_early(self.len()));
            }
            self.push(piece).await?;
        }
        self.finish().await
    }
}

impl Intake {
    /// Queues a message; it is answered after the sync.
    async fn enter_moved(
        &self,
        draft: &Draft<'_>,
        message: &Moved,
        time: u32,
    ) -> crate::face::error::Result<oneshot::Receiver<crate::face::error::Result<()>>> {
        let (permit, cost) = self.admit(draft).await?;
        let shared = &self.shared;
        let lane = draft.lane();
        let (reply, synced) = Reply::new(Some(permit));
        let mut state = shared.state.lock();
        let read = message.read.map(|ago| u64::from(shared.now()).saturating_sub(ago) as u32);
        let (entry, fields) = entry_and_fields(&mut state, draft, message, (time, read));
        state.last_sequence = state.last_sequence.max(entry.sequence);
        state.queued.push(QueuedMessage {
            key: self.key(draft.class, draft.party.map_or("", PartyId::as_str), draft.id),
            entry,
            id: draft.id.clone(),
            party: draft.party.cloned(),
            payload: draft.shown(),
            // The memory of deliveries was entered as a whole.
            identity: None,
            keyed: None,
            exposed: false,
            ended: false,
        });
        if !shared.queues[lane.index()].push(draft.job(entry, fields, cost, reply), Urgency::AtOnce) {
            state.withdraw(entry.sequence);
            drop(state);
            shared.space.leave(lane, cost);
        }
        Ok(synced)
    }
}

fn entry_and_fields(
    state: &mut State,
    draft: &Draft<'_>,
    message: &Moved,
    (time, read): (u32, Option<u32>),
) -> (Entry, Vec<u8>) {
    let party = draft.party.map_or(0, |party| state.parties.intern(party));
    let (incarnation, number) = message.identity.unwrap_or((Incarnation { started_ms: 0, random: 0 }, 0));
    let (known_as, low_water) = match draft.class {
        Class::Outgoing => (state.incarnation_index(incarnation), 0),
        Class::Incoming | Class::IncomingUnnamed if number > 0 => {
            (state.delivered.ordinal(party, incarnation), state.delivered.low_water(party, incarnation))
        }
        Class::Incoming | Class::IncomingUnnamed => (0, 0),
    };
    let entry = Entry {
        sequence: message.sequence.0,
        number,
        first_read: read.map_or(0, |read| read.saturating_add(1)),
        incarnation: known_as,
        ..Entry::new(draft.class, party, draft.len(), time)
    };
    let mut fields = Vec::with_capacity(128 + draft.id.as_str().len());
    MessageFields {
        class: draft.class,
        party: draft.party.map_or("", PartyId::as_str),
        id: draft.id.as_str(),
        incarnation,
        number,
        low_water,
        ordinal: if draft.class == Class::Outgoing { 0 } else { known_as },
        len: entry.len,
        first_segment: 0,
        keyed: None,
    }
    .encode(&mut fields);
    if draft.class != Class::Outgoing {
        state.parties.count(party).is_sender = true;
    }
    (entry, fields)
}
