//! Messages by the beginning of their ids, in the order of their sequences: enough for one page of them, and no more.
//!
//! A message's *name* is its place in a sorted list. It consists of its kind (0 in the mailbox, 1 pending, 2 a dead letter,
//! whose id is left out; 1 byte), its bucket (8), the number of its party (2), its id, and its sequence (8); numbers are
//! big-endian. A bucket holds the messages of [`BUCKET`] sequences. A search goes from bucket to bucket, in each straight to the
//! ids with the wanted prefix, and skips what is empty. So it costs a jump for each bucket and party, plus the matches of the
//! bucket in which it ends, which are then put in order. Where there are many matches, the next ones are near: the caller takes
//! some steps in the order of arrival first (`arrivals.rs`).
//!
//! The names of what is in memory are here, those of what is in the index on disk in the tree `names` (`on_disk/names.rs`). Both
//! are hints: a caller that finds a name checks whether its message is there.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::face::direction::Class;
use crate::index::entry::Entry;

/// Sequences per bucket. A larger number means fewer jumps; a smaller one, less to put in order.
const BUCKET: u64 = 1 << 16;
/// The kinds of a pending message and of a dead letter in a name.
pub(crate) const PENDING: u8 = 1;
pub(crate) const DEAD: u8 = 2;
/// Bytes before and after the id.
const HEAD: usize = 11;
const TAIL: usize = 8;
/// Bytes of an id that are counted as part of every entry.
const SHORT: usize = 64;
/// If room for more removed names than this is unused, it is returned to the system.
const KEPT: usize = 4096;

/// The name of a message.
pub(crate) fn name(entry: &Entry, id: &str) -> Vec<u8> {
    full_name(kind(entry.class), entry.party, id, entry.sequence)
}

/// The name of a dead letter: with its party, but without an id.
pub(crate) fn dead_name(party: u16, sequence: u64) -> Vec<u8> {
    full_name(DEAD, party, "", sequence)
}

fn full_name(kind: u8, party: u16, id: &str, sequence: u64) -> Vec<u8> {
    let mut name = target(kind, sequence / BUCKET, party, id);
    name.extend_from_slice(&sequence.to_be_bytes());
    name
}

fn kind(class: Class) -> u8 {
    if class == Class::Outgoing { PENDING } else { 0 }
}

/// Whether a name is in the bucket of its sequence; names of earlier versions are in smaller buckets.
pub(crate) fn is_in_its_bucket(name: &NameParts<'_>) -> bool {
    name.bucket == name.sequence / BUCKET
}

/// A position at or before every name of a bucket and party whose id begins with `prefix`.
fn target(kind: u8, bucket: u64, party: u16, prefix: &str) -> Vec<u8> {
    let mut target = Vec::with_capacity(HEAD + prefix.len() + TAIL);
    target.push(kind);
    target.extend_from_slice(&bucket.to_be_bytes());
    target.extend_from_slice(&party.to_be_bytes());
    target.extend_from_slice(prefix.as_bytes());
    target
}

/// A name, split into its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameParts<'a> {
    pub(crate) kind: u8,
    bucket: u64,
    pub(crate) party: u16,
    id: &'a [u8],
    pub(crate) sequence: u64,
}

/// Splits a name into its parts; `None` if it is not a name.
pub(crate) fn parts(name: &[u8]) -> Option<NameParts<'_>> {
    let (kind, rest) = name.split_first()?;
    let (bucket, rest) = rest.split_first_chunk()?;
    let (party, rest) = rest.split_first_chunk()?;
    let (id, sequence) = rest.split_last_chunk()?;
    Some(NameParts {
        kind: *kind,
        bucket: u64::from_be_bytes(*bucket),
        party: u16::from_be_bytes(*party),
        id,
        sequence: u64::from_be_bytes(*sequence),
    })
}

/// The names of what is indexed in memory. They are sorted only when somebody searches: most messages are removed before that.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// In the order in which they mostly come and are removed, so that the newest lie together.
    by_sequence: BTreeMap<u64, IndexedName>,
    sorted: BTreeMap<Box<[u8]>, u128>,
    /// Sequences of those that are not in `sorted`, in order of arrival; some have been removed since.
    fresh: VecDeque<u64>,
    /// Bytes by which ids exceed [`SHORT`], counted twice for names in `sorted`. Written only under the lock of these names;
    /// anyone may read it.
    long: Arc<AtomicUsize>,
}

/// What a name is made of, and the message's key.
#[derive(Debug)]
struct IndexedName {
    id: Arc<str>,
    key: u128,
    party: u16,
    kind: u8,
    is_sorted: bool,
}

