//! The index in memory: which message is where, what is pending, what counts as delivered, and what each segment
//! still holds. Pure: it touches no file and no clock.
//!
//! Recent messages are indexed here. What is older than a minute, or exceeds the limit, moves to the index on disk (`on_disk/`);
//! only counts of it are then kept here. Invariants:
//! * for one key the highest sequence wins, in whatever order entries arrive;
//! * an entry is valid only while its place is not in the dead set of its segment;
//! * `fifo` holds every entry that is not in the index on disk, by lane and in the order of the log.

pub(crate) mod aging;
pub(crate) mod buried;
pub(crate) mod dead_room;
pub(crate) mod marks;
pub(crate) mod names;
pub(crate) mod parties;
pub(crate) mod payload_cache;
pub(crate) mod reads;
pub(crate) mod recent_ends;
pub(crate) mod unwritten;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::face::direction::Class;
use crate::face::message::{DeliveryIdentity, Incarnation};
use crate::index::entry::{DeadEntry, EndedNumber, Entry, RecentEntry};
use crate::index::maps::Map;
use crate::index::memory::dead_room::DeadRoom;
use crate::index::memory::names::Names;
use crate::index::memory::parties::Parties;
use crate::index::memory::payload_cache::PayloadCache;
use crate::index::memory::reads::ReadMarks;
use crate::index::memory::recent_ends::{MessageEnd, RecentEnds};
use crate::index::memory::unwritten::{QueuedMessage, UnwrittenMessages};
use crate::index::seen_deliveries::DeliveryMemory;
use crate::index::segment_account::Account;
use crate::index::sends::KnownSends;
use crate::log::frame::Place;
use crate::log::segment::Lane;

/// The index in memory.
#[derive(Debug)]
pub(crate) struct State {
    /// Messages on their way into the log.
    pub(crate) queued: UnwrittenMessages,
    pub(crate) live: Map<u128, Entry>,
    pub(crate) pending: BTreeMap<(u16, u64), u128>,
    /// Mailbox messages in `live`, by sender and sequence.
    pub(crate) arrivals: BTreeMap<(u16, u64), u128>,
    /// Names of all messages in `live`.
    pub(crate) names: Names,
    pub(crate) dead: BTreeMap<u64, DeadEntry>,
    pub(crate) fifo: [VecDeque<RecentEntry>; 2],
    pub(crate) accounts: BTreeMap<u32, Account>,
    pub(crate) parties: Parties,
    pub(crate) incarnations: Vec<Incarnation>,
    pub(crate) delivered: DeliveryMemory,
    /// Deliveries that are queued and not yet in the log.
    pub(crate) in_progress: HashSet<(u16, Incarnation, u64)>,
    /// The newest of those deliveries by key: ordinal of its incarnation, number.
    pub(crate) newest_in_progress: Map<u128, (u32, u64)>,
    pub(crate) cache: PayloadCache,
    pub(crate) past: RecentEnds,
    pub(crate) reads: ReadMarks,
    pub(crate) sends: KnownSends,
    /// Pending sends with keys that are in the log but not synced yet: they are not delivered before the sync.
    pub(crate) unsynced_sends: HashSet<u64>,
    /// Segments of large messages that occupy only some of those between their first and last, by sequence.
    pub(crate) spread: Map<u64, Box<[u32]>>,
    pub(crate) last_sequence: u64,
    /// The segment that each lane's writer is writing to.
    pub(crate) active: [u32; 2],
    /// Greater than the number of every segment that is or ever was in `accounts`.
    pub(crate) next_segment: u32,
    /// Number of mailbox messages in the index on disk; the next field is that of dead letters.
    pub(crate) cold_mail: u64,
    pub(crate) cold_dead: u64,
    /// Room taken by all dead letters, in memory and in the index on disk.
    pub(crate) dead_room: DeadRoom,
    pub(crate) mailbox: u64,
    /// Mailbox messages that have expired since the start.
    pub(crate) expired: u64,
    /// Numbers ended by frames of the batch that is being entered in the index.
    pub(crate) ended: Vec<EndedNumber>,
    /// Numbers of messages in that batch that a newer one of the other lane has superseded.
    pub(crate) superseded: Vec<EndedNumber>,
    /// Incremented when a message moves from the index on disk to memory.
    pub(crate) relocations: u64,
    /// Incremented when one moves from memory to the index on disk.
    pub(crate) hand_overs: u64,
    /// Whether something has changed since the last checkpoint.
    pub(crate) dirty: bool,
}

