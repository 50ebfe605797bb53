//! Compares what is read back from the target with the source: every message, the memory of deliveries, the counters.
//!
//! Both are read in the order of their sequences, side by side; no more than a batch of either is in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use super::digest::digest;
use super::{BATCH, Fate, Moved, Remembered, Result, Source, Summary, Tallies, Unreadable};
use crate::face::error::StoreError;
use crate::face::message::{Incarnation, PartyId, Sequence};

/// Number of differences that are kept for display.
const SHOWN: usize = 100;

/// Something that the target does not hold as the source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference(String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) source: Tallies,
    pub(super) target: Tallies,
    pub(super) unreadable: Vec<Unreadable>,
    pub(super) differences: Vec<Difference>,
    pub(super) differing: u64,
}

impl Comparison {
    fn differs(&mut self, what: String) {
        self.differing += 1;
        if self.differences.len() < SHOWN {
            self.differences.push(Difference(what));
        }
    }
}

type MovedOrUnreadable = std::result::Result<Moved, Unreadable>;

/// Compares; `progress` is called with the payload bytes of each message of the source.
pub(super) async fn compare(
    source: &dyn Source,
    target: &dyn Source,
    mut progress: impl FnMut(u64),
) -> Result<Comparison> {
    let mut compared = Comparison::default();
    let (ours, theirs) = (source.summary().await?, target.summary().await?);
    compare_counters(&mut compared, &ours, &theirs);
    compare_memory(&mut compared, source.memory().await?, target.memory().await?);
    let ages = ours.clock_stands && theirs.clock_stands;
    let (mut sources, mut targets) = (OrderedReading::new(source), OrderedReading::new(target));
    let mut order = NumberOrder::default();
    loop {
        let (here, there) = (sources.peek().await?, targets.peek().await?);
        let Some(first) = here.into_iter().chain(there).min() else { break };
        let ours = if here == Some(first) { sources.take() } else { None };
        let theirs = if there == Some(first) { targets.take() } else { None };
        progress(ours.as_ref().and_then(|ours| ours.as_ref().ok()).map_or(0, |m| m.payload.len()));
        if let Some(Ok(message)) = &theirs
            && let Some(wrong) = order.wrong(message)
        {
            compared.differs(wrong);
        }
        compare_one(&mut compared, ours, theirs, ages).await?;
    }
    Ok(compared)
}

async fn compare_one(
    compared: &mut Comparison,
    ours: Option<MovedOrUnreadable>,
    theirs: Option<MovedOrUnreadable>,
    ages: bool,
) -> Result<()> {
    let ours = match ours {
        Some(item) => Some(examined(item).await?),
        None => None,
    };
    let theirs = match theirs {
        Some(item) => Some(examined(item).await?),
        None => None,
    };
    if let Some(Ok((message, digest))) = &ours {
        compared.source.add(message, *digest);
    }
    if let Some(Ok((message, digest))) = &theirs {
        compared.target.add(message, *digest);
    }
    match (ours, theirs) {
        // A copy from before the damage cannot be compared.
        (Some(Err(unreadable)), _) => compared.unreadable.push(unreadable),
        (Some(Ok((message, _))), None) => {
            compared.differs(format!("{} is missing in the target", named(&message)));
        }
        (None, Some(Ok((message, _)))) => {
            compared.differs(format!("{} is in the target and not in the source", named(&message)));
        }
        (_, Some(Err(unreadable))) => {
            compared.differs(format!("the target cannot read it back: {unreadable}"));
        }
        (Some(Ok(ours)), Some(Ok(theirs))) => {
            let what = differing(&ours, &theirs, ages);
            if !what.is_empty() {
                compared.differs(format!("{} differs: {}", named(&ours.0), what.join("; ")));
            }
        }
        (None, None) => {}
    }
    Ok(())
}

/// Reads the whole message.
async fn examined(item: MovedOrUnreadable) -> Result<std::result::Result<(Moved, u64), Unreadable>> {
    let message = match item {
        Ok(message) => message,
        Err(unreadable) => return Ok(Err(unreadable)),
    };
    match digest(&message).await {
        Ok(digest) => Ok(Ok((message, digest))),
        Err(error @ (StoreError::Damaged { .. } | StoreError::Gone { .. })) => {
            let what = format!("{}: {error}", named(&message));
            Ok(Err(Unreadable { sequence: message.sequence, what }))
        }
        Err(error) => Err(error.into()),
    }
}

/// Names the message, for people.
fn named(message: &Moved) -> String {
    let way = if matches!(message.fate, Fate::Mailbox | Fate::DeadMail(_)) { "from" } else { "to" };
    let party = message.party.as_ref().map_or("an unnamed peer", PartyId::as_str);
    format!(
        "{} {:?} {way} {party:?}, {} bytes (message {})",
        message.fate,
        message.id.as_str(),
        message.payload.len(),
        message.sequence.0
    )
}

