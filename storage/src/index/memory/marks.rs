//! What a read changes: the mark of an entry in memory, of one that moves, and of one in the index on disk, which is updated
//! later.

use crate::face::direction::Class;
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::reads::{ReadNote, THIS_LIFE};

impl State {
    /// A message was handed to a reader.
    pub(crate) fn note_read(&mut self, key: u128, sequence: u64, now: u32) {
        let several = self.parties.senders() > 1;
        let mark = now.saturating_add(1);
        if let Some(entry) = self.live.get_mut(&key).filter(|entry| entry.sequence == sequence) {
            if entry.is_unread() {
                entry.first_read = mark;
                let entry = *entry;
                self.mark_entered(key, &entry);
            }
        } else if let Some(message) = self.queued.read(key, sequence) {
            if message.entry.is_unread() {
                message.entry.first_read = mark;
            }
        } else if self.cold_mail > 0 && !self.live.contains_key(&key) {
            self.reads.tell_disk(ReadNote { key, sequence, time: now });
        } else {
            return;
        }
        // With a single sender there is nothing to choose between.
        if several {
            let here = self.live.get(&key).map(|entry| entry.first_read);
            // Reading a message in the index on disk a second time changes nothing.
            let known = here.or(Some(self.reads.mark_of(key)).filter(|mark| *mark > 0)).unwrap_or(mark);
            self.reads.was_read_last(key, known);
        }
    }

    /// An entry that has a mark was entered in memory at a place where the log does not have the mark yet.
    pub(crate) fn mark_entered(&mut self, key: u128, entry: &Entry) {
        let Some(time) = entry.read_at() else { return };
        let note = ReadNote { key, sequence: entry.sequence, time };
        let lane = self.lane_of(entry.place);
        self.reads.unwritten[lane.index()].push(note);
        self.reads.in_order(note);
    }

    /// A start found the record of a read. Sets the mark if the message is in memory; returns false if it is not.
    pub(crate) fn mark_again(&mut self, note: &ReadNote) -> bool {
        let Some(entry) = self.live.get_mut(&note.key).filter(|entry| entry.sequence == note.sequence) else {
            return false;
        };
        if entry.read_at().is_none_or(|known| note.time < known) {
            entry.first_read = note.time.saturating_add(1);
            self.reads.in_order(*note);
        }
        true
    }

    /// A start found the record of a read whose message may be in the index on disk.
    pub(crate) fn mark_on_disk(&mut self, note: ReadNote) {
        self.reads.tell_disk(note);
    }

    /// The index on disk has taken over an entry that was read in the meantime.
    pub(crate) fn handed_over_unread(&mut self, key: u128, entry: &Entry) {
        if let Some(time) = entry.read_at() {
            self.reads.tell_disk(ReadNote { key, sequence: entry.sequence, time });
        }
    }

    /// An entry of the index on disk, with the mark that the index does not have yet.
    pub(crate) fn with_mark(&self, key: u128, mut entry: Entry) -> Entry {
        if entry.is_unread()
            && entry.class != Class::Outgoing
            && let Some((_, time)) = self.reads.on_disk.get(&key).filter(|(at, _)| *at == entry.sequence)
        {
            entry.first_read = time.saturating_add(1);
        }
        entry
    }

    /// When a message was last read, in a unit that orders reads; `None` if it never was.
    pub(crate) fn last_read(&self, key: u128, entry: &Entry) -> Option<u64> {
        let first = entry.read_at()?;
        Some(self.reads.last.get(&key).map_or(first.into(), |(count, _)| THIS_LIFE + count))
    }

    /// Takes messages in memory that were read by `until` off the list, oldest first, at most `most`; also drops items whose
    /// message has ended or moved.
    pub(crate) fn read_until(&mut self, until: u32, most: usize) -> Vec<(u128, u64)> {
        let mut over = Vec::new();
        while over.len() < most
            && let Some(note) = self.reads.order.front().copied()
        {
            let entry = self.live.get(&note.key).filter(|entry| entry.sequence == note.sequence);
            let is_here = entry.is_some_and(|entry| entry.read_at() == Some(note.time));
            if is_here && note.time > until {
                break;
            }
            if is_here {
                over.push((note.key, note.sequence));
            }
            self.reads.order.pop_front();
        }
        // The item at the front may stay for long where nothing moves to disk.
        if self.reads.order.len() > 4096 + 2 * self.live.len() {
            let live = &self.live;
            let is_here = |n: &ReadNote| live.get(&n.key).is_some_and(|entry| entry.sequence == n.sequence);
            self.reads.order.retain(is_here);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::Place;

    fn entry(sequence: u64) -> Entry {
        Entry {
            sequence,
            place: Place { segment: 1, offset: 4096 + sequence as u32 * 64 },
            frame_len: 80,
            ..Entry::new(Class::Incoming, 0, 5, 3)
        }
    }

    #[test]
    fn the_first_read_is_what_counts_and_is_written_once() {
        let mut state = State::new(0);
        state.insert(7, entry(1), "m", 3);
        state.note_read(7, 1, 10);
        state.note_read(7, 1, 20);
        state.note_read(7, 99, 20);
        state.note_read(8, 1, 20);
        assert_eq!(state.live[&7].read_at(), Some(10));
        let note = ReadNote { key: 7, sequence: 1, time: 10 };
        assert_eq!(state.reads.take_unwritten(), [vec![note], vec![]]);
        assert!(state.reads.for_disk(9).is_empty(), "nothing is on the disk");
        assert_eq!(state.read_until(9, 9), []);
        assert_eq!(state.read_until(10, 9), [(7, 1)]);
    }

    #[test]
    fn a_message_that_moves_keeps_its_mark_and_gets_a_record_behind_its_new_place() {
        let mut state = State::new(0);
        state.insert(7, entry(1), "m", 3);
        let old = state.live[&7];
        // It was read while it was being moved.
        state.note_read(7, 1, 10);
        let moved = Entry { place: Place { segment: 2, offset: 4096 }, ..old };
        state.reads.take_unwritten();
        state.relocate(7, &old, moved, None, 20);
        assert_eq!(state.live[&7].read_at(), Some(10));
        assert_eq!(state.reads.take_unwritten()[0], [ReadNote { key: 7, sequence: 1, time: 10 }]);
        // This one was in the index on disk, which does not have the mark yet.
        state.cold_mail = 1;
        state.note_read(8, 2, 11);
        let moved = Entry { place: Place { segment: 2, offset: 8192 }, ..entry(2) };
        state.relocate(8, &entry(2), moved, Some("m"), 20);
        assert_eq!(state.live[&8].read_at(), Some(11));
        assert_eq!(state.reads.take_unwritten()[0], [ReadNote { key: 8, sequence: 2, time: 11 }]);
    }

    #[test]
    fn what_is_on_the_disk_is_marked_until_the_disk_knows() {
        let mut state = State::new(0);
        state.cold_mail = 1;
        state.note_read(7, 4, 10);
        assert_eq!(state.with_mark(7, entry(4)).read_at(), Some(10));
        assert!(state.with_mark(7, entry(5)).is_unread(), "another message under the id");
        let notes = state.reads.for_disk(9);
        assert_eq!(notes, [ReadNote { key: 7, sequence: 4, time: 10 }]);
        state.reads.told_disk(&notes[0]);
        assert!(state.with_mark(7, entry(4)).is_unread() && state.reads.for_disk(9).is_empty());
    }
}
