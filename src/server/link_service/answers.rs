//! Which tags of a stream are answered: a number below which all are, and those above.

use std::collections::BTreeSet;

use crate::proto::peer::{Answers, Refusal};
use crate::proto::simple::Response;
use crate::wire::status;

/// The tags of a stream that are answered, and what the peer still has to be told of them.
#[derive(Debug, Default)]
pub(super) struct AnsweredTags {
    /// The tag of the next delivery.
    expected: u64,
    /// Every tag below is answered, and the peer knows.
    below: u64,
    /// Answered tags above it.
    above: BTreeSet<u64>,
    /// Tags of kept deliveries that the peer has not been told of.
    kept: Vec<u64>,
    refused: Vec<Refusal>,
}

impl AnsweredTags {
    /// Notes that a delivery came; the error says what is wrong with its tag.
    pub(super) fn expect(&mut self, tag: u64) -> Result<(), String> {
        if tag != self.expected {
            return Err(format!("tag {tag} where {} is next", self.expected));
        }
        self.expected += 1;
        Ok(())
    }

    /// Notes that a delivery is durable here.
    pub(super) fn kept(&mut self, tag: u64) {
        self.above.insert(tag);
        self.kept.push(tag);
    }

    /// Notes that a delivery was refused.
    pub(super) fn refused(&mut self, tag: u64, response: Response) {
        self.above.insert(tag);
        self.refused.push(Refusal {
            tag,
            error_code: response.error_code.unwrap_or(status::code::UNKNOWN),
            error_msg: response.error_msg.unwrap_or_default(),
        });
    }

    /// Writes what the peer has not been told of into `answers`.
    pub(super) fn write(&mut self, answers: &mut Answers) {
        let before = self.below;
        while self.above.remove(&self.below) {
            self.below += 1;
        }
        answers.answered_below = if self.below > before { self.below } else { 0 };
        answers.kept = self.kept.drain(..).filter(|tag| *tag >= self.below).collect();
        answers.refused = std::mem::take(&mut self.refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_order_are_one_number_and_others_are_named_once() {
        let mut answered = AnsweredTags::default();
        for tag in 0..6 {
            assert_eq!(answered.expect(tag), Ok(()));
        }
        assert!(answered.expect(7).is_err());
        let told = |answered: &mut AnsweredTags| {
            let mut answers = Answers::default();
            answered.write(&mut answers);
            let refused: Vec<u64> = answers.refused.iter().map(|refusal| refusal.tag).collect();
            (answers.answered_below, answers.kept, refused)
        };
        answered.kept(0);
        answered.kept(3);
        assert_eq!(told(&mut answered), (1, vec![3], vec![]));
        answered.kept(4);
        assert_eq!(told(&mut answered), (0, vec![4], vec![]));
        answered.kept(2);
        answered.refused(1, status::done());
        assert_eq!(told(&mut answered), (5, vec![], vec![1]));
        answered.kept(5);
        assert_eq!(told(&mut answered), (6, vec![], vec![]));
    }
}
