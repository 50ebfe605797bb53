//! The memory of what peers have already delivered, so that a repeated or late delivery changes nothing even after
//! the message was read, released or expired.
//!
//! Per sender and incarnation: the low-water mark, and the numbers above it as ranges. Numbers are dense per sender and
//! receiver, so there are as many ranges as the sender has gaps: as it has messages pending, not as it has sent.
//!
//! Invariant: a number is remembered as delivered only once its message is in the log.

use std::collections::{BTreeMap, HashMap};

use crate::face::message::{DeliveryIdentity, Incarnation};
use crate::log::codec::{Fields, PutFields, Short};

/// Incarnations remembered per sender; beyond that, the one not heard from for longest is forgotten.
pub(crate) const MAX_INCARNATIONS: usize = 4096;

/// Ranges remembered per incarnation; a sender with more gaps is refused until it fills some.
pub(crate) const MAX_RANGES: usize = 65_536;

/// Numbers of one incarnation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SeenNumbers {
    ordinal: u32,
    /// The sender's `clock` at its last delivery: tells which incarnation was heard from last.
    touched: u64,
    low_water: u64,
    /// First number -> one past the last, disjoint, not adjacent, all at or above the mark.
    ranges: BTreeMap<u64, u64>,
}

impl SeenNumbers {
    fn has(&self, number: u64) -> bool {
        number < self.low_water
            || self.ranges.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    fn add(&mut self, number: u64) {
        if self.has(number) {
            return;
        }
        let mut start = number;
        // Numbers are checked on arrival; one that slipped into a log must not stop a start.
        let mut end = number.saturating_add(1);
        if let Some((s, e)) = self.ranges.range(..=number).next_back()
            && *e == number
        {
            start = *s;
        }
        if let Some(e) = self.ranges.remove(&end) {
            end = e;
        }
        self.ranges.insert(start, end);
    }

    fn raise(&mut self, mark: u64) {
        if mark <= self.low_water {
            return;
        }
        self.low_water = mark;
        while let Some((start, end)) = self.ranges.pop_first() {
            if end <= self.low_water {
                continue;
            }
            if start <= self.low_water {
                // Contiguous with the mark, so raising the mark covers the range.
                self.low_water = end;
            } else {
                self.ranges.insert(start, end);
                break;
            }
        }
    }
}

/// Merges ranges so that they neither overlap nor touch.
fn disjoint(ranges: &[(u64, u64)]) -> BTreeMap<u64, u64> {
    let mut sorted: Vec<_> = ranges.iter().copied().filter(|(first, end)| first < end).collect();
    sorted.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (first, end) in sorted {
        match all.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => all.push((first, end)),
        }
    }
    all.into_iter().collect()
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SenderMemory {
    next_ordinal: u32,
    clock: u64,
    /// The incarnation that started last. Not written down, since it is one of `incarnations`.
    newest: Option<Incarnation>,
    /// The newest one that was forgotten: a delivery from another unknown one that is not newer may have been delivered before.
    floor: Option<Incarnation>,
    incarnations: HashMap<Incarnation, SeenNumbers>,
}

/// What is remembered of an incarnation of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownDeliveries {
    /// Index of the party.
    pub(crate) sender: u16,
    pub(crate) incarnation: Incarnation,
    pub(crate) low_water: u64,
    /// First number, and one past the last.
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// The memory, by sender (index of the party in the store's table).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeliveryMemory {
    senders: HashMap<u16, SenderMemory>,
}

impl DeliveryMemory {
    /// Whether this delivery is already known.
    pub(crate) fn has(&self, sender: u16, identity: &DeliveryIdentity) -> bool {
        self.senders
            .get(&sender)
            .and_then(|s| s.incarnations.get(&identity.incarnation))
            .is_some_and(|n| n.has(identity.number))
    }

    /// Whether it comes from an incarnation that was forgotten, or may have been: then nobody can say whether it is new.
    pub(crate) fn is_too_old(&self, sender: u16, incarnation: Incarnation) -> bool {
        self.senders.get(&sender).is_some_and(|memory| memory.is_too_old(incarnation))
    }

