//! Dead letters that are dropped and retried.

use std::sync::Arc;

use petnet_storage::{DeadLetter, Engine, Sequence};

use super::reading::direction;
use super::{End, Key, Ledger};

impl Ledger {
    /// Drops all dead letters there are.
    pub async fn drop_letters(&mut self, store: &Arc<dyn Engine>) {
        let Ok(letters) = store.dead_letters(Sequence(0), 10_000).await else { return };
        for letter in letters {
            if store.drop_dead_letter(letter.sequence).await.is_ok() {
                self.letter_is_gone(&letter);
            }
        }
    }

    /// Retries a dead letter, if there is one: the same bytes are sent once more.
    pub async fn retry_letter(&mut self, store: &Arc<dyn Engine>) {
        let Ok(letters) = store.dead_letters(Sequence(0), 1).await else { return };
        // A disk that fails cannot say whose it is.
        let Some(letter) = letters.first().filter(|l| l.id.as_str() != "(unreadable)") else { return };
        let of_letter = |k: &&Key| direction(letter) == k.0 && k.1 == letter.correspondent.name();
        let key = self.keys.keys().filter(of_letter).find(|k| k.2 == letter.id.as_str()).cloned();
        let key = key.unwrap_or_else(|| panic!("{letter:?} was never sent"));
        let bytes =
            self.keys[&key].iter().find(|a| a.bytes.len() as u64 == letter.len).map(|a| a.bytes.clone());
        let bytes = bytes.unwrap_or_else(|| panic!("{letter:?} was never sent"));
        // One that was tried before may be pending: then nothing is written, and nothing synced with it.
        let is_new = self.keys[&key].iter().filter(|a| a.bytes == bytes).count() == 1;
        let at = self.note(&key, bytes, None);
        let result = store.retry_dead_letter(letter.sequence).await;
        self.tell_of(&key, at, &result, is_new);
        if result.is_ok() {
            self.letter_is_gone(letter);
        }
    }

    fn letter_is_gone(&mut self, letter: &DeadLetter) {
        let ttl = if letter.correspondent.is_from() { self.message_ttl } else { self.send_ttl };
        let now = self.now;
        for (key, attempts) in &mut self.keys {
            let same = key.0 == direction(letter)
                && key.1 == letter.correspondent.name()
                && key.2 == letter.id.as_str();
            for attempt in attempts.iter_mut().filter(|a| same && a.bytes.len() as u64 == letter.len) {
                if attempt.dead != End::No || ttl.is_some_and(|ttl| attempt.at + ttl <= now + 1) {
                    attempt.end = End::Asked;
                }
            }
        }
    }
}
