//! The index in memory: dead letters.

use crate::face::direction::Class;
use crate::index::entry::{DeadEntry, Death, Entry, RecentEntry};
use crate::index::memory::State;

impl State {
    /// The index on disk has taken over a dead letter.
    pub(crate) fn hand_over_dead(&mut self, letter: &DeadEntry) {
        self.dead.remove(&letter.entry.sequence);
        self.cold_dead += 1;
        if let Some(account) = self.accounts.get_mut(&letter.death.place.segment) {
            account.cold.add(letter.entry.sequence, letter.death.place);
        }
    }

    /// Moves a pending message to the dead letters. `cold`: it was in the index on disk.
    pub(crate) fn bury(&mut self, key: u128, entry: Entry, death: Death, cold: bool, arrived: u32) {
        self.dirty = true;
        self.hold(&entry);
        if cold {
            self.leave_cold(&entry);
        } else {
            self.live.remove(&key);
        }
        self.uncount(&entry);
        self.enter_dead(DeadEntry { key, entry, death }, arrived);
    }

    /// Enters a dead letter whose message is already counted.
    pub(crate) fn enter_dead(&mut self, letter: DeadEntry, arrived: u32) {
        let place = letter.death.place;
        if let Some(account) = self.accounts.get_mut(&place.segment) {
            account.owed += 1;
            account.live_bytes += u64::from(letter.death.frame_len);
        }
        if letter.entry.class != Class::Outgoing {
            // Readers look for it among those of the senders.
            self.parties.count(letter.entry.party).is_sender = true;
        }
        let lane = self.lane_of(place);
        self.fifo[lane.index()].push_back(RecentEntry {
            sequence: letter.entry.sequence,
            key: letter.key,
            place,
            time: arrived,
            dead_letter: true,
        });
        self.dead_room.enter(&letter);
        self.dead.insert(letter.entry.sequence, letter);
    }

    /// Ends a dead letter together with its message. `cold`: it was in the index on disk.
    pub(crate) fn remove_dead(&mut self, letter: &DeadEntry, cold: bool) {
        self.dirty = true;
        if cold {
            self.cold_dead = self.cold_dead.saturating_sub(1);
            if let Some(account) = self.accounts.get_mut(&letter.death.place.segment) {
                account.cold.remove(letter.entry.sequence, letter.death.place);
            }
        } else {
            self.dead.remove(&letter.entry.sequence);
        }
        self.dead_room.leave(letter);
        self.account(&letter.entry, false);
        self.mark_dead(letter.entry.place);
        self.uncount_death(letter);
    }

    /// Takes the dead-letter frame itself out of its segment's account.
    pub(crate) fn uncount_death(&mut self, letter: &DeadEntry) {
        if let Some(account) = self.accounts.get_mut(&letter.death.place.segment) {
            account.owed = account.owed.saturating_sub(1);
            account.live_bytes = account.live_bytes.saturating_sub(u64::from(letter.death.frame_len));
        }
        self.mark_dead(letter.death.place);
    }
}