    /// Whether nothing newer of this sender is known.
    pub(crate) fn is_newest(&self, sender: u16, identity: &DeliveryIdentity) -> bool {
        let Some(memory) = self.senders.get(&sender) else { return true };
        if memory.newest.is_some_and(|newest| newest > identity.incarnation) {
            return false;
        }
        let Some(known) = memory.incarnations.get(&identity.incarnation) else { return true };
        let last = known.ranges.last_key_value().map_or(known.low_water, |(_, end)| *end);
        identity.number >= last
    }

    /// Whether a sender accepted message `a` after message `b`: ordinal of the incarnation, number. Incarnations are ordered by
    /// their starts, which never go backwards within a store; not by their first contact, since after an outage the messages of
    /// several may come in any order. One that was forgotten is older than all known ones.
    pub(crate) fn is_newer(&self, sender: u16, a: (u32, u64), b: (u32, u64)) -> bool {
        if a.0 == b.0 {
            return a.1 > b.1;
        }
        let memory = self.senders.get(&sender);
        let started =
            |ordinal| memory.and_then(|m| m.incarnations.iter().find(|(_, n)| n.ordinal == ordinal));
        started(a.0).map(|(incarnation, _)| incarnation) > started(b.0).map(|(incarnation, _)| incarnation)
    }

    /// Whether one more gap of this incarnation would be too many.
    pub(crate) fn is_crowded(&self, sender: u16, identity: &DeliveryIdentity) -> bool {
        let known = self.senders.get(&sender).and_then(|s| s.incarnations.get(&identity.incarnation));
        let next = identity.number.saturating_add(1);
        known.is_some_and(|n| n.ranges.len() >= MAX_RANGES && !n.ranges.contains_key(&next))
    }

    /// A small number for this sender's incarnation: the order in which it was first met, from 1.
    pub(crate) fn ordinal(&mut self, sender: u16, incarnation: Incarnation) -> u32 {
        let memory = self.senders.entry(sender).or_default();
        if let Some(known) = memory.incarnations.get(&incarnation) {
            return known.ordinal;
        }
        memory.next_ordinal += 1;
        let ordinal = memory.next_ordinal;
        memory.make_room();
        memory.clock += 1;
        let numbers = SeenNumbers { ordinal, touched: memory.clock, ..SeenNumbers::default() };
        memory.incarnations.insert(incarnation, numbers);
        memory.newest = memory.newest.max(Some(incarnation));
        ordinal
    }

    /// Remembers a delivery and the sender's low-water mark; `ordinal` is the one from when the message was stored.
    pub(crate) fn add(&mut self, sender: u16, identity: &DeliveryIdentity, ordinal: u32) {
        let memory = self.senders.entry(sender).or_default();
        memory.clock += 1;
        memory.next_ordinal = memory.next_ordinal.max(ordinal);
        // Read back from the log, from an incarnation that has been forgotten since.
        if memory.is_too_old(identity.incarnation) {
            return;
        }
        if !memory.incarnations.contains_key(&identity.incarnation) {
            memory.make_room();
        }
        let clock = memory.clock;
        memory.newest = memory.newest.max(Some(identity.incarnation));
        let numbers = memory.incarnations.entry(identity.incarnation).or_default();
        numbers.ordinal = ordinal;
        numbers.touched = clock;
        numbers.add(identity.number);
        numbers.raise(identity.low_water);
    }

    /// Remembers what another store knows of an incarnation; those passed in later count as heard from later.
    pub(crate) fn remember(
        &mut self,
        sender: u16,
        incarnation: Incarnation,
        low_water: u64,
        ranges: &[(u64, u64)],
    ) {
        self.ordinal(sender, incarnation);
        let memory = self.senders.entry(sender).or_default();
        memory.clock += 1;
        if let Some(numbers) = memory.incarnations.get_mut(&incarnation) {
            numbers.touched = memory.clock;
            numbers.low_water = 0;
            numbers.ranges = disjoint(ranges);
            numbers.raise(low_water);
        }
    }

    /// The low-water mark of an incarnation.
    pub(crate) fn low_water(&self, sender: u16, incarnation: Incarnation) -> u64 {
        let known = self.senders.get(&sender).and_then(|s| s.incarnations.get(&incarnation));
        known.map_or(0, |numbers| numbers.low_water)
    }

