//! How messages ended lately, for callers that ask what became of one. In memory only, within a limit.

use std::collections::VecDeque;

use crate::index::maps::Map;

/// Number of ends that are remembered.
const REMEMBERED: usize = 65_536;

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageEnd {
    Delivered,
    /// Dropped by the operator.
    Dropped,
    /// Released by its reader.
    Released,
    /// Expired in the mailbox.
    Expired,
}

/// The ends that are remembered: first in, first out.
#[derive(Debug, Default)]
pub(crate) struct RecentEnds {
    by_key: Map<u128, (u64, MessageEnd)>,
    order: VecDeque<(u128, u64)>,
}

impl RecentEnds {
    /// Records the end of a message.
    pub(crate) fn note(&mut self, key: u128, sequence: u64, end: MessageEnd) {
        self.by_key.insert(key, (sequence, end));
        self.order.push_back((key, sequence));
        if self.order.len() > REMEMBERED
            && let Some((key, sequence)) = self.order.pop_front()
            && self.by_key.get(&key).is_some_and(|(last, _)| *last == sequence)
        {
            self.by_key.remove(&key);
        }
    }

    /// The last end under a key: the message's sequence, and how it ended.
    pub(crate) fn last(&self, key: u128) -> Option<(u64, MessageEnd)> {
        self.by_key.get(&key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ends_are_remembered_within_the_bound() {
        let mut past = RecentEnds::default();
        past.note(7, 1, MessageEnd::Delivered);
        past.note(7, 2, MessageEnd::Dropped);
        assert_eq!(past.last(7), Some((2, MessageEnd::Dropped)));
        for n in 0..REMEMBERED as u64 {
            past.note(1000 + u128::from(n), 10 + n, MessageEnd::Released);
        }
        assert_eq!(past.last(7), None);
        assert_eq!(past.last(1000), Some((10, MessageEnd::Released)));
        assert_eq!((past.by_key.len(), past.order.len()), (REMEMBERED, REMEMBERED));
    }
}
