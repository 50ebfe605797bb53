//! Sends that are retried. With a key they are the same acceptance for as long as the key is remembered; without one, the
//! same bytes under the same id are the same message while that is pending, and no longer: a program that is run again with
//! the same bytes must have its message sent again.
//!
//! Only the newest message under an id counts, so that after A, B, A the last A replaces B.

use bytes::Bytes;

use crate::core::reply::Reply;
use crate::core::shared::{Shared, blocking};
use crate::core::write_queue::{Job, Urgency};
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{MessageId, PartyId, SendKey, Sequence};
use crate::face::payload::Payload;
use crate::index::entry::Entry;
use crate::index::sends::SendFingerprint;
use crate::intake::accept::Intake;
use crate::intake::draft::{Draft, EarlierTry};
use crate::log::segment::{BULK_FROM_BYTES, Lane};
use crate::read::content::StoredPieces;
use crate::read::find;
use crate::read::frames::Reader;

/// What is pending under an index key.
enum PendingUnderKey {
    Nothing,
    Queued(Sequence, Bytes),
    InLog(Entry),
    /// It may be in the index on disk.
    AskDisk,
}

/// The lane of a message; `None` for one whose slices came one by one.
fn lane_of(payload: Option<&Bytes>) -> Lane {
    if payload.is_some_and(|payload| payload.len() < BULK_FROM_BYTES) { Lane::Small } else { Lane::Bulk }
}

impl Intake {
    /// The earlier try of the same send, if there is one.
    pub(crate) async fn earlier(&self, draft: &Draft<'_>) -> Result<Option<EarlierTry>> {
        if draft.class != Class::Outgoing {
            return Ok(None);
        }
        let mail = self.key(Class::Outgoing, draft.party.map_or("", PartyId::as_str), draft.id);
        match &draft.keyed {
            Some(keyed) => self.of_key(mail, &keyed.key, |print| {
                print.differs(SendFingerprint::new(mail, draft.len(), keyed.content_crc))
            }),
            None => self.same_pending(mail, draft).await,
        }
    }

    /// The acceptance that a key names. `differs` says how the send differs from the one that the key was used for, if it
    /// does.
    fn of_key(
        &self,
        mail: u128,
        key: &SendKey,
        differs: impl Fn(SendFingerprint) -> Option<&'static str>,
    ) -> Result<Option<EarlierTry>> {
        let state = self.shared.state.lock();
        let Some(sent) = state.sends.find(key) else { return Ok(None) };
        if let Some(what) = differs(sent.print) {
            return Err(StoreError::OtherSend { what });
        }
        let queued = state.queued.get(sent.sequence).filter(|_| !state.sends.is_in_log(key));
        let queued = queued.map(|message| lane_of(message.payload.as_ref()));
        Ok(Some(EarlierTry { sequence: Sequence(sent.sequence), mail, key: Some(*key), queued }))
    }

    /// See [`Engine::accepted_before`](crate::Engine::accepted_before).
    pub(crate) async fn accepted_before(
        &self,
        (receiver, id): (&PartyId, &MessageId),
        len: Option<u64>,
        key: &SendKey,
    ) -> Result<Option<Sequence>> {
        let mail = self.key(Class::Outgoing, receiver.as_str(), id);
        let differs = |print: SendFingerprint| {
            let mine = SendFingerprint {
                len: len.map_or(print.len, |len| len as u32),
                ..SendFingerprint::new(mail, 0, print.crc)
            };
            print.differs(mine)
        };
        let Some(earlier) = self.of_key(mail, key, differs)? else { return Ok(None) };
        Ok(self.is_kept(earlier).await?.then_some(earlier.sequence))
    }

    /// Waits for the sync of an earlier try. False if that was not accepted.
    pub(crate) async fn is_kept(&self, earlier: EarlierTry) -> Result<bool> {
        let EarlierTry { sequence: Sequence(sequence), mail, key, queued } = earlier;
        let Some(lane) = queued else {
            blocking(&self.shared, Shared::visible_synced).await?;
            return Ok(true);
        };
        let (reply, synced) = Reply::new(None);
        self.shared.queues[lane.index()].push(Job::Barrier(reply), Urgency::AtOnce);
        synced.await.map_err(|_| StoreError::Closed)??;
        let state = self.shared.state.lock();
        if let Some(key) = key {
            return Ok(
                state.sends.is_in_log(&key) && state.sends.find(&key).is_some_and(|s| s.sequence == sequence)
            );
        }
        let is_pending = state.live.get(&mail).is_some_and(|entry| entry.sequence == sequence);
        Ok(is_pending || state.past.last(mail).is_some_and(|(ended, _)| ended == sequence))
    }

