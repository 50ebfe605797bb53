//! The index in memory: which message is where, what is pending, what counts as delivered, and what each segment
//! still holds. Pure: it touches no file and no clock.
//!
//! Recent messages are indexed here; what outlives some seconds moves to the index on disk (`cold.rs`) and is then
//! known here only by counts. Invariants:
//! * for one key the highest sequence wins, in whatever order entries come;
//! * an entry is valid only while its place is not in the dead set of its segment;
//! * `fifo` holds every entry that is not in the index on disk, by lane and in the order of the log.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::account::Account;
use crate::cache::Cache;
use crate::delivered::Delivered;
pub(crate) use crate::entry::{DeadEntry, Death, Entry, Recent};
use crate::frame::{Class, Place};
use crate::message::{DeliveryIdentity, Incarnation};
use crate::parties::Parties;
use crate::past::{End, Past};
use crate::progress::Ended;
use crate::queued::{Queued, QueuedMessage};
use crate::segment::Lane;

/// The index in memory.
#[derive(Debug)]
pub(crate) struct State {
    /// On their way into the log.
    pub(crate) queued: Queued,
    pub(crate) live: HashMap<u128, Entry>,
    pub(crate) pending: BTreeMap<(u16, u64), u128>,
    pub(crate) dead: BTreeMap<u64, DeadEntry>,
    pub(crate) fifo: [VecDeque<Recent>; 2],
    pub(crate) accounts: BTreeMap<u32, Account>,
    pub(crate) parties: Parties,
    pub(crate) incarnations: Vec<Incarnation>,
    pub(crate) delivered: Delivered,
    /// Deliveries that are queued and not yet in the log.
    pub(crate) in_progress: HashSet<(u16, Incarnation, u64)>,
    /// The newest of them by key: ordinal of its incarnation, number.
    pub(crate) newest_in_progress: HashMap<u128, (u32, u64)>,
    pub(crate) cache: Cache,
    pub(crate) past: Past,
    /// Segments of large messages that lie in some of those between their first and last only, by sequence.
    pub(crate) spread: HashMap<u64, Box<[u32]>>,
    pub(crate) last_sequence: u64,
    /// The segment that each lane's writer is in.
    pub(crate) active: [u32; 2],
    /// Above every segment in `accounts`, now or ever.
    pub(crate) next_segment: u32,
    /// Mailbox messages and dead letters in the index on disk.
    pub(crate) cold_mail: u64,
    pub(crate) cold_dead: u64,
    /// Payload bytes of all dead letters.
    pub(crate) dead_bytes: u64,
    pub(crate) mailbox: u64,
    /// Mailbox messages whose time was over, since the start.
    pub(crate) expired: u64,
    /// Numbers ended by frames of the batch that is being entered.
    pub(crate) ended: Vec<Ended>,
    /// Numbers of messages in that batch that a newer one of the other lane has superseded.
    pub(crate) superseded: Vec<Ended>,
    /// Rises when a message moves from the index on disk to memory.
    pub(crate) relocations: u64,
    /// Rises when one moves from memory to the index on disk.
    pub(crate) hand_overs: u64,
    /// Something changed since the last checkpoint.
    pub(crate) dirty: bool,
}

