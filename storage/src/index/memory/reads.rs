//! Which messages were handed to readers: the marks of the index in memory, and which of them are still to be written.
//!
//! Pure. A first read sets the mark of the message's entry; everything else here is on its way elsewhere: to the log or to the
//! index on disk. Losing a mark makes a message live longer and never shorter, so nothing waits for any of it. Invariants: the
//! record of a read stands in the lane of its message and behind it, so that a start that reads the message reads its mark, too;
//! a message that moves in the log gets a new record behind its new place.

use std::collections::VecDeque;

use crate::index::maps::Map;
use crate::log::codec::{Fields, PutFields, Short};

/// Number of messages whose order by last read is remembered.
const ORDERED: usize = 65_536;
/// Reads of messages in the index on disk that may wait to be entered there. There are more only while the disk is full; then a
/// message may be taken for unread.
const MARKS: usize = 1 << 18;
/// Reads per record.
pub(crate) const NOTES: usize = 1024;
/// Above any number of seconds of service time, so that reads in this life sort after those before it.
pub(crate) const THIS_LIFE: u64 = 1 << 32;

/// The first read of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadNote {
    pub(crate) key: u128,
    pub(crate) sequence: u64,
    /// Service time in seconds.
    pub(crate) time: u32,
}

impl ReadNote {
    /// Encodes the fields of a record of reads: key, sequence and time of each.
    pub(crate) fn encode(notes: &[Self]) -> Vec<u8> {
        let mut out = Vec::with_capacity(notes.len() * 28);
        for note in notes {
            out.put_u128(note.key);
            out.put_u64(note.sequence);
            out.put_u32(note.time);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Self>, Short> {
        let mut f = Fields(bytes);
        let mut notes = Vec::with_capacity(bytes.len() / 28);
        while !f.0.is_empty() {
            notes.push(Self { key: f.u128()?, sequence: f.u64()?, time: f.u32()? });
        }
        Ok(notes)
    }
}

/// The marks that are still to be written, and the order in which messages were read.
#[derive(Debug, Default)]
pub(crate) struct ReadMarks {
    /// Reads that are not in the log yet, by the lane of their messages.
    pub(crate) unwritten: [Vec<ReadNote>; 2],
    /// Reads of messages in the index on disk that are not entered there yet: sequence and time.
    pub(crate) on_disk: Map<u128, (u64, u32)>,
    /// First reads of messages in memory, oldest first. Some of the messages have ended or moved since.
    pub(crate) order: VecDeque<ReadNote>,
    /// When messages were last read, counted in reads, with the marks of their first reads.
    pub(crate) last: Map<u128, (u64, u32)>,
    lasting: VecDeque<(u128, u64)>,
    count: u64,
}

impl ReadMarks {
    /// Takes what is to be written to the log.
    pub(crate) fn take_unwritten(&mut self) -> [Vec<ReadNote>; 2] {
        std::mem::take(&mut self.unwritten)
    }

    /// Some of the reads that are to be entered in the index on disk.
    pub(crate) fn for_disk(&self, most: usize) -> Vec<ReadNote> {
        let notes = self.on_disk.iter().map(|(key, (sequence, time))| (*key, *sequence, *time));
        notes.take(most).map(|(key, sequence, time)| ReadNote { key, sequence, time }).collect()
    }

    /// The index on disk knows this read, or does not need to.
    pub(crate) fn told_disk(&mut self, note: &ReadNote) {
        if self.on_disk.get(&note.key) == Some(&(note.sequence, note.time)) {
            self.on_disk.remove(&note.key);
        }
    }

    /// The index on disk is gone, and what it held is in memory with these marks, which are written to the log again.
    pub(crate) fn came_back(&mut self, notes: Vec<(usize, ReadNote)>) {
        self.on_disk.clear();
        for (lane, note) in notes {
            self.unwritten[lane].push(note);
            self.order.push_back(note);
        }
        self.order.make_contiguous().sort_by_key(|note| note.time);
    }

    pub(crate) fn tell_disk(&mut self, note: ReadNote) {
        if self.on_disk.len() < MARKS {
            let known = self.on_disk.entry(note.key).or_insert((note.sequence, note.time));
            if known.0 < note.sequence {
                *known = (note.sequence, note.time);
            }
        }
    }

    /// The mark of a message that was read lately, wherever it is; 0 if not known.
    pub(crate) fn mark_of(&self, key: u128) -> u32 {
        self.last.get(&key).map_or(0, |(_, mark)| *mark)
    }

    pub(crate) fn in_order(&mut self, note: ReadNote) {
        // It is nearly always the newest; a message that moved was read earlier.
        let at = self.order.partition_point(|earlier| earlier.time <= note.time);
        if at == self.order.len() { self.order.push_back(note) } else { self.order.insert(at, note) }
    }

    pub(crate) fn was_read_last(&mut self, key: u128, mark: u32) {
        self.count += 1;
        self.last.insert(key, (self.count, mark));
        self.lasting.push_back((key, self.count));
        while self.lasting.len() > ORDERED
            && let Some((key, count)) = self.lasting.pop_front()
        {
            if self.last.get(&key).is_some_and(|(last, _)| *last == count) {
                self.last.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_and_never_past_their_end() {
        let notes = [1, 2, 3].map(|n| ReadNote { key: 7 << 100 | n, sequence: n as u64, time: 9 });
        let bytes = ReadNote::encode(&notes);
        assert_eq!(ReadNote::decode(&bytes), Ok(notes.to_vec()));
        assert_eq!(ReadNote::decode(&bytes[..bytes.len() - 1]), Err(Short));
        assert_eq!(ReadNote::decode(&[]), Ok(Vec::new()));
    }
}
