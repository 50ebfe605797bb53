//! Which message a reader is handed that names no sender.
//!
//! Mail is kept under (sender, id). A reader that names only the id is handed an unread message before one that has been read,
//! so that a job with a new partner under an old topic gets its own messages. Two unread ones from different senders are
//! refused, so that nobody can slip in their bytes before the first read. Among messages that have been read it is the one read
//! last, so that a second read returns the same as the first. Pure; both engines follow it.

use crate::face::error::StoreError;
use crate::face::message::{MessageId, PartyId};

/// The newest message of one sender with the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate<T> {
    /// What the candidate stands for.
    pub(crate) what: T,
    pub(crate) sequence: u64,
    /// When it was last handed to a reader, in any unit that orders reads; `None` if it never was.
    pub(crate) last_read: Option<u64>,
}

/// What the reader is handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    /// Nothing is there.
    None,
    /// This one.
    One(T),
    /// Nothing: these are unread, and of different senders.
    Ambiguous(Vec<T>),
}

/// Chooses among the newest messages of the senders, one of each.
pub(crate) fn choose<T>(candidates: impl IntoIterator<Item = Candidate<T>>) -> Choice<T> {
    let mut unread = Vec::new();
    let mut read: Option<Candidate<T>> = None;
    for candidate in candidates {
        let rank = |c: &Candidate<T>| (c.last_read, c.sequence);
        if candidate.last_read.is_none() {
            unread.push(candidate.what);
        } else if read.as_ref().is_none_or(|best| rank(best) < rank(&candidate)) {
            read = Some(candidate);
        }
    }
    match (unread.pop(), read) {
        (Some(only), _) if unread.is_empty() => Choice::One(only),
        (Some(last), _) => {
            unread.push(last);
            Choice::Ambiguous(unread)
        }
        (None, Some(read)) => Choice::One(read.what),
        (None, None) => Choice::None,
    }
}

impl StoreError {
    /// The refusal, which names all the senders; `None` stands for one that did not name itself.
    pub fn ambiguous(id: &MessageId, senders: impl IntoIterator<Item = Option<PartyId>>) -> Self {
        let name = |sender: Option<PartyId>| match sender {
            Some(party) => format!("{:?}", party.as_str()),
            None => "a sender that did not name itself".to_owned(),
        };
        let mut senders: Vec<String> = senders.into_iter().map(name).collect();
        senders.sort_unstable();
        Self::Ambiguous { id: id.to_string(), senders }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[(u64, Option<u64>)]) -> Choice<u64> {
        choose(list.iter().map(|&(sequence, last_read)| Candidate { what: sequence, sequence, last_read }))
    }

    #[test]
    fn unread_goes_before_read_two_unread_are_refused_and_of_read_ones_the_last_read_is_given() {
        assert_eq!(of(&[]), Choice::None);
        assert_eq!(of(&[(1, None)]), Choice::One(1));
        assert_eq!(of(&[(9, Some(3)), (1, None), (5, Some(9))]), Choice::One(1));
        assert_eq!(of(&[(1, None), (9, Some(3)), (2, None), (3, None)]), Choice::Ambiguous(vec![1, 2, 3]));
        assert_eq!(of(&[(9, Some(3)), (1, Some(4)), (5, Some(2))]), Choice::One(1));
        assert_eq!(
            of(&[(5, Some(4)), (9, Some(4)), (1, Some(4))]),
            Choice::One(9),
            "at the same time: the newer"
        );
    }

    #[test]
    fn the_refusal_names_all_and_says_what_to_do() {
        let id = MessageId::new("round:7").expect("valid");
        let party = |name: &str| Some(PartyId::new(name).expect("valid"));
        let text = StoreError::ambiguous(&id, [party("party_c"), None, party("party_b")]).to_string();
        let expected = "message id \"round:7\" is held from \"party_b\" and from \"party_c\" and from a sender that did not name itself, and nobody has read either: ask with petnet-sender (sender_id), which names one";
        assert_eq!(text, expected);
    }
}
