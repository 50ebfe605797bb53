//! What came of accepting dead letters again, as a text: those for peers are sent again, those that had arrived are back in
//! the mailbox, and for each kind that stays the text says what else can be done.

use std::collections::HashSet;

use petnet_storage::Sequence;

use super::messages;
use super::none::none;

/// Counts of what became of the dead letters that were to be accepted again.
#[derive(Debug, Default)]
pub(super) struct RetriedCounts {
    /// Messages that wait for their peers again.
    pub(super) sent: HashSet<Sequence>,
    /// Number of messages that are in the mailbox again.
    pub(super) put_back: u64,
    /// Number of letters for peers that stay because their ids have newer messages.
    pub(super) left: u64,
    /// Number of letters that arrived and stay for the same reason.
    pub(super) left_in_mailbox: u64,
    /// Why it ended early, and how many letters were left untouched.
    pub(super) stopped: Option<(String, u64)>,
}

impl RetriedCounts {
    /// Number of messages that were accepted again.
    pub(super) fn count(&self) -> u64 {
        self.sent.len() as u64 + self.put_back
    }

    /// Number of letters that stay.
    pub(super) fn failed(&self) -> u64 {
        self.left + self.left_in_mailbox + self.stopped.as_ref().map_or(0, |(_, rest)| *rest)
    }

    /// The answer as a text. `peer`: whose letters were meant; all peers' if empty.
    pub(super) fn in_words(&self, peer: &str) -> String {
        if self.count() + self.failed() == 0 {
            return none(peer);
        }
        let mut parts = Vec::new();
        if !self.sent.is_empty() {
            parts.push(format!("{} accepted anew", messages(self.sent.len() as u64)));
        }
        if self.put_back > 0 {
            parts.push(format!("{} back in the mailbox", messages(self.put_back)));
        }
        if parts.is_empty() {
            parts.push("nothing was begun anew".into());
        }
        if self.left > 0 {
            parts.push(format!(
                "{} left, whose ids have newer messages: name one by its sequence to send it all the same",
                self.left
            ));
        }
        if self.left_in_mailbox > 0 {
            parts.push(format!(
                "{} left, under whose ids a newer message of the sender is in the mailbox: release that one first (petnet mailbox \
                 release), or export the letter",
                self.left_in_mailbox
            ));
        }
        if let Some((why, rest)) = &self.stopped {
            parts.push(format!("then it ended early, {rest} left: {why}"));
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_letter_has_its_own_words_and_what_stays_counts_as_failed() {
        let none = RetriedCounts::default();
        assert_eq!((none.in_words("").as_str(), none.failed()), ("there are no dead letters", 0));
        assert!(none.in_words("b").contains("for b or from it"));
        let mail = RetriedCounts { put_back: 2, left_in_mailbox: 1, ..RetriedCounts::default() };
        let words = mail.in_words("");
        assert!(
            words.starts_with("2 messages back in the mailbox; 1 left") && words.contains("release"),
            "{words}"
        );
        assert!(!words.contains("anew") && !words.contains("send it"), "{words}");
        assert_eq!((mail.count(), mail.failed()), (2, 1));
        let sent = RetriedCounts {
            sent: [Sequence(7)].into(),
            stopped: Some(("full".into(), 3)),
            ..RetriedCounts::default()
        };
        assert_eq!(sent.in_words(""), "1 message accepted anew; then it ended early, 3 left: full");
        assert_eq!(sent.failed(), 3);
        let left = RetriedCounts { left: 1, ..RetriedCounts::default() };
        assert!(
            left.in_words("").starts_with("nothing was begun anew; 1 left, whose ids"),
            "{}",
            left.in_words("")
        );
    }
}
