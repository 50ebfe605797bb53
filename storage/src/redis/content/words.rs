//! Translates what the scripts say into the engine's types, and the other way round.

use crate::face::direction::Class;
use crate::face::engine::Tracked;
use crate::face::message::{DeadLetter, FromSender, PartyId, Sequence};
use crate::index::memory::recent_ends::MessageEnd;

/// Whose messages are meant, in the form that the scripts take.
pub(crate) fn from_text(from: &FromSender) -> String {
    match from {
        FromSender::Any => "*".into(),
        FromSender::Party(party) => format!("={party}"),
        FromSender::Unnamed => "=".into(),
    }
}

/// The sender in a record; `None` if it cannot be one.
#[expect(clippy::option_option, reason = "a sender may be unnamed")]
pub(crate) fn sender_of(party: &str, class: u8) -> Option<Option<PartyId>> {
    match Class::from_byte(class)? {
        Class::IncomingUnnamed => Some(None),
        _ => Some(Some(PartyId::new(party).ok()?)),
    }
}

/// How a message ended that is no longer there.
pub(crate) fn tracked((sequence, end): (u64, MessageEnd)) -> Tracked {
    let sequence = Sequence(sequence);
    match end {
        MessageEnd::Delivered => Tracked::Delivered { sequence },
        MessageEnd::Dropped => Tracked::Dropped { sequence },
        MessageEnd::Released => Tracked::Released { sequence },
        MessageEnd::Expired => Tracked::Expired { sequence },
    }
}

/// The later of a recent end and the dead letter that is kept.
pub(crate) fn tracked_end(past: Option<(u64, MessageEnd)>, letter: Option<DeadLetter>) -> Tracked {
    match (past, letter) {
        (past, Some(letter)) if past.is_none_or(|(ended, _)| ended < letter.sequence.0) => {
            let DeadLetter { sequence, len, reason, dead_for, .. } = letter;
            Tracked::Dead { sequence, len, reason, dead_for }
        }
        (past, _) => past.map_or(Tracked::Unknown, tracked),
    }
}
