//! What is due when, for one peer. Pure: the caller supplies the time.
//!
//! It is only a waiting room, because the store is the queue. So it is bounded; what finds no place is forgotten here and
//! found again in the store later. Invariant: a message is in it at most once, and never handed out before it is due.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use petnet_storage::{Pending, Sequence};

/// A message to deliver, and how often delivering it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveryWork {
    /// The message.
    pub(crate) pending: Pending,
    /// Failed attempts since it was last read from the store's list.
    pub(crate) failures: u32,
}

/// Messages that wait for another attempt.
#[derive(Debug)]
pub(crate) struct RetryQueue {
    capacity: usize,
    by_time: BTreeMap<(Instant, Sequence), DeliveryWork>,
    due_of: HashMap<Sequence, Instant>,
}

impl RetryQueue {
    /// An empty queue for at most `capacity` messages.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, by_time: BTreeMap::new(), due_of: HashMap::new() }
    }

    /// Adds a message, to be handed out from `due` on. False if there is no room for it.
    #[must_use]
    pub(crate) fn push(&mut self, due: Instant, work: DeliveryWork) -> bool {
        let sequence = work.pending.sequence;
        if let Some(old) = self.due_of.remove(&sequence) {
            self.by_time.remove(&(old, sequence));
        }
        if self.by_time.len() >= self.capacity {
            return false;
        }
        self.due_of.insert(sequence, due);
        self.by_time.insert((due, sequence), work);
        true
    }

    /// The messages that are due at `now`, longest due first.
    pub(crate) fn due(&self, now: Instant) -> impl Iterator<Item = &DeliveryWork> {
        self.by_time.range(..=(now, Sequence(u64::MAX))).map(|(_, work)| work)
    }

    /// Makes all messages due at `now`.
    pub(crate) fn all_due(&mut self, now: Instant) {
        let all: Vec<DeliveryWork> = std::mem::take(&mut self.by_time).into_values().collect();
        for work in all {
            self.due_of.insert(work.pending.sequence, now);
            self.by_time.insert((now, work.pending.sequence), work);
        }
    }

    /// When the next message that is not due at `now` becomes due.
    pub(crate) fn next_after(&self, now: Instant) -> Option<Instant> {
        self.by_time.range((now, Sequence(u64::MAX))..).map(|((due, _), _)| *due).find(|due| *due > now)
    }

    /// Takes a message out.
    pub(crate) fn remove(&mut self, sequence: Sequence) -> Option<DeliveryWork> {
        let due = self.due_of.remove(&sequence)?;
        self.by_time.remove(&(due, sequence))
    }

    /// Whether a message waits here.
    pub(crate) fn contains(&self, sequence: Sequence) -> bool {
        self.due_of.contains_key(&sequence)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// Number of messages in the queue.
    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::Random;

    fn work(sequence: u64) -> DeliveryWork {
        let pending = Pending {
            sequence: Sequence(sequence),
            id_key: u128::from(sequence),
            len: 1,
            age: 0,
            expires_in: None,
        };
        DeliveryWork { pending, failures: 1 }
    }

    #[test]
    fn full_queue_takes_nothing_more() {
        let now = Instant::now();
        let mut queue = RetryQueue::new(2);
        assert!(queue.push(now, work(1)));
        assert!(queue.push(now, work(2)));
        assert!(!queue.push(now, work(3)));
        assert!(queue.push(now, work(2)), "what is in it already may be put off");
        assert_eq!(queue.len(), 2);
    }

    /// Compares the queue with the simplest possible model: a map from sequence to due time.
    #[test]
    fn nothing_is_early_lost_or_doubled() {
        let start = Instant::now();
        let mut random = Random::new();
        for _ in 0..200 {
            let capacity = 1 + random.below(20) as usize;
            let mut queue = RetryQueue::new(capacity);
            let mut model: HashMap<u64, Instant> = HashMap::new();
            for _ in 0..200 {
                let sequence = random.below(30);
                let at = start + Duration::from_millis(random.below(50));
                match random.below(3) {
                    0 | 1 => {
                        let room = model.len() < capacity || model.contains_key(&sequence);
                        assert_eq!(queue.push(at, work(sequence)), room, "{random:?}");
                        if room {
                            model.insert(sequence, at);
                        }
                    }
                    _ => {
                        let there = model.remove(&sequence).is_some();
                        assert_eq!(queue.remove(Sequence(sequence)).is_some(), there, "{random:?}");
                    }
                }
                let now = start + Duration::from_millis(random.below(50));
                let mut due: Vec<u64> = queue.due(now).map(|work| work.pending.sequence.0).collect();
                let mut expected: Vec<u64> =
                    model.iter().filter(|(_, at)| **at <= now).map(|(sequence, _)| *sequence).collect();
                assert!(due.iter().map(|sequence| model[sequence]).is_sorted(), "{random:?}");
                due.sort_unstable();
                expected.sort_unstable();
                assert_eq!(due, expected, "{random:?}");
                let next = model.values().filter(|at| **at > now).min().copied();
                assert_eq!(queue.next_after(now), next, "{random:?}");
                assert_eq!(queue.len(), model.len(), "{random:?}");
            }
        }
    }
}