    fn pending_under(&self, mail: u128, draft: &Draft<'_>) -> PendingUnderKey {
        let state = self.shared.state.lock();
        if let Some(message) = state.queued.last(mail) {
            return match &message.payload {
                Some(payload) if payload.len() as u64 == draft.len() => {
                    PendingUnderKey::Queued(Sequence(message.entry.sequence), payload.clone())
                }
                _ => PendingUnderKey::Nothing,
            };
        }
        if let Some(entry) = state.live.get(&mail) {
            return if entry.len == draft.len() {
                PendingUnderKey::InLog(*entry)
            } else {
                PendingUnderKey::Nothing
            };
        }
        let party = draft.party.and_then(|party| state.parties.find(party));
        let counts = party.and_then(|party| state.parties.counts.get(usize::from(party)));
        if counts.is_none_or(|counts| counts.cold_pending == 0) {
            PendingUnderKey::Nothing
        } else {
            PendingUnderKey::AskDisk
        }
    }

    /// Whether the pending message under the draft's id may be the same one: it has the same length, or that is not known.
    pub(crate) fn may_be_pending(&self, draft: &Draft<'_>) -> bool {
        let mail = self.key(Class::Outgoing, draft.party.map_or("", PartyId::as_str), draft.id);
        draft.keyed.is_none() && !matches!(self.pending_under(mail, draft), PendingUnderKey::Nothing)
    }

    async fn same_pending(&self, mail: u128, draft: &Draft<'_>) -> Result<Option<EarlierTry>> {
        let earlier = |sequence, queued| EarlierTry { sequence, mail, key: None, queued };
        let entry = match self.pending_under(mail, draft) {
            PendingUnderKey::Nothing => return Ok(None),
            PendingUnderKey::Queued(sequence, payload) => {
                let lane = lane_of(Some(&payload));
                return Ok((draft.shown().is_some_and(|mine| mine == payload))
                    .then(|| earlier(sequence, Some(lane))));
            }
            PendingUnderKey::InLog(entry) => Some(entry),
            PendingUnderKey::AskDisk => {
                blocking(&self.shared, move |shared| find::pending(shared, mail)).await?
            }
        };
        let is_it = |entry: &Entry| {
            entry.class == Class::Outgoing
                && entry.len == draft.len()
                && !entry.is_expired(self.shared.now(), self.shared.send_ttl())
        };
        let Some(entry) = entry.filter(is_it) else { return Ok(None) };
        let is_same = match (Reader { shared: &self.shared }).cached(&entry) {
            Some(loaded) => Payload::Whole(loaded.payload).is_same(&self.content(draft)).await,
            None => self.is_same_on_disk(mail, entry, draft).await,
        };
        match is_same {
            Ok(true) => Ok(Some(earlier(Sequence(entry.sequence), None))),
            // It ended in the meantime, or its content can no longer be read.
            Ok(false) | Err(StoreError::Gone { .. } | StoreError::Damaged { .. } | StoreError::Io { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn is_same_on_disk(&self, mail: u128, entry: Entry, draft: &Draft<'_>) -> Result<bool> {
        let id = draft.id.clone();
        let held = blocking(&self.shared, move |shared| {
            Ok((Reader { shared }).open(shared, mail, &entry, Some(&id))?.1)
        });
        held.await?.is_same(&self.content(draft)).await
    }

    /// The content of a draft.
    fn content(&self, draft: &Draft<'_>) -> Payload {
        match (draft.shown(), draft.uploaded()) {
            (None, Some(streamed)) => Payload::Pieces(std::sync::Arc::new(StoredPieces::of_upload(
                self.shared.clone(),
                draft.id,
                streamed,
            ))),
            (shown, _) => Payload::Whole(shown.unwrap_or_default()),
        }
    }
}