impl State {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        Self {
            queued: Queued::default(),
            live: HashMap::new(),
            pending: BTreeMap::new(),
            dead: BTreeMap::new(),
            fifo: [VecDeque::new(), VecDeque::new()],
            accounts: BTreeMap::new(),
            parties: Parties::default(),
            incarnations: Vec::new(),
            delivered: Delivered::default(),
            in_progress: HashSet::new(),
            newest_in_progress: HashMap::new(),
            cache: Cache::new(cache_bytes),
            past: Past::default(),
            spread: HashMap::new(),
            last_sequence: 0,
            active: [0; 2],
            next_segment: 1,
            cold_mail: 0,
            cold_dead: 0,
            dead_bytes: 0,
            mailbox: 0,
            expired: 0,
            ended: Vec::new(),
            superseded: Vec::new(),
            relocations: 0,
            hand_overs: 0,
            dirty: false,
        }
    }

    /// Undoes what queueing noted for a message that is not written.
    pub(crate) fn withdraw(&mut self, sequence: u64) {
        let Some(QueuedMessage { key, entry, identity, .. }) = self.queued.take(sequence) else { return };
        if entry.class == Class::Outgoing {
            self.parties.count(entry.party).held.remove(&(entry.incarnation, entry.number));
        } else if let Some(identity) = identity {
            self.progress_ended(key, entry, &identity);
        }
    }

    /// Withdraws a queued message, unless it was given out for delivery.
    pub(crate) fn refuse(&mut self, sequence: u64) -> bool {
        let refused = !self.queued.is_exposed(sequence);
        if refused {
            self.withdraw(sequence);
        }
        refused
    }

    /// A delivery is in the log, or will not be.
    pub(crate) fn progress_ended(&mut self, key: u128, entry: Entry, identity: &DeliveryIdentity) {
        self.in_progress.remove(&(entry.party, identity.incarnation, identity.number));
        if self.newest_in_progress.get(&key) == Some(&(entry.incarnation, entry.number)) {
            self.newest_in_progress.remove(&key);
        }
    }

    /// Whether the frame at `place` may still be served.
    pub(crate) fn is_valid(&self, place: Place) -> bool {
        self.accounts.get(&place.segment).is_some_and(|a| !a.is_dead(place.offset))
    }

    /// Index of an incarnation in the table, made when new.
    pub(crate) fn incarnation_index(&mut self, incarnation: Incarnation) -> u32 {
        let known = self.incarnations.iter().rposition(|i| *i == incarnation);
        let at = known.unwrap_or_else(|| {
            self.incarnations.push(incarnation);
            self.incarnations.len() - 1
        });
        at as u32
    }

    /// Enters a message; false when a newer one under the key is here already, and this one is dead on arrival.
    pub(crate) fn insert(&mut self, key: u128, entry: Entry, arrived: u32) -> bool {
        self.dirty = true;
        self.last_sequence = self.last_sequence.max(entry.sequence);
        if let Some(old) = self.live.get(&key).copied() {
            let moved_back = old.sequence == entry.sequence && old.place >= entry.place;
            if old.sequence > entry.sequence || moved_back {
                self.mark_dead(entry.place);
                return false;
            }
            self.hold(&old);
            self.forget(key, &old);
        }
        self.live.insert(key, entry);
        self.account(&entry, true);
        match entry.class {
            Class::Outgoing => {
                self.pending.insert((entry.party, entry.sequence), key);
                let counts = self.parties.count(entry.party);
                counts.pending += 1;
                counts.pending_bytes += entry.len;
            }
            Class::Incoming | Class::IncomingUnnamed => {
                self.mailbox += 1;
                self.parties.count(entry.party).is_sender = true;
            }
        }
        let lane = self.lane_of(entry.place);
        self.fifo[lane.index()].push_back(Recent {
            sequence: entry.sequence,
            key,
            place: entry.place,
            time: arrived,
            dead_letter: false,
        });
        true
    }

    /// A live message was copied to a new place; the old one dies. `cold`: it was in the index on disk only.
    pub(crate) fn relocate(&mut self, key: u128, old: &Entry, new: Entry, cold: bool, arrived: u32) {
        self.dirty = true;
        if cold {
            self.relocations += 1;
            self.leave_cold(old);
        }
        self.account(old, false);
        self.mark_dead(old.place);
        self.live.insert(key, new);
        self.account(&new, true);
        if new.class == Class::Outgoing {
            self.pending.insert((new.party, new.sequence), key);
        }
        let lane = self.lane_of(new.place);
        self.fifo[lane.index()].push_back(Recent {
            sequence: new.sequence,
            key,
            place: new.place,
            time: arrived,
            dead_letter: false,
        });
    }

    /// Takes a message out of the index in memory; `None` when it is not (or no more) there.
    pub(crate) fn remove(&mut self, key: u128, sequence: u64) -> Option<Entry> {
        let entry = *self.live.get(&key).filter(|e| e.sequence == sequence)?;
        self.forget(key, &entry);
        Some(entry)
    }

    /// The index on disk has taken an entry over.
    pub(crate) fn hand_over(&mut self, key: u128, entry: &Entry) {
        self.hand_overs += 1;
        self.live.remove(&key);
        self.pending.remove(&(entry.party, entry.sequence));
        self.enter_cold(entry);
    }

    /// Nothing of what is in the index on disk counts any more.
    pub(crate) fn is_cold_empty(&self) -> bool {
        self.cold_mail == 0 && self.is_only_mail_cold()
    }

    /// Nothing but mail counts in the index on disk.
    pub(crate) fn is_only_mail_cold(&self) -> bool {
        self.cold_dead == 0 && self.parties.counts.iter().all(|c| c.cold_pending == 0)
    }

    /// The index on disk has taken a dead letter over.
    pub(crate) fn hand_over_dead(&mut self, letter: &DeadEntry) {
        self.dead.remove(&letter.entry.sequence);
        self.cold_dead += 1;
        if let Some(account) = self.accounts.get_mut(&letter.death.place.segment) {
            account.cold.add(letter.entry.sequence, letter.death.place);
        }
    }

    /// Where each lane's replay must begin: its oldest entry in memory, or its end.
    pub(crate) fn positions(&self) -> [Place; 2] {
        [0, 1].map(|lane| {
            let segment = self.active[lane];
            let end = Place { segment, offset: self.accounts.get(&segment).map_or(0, |a| a.tail) };
            self.fifo[lane].front().map_or(end, |recent| recent.place)
        })
    }

    /// Adds a segment.
    pub(crate) fn add_segment(&mut self, id: u32, account: Account) {
        self.accounts.insert(id, account);
        self.next_segment = self.next_segment.max(id + 1);
        self.dirty = true;
    }

    /// Takes an entry out of the index in memory without ending its message: it is known elsewhere.
    pub(crate) fn unindex(&mut self, key: u128, sequence: u64) {
        if let Some(entry) = self.live.get(&key).copied().filter(|e| e.sequence == sequence) {
            self.live.remove(&key);
            self.uncount(&entry);
            self.account(&entry, false);
        }
    }

    fn forget(&mut self, key: u128, entry: &Entry) {
        self.live.remove(&key);
        self.uncount(entry);
        self.account(entry, false);
        self.mark_dead(entry.place);
    }

    /// Takes an entry out of the counts of what is pending and readable.
    fn uncount(&mut self, entry: &Entry) {
        self.cache.remove(entry.sequence);
        if entry.class == Class::Outgoing {
            self.pending.remove(&(entry.party, entry.sequence));
            let counts = self.parties.count(entry.party);
            counts.pending = counts.pending.saturating_sub(1);
            counts.pending_bytes = counts.pending_bytes.saturating_sub(entry.len);
        } else {
            self.mailbox = self.mailbox.saturating_sub(1);
        }
    }

    /// Whether an entry of the index on disk is what it was there. One that became a dead letter may not be out yet.
    pub(crate) fn is_current_cold(&self, entry: &Entry) -> bool {
        self.is_valid(entry.place) && !self.dead.contains_key(&entry.sequence)
    }

    /// Ends an entry of the index on disk: it is dead, whatever is still written there.
    pub(crate) fn remove_cold(&mut self, entry: &Entry) {
        if !self.is_current_cold(entry) {
            return;
        }
        self.leave_cold(entry);
        self.uncount(entry);
        self.account(entry, false);
        self.mark_dead(entry.place);
    }

    /// Ends a mailbox message in memory whose time is over.
    pub(crate) fn expire(&mut self, key: u128, sequence: u64) {
        if self.remove(key, sequence).is_some() {
            self.expired += 1;
            self.past.note(key, sequence, End::Expired);
        }
    }

    /// The same of one in the index on disk.
    pub(crate) fn expire_cold(&mut self, key: u128, entry: &Entry) {
        if self.is_current_cold(entry) {
            self.expired += 1;
            self.past.note(key, entry.sequence, End::Expired);
        }
        self.remove_cold(entry);
    }

    /// The index on disk has `entry` now.
    pub(crate) fn enter_cold(&mut self, entry: &Entry) {
        if let Some(account) = self.accounts.get_mut(&entry.place.segment) {
            account.cold.add(entry.sequence, entry.place);
        }
        match entry.class {
            Class::Outgoing => self.parties.count(entry.party).cold_pending += 1,
            Class::Incoming | Class::IncomingUnnamed => self.cold_mail += 1,
        }
        self.dirty = true;
    }

    /// The index on disk has `entry` no more.
    pub(crate) fn leave_cold(&mut self, entry: &Entry) {
        if let Some(account) = self.accounts.get_mut(&entry.place.segment) {
            account.cold.remove(entry.sequence, entry.place);
        }
        match entry.class {
            Class::Outgoing => {
                let counts = self.parties.count(entry.party);
                counts.cold_pending = counts.cold_pending.saturating_sub(1);
            }
            Class::Incoming | Class::IncomingUnnamed => self.cold_mail = self.cold_mail.saturating_sub(1),
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

    /// Enters a dead letter whose message is counted already.
    pub(crate) fn enter_dead(&mut self, letter: DeadEntry, arrived: u32) {
        let place = letter.death.place;
        if let Some(account) = self.accounts.get_mut(&place.segment) {
            account.owed += 1;
            account.live_bytes += u64::from(letter.death.frame_len);
        }
        let lane = self.lane_of(place);
        self.fifo[lane.index()].push_back(Recent {
            sequence: letter.entry.sequence,
            key: letter.key,
            place,
            time: arrived,
            dead_letter: true,
        });
        self.dead_bytes += letter.entry.len;
        self.dead.insert(letter.entry.sequence, letter);
    }

    /// Ends a dead letter, message and all. `cold`: it was in the index on disk.
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
        self.dead_bytes = self.dead_bytes.saturating_sub(letter.entry.len);
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

    /// The frame at `place` is not valid any more.
    pub(crate) fn mark_dead(&mut self, place: Place) {
        self.dirty = true;
        if let Some(account) = self.accounts.get_mut(&place.segment) {
            account.mark_dead(place.offset);
        }
    }

    /// The frame at `place` is valid after all.
    pub(crate) fn revive(&mut self, place: Place) {
        if let Some(account) = self.accounts.get_mut(&place.segment) {
            account.revive(place.offset);
        }
    }

    /// Counts an entry in the accounts of every segment that it needs, or takes it out.
    pub(crate) fn account(&mut self, entry: &Entry, enters: bool) {
        let first = if entry.first_segment == 0 { entry.place.segment } else { entry.first_segment };
        let lane = self.lane_of(entry.place);
        let spread = match (first == entry.place.segment, enters) {
            (true, _) => None,
            (false, true) => self.spread.get(&entry.sequence).cloned(),
            (false, false) => self.spread.remove(&entry.sequence),
        };
        for (id, account) in self.accounts.range_mut(first..=entry.place.segment) {
            if account.lane != lane || spread.as_ref().is_some_and(|spread| !spread.contains(id)) {
                continue;
            }
            let count =
                if entry.class == Class::Outgoing { &mut account.owed } else { &mut account.incoming };
            *count = if enters { *count + 1 } else { count.saturating_sub(1) };
            if enters && entry.class != Class::Outgoing {
                account.newest_incoming = account.newest_incoming.max(entry.time);
            }
            if *id == entry.place.segment {
                let bytes = entry.len + 128;
                account.live_bytes = if enters {
                    account.live_bytes + bytes
                } else {
                    account.live_bytes.saturating_sub(bytes)
                };
            }
        }
    }

    fn lane_of(&self, place: Place) -> Lane {
        self.accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane)
    }

    /// A frame that is not synced yet ends a pending message: until it is, its number bounds the low-water mark.
    /// Else a power cut could bring the message back after its receiver was told that it is settled.
    fn hold(&mut self, entry: &Entry) {
        if entry.class == Class::Outgoing {
            self.parties.count(entry.party).held.insert((entry.incarnation, entry.number));
            self.ended.push((entry.party, entry.incarnation, entry.number));
        }
    }

    /// The frames that ended these numbers are synced.
    pub(crate) fn let_go(&mut self, ended: &[Ended]) {
        for (party, incarnation, number) in ended {
            self.parties.count(*party).held.remove(&(*incarnation, *number));
        }
    }

    /// The lowest number of an incarnation that holds the mark back besides what is pending.
    pub(crate) fn lowest_held(&mut self, party: u16, incarnation: u32) -> Option<u64> {
        let held = &self.parties.count(party).held;
        held.range((incarnation, 0)..=(incarnation, u64::MAX)).next().map(|(_, number)| *number)
    }
}
