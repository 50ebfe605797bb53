//! A 64-bit digest of a message: kind, reason, party, id, identity, place in the order, content.
//!
//! It guards against accidents, not against attackers: the hash has no secret. Ages are left out, since in some stores they
//! grow.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Fate, Moved, Tallies, Tally};
use crate::face::error::{Result, StoreError};
use crate::face::message::DeadReason;
use crate::face::payload::Payload;

/// The number of a dead letter of a kind, and its text.
fn dead(kind: u8, why: &DeadReason) -> (u8, &str) {
    let text = match why {
        DeadReason::Expired | DeadReason::Unread => "",
        DeadReason::Refused(text) | DeadReason::Damaged(text) => text.as_str(),
    };
    (kind + why.number() as u8, text)
}

/// Reads the whole message and digests it.
pub(super) async fn digest(message: &Moved) -> Result<u64> {
    let mut hasher = SipHasher13::new();
    let (fate, text) = match &message.fate {
        Fate::Pending => (0, ""),
        Fate::Mailbox => (1, ""),
        Fate::Dead(why) => dead(2, why),
        Fate::DeadMail(why) => dead(6, why),
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

/// Reads the whole content.
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

/// The error for a content that has fewer bytes than it said.
pub(super) fn ends_early(at: u64) -> StoreError {
    let what = "the content ends early".to_owned();
    StoreError::Damaged { id: "unknown".into(), segment: "the source".into(), offset: at, what }
}

impl Tallies {
    pub(super) fn add(&mut self, message: &Moved, digest: u64) {
        let tally = match message.fate {
            Fate::Pending => &mut self.pending,
            Fate::Mailbox => &mut self.mailbox,
            Fate::Dead(_) | Fate::DeadMail(_) => &mut self.dead,
        };
        tally.messages += 1;
        tally.bytes += message.payload.len();
        tally.checksum = tally.checksum.wrapping_add(digest);
    }

    /// The total of all kinds.
    pub fn all(&self) -> Tally {
        let kinds = [self.pending, self.mailbox, self.dead];
        kinds.into_iter().fold(Tally::default(), |all, kind| Tally {
            messages: all.messages + kind.messages,
            bytes: all.bytes + kind.bytes,
            checksum: all.checksum.wrapping_add(kind.checksum),
        })
    }
}
