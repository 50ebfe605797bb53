//! Retrying dead letters: they are accepted again, or put back in the mailbox.

use crate::core::shared::blocking;
use crate::face::direction::Class;
use crate::face::engine::Engine;
use crate::face::error::{Result, StoreError};
use crate::face::message::{Correspondent, MessageId, PartyId, Sequence, Stored};
use crate::face::payload::Upload;
use crate::intake::accept::Intake;
use crate::intake::draft::Draft;
use crate::intake::upload::StreamUpload;
use crate::read::frames::Reader;
use crate::store::embedded::Store;

impl Store {
    /// See [`Engine::retry_dead_letter`]. The letter is removed only once the copy is durable.
    pub(crate) async fn begin_anew(&self, sequence: Sequence) -> Result<Option<Sequence>> {
        let Some((letter, payload)) = self.open_dead_letter(sequence).await? else { return Ok(None) };
        let mut copy = StreamUpload::new(self.intake.clone(), Some(payload.len()))?;
        while copy.len() < payload.len() {
            let piece = payload.piece(copy.len()).await?;
            copy.push(piece).await?;
        }
        let begun = match &letter.correspondent {
            Correspondent::To(receiver) => Box::new(copy).accept(receiver, &letter.id).await?,
            Correspondent::From(sender) => self.put_back(copy, sender.as_ref(), &letter.id).await?,
        };
        self.drop_dead_letter(sequence).await?;
        Ok(Some(begun))
    }

    /// Puts an upload into the mailbox, unless its sender has a message with the id there: that one is newer.
    async fn put_back(
        &self,
        mut copy: StreamUpload,
        sender: Option<&PartyId>,
        id: &MessageId,
    ) -> Result<Sequence> {
        let class = if sender.is_some() { Class::Incoming } else { Class::IncomingUnnamed };
        let mut draft = match copy.finish().await? {
            Some(streamed) => Draft::streamed(class, sender, id, streamed),
            None => Draft::new(class, sender, id, copy.rest()).await?,
        };
        draft.only_if_free = true;
        match self.intake.take_arrival(draft, None).await? {
            Stored::New(sequence) => Ok(sequence),
            Stored::Repeated | Stored::Stale => Err(StoreError::Conflict { id: id.to_string() }),
        }
    }
}

impl Intake {
    /// Whether a message is in the mailbox under a draft's key.
    pub(crate) async fn has_mail(&self, draft: &Draft<'_>) -> Result<bool> {
        let key = self.key(draft.class, draft.party.map_or("", PartyId::as_str), draft.id);
        let is_queued = self.shared.state.lock().queued.has(key);
        Ok(is_queued
            || blocking(&self.shared, move |shared| Ok(Reader { shared }.find(&[key])?.is_some())).await?)
    }
}