impl IndexedName {
    fn name(&self, sequence: u64) -> Vec<u8> {
        full_name(self.kind, self.party, &self.id, sequence)
    }

    /// Bytes by which its id exceeds what is counted for every entry.
    fn long_part(&self) -> usize {
        self.id.len().saturating_sub(SHORT)
    }
}

impl Names {
    pub(crate) fn add(&mut self, key: u128, entry: &Entry, id: impl Into<Arc<str>>) {
        let known =
            IndexedName { id: id.into(), key, party: entry.party, kind: kind(entry.class), is_sorted: false };
        let long = known.long_part();
        if let Some(before) = self.by_sequence.insert(entry.sequence, known) {
            self.went(&before, entry.sequence);
        }
        if long > 0 {
            self.long.fetch_add(long, Ordering::Relaxed);
        }
        self.fresh.push_back(entry.sequence);
        // If nobody searches for long and only a few of many stay: two of them leave this list for each that joins it.
        if self.fresh.len() > KEPT + 2 * self.by_sequence.len() {
            self.sort_in(2);
        }
    }

    pub(crate) fn remove(&mut self, sequence: u64) {
        if let Some(known) = self.by_sequence.remove(&sequence) {
            self.went(&known, sequence);
        }
    }

    /// It has been removed from the table.
    fn went(&mut self, known: &IndexedName, sequence: u64) {
        if known.is_sorted {
            self.sorted.remove(&known.name(sequence)[..]);
        }
        if known.long_part() > 0 {
            let copies = 1 + usize::from(known.is_sorted);
            self.long.fetch_sub(copies * known.long_part(), Ordering::Relaxed);
        }
    }

    /// Sorts in some of those that have arrived.
    fn sort_in(&mut self, most: usize) {
        for sequence in self.fresh.drain(..most.min(self.fresh.len())) {
            // One that was replaced is listed here twice.
            if let Some(known) = self.by_sequence.get_mut(&sequence).filter(|known| !known.is_sorted) {
                known.is_sorted = true;
                self.long.fetch_add(known.long_part(), Ordering::Relaxed);
                self.sorted.insert(known.name(sequence).into(), known.key);
            }
        }
    }

    /// The counter of the bytes of long ids.
    pub(crate) fn long(&self) -> Arc<AtomicUsize> {
        self.long.clone()
    }

    /// The id of a message.
    pub(crate) fn id(&self, sequence: u64) -> Option<&Arc<str>> {
        self.by_sequence.get(&sequence).map(|known| &known.id)
    }

    /// Continues a search over at most `most` names, after sorting in as many. Returns where to continue; `None` if the search
    /// has ended.
    pub(crate) fn search(
        &mut self,
        search: &mut NameSearch<'_>,
        mut at: Vec<u8>,
        most: usize,
    ) -> Option<Vec<u8>> {
        self.sort_in(most);
        if !self.fresh.is_empty() {
            return Some(at);
        }
        let mut left = most;
        loop {
            let mut next = None;
            let range = self.sorted.range::<[u8], _>((Bound::Included(&at[..]), Bound::Unbounded));
            for (name, key) in range {
                if left == 0 {
                    return Some(name.to_vec());
                }
                left -= 1;
                match search.see(name, *key) {
                    SearchStep::Next => {}
                    SearchStep::Jump(to) => {
                        next = Some(to);
                        break;
                    }
                    SearchStep::End => return None,
                }
            }
            at = next?;
        }
    }

    /// Returns memory to the system after many have been removed.
    pub(crate) fn give_memory_back(&mut self) {
        if self.fresh.capacity() > 4 * self.fresh.len().max(KEPT) {
            self.fresh.shrink_to(2 * self.fresh.len());
        }
    }
}

/// What to do after looking at a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SearchStep {
    /// Look at the next one.
    Next,
    /// Continue at this position, which is further on.
    Jump(Vec<u8>),
    End,
}

/// A match: its sequence, key and party.
pub(crate) type NameMatch = (u64, u128, u16);

/// A search for the first bucket after a sequence that has messages whose ids begin with a prefix. Pure: it is given the names
/// that exist, in order, and says where to continue.
#[derive(Debug)]
pub(crate) struct NameSearch<'a> {
    kind: u8,
    /// The parties whose messages are wanted, in order; at least one.
    parties: Vec<u16>,
    prefix: &'a str,
    after: u64,
    /// The bucket in which it has found a match.
    bucket: Option<u64>,
    found: Vec<NameMatch>,
    /// Number of names it has seen.
    pub(crate) seen: u64,
}

