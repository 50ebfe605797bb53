//! What a message is, in 64 bits: kind, reason, party, id, identity, place in the order, content.
//!
//! Against accidents, not against enemies: the hash has no secret. Ages are left out, since in some stores they grow.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Fate, Moved, Tallies, Tally};
use crate::error::{Result, StoreError};
use crate::message::DeadReason;
use crate::payload::Payload;

/// Reads all of a message.
pub(super) async fn digest(message: &Moved) -> Result<u64> {
    let mut hasher = SipHasher13::new();
    let (fate, text) = match &message.fate {
        Fate::Pending => (0, ""),
        Fate::Mailbox => (1, ""),
        Fate::Dead(DeadReason::Expired) => (2, ""),
        Fate::Dead(DeadReason::Refused(text)) => (3, text.as_str()),
        Fate::Dead(DeadReason::Damaged(text)) => (4, text.as_str()),
    };
    hasher.write_u8(fate);
    let party = message.party.as_ref().map_or("", |party| party.as_str());
    for text in [text, party, message.id.as_str()] {
        hasher.write_u64(text.len() as u64);
        hasher.write(text.as_bytes());
    }
    if let Some((incarnation, number)) = message.identity {
        hasher.write_u64(incarnation.started_ms);
        hasher.write_u64(incarnation.random);
        hasher.write_u64(number);
    }
    hasher.write_u64(message.sequence.0);
    hasher.write_u64(message.payload.len());
    read(&message.payload, |piece| hasher.write(piece)).await?;
    Ok(hasher.finish())
}

/// Reads all of a content.
pub(super) async fn read(payload: &Payload, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut at = 0;
    while at < payload.len() {
        let piece = payload.piece(at).await?;
        if piece.is_empty() {
            return Err(ends_early(at));
        }
        at += piece.len() as u64;
        each(&piece);
    }
    Ok(())
}

/// A content that gives fewer bytes than it said.
pub(super) fn ends_early(at: u64) -> StoreError {
    let what = "the content ends early".to_owned();
    StoreError::Damaged { id: "unknown".into(), segment: "the source".into(), offset: at, what }
}

impl Tallies {
    pub(super) fn add(&mut self, message: &Moved, digest: u64) {
        let tally = match message.fate {
            Fate::Pending => &mut self.pending,
            Fate::Mailbox => &mut self.mailbox,
            Fate::Dead(_) => &mut self.dead,
        };
        tally.messages += 1;
        tally.bytes += message.payload.len();
        tally.checksum = tally.checksum.wrapping_add(digest);
    }

    /// All kinds together.
    pub fn all(&self) -> Tally {
        let kinds = [self.pending, self.mailbox, self.dead];
        kinds.into_iter().fold(Tally::default(), |all, kind| Tally {
            messages: all.messages + kind.messages,
            bytes: all.bytes + kind.bytes,
            checksum: all.checksum.wrapping_add(kind.checksum),
        })
    }
}
