//! Enters messages of another store with the place in the order, the identity and the age that they had there.
//!
//! Invariants: when [`Filling::put`] returns, all of it is durable, dead letters as such; a message that is there is not
//! entered again; of one id, a letter is one before the next message comes.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::digest::ends_early;
use super::folder_target::Filling;
use super::{Fate, Moved, Result, TransferError};
use crate::accept::{Intake, Streamed};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::error::StoreError;
use crate::frame::{Class, MessageFields, Place};
use crate::job::{Reply, Urgency};
use crate::log::lock;
use crate::message::{DeadReason, Incarnation, MessageId, PartyId, Sequence};
use crate::payload::Payload;
use crate::queued::QueuedMessage;
use crate::reader::Reader;
use crate::settle;
use crate::state::State;
use crate::upload::StreamUpload;

/// Messages on their way to the disk.
#[derive(Debug, Default)]
struct OnTheirWay {
    synced: Vec<oneshot::Receiver<crate::error::Result<()>>>,
    letters: Vec<(PartyId, Sequence, DeadReason)>,
    /// Receivers and ids of those letters.
    buried: HashSet<(PartyId, MessageId)>,
}

impl Filling {
    /// Keeps a batch.
    pub(super) async fn put(&self, batch: &[Moved]) -> Result<()> {
        let mut way = OnTheirWay::default();
        for message in batch {
            if let Some(party) = &message.party
                && way.buried.contains(&(party.clone(), message.id.clone()))
            {
                // As long as the letter is a pending message, this one would replace it.
                self.arrive(std::mem::take(&mut way)).await?;
            }
            if !self.there.contains(&message.sequence.0) {
                self.enter(message, &mut way).await?;
            }
            if let Fate::Dead(reason) = &message.fate {
                let receiver = receiver(message)?;
                way.buried.insert((receiver.clone(), message.id.clone()));
                way.letters.push((receiver.clone(), message.sequence, reason.clone()));
            }
        }
        self.arrive(way).await
    }

    /// Waits for the disk, then makes letters of what is to be one.
    async fn arrive(&self, way: OnTheirWay) -> Result<()> {
        for synced in way.synced {
            synced.await.map_err(|_| StoreError::Closed)??;
        }
        let mut burials = Vec::with_capacity(way.letters.len());
        for (receiver, sequence, reason) in way.letters {
            let bury = move |shared: &std::sync::Arc<crate::shared::Shared>| {
                let party = lock(&shared.state).parties.find(&receiver);
                let reader = Reader { shared };
                let found = party.map(|party| reader.pending_entry(party, sequence)).transpose()?.flatten();
                // It is a letter already.
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
        let class = match (&message.fate, &message.party) {
            (Fate::Pending | Fate::Dead(_), _) => Class::Outgoing,
            (Fate::Mailbox, Some(_)) => Class::Incoming,
            (Fate::Mailbox, None) => Class::IncomingUnnamed,
        };
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

fn receiver(message: &Moved) -> Result<&PartyId> {
    let why = || format!("a {} has no receiver", message.fate);
    message.party.as_ref().ok_or_else(|| TransferError::Unfit { sequence: message.sequence.0, why: why() })
}

impl StreamUpload {
    /// Takes all of a content. `None`: it is no large message; [`rest`](Self::rest) has it.
    async fn take_all(&mut self, payload: &Payload) -> crate::error::Result<Option<Streamed>> {
        use crate::payload::Upload;
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
    /// Queues a message; its answer comes with the sync.
    async fn enter_moved(
        &self,
        draft: &Draft<'_>,
        message: &Moved,
        time: u32,
    ) -> crate::error::Result<oneshot::Receiver<crate::error::Result<()>>> {
        let (permit, cost) = self.admit(draft).await?;
        let shared = &self.shared;
        let lane = draft.lane();
        let (reply, synced) = Reply::new(Some(permit));
        let mut state = lock(&shared.state);
        let (entry, fields) = entry_and_fields(&mut state, draft, message, time);
        state.last_sequence = state.last_sequence.max(entry.sequence);
        state.queued.push(QueuedMessage {
            key: self.key(draft.class, draft.party.map_or("", PartyId::as_str), draft.id),
            entry,
            id: draft.id.clone(),
            party: draft.party.cloned(),
            payload: draft.shown(),
            // The memory of deliveries came as a whole.
            identity: None,
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

fn entry_and_fields(state: &mut State, draft: &Draft<'_>, message: &Moved, time: u32) -> (Entry, Vec<u8>) {
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
        len: draft.len(),
        number,
        place: Place::default(),
        frame_len: 0,
        first_segment: 0,
        time,
        incarnation: known_as,
        party,
        class: draft.class,
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
    }
    .encode(&mut fields);
    if draft.class != Class::Outgoing {
        state.parties.count(party).is_sender = true;
    }
    (entry, fields)
}