impl<'a> NameSearch<'a> {
    /// Searches messages of a class to or from these parties, which are in order. `None` if there are no parties.
    pub(crate) fn new(class: Class, parties: &[u16], prefix: &'a str, after: u64) -> Option<Self> {
        let (kind, parties) = (kind(class), Some(parties.to_vec()).filter(|parties| !parties.is_empty())?);
        Some(Self { kind, parties, prefix, after, bucket: None, found: Vec::new(), seen: 0 })
    }

    /// Searches the dead letters of a party.
    pub(crate) fn dead(party: u16, after: u64) -> Self {
        Self { kind: DEAD, parties: vec![party], prefix: "", after, bucket: None, found: Vec::new(), seen: 0 }
    }

    /// Where the search begins.
    pub(crate) fn start(&self) -> Vec<u8> {
        self.in_bucket(self.after.saturating_add(1) / BUCKET)
    }

    fn in_bucket(&self, bucket: u64) -> Vec<u8> {
        target(self.kind, bucket, self.parties[0], self.prefix)
    }

    /// Takes into account a name at or after the position that it asked for.
    pub(crate) fn see(&mut self, name: &[u8], key: u128) -> SearchStep {
        self.seen += 1;
        let Some(NameParts { kind, bucket, party, id, sequence }) = parts(name) else {
            return SearchStep::Next;
        };
        if kind != self.kind || self.bucket.is_some_and(|found| bucket > found) {
            return SearchStep::End;
        }
        let of = |at: usize| match self.parties.get(at) {
            Some(party) => target(kind, bucket, *party, self.prefix),
            None => self.in_bucket(bucket + 1),
        };
        let to = match self.parties.binary_search(&party) {
            Err(next) => of(next),
            Ok(_) if id.starts_with(self.prefix.as_bytes()) => {
                if sequence > self.after {
                    self.bucket = Some(bucket);
                    self.found.push((sequence, key, party));
                }
                return SearchStep::Next;
            }
            Ok(at) if id < self.prefix.as_bytes() => of(at),
            Ok(at) => of(at + 1),
        };
        // Short ids with zeros in the prefix: what follows an id is a number, and may sort after the position of the prefix.
        if to.as_slice() > name { SearchStep::Jump(to) } else { SearchStep::Next }
    }

