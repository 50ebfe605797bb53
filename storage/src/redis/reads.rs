//! Which messages were handed to readers: noted here, and written to Redis some at a time.
//!
//! A note costs its reader nothing. The first one wakes the task that writes (`read_writer.rs`). What is noted but not yet
//! written counts at this gateway at once ([`NotedReads::of`]).
//!
//! Invariant: a note that is lost (with the process, with Redis, for lack of room) makes its message live longer, never shorter.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::face::message::{MessageId, Sequence};

/// Notes per script call.
const BATCH: usize = 512;
/// Notes that may wait while Redis is away; beyond that none are made.
const WAITING: usize = 65_536;

/// A message was handed to a reader, at this second of service time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotedRead {
    id: MessageId,
    pub(crate) sequence: u64,
    pub(crate) time: u64,
}

#[derive(Debug, Default)]
struct WaitingNotes {
    /// The notes in the order of the reads.
    waiting: VecDeque<NotedRead>,
    /// Their sequences by id, the last read at the end.
    by_id: HashMap<MessageId, Vec<u64>>,
}

impl WaitingNotes {
    /// Adds a note. Returns false if there was nothing to note.
    fn add(&mut self, read: NotedRead) -> bool {
        let of_id = self.by_id.get(&read.id);
        if self.waiting.len() >= WAITING || of_id.is_some_and(|all| all.last() == Some(&read.sequence)) {
            return false;
        }
        self.by_id.entry(read.id.clone()).or_default().push(read.sequence);
        self.waiting.push_back(read);
        true
    }

    /// The oldest notes have been written.
    fn written(&mut self, count: usize) {
        for read in self.waiting.drain(..count.min(self.waiting.len())) {
            if let Some(all) = self.by_id.get_mut(&read.id) {
                if !all.is_empty() {
                    all.remove(0);
                }
                if all.is_empty() {
                    self.by_id.remove(&read.id);
                }
            }
        }
    }
}

/// Reads that are noted but not yet written.
#[derive(Debug, Default)]
pub(crate) struct NotedReads {
    notes: Mutex<WaitingNotes>,
    pub(crate) wake: Notify,
    /// Ensures that only one task writes at a time.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

impl NotedReads {
    /// A message was handed to a reader, at this second of service time.
    pub(crate) fn note(&self, id: &MessageId, sequence: Sequence, time: u64) {
        let read = NotedRead { id: id.clone(), sequence: sequence.0, time };
        if self.notes.lock().add(read) {
            self.wake.notify_one();
        }
    }

    /// Messages with an id whose reads are not written yet; the last read is at the end.
    pub(crate) fn of(&self, id: &MessageId) -> Vec<u64> {
        self.notes.lock().by_id.get(id).cloned().unwrap_or_default()
    }

    /// Whether a message has a read that is not written yet.
    pub(crate) fn has(&self, id: &MessageId, sequence: u64) -> bool {
        self.notes.lock().by_id.get(id).is_some_and(|all| all.contains(&sequence))
    }

    /// The oldest notes, as many as one script writes.
    pub(crate) fn first(&self) -> Vec<NotedRead> {
        self.notes.lock().waiting.iter().take(BATCH).cloned().collect()
    }

    /// The oldest notes have been written.
    pub(crate) fn written(&self, count: usize) {
        self.notes.lock().written(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MessageId {
        MessageId::new(text).unwrap()
    }

    fn waiting(reads: &NotedReads) -> Vec<u64> {
        reads.first().into_iter().map(|read| read.sequence).collect()
    }

    #[test]
    fn notes_are_kept_in_the_order_of_the_reads_until_they_are_written() {
        let reads = NotedReads::default();
        for (name, sequence) in [("a", 1), ("b", 2), ("a", 3), ("a", 3), ("a", 1), ("b", 2)] {
            reads.note(&id(name), Sequence(sequence), 7);
        }
        assert_eq!(waiting(&reads), [1, 2, 3, 1], "what was read last is not said again");
        assert_eq!((reads.of(&id("a")), reads.of(&id("b"))), (vec![1, 3, 1], vec![2]));
        reads.written(3);
        assert_eq!((reads.of(&id("a")), reads.of(&id("b"))), (vec![1], vec![]));
        reads.written(9);
        assert!(waiting(&reads).is_empty() && reads.notes.lock().by_id.is_empty());
    }

    #[test]
    fn notes_are_bounded_while_redis_is_away() {
        let reads = NotedReads::default();
        for sequence in 0..WAITING as u64 + 10 {
            reads.note(&id(&sequence.to_string()), Sequence(sequence), 7);
        }
        assert_eq!(reads.notes.lock().waiting.len(), WAITING);
        assert_eq!(waiting(&reads).len(), BATCH);
    }
}