    /// All that is remembered. For each sender, the incarnation heard from last comes last.
    pub(crate) fn all(&self) -> Vec<KnownDeliveries> {
        let mut all = Vec::new();
        for (sender, memory) in &self.senders {
            for (incarnation, numbers) in &memory.incarnations {
                let ranges = numbers.ranges.iter().map(|(first, end)| (*first, *end)).collect();
                let (sender, incarnation, low_water) = (*sender, *incarnation, numbers.low_water);
                all.push((numbers.touched, KnownDeliveries { sender, incarnation, low_water, ranges }));
            }
        }
        all.sort_unstable_by_key(|(touched, known)| (known.sender, *touched, known.incarnation));
        all.into_iter().map(|(_, known)| known).collect()
    }

    /// Appends the whole memory to a checkpoint.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.senders.len() as u32);
        for (sender, memory) in &self.senders {
            out.put_u16(*sender);
            out.put_u32(memory.next_ordinal);
            out.put_u64(memory.clock);
            out.put_u32(memory.incarnations.len() as u32);
            for (incarnation, numbers) in &memory.incarnations {
                out.put_u64(incarnation.started_ms);
                out.put_u64(incarnation.random);
                out.put_u32(numbers.ordinal);
                out.put_u64(numbers.touched);
                out.put_u64(numbers.low_water);
                out.put_u32(numbers.ranges.len() as u32);
                for (start, end) in &numbers.ranges {
                    out.put_u64(*start);
                    out.put_u64(*end);
                }
            }
        }
    }

    /// Appends the newest forgotten incarnation of each sender that has one.
    pub(crate) fn encode_floors(&self, out: &mut Vec<u8>) {
        let floors = || self.senders.iter().filter_map(|(sender, memory)| Some((*sender, memory.floor?)));
        out.put_u32(floors().count() as u32);
        for (sender, floor) in floors() {
            out.put_u16(sender);
            out.put_u64(floor.started_ms);
            out.put_u64(floor.random);
        }
    }

    /// Reads what [`encode_floors`](Self::encode_floors) wrote; an older checkpoint ends before it.
    pub(crate) fn decode_floors(&mut self, f: &mut Fields<'_>) -> Result<(), Short> {
        if f.0.is_empty() {
            return Ok(());
        }
        for _ in 0..f.u32()? {
            let sender = f.u16()?;
            let floor = Incarnation { started_ms: f.u64()?, random: f.u64()? };
            self.senders.entry(sender).or_default().floor = Some(floor);
        }
        Ok(())
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(f: &mut Fields<'_>) -> Result<Self, Short> {
        let mut all = Self::default();
        for _ in 0..f.u32()? {
            let sender = f.u16()?;
            let mut memory =
                SenderMemory { next_ordinal: f.u32()?, clock: f.u64()?, ..SenderMemory::default() };
            for _ in 0..f.u32()? {
                let incarnation = Incarnation { started_ms: f.u64()?, random: f.u64()? };
                let mut numbers = SeenNumbers {
                    ordinal: f.u32()?,
                    touched: f.u64()?,
                    low_water: f.u64()?,
                    ranges: BTreeMap::new(),
                };
                for _ in 0..f.u32()? {
                    numbers.ranges.insert(f.u64()?, f.u64()?);
                }
                memory.newest = memory.newest.max(Some(incarnation));
                memory.incarnations.insert(incarnation, numbers);
            }
            all.senders.insert(sender, memory);
        }
        Ok(all)
    }
}

impl SenderMemory {
    fn is_too_old(&self, incarnation: Incarnation) -> bool {
        self.floor.is_some_and(|floor| incarnation <= floor) && !self.incarnations.contains_key(&incarnation)
    }