    /// The first matches, in order; and the sequence after which there may be more.
    pub(crate) fn end(mut self, most: usize) -> (Vec<NameMatch>, Option<u64>) {
        let Some(bucket) = self.bucket else { return (Vec::new(), None) };
        self.found.sort_unstable();
        if self.found.len() > most {
            self.found.truncate(most);
            let last = self.found.last().map(|(sequence, ..)| *sequence);
            return (self.found, last);
        }
        (self.found, bucket.checked_add(1).and_then(|next| next.checked_mul(BUCKET)).map(|next| next - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::Place;

    fn entry(sequence: u64, party: u16, class: Class) -> Entry {
        Entry {
            sequence,
            place: Place { segment: 1, offset: 4096 },
            frame_len: 80,
            ..Entry::new(class, party, 5, 0)
        }
    }

    /// The parties of these tests, and one that has no messages.
    const PARTIES: [u16; 5] = [0, 1, 2, 7, u16::MAX];

    /// All that a search returns page by page, and how many names it saw.
    fn all(
        names: &mut Names,
        (class, party): (Class, Option<u16>),
        prefix: &str,
        most: usize,
    ) -> (Vec<u64>, u64) {
        let (mut all, mut after, mut seen) = (Vec::new(), 0, 0);
        loop {
            let parties = party.map_or_else(|| PARTIES.to_vec(), |party| vec![party]);
            let mut search = NameSearch::new(class, &parties, prefix, after).expect("there are some");
            let mut at = Some(search.start());
            while let Some(from) = at {
                at = names.search(&mut search, from, 3);
            }
            seen += search.seen;
            let (found, next) = search.end(most);
            assert!(found.len() <= most);
            all.extend(found.into_iter().map(|(sequence, key, _)| {
                assert_eq!(key, u128::from(sequence));
                sequence
            }));
            let Some(next) = next else { break };
            assert!(next > after, "it goes on");
            after = next;
        }
        (all, seen)
    }

    #[test]
    fn what_ids_take_beyond_64_bytes_is_counted_once_and_goes_with_them() {
        let mut names = Names::default();
        let long = names.long();
        let counted = || long.load(Ordering::Relaxed);
        names.add(1, &entry(1, 2, Class::Incoming), "x".repeat(SHORT));
        assert_eq!(counted(), 0);
        for again in 0..2 {
            names.add(2, &entry(2, 2, Class::Outgoing), "x".repeat(1024));
            assert_eq!(counted(), 1024 - SHORT, "{again}");
        }
        names.add(3, &entry(3, 2, Class::Incoming), "x".repeat(100));
        assert_eq!(counted(), 1024 - SHORT + 36);
        assert_eq!(all(&mut names, (Class::Incoming, None), "x", 9).0, [1, 3]);
        assert_eq!(counted(), 2 * (1024 - SHORT + 36), "with the sorted list");
        for sequence in [2, 2, 1, 7] {
            names.remove(sequence);
        }
        assert_eq!(counted(), 2 * 36);
        names.remove(3);
        assert_eq!(counted(), 0);
    }

    #[test]
    fn names_that_leave_before_anybody_searches_are_not_kept_and_those_that_stay_are_found() {
        let mut names = Names::default();
        for sequence in 0..50_000 {
            names.add(sequence.into(), &entry(sequence, 2, Class::Incoming), "m");
            if sequence % 1000 != 0 {
                names.remove(sequence);
            }
            let (kept, stay) = (names.fresh.len(), names.by_sequence.len());
            assert!(kept <= KEPT + 2 * stay + 2, "{kept} for {stay}");
        }
        let stay: Vec<u64> = (1..50).map(|n| n * 1000).collect();
        assert_eq!(all(&mut names, (Class::Incoming, None), "m", 7).0, stay);
        assert!(names.fresh.is_empty());
    }

    /// Random ids of few letters, zeros among them, in buckets many of which are empty, compared with a look at every message.
    #[test]
    fn a_search_gives_what_begins_so_once_and_in_order() {
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        let mut random = seed;
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..200 {
            let mut names = Names::default();
            let mut there: Vec<(u64, u16, bool, String)> = Vec::new();
            let mut sequence = 0;
            for _ in 0..draw(60) {
                let gap = if draw(8) == 0 { 5 * BUCKET } else { 3 };
                sequence += 1 + draw(gap);
                let id: String = (0..=draw(4)).map(|_| ['\0', 'a', 'b'][draw(3) as usize]).collect();
                let (party, outgoing) = ([0, 1, 7, u16::MAX][draw(4) as usize], draw(3) == 0);
                let class = if outgoing { Class::Outgoing } else { Class::Incoming };
                names.add(u128::from(sequence), &entry(sequence, party, class), id.as_str());
                there.push((sequence, party, outgoing, id));
            }
            if draw(2) == 0 {
                let class = Class::Incoming;
                assert!(
                    all(&mut names, (class, None), "", 9).0.len() <= there.len(),
                    "some are in order then"
                );
            }
            for gone in there.extract_if(.., |_| draw(5) == 0) {
                names.remove(gone.0);
            }
            for prefix in ["", "a", "ab", "a\0", "\0\0\0", "b\0\0\0\0\0\0\0\0\0", "c"] {
                for party in [None, Some(0), Some(1), Some(2), Some(u16::MAX)] {
                    for (class, outgoing) in [(Class::Outgoing, true), (Class::Incoming, false)] {
                        let wanted: Vec<u64> = there
                            .iter()
                            .filter(|(_, of, is, id)| {
                                *is == outgoing && party.is_none_or(|p| p == *of) && id.starts_with(prefix)
                            })
                            .map(|(sequence, ..)| *sequence)
                            .collect();
                        let most = 1 + draw(5) as usize;
                        assert_eq!(
                            all(&mut names, (class, party), prefix, most).0,
                            wanted,
                            "{prefix:?} {party:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn few_matches_among_many_cost_a_jump_or_two_for_each_bucket() {
        let mut names = Names::default();
        for sequence in 1..=20 * BUCKET {
            // Few per bucket, so that the test is short.
            if sequence % 97 == 0 {
                let id = if sequence % (97 * 8192) == 0 { "n/few" } else { "many" };
                names.add(
                    u128::from(sequence),
                    &entry(sequence, 2, Class::Incoming),
                    format!("{id}/{sequence}"),
                );
            }
        }
        for party in [None, Some(2)] {
            let (found, seen) = all(&mut names, (Class::Incoming, party), "n/few", 100);
            assert_eq!(found.len() as u64, 20 * BUCKET / (97 * 8192), "{found:?}");
            assert!(seen <= 4 * 20, "{seen} were seen");
            let (found, seen) = all(&mut names, (Class::Incoming, party), "absent", 100);
            assert!(found.is_empty() && seen <= 2 * 20, "{seen} were seen");
        }
    }
}
