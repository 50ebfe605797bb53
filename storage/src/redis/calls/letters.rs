//! Dead letters of both directions, as reported by the scripts.

use crate::face::error::Result;
use crate::face::message::{DeadLetter, FromSender, MessageId, PartyId, Sequence};
use crate::face::payload::Payload;
use crate::redis::calls::store::RedisStore;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::letters::{ScriptLetter, letter};
use crate::redis::content::pieces::RedisPieces;
use crate::redis::content::words::from_text;

impl RedisStore {
    async fn ask_letters(&self, add: impl Fn(&mut redis::Cmd)) -> Result<Vec<DeadLetter>> {
        let all: Vec<ScriptLetter> = self.inner.ask(Way::Read, &SCRIPTS.letters, add).await?;
        Ok(all.into_iter().filter_map(letter).collect())
    }

    pub(crate) async fn letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>> {
        self.ask_letters(|call| {
            call.arg("list").arg(after.0).arg(limit);
        })
        .await
    }

    pub(crate) async fn newest_letters(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        self.ask_letters(|call| {
            call.arg("newest").arg(limit);
        })
        .await
    }

    /// The newest dead letter with an id that was addressed to a party.
    pub(crate) async fn letter_to(&self, receiver: &PartyId, id: &MessageId) -> Result<Option<DeadLetter>> {
        let of = self.ask_letters(|call| {
            call.arg("of").arg(receiver.as_str()).arg(id.as_str());
        });
        Ok(of.await?.pop())
    }

    /// The newest dead letter with an id that arrived.
    pub(crate) async fn letter_from(&self, from: &FromSender, id: &MessageId) -> Result<Option<DeadLetter>> {
        let of = self.ask_letters(|call| {
            call.arg("unread").arg(from_text(from)).arg(id.as_str());
        });
        Ok(of.await?.pop())
    }

    pub(crate) async fn open_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>> {
        let before = Sequence(sequence.0.saturating_sub(1));
        let found = self.letters(before, 1).await?.into_iter().find(|letter| letter.sequence == sequence);
        let Some(letter) = found else { return Ok(None) };
        let mut get = redis::cmd("GET");
        get.arg(format!("{}m:{}", self.inner.prefix, sequence.0));
        let kept: Option<Vec<u8>> = self.inner.ask_plainly(Way::Bulk, &get).await?;
        let Some(kept) = kept else { return Ok(None) };
        let record = self.inner.record(sequence.0, &kept.into())?;
        Ok(Some((letter, RedisPieces::of(&self.inner, &record))))
    }
}