fn differing(ours: &(Moved, u64), theirs: &(Moved, u64), ages: bool) -> Vec<String> {
    let ((a, ours), (b, theirs)) = (ours, theirs);
    let mut what = Vec::new();
    if a.fate != b.fate {
        what.push(format!("it is a {} there ({:?} and not {:?})", b.fate, b.fate, a.fate));
    }
    if (&a.party, &a.id) != (&b.party, &b.id) {
        what.push(format!("it is another message there: {}", named(b)));
    }
    if a.identity != b.identity {
        what.push(format!("its delivery identity is {:?} there and not {:?}", b.identity, a.identity));
    }
    if ages && a.age != b.age {
        what.push(format!("its age is {} s there and not {} s", b.age, a.age));
    }
    if a.read.is_some() != b.read.is_some() || ages && a.read != b.read {
        what.push(format!("it was read {:?} s ago there and not {:?} s", b.read, a.read));
    }
    if what.is_empty() && ours != theirs {
        what.push("its content is another".to_owned());
    }
    what
}

fn compare_counters(compared: &mut Comparison, ours: &Summary, theirs: &Summary) {
    if theirs.last_sequence < ours.last_sequence {
        let (ours, theirs) = (ours.last_sequence.0, theirs.last_sequence.0);
        compared.differs(format!("the target's last sequence is {theirs} and not at least {ours}"));
    }
    if theirs.newest_incarnation_ms < ours.newest_incarnation_ms {
        let (ours, theirs) = (ours.newest_incarnation_ms, theirs.newest_incarnation_ms);
        compared
            .differs(format!("the target's newest incarnation started at {theirs} ms and not at {ours} ms"));
    }
}

/// What is remembered, by sender and incarnation, in a normal form: a mark, and disjoint ranges above it.
type RememberedRanges = BTreeMap<(Option<PartyId>, Incarnation), (u64, Vec<(u64, u64)>)>;

fn normal(memory: Vec<Remembered>) -> RememberedRanges {
    let mut all = RememberedRanges::new();
    for Remembered { sender, incarnation, low_water, mut ranges } in memory {
        ranges.sort_unstable();
        let mut low_water = low_water.max(1);
        let mut above: Vec<(u64, u64)> = Vec::new();
        for (first, end) in ranges {
            match above.last_mut() {
                _ if first <= low_water => low_water = low_water.max(end),
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => above.push((first, end)),
            }
        }
        // An entry that says nothing is equivalent to none.
        if low_water > 1 || !above.is_empty() {
            all.insert((sender, incarnation), (low_water, above));
        }
    }
    all
}

fn compare_memory(compared: &mut Comparison, ours: Vec<Remembered>, theirs: Vec<Remembered>) {
    let (ours, theirs) = (normal(ours), normal(theirs));
    let keys = ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(key)));
    for key @ (sender, incarnation) in keys {
        if ours.get(key) != theirs.get(key) {
            let sender = sender.as_ref().map_or("an unnamed peer", PartyId::as_str);
            compared.differs(format!(
                "what was delivered by {sender:?} in incarnation {incarnation} is remembered otherwise in the target"
            ));
        }
    }
}

/// Numbers of pending messages must rise with their sequences: the low-water mark of deliveries depends on that.
#[derive(Debug, Default)]
struct NumberOrder(HashMap<(Option<PartyId>, Incarnation), u64>);

impl NumberOrder {
    fn wrong(&mut self, message: &Moved) -> Option<String> {
        let (incarnation, number) = message.identity.filter(|_| message.fate == Fate::Pending)?;
        let last = self.0.entry((message.party.clone(), incarnation)).or_default();
        let wrong = number <= *last;
        *last = number.max(*last);
        wrong.then(|| format!("{} has number {number}, and a later one came before it", named(message)))
    }
}

/// A store that is read in order.
struct OrderedReading<'a> {
    store: &'a dyn Source,
    after: Sequence,
    batch: VecDeque<MovedOrUnreadable>,
}

impl<'a> OrderedReading<'a> {
    fn new(store: &'a dyn Source) -> Self {
        Self { store, after: Sequence(0), batch: VecDeque::new() }
    }

    /// Sequence of the next message.
    async fn peek(&mut self) -> Result<Option<Sequence>> {
        if self.batch.is_empty() {
            self.batch = self.store.next(self.after, BATCH).await?.into();
        }
        Ok(self.batch.front().map(sequence_of))
    }

    fn take(&mut self) -> Option<MovedOrUnreadable> {
        let item = self.batch.pop_front()?;
        self.after = sequence_of(&item);
        Some(item)
    }
}

fn sequence_of(item: &MovedOrUnreadable) -> Sequence {
    match item {
        Ok(message) => message.sequence,
        Err(unreadable) => unreadable.sequence,
    }
}
