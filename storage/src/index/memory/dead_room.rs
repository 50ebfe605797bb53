//! How much room dead letters take, and which of them may stay. Pure.
//!
//! Dead letters share a limit of payload bytes, and the oldest are dropped when they take more. Invariants: the newest letter
//! stays until the next one comes. A letter larger than the whole limit displaces no others: it is kept beside them, and only
//! the newest of its kind is. So all of them together take at most the limit plus one message. Which letters stay depends only
//! on which letters there are. The record that one was dropped is lazy; it stands before that of the next letter in the same
//! lane of the log, so what a start finds again is what was dropped last, and it drops the same letters.

use std::collections::BTreeMap;

use crate::index::entry::DeadEntry;
use crate::log::frame::Place;

/// What tells which letter is newest: service time, and the place of its record in the log.
type LetterOrder = (u32, Place);

/// Accounts for the payload bytes of dead letters and says which of them have to be dropped.
#[derive(Debug, Default)]
pub(crate) struct DeadRoom {
    /// Limit in payload bytes; 0 if there is none.
    bound: u64,
    /// Payload bytes of the letters that share the limit.
    bytes: u64,
    /// Letters that are each larger than the limit, by sequence.
    large: BTreeMap<u64, LetterOrder>,
    /// The newest letter and its sequence, while it is there.
    last: Option<(LetterOrder, u64)>,
}

impl DeadRoom {
    pub(crate) fn new(bound: u64) -> Self {
        Self { bound, ..Self::default() }
    }

    fn is_large(&self, len: u64) -> bool {
        self.bound > 0 && len > self.bound
    }

    /// Counts a new letter.
    pub(crate) fn enter(&mut self, letter: &DeadEntry) {
        let (sequence, len) = (letter.entry.sequence, letter.entry.len);
        let came = (letter.death.time.unwrap_or(0), letter.death.place);
        if self.is_large(len) {
            self.large.insert(sequence, came);
        } else {
            self.bytes += len;
        }
        if self.last.is_none_or(|(last, _)| last <= came) {
            self.last = Some((came, sequence));
        }
    }

    /// Takes a dropped letter out of the count.
    pub(crate) fn leave(&mut self, letter: &DeadEntry) {
        let (sequence, len) = (letter.entry.sequence, letter.entry.len);
        if self.is_large(len) {
            self.large.remove(&sequence);
        } else {
            self.bytes = self.bytes.saturating_sub(len);
        }
        self.last = self.last.filter(|(_, last)| *last != sequence);
    }

    /// Sequences of the letters to drop because a newer one is larger than the limit, too.
    pub(crate) fn followed(&self) -> Vec<u64> {
        let kept = self.large.iter().max_by_key(|(_, came)| **came).map(|(sequence, _)| *sequence);
        self.large.keys().copied().filter(|sequence| Some(*sequence) != kept).collect()
    }

    /// Whether some have to be dropped.
    pub(crate) fn is_over(&self) -> bool {
        self.bound > 0 && self.bytes > self.bound
    }

    /// Whether a letter may be dropped when it is the oldest.
    pub(crate) fn may_go(&self, sequence: u64) -> bool {
        !self.large.contains_key(&sequence) && self.last.is_none_or(|(_, last)| last != sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::direction::Class;
    use crate::index::entry::{Death, Entry};

    const BOUND: u64 = 100;
    const LARGEST: u64 = 150;

    /// `at`: position of its record in the log.
    fn letter(sequence: u64, len: u64, at: u32) -> DeadEntry {
        let entry = Entry { sequence, ..Entry::new(Class::Outgoing, 1, len, 0) };
        let place = Place { segment: 1, offset: at };
        let death = Death { reason: 1, text: "".into(), place, frame_len: 0, time: Some(at / 8) };
        DeadEntry { key: sequence.into(), entry, death }
    }

    /// Does what `letters::keep_within_bound` does.
    fn keep_within_bound(room: &mut DeadRoom, letters: &mut BTreeMap<u64, DeadEntry>) {
        for sequence in room.followed() {
            room.leave(&letters.remove(&sequence).expect("is there"));
        }
        let all: Vec<u64> = letters.keys().copied().collect();
        for sequence in all {
            if room.is_over() && room.may_go(sequence) {
                room.leave(&letters.remove(&sequence).expect("is there"));
            }
        }
    }

    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    #[test]
    fn in_any_order_the_last_stays_no_large_one_takes_others_along_and_a_start_comes_to_the_same() {
        let given = std::env::var("PETNET_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
        for seed in given.map_or(0..2000, |seed| seed..seed + 1) {
            let mut random = {
                let mut state = seed;
                move || random(&mut state)
            };
            let (mut room, mut letters) = (DeadRoom::new(BOUND), BTreeMap::new());
            let mut sequences: Vec<u64> = (1..=40).collect();
            for at in 1..=40 {
                let sequence = sequences.remove(random() as usize % sequences.len());
                let len = if random() % 4 == 0 { BOUND + 1 + random() % 50 } else { random() % (BOUND + 1) };
                let one = letter(sequence, len, at);
                let small_before: Vec<u64> = letters
                    .iter()
                    .filter(|(_, l): &(_, &DeadEntry)| l.entry.len <= BOUND)
                    .map(|(s, _)| *s)
                    .collect();
                room.enter(&one);
                letters.insert(sequence, one);
                // The records of what is dropped now may be lost.
                let mut found = letters.clone();
                keep_within_bound(&mut room, &mut letters);
                let mut after = DeadRoom::new(BOUND);
                found.values().rev().for_each(|letter| after.enter(letter));
                keep_within_bound(&mut after, &mut found);
                assert_eq!(found, letters, "seed {seed}: after a start");
                assert!(letters.contains_key(&sequence), "seed {seed}: the last one is gone");
                let total: u64 = letters.values().map(|l| l.entry.len).sum();
                assert!(total <= BOUND + LARGEST, "seed {seed}: {total} bytes");
                if len > BOUND {
                    let all_there = small_before.iter().all(|small| letters.contains_key(small));
                    assert!(all_there, "seed {seed}: a large one took others along");
                }
                if random() % 5 == 0 {
                    // The operator drops one.
                    let dropped = letters.keys().copied().nth(random() as usize % letters.len());
                    let dropped = dropped.and_then(|sequence| letters.remove(&sequence)).expect("is there");
                    room.leave(&dropped);
                }
            }
        }
    }

    #[test]
    fn without_a_bound_all_stay() {
        let mut room = DeadRoom::new(0);
        for n in 1..10 {
            room.enter(&letter(n, 1 << 40, n as u32));
        }
        assert!(!room.is_over() && room.followed().is_empty());
    }
}