impl State {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        Self {
            queued: UnwrittenMessages::default(),
            live: Map::default(),
            pending: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            names: Names::default(),
            dead: BTreeMap::new(),
            fifo: [VecDeque::new(), VecDeque::new()],
            accounts: BTreeMap::new(),
            parties: Parties::default(),
            incarnations: Vec::new(),
            delivered: DeliveryMemory::default(),
            in_progress: HashSet::new(),
            newest_in_progress: Map::default(),
            cache: PayloadCache::new(cache_bytes),
            past: RecentEnds::default(),
            reads: ReadMarks::default(),
            sends: KnownSends::default(),
            unsynced_sends: HashSet::new(),
            spread: Map::default(),
            last_sequence: 0,
            active: [0; 2],
            next_segment: 1,
            cold_mail: 0,
            cold_dead: 0,
            dead_room: DeadRoom::default(),
            mailbox: 0,
            expired: 0,
            ended: Vec::new(),
            superseded: Vec::new(),
            relocations: 0,
            hand_overs: 0,
            dirty: false,
        }
    }

    /// Undoes what queueing recorded for a message that is not written.
    pub(crate) fn withdraw(&mut self, sequence: u64) {
        let Some(QueuedMessage { key, entry, identity, keyed, .. }) = self.queued.take(sequence) else {
            return;
        };
        if let Some(keyed) = keyed {
            self.sends.withdraw(&keyed.key);
        }
        if entry.class == Class::Outgoing {
            self.parties.count(entry.party).held.remove(&(entry.incarnation, entry.number));
        } else if let Some(identity) = identity {
            self.progress_ended(key, entry, &identity);
        }
    }

    /// Withdraws a queued message, unless it has been given out for delivery.
    pub(crate) fn refuse(&mut self, sequence: u64) -> bool {
        let refused = !self.queued.is_exposed(sequence);
        if refused {
            self.withdraw(sequence);
        }
        refused
    }

    /// A delivery is in the log, or will never be.
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

    /// Index of an incarnation in the table; adds it if it is new.
    pub(crate) fn incarnation_index(&mut self, incarnation: Incarnation) -> u32 {
        let known = self.incarnations.iter().rposition(|i| *i == incarnation);
        let at = known.unwrap_or_else(|| {
            self.incarnations.push(incarnation);
            self.incarnations.len() - 1
        });
        at as u32
    }

    /// Enters a message; false if a newer one with the same key is already here, so that this one is dead on arrival.
    pub(crate) fn insert(&mut self, key: u128, entry: Entry, id: impl Into<Arc<str>>, arrived: u32) -> bool {
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
        self.names.add(key, &entry, id);
        self.account(&entry, true);
        match entry.class {
            Class::Outgoing => {
                self.pending.insert((entry.party, entry.sequence), key);
                let counts = self.parties.count(entry.party);
                counts.pending += 1;
                counts.pending_bytes += entry.len;
            }
            Class::Incoming | Class::IncomingUnnamed => {
                self.arrivals.insert((entry.party, entry.sequence), key);
                self.mailbox += 1;
                self.parties.count(entry.party).is_sender = true;
            }
        }
        let lane = self.lane_of(entry.place);
        self.fifo[lane.index()].push_back(RecentEntry {
            sequence: entry.sequence,
            key,
            place: entry.place,
            time: arrived,
            dead_letter: false,
        });
        true
    }

    /// A live message was copied to a new place; the old frame is dead. `from_cold`: its id, if it was only in the index on
    /// disk.
    pub(crate) fn relocate(
        &mut self,
        key: u128,
        old: &Entry,
        new: Entry,
        from_cold: Option<&str>,
        arrived: u32,
    ) {
        self.dirty = true;
        if let Some(id) = from_cold {
            self.relocations += 1;
            self.leave_cold(old);
            self.names.add(key, &new, id);
        }
        // It may have been read while it was being copied.
        let known = if from_cold.is_some() {
            self.with_mark(key, *old)
        } else {
            self.live.get(&key).copied().unwrap_or(*old)
        };
        let new = Entry { first_read: known.first_read, ..new };
        self.account(old, false);
        self.mark_dead(old.place);
        self.live.insert(key, new);
        self.account(&new, true);
        self.mark_entered(key, &new);
        if new.class == Class::Outgoing {
            self.pending.insert((new.party, new.sequence), key);
        } else {
            self.arrivals.insert((new.party, new.sequence), key);
        }
        let lane = self.lane_of(new.place);
        self.fifo[lane.index()].push_back(RecentEntry {
            sequence: new.sequence,
            key,
            place: new.place,
            time: arrived,
            dead_letter: false,
        });
    }

    /// Takes a message out of the index in memory; `None` if it is not, or no longer, there.
    pub(crate) fn remove(&mut self, key: u128, sequence: u64) -> Option<Entry> {
        let entry = *self.live.get(&key).filter(|e| e.sequence == sequence)?;
        self.forget(key, &entry);
        Some(entry)
    }

    /// The index on disk has taken over an entry.
    pub(crate) fn hand_over(&mut self, key: u128, entry: &Entry) {
        self.hand_overs += 1;
        self.live.remove(&key);
        self.pending.remove(&(entry.party, entry.sequence));
        self.arrivals.remove(&(entry.party, entry.sequence));
        self.names.remove(entry.sequence);
        self.enter_cold(entry);
    }

    /// Whether nothing in the index on disk counts any more.
    pub(crate) fn is_cold_empty(&self) -> bool {
        self.cold_mail == 0 && self.is_only_mail_cold()
    }

    /// Whether nothing but mail counts in the index on disk.
    pub(crate) fn is_only_mail_cold(&self) -> bool {
        self.cold_dead == 0 && self.parties.counts.iter().all(|c| c.cold_pending == 0)
    }

    /// Where each lane's replay must begin: at its oldest entry in memory, or at its end if there is none.
    pub(crate) fn positions(&self) -> [Place; 2] {
        [0, 1].map(|lane| {
            let segment = self.active[lane];
            let end = Place { segment, offset: self.accounts.get(&segment).map_or(0, |a| a.tail) };
            self.fifo[lane].front().map_or(end, |recent| recent.place)
        })
    }

    /// For each lane, the number below which segments have at least `newer` newer ones up to the one in use; 0 if none has.
    pub(crate) fn lagging(&self, newer: usize) -> [u32; 2] {
        [Lane::Small, Lane::Bulk].map(|lane| {
            // After the one in use, the next one may already be prepared.
            let up_to = self.accounts.range(..=self.active[lane.index()]);
            let mut of_lane = up_to.rev().filter(|(_, account)| account.lane == lane);
            of_lane.nth(newer).map_or(0, |(id, _)| id + 1)
        })
    }

    /// Adds a segment.
    pub(crate) fn add_segment(&mut self, id: u32, account: Account) {
        self.accounts.insert(id, account);
        self.next_segment = self.next_segment.max(id + 1);
        self.dirty = true;
    }

    /// Takes an entry out of the index in memory without ending its message, which is known elsewhere.
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
    pub(crate) fn uncount(&mut self, entry: &Entry) {
        self.cache.remove(entry.sequence);
        self.names.remove(entry.sequence);
        if entry.class == Class::Outgoing {
            self.pending.remove(&(entry.party, entry.sequence));
            let counts = self.parties.count(entry.party);
            counts.pending = counts.pending.saturating_sub(1);
            counts.pending_bytes = counts.pending_bytes.saturating_sub(entry.len);
        } else {
            self.arrivals.remove(&(entry.party, entry.sequence));
            self.mailbox = self.mailbox.saturating_sub(1);
        }
    }

    /// Whether an entry of the index on disk is still current there. One that became a dead letter may not be removed yet.
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

    /// Ends a mailbox message in memory that has expired.
    pub(crate) fn expire(&mut self, key: u128, sequence: u64) {
        if self.remove(key, sequence).is_some() {
            self.expired += 1;
            self.past.note(key, sequence, MessageEnd::Expired);
        }
    }

    /// Ends a mailbox message in the index on disk that has expired.
    pub(crate) fn expire_cold(&mut self, key: u128, entry: &Entry) {
        if self.is_current_cold(entry) {
            self.expired += 1;
            self.past.note(key, entry.sequence, MessageEnd::Expired);
        }
        self.remove_cold(entry);
    }

    /// The index on disk now has `entry`.
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

    /// The index on disk no longer has `entry`.
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

    /// The frame at `place` is no longer valid.
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

    /// Adds an entry to the accounts of every segment that it needs, or takes it out of them.
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

    pub(crate) fn lane_of(&self, place: Place) -> Lane {
        self.accounts.get(&place.segment).map_or(Lane::Small, |a| a.lane)
    }

    /// A frame that is not synced yet ends a pending message: until it is synced, the message's number bounds the low-water
    /// mark. Otherwise a power cut could bring the message back after its receiver was told that it is settled.
    pub(crate) fn hold(&mut self, entry: &Entry) {
        if entry.class == Class::Outgoing {
            self.parties.count(entry.party).held.insert((entry.incarnation, entry.number));
            self.ended.push(entry.ended_number());
        }
    }

    /// The frames that ended these numbers are synced.
    pub(crate) fn let_go(&mut self, ended: &[EndedNumber]) {
        for EndedNumber { party, incarnation, number } in ended.iter().copied() {
            self.parties.count(party).held.remove(&(incarnation, number));
        }
    }

    /// The lowest number of an incarnation that holds back the mark, pending messages aside.
    pub(crate) fn lowest_held(&mut self, party: u16, incarnation: u32) -> Option<u64> {
        let held = &self.parties.count(party).held;
        held.range((incarnation, 0)..=(incarnation, u64::MAX)).next().map(|(_, number)| *number)
    }
}
