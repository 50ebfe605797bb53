//! Dead letters as they are kept in Redis, and as the scripts return them.

use crate::face::message::{Correspondent, DeadLetter, DeadReason, MessageId, PartyId, Sequence};
use crate::write::dead_letters::tell_dropped;
/// What a script returns for a dead letter: sequence, reason and party, id, length, class, seconds since it became one; the last
/// two are empty if they are not known.
pub(crate) type ScriptLetter = (u64, Vec<u8>, Vec<u8>, u64, String, String);

/// A dead letter that had to be dropped: sequence, receiver or sender, id, length.
pub(crate) type GoneLetter = (u64, String, Vec<u8>, u64);

/// The part of a reason that is kept, as in the embedded store.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(crate::write::settle::MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `0` expired, `1` refused, `2` damaged, `3` unread, `4` damaged and unread; then the text. By these a letter of the mailbox is
/// recognised as one when its record cannot be read.
pub(crate) fn reason_text(reason: &DeadReason, arrived: bool) -> String {
    match reason {
        DeadReason::Expired => "0".into(),
        DeadReason::Refused(why) => format!("1{}", shortened(why)),
        DeadReason::Damaged(what) if arrived => format!("4{}", shortened(what)),
        DeadReason::Damaged(what) => format!("2{}", shortened(what)),
        DeadReason::Unread => "3".into(),
    }
}

/// What is kept of a dead letter besides its message.
pub(crate) struct DeadLetterFacts {
    pub(crate) reason: DeadReason,
    /// Receiver or sender; empty if the sender did not name itself.
    party: String,
    /// Whether it arrived, as far as the reason says it.
    arrived: bool,
}

/// Reads what is kept: the result of `reason_text`, a zero byte, and the party.
pub(crate) fn why(kept: &[u8]) -> Option<DeadLetterFacts> {
    let kept = String::from_utf8_lossy(kept);
    let (reason, party) = kept.rsplit_once('\0')?;
    let (number, text) = reason.split_at_checked(1)?;
    let reason = match number {
        "0" => DeadReason::Expired,
        "1" => DeadReason::Refused(text.into()),
        "3" => DeadReason::Unread,
        _ => DeadReason::Damaged(text.into()),
    };
    Some(DeadLetterFacts { reason, party: party.into(), arrived: matches!(number, "3" | "4") })
}

/// The id of a dead letter, or a placeholder if its record is damaged.
pub(crate) fn id_of_letter(id: &[u8]) -> Option<MessageId> {
    let id = std::str::from_utf8(id).ok().and_then(|id| MessageId::new(id).ok());
    id.or_else(|| MessageId::new("(unreadable)").ok())
}

pub(crate) fn letter((sequence, kept, id, len, class, dead_for): ScriptLetter) -> Option<DeadLetter> {
    let DeadLetterFacts { reason, party, arrived } = why(&kept)?;
    let arrived = if class.is_empty() { arrived } else { class != "0" };
    let party = PartyId::new(party).ok();
    Some(DeadLetter {
        sequence: Sequence(sequence),
        correspondent: if arrived { Correspondent::From(party) } else { Correspondent::To(party?) },
        id: id_of_letter(&id)?,
        len,
        reason,
        dead_for: dead_for.parse().ok(),
    })
}

/// Dead letters beyond the limit were dropped. Each is reported, as in the embedded store: nothing is dropped silently.
pub(crate) fn tell_gone(letters: &[GoneLetter], bound: u64) {
    for (_, peer, id, bytes) in letters {
        let id = id_of_letter(id).map(|id| id.to_string()).unwrap_or_default();
        tell_dropped(peer, &id, *bytes, bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_letter_died_is_read_back() {
        let words = || "größer\0als".to_owned();
        let reasons = [
            DeadReason::Expired,
            DeadReason::Refused(words()),
            DeadReason::Damaged(words()),
            DeadReason::Unread,
        ];
        for reason in reasons {
            for (arrived, class) in [(false, "0"), (true, "1"), (true, "2")] {
                let kept = format!("{}\0party_ü", reason_text(&reason, arrived));
                let told = (7, kept.into_bytes(), b"m".to_vec(), 3, class.to_owned(), "5".to_owned());
                let letter = letter(told).unwrap();
                assert_eq!((&letter.reason, letter.dead_for), (&reason, Some(5)));
                assert_eq!(letter.correspondent.is_from(), arrived);
                assert_eq!(letter.correspondent.name(), "party_ü");
            }
        }
    }

    #[test]
    fn of_a_damaged_one_the_direction_is_known_and_no_receiver_is_made_up() {
        let told = |why: &str| (7, why.as_bytes().to_vec(), vec![0xff], 0, String::new(), String::new());
        let of_mail = letter(told("4it cannot be read\0")).unwrap();
        assert_eq!((of_mail.correspondent, of_mail.id.as_str()), (Correspondent::From(None), "(unreadable)"));
        assert_eq!(of_mail.dead_for, None, "one of an older version");
        assert!(letter(told("2it cannot be read\0")).is_none());
        assert!(letter(told("")).is_none());
    }
}