    fn make_room(&mut self) {
        while self.incarnations.len() >= MAX_INCARNATIONS {
            let oldest = self.incarnations.iter().min_by_key(|(_, n)| n.touched).map(|(i, _)| *i);
            let Some(incarnation) = oldest else { return };
            self.incarnations.remove(&incarnation);
            self.floor = self.floor.max(Some(incarnation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u64, low_water: u64) -> DeliveryIdentity {
        DeliveryIdentity { incarnation: Incarnation { started_ms: 1, random: 1 }, number, low_water }
    }

    #[test]
    fn what_was_delivered_is_known_and_nothing_else() {
        let mut memory = DeliveryMemory::default();
        for number in [5, 3, 4, 9] {
            memory.add(1, &identity(number, 2), 1);
        }
        let known: Vec<_> = (0..12).filter(|n| memory.has(1, &identity(*n, 0))).collect();
        assert_eq!(known, [0, 1, 3, 4, 5, 9]);
        assert!(!memory.has(2, &identity(3, 0)));
    }

    #[test]
    fn a_risen_mark_swallows_the_ranges_below_it() {
        let mut memory = DeliveryMemory::default();
        for number in 2..1000 {
            memory.add(1, &identity(number, 1), 1);
        }
        memory.add(1, &identity(1000, 2), 1);
        let numbers = &memory.senders[&1].incarnations[&identity(0, 0).incarnation];
        assert_eq!((numbers.low_water, numbers.ranges.len()), (1001, 0));
    }

    #[test]
    fn memory_is_bounded_by_gaps_and_incarnations() {
        let mut memory = DeliveryMemory::default();
        for number in (1..100_000).filter(|n| n % 50_000 != 0) {
            memory.add(1, &identity(number, 0), 1);
        }
        assert_eq!(memory.senders[&1].incarnations[&identity(0, 0).incarnation].ranges.len(), 2);
        for started_ms in 0..2 * MAX_INCARNATIONS as u64 {
            memory.ordinal(2, Incarnation { started_ms, random: 0 });
        }
        assert_eq!(memory.senders[&2].incarnations.len(), MAX_INCARNATIONS);
    }

    #[test]
    fn what_another_store_remembers_is_kept_as_it_is_whatever_was_there() {
        let mut memory = DeliveryMemory::default();
        memory.add(1, &identity(5, 2), 1);
        memory.add(1, &identity(8, 2), 1);
        memory.remember(1, identity(0, 0).incarnation, 3, &[(7, 9), (4, 6), (9, 10), (5, 6)]);
        let known: Vec<_> = (0..12).filter(|n| memory.has(1, &identity(*n, 0))).collect();
        assert_eq!(known, [0, 1, 2, 4, 5, 7, 8, 9]);
        let (incarnation, ranges) = (identity(0, 0).incarnation, vec![(4, 6), (7, 10)]);
        assert_eq!(memory.all(), [KnownDeliveries { sender: 1, incarnation, low_water: 3, ranges }]);
        assert_eq!(memory.low_water(1, identity(0, 0).incarnation), 3);
    }

    #[test]
    fn the_memory_is_read_back_from_a_checkpoint() {
        let mut memory = DeliveryMemory::default();
        for number in [5, 3, 4, 9] {
            memory.add(1, &identity(number, 2), 1);
        }
        let mut out = Vec::new();
        memory.encode(&mut out);
        assert_eq!(DeliveryMemory::decode(&mut Fields(&out)), Ok(memory));
    }

    #[test]
    fn incarnations_are_ordered_by_their_start_whichever_is_met_first() {
        let mut memory = DeliveryMemory::default();
        let later = memory.ordinal(1, Incarnation { started_ms: 50, random: 2 });
        let earlier = memory.ordinal(1, Incarnation { started_ms: 1, random: 9 });
        assert_eq!((later, earlier), (1, 2));
        assert!(
            memory.is_newer(1, (later, 1), (earlier, 9)) && !memory.is_newer(1, (earlier, 9), (later, 1))
        );
        assert!(memory.is_newer(1, (later, 2), (later, 1)) && !memory.is_newer(1, (later, 1), (later, 1)));
        assert!(memory.is_newer(1, (earlier, 1), (77, 1)), "a forgotten one is older");
        let identity = |started_ms| DeliveryIdentity {
            incarnation: Incarnation { started_ms, random: 0 },
            number: 1,
            low_water: 1,
        };
        assert!(memory.is_newest(1, &identity(51)) && !memory.is_newest(1, &identity(2)));
    }
}
