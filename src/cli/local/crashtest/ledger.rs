//! What the sending clients were told, and what the receiving clients saw. It lives outside the gateways that are killed.
//!
//! Each attempt to send has bytes of its own, so that a received message shows which attempt it was. The rules for each id:
//! * the newest accepted attempt arrives, or a later one whose outcome nobody was told;
//! * once an attempt was seen, no older one is seen any more;
//! * everything received is byte for byte one of the attempts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::cli::local::world::content;

/// How old a message may be to be looked at again: well below its lifetime.
const LOOK_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// Which of the two directions, and the message's id.
pub(crate) type LedgerKey = (usize, String);

#[derive(Debug)]
struct SendAttempt {
    len: usize,
    accepted: bool,
}

#[derive(Debug)]
struct LedgerEntry {
    attempts: Vec<SendAttempt>,
    /// The attempt that was last seen.
    seen: Option<usize>,
    changed: Instant,
}

/// What a received message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is as it must be.
    Right,
    /// It is right, and a newer one is still to come.
    Older,
    /// It is older than one that was seen before.
    WentBack,
    /// It was never sent with these bytes.
    Corrupt,
}

/// Counts over the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LedgerCounts {
    pub(crate) accepted: u64,
    pub(crate) bytes: u64,
    pub(crate) at_risk: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupt: u64,
}

impl LedgerCounts {
    pub(crate) fn wrong(&self) -> u64 {
        self.lost + self.duplicated + self.corrupt
    }
}

#[derive(Debug, Default)]
struct LedgerState {
    entries: HashMap<LedgerKey, LedgerEntry>,
    /// Accepted messages that were not yet seen at the other side.
    open: HashSet<LedgerKey>,
    counts: LedgerCounts,
    wrong: Vec<String>,
}

/// The attempts to send of all clients, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<LedgerState>);

impl Ledger {
    fn inner(&self) -> MutexGuard<'_, LedgerState> {
        self.0.lock()
    }

    /// Enters an attempt before it is sent; returns its number and bytes.
    pub(crate) fn attempt(&self, key: &LedgerKey, len: usize) -> (usize, Bytes) {
        let mut inner = self.inner();
        let fresh = || LedgerEntry { attempts: Vec::new(), seen: None, changed: Instant::now() };
        let entry = inner.entries.entry(key.clone()).or_insert_with(fresh);
        entry.attempts.push(SendAttempt { len, accepted: false });
        let number = entry.attempts.len() - 1;
        (number, bytes(key, number, len))
    }

    /// Notes that the client was told that an attempt is accepted.
    pub(crate) fn accepted(&self, key: &LedgerKey, number: usize) {
        let mut inner = self.inner();
        let Some(entry) = inner.entries.get_mut(key) else { return };
        entry.changed = Instant::now();
        let seen = entry.seen.is_some_and(|seen| seen >= number);
        let Some(attempt) = entry.attempts.get_mut(number) else { return };
        attempt.accepted = true;
        let len = attempt.len as u64;
        inner.counts.accepted += 1;
        inner.counts.bytes += len;
        if !seen {
            inner.open.insert(key.clone());
        }
    }

    /// The attempt that was last seen under an id: a receive that begins now must not fall behind it.
    pub(crate) fn seen(&self, key: &LedgerKey) -> Option<usize> {
        self.inner().entries.get(key).and_then(|entry| entry.seen)
    }

    /// Judges what was received; `floor` is what [`seen`](Self::seen) was before the receive began. Another receive may
    /// have seen more in the meantime.
    pub(crate) fn received(&self, key: &LedgerKey, payload: &Bytes, floor: Option<usize>) -> Judgement {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(entry) = inner.entries.get_mut(key) else { return Judgement::Corrupt };
        let same = |(number, a): &(usize, &SendAttempt)| {
            a.len == payload.len() && bytes(key, *number, a.len) == payload
        };
        let found = entry.attempts.iter().enumerate().rev().find(same).map(|(number, _)| number);
        let Some(number) = found else {
            inner.counts.corrupt += 1;
            inner.wrong.push(format!("{key:?}: received {} bytes that were never sent", payload.len()));
            return Judgement::Corrupt;
        };
        if let Some(seen) = floor.filter(|seen| number < *seen) {
            inner.counts.duplicated += 1;
            inner
                .wrong
                .push(format!("{key:?}: attempt {number} came back after attempt {seen} was received"));
            return Judgement::WentBack;
        }
        entry.seen = entry.seen.max(Some(number));
        if entry.attempts[number + 1..].iter().any(|a| a.accepted) {
            return Judgement::Older;
        }
        inner.open.remove(key);
        Judgement::Right
    }

    /// Notes that an accepted message is not there.
    pub(crate) fn lost(&self, key: &LedgerKey, why: &str) {
        let mut inner = self.inner();
        inner.open.remove(key);
        inner.counts.lost += 1;
        inner.wrong.push(format!("{key:?}: {why}"));
    }

    /// Counts what is accepted and not yet received, at the moment when a gateway is killed.
    pub(crate) fn kill(&self) -> u64 {
        let mut inner = self.inner();
        let open = inner.open.len() as u64;
        inner.counts.at_risk += open;
        open
    }

    /// Accepted messages that are young enough to be looked at again. Older ones are forgotten, unless their ids are used
    /// again.
    pub(crate) fn recent(&self) -> Vec<LedgerKey> {
        let mut inner = self.inner();
        let is_young = |entry: &LedgerEntry| entry.changed.elapsed() < LOOK_AGAIN_WITHIN;
        inner.entries.retain(|_, entry| is_young(entry) || entry.attempts.len() > 1);
        let accepted = |(_, entry): &(&LedgerKey, &LedgerEntry)| {
            is_young(entry) && entry.attempts.iter().any(|a| a.accepted)
        };
        inner.entries.iter().filter(accepted).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn counts(&self) -> LedgerCounts {
        self.inner().counts
    }

    /// Descriptions of what went wrong.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.inner().wrong.clone()
    }
}

fn bytes((way, id): &LedgerKey, number: usize, len: usize) -> Bytes {
    content(&format!("{way}/{id}/{number}"), len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LedgerKey {
        (0, "id".into())
    }

    #[test]
    fn an_id_may_go_forward_and_never_back() {
        use Judgement::{Older, Right, WentBack};
        let ledger = Ledger::default();
        let sent: Vec<_> = (0..4).map(|_| ledger.attempt(&key(), 64)).collect();
        ledger.accepted(&key(), 0);
        ledger.accepted(&key(), 2);
        assert_eq!(ledger.kill(), 1);
        // Attempt 3 may have been accepted, too: its outcome is not known.
        let verdicts = [0, 2, 3, 2, 3, 0].map(|n: usize| {
            let floor = ledger.seen(&key());
            ledger.received(&key(), &sent[n].1, floor)
        });
        assert_eq!(verdicts, [Older, Right, Right, WentBack, Right, WentBack]);
        // A receive that began before attempt 3 was seen may still bring attempt 2.
        assert_eq!(ledger.received(&key(), &sent[2].1, Some(2)), Right);
        assert_eq!(ledger.kill(), 0);
        let counts = ledger.counts();
        assert_eq!((counts.accepted, counts.at_risk, counts.duplicated, counts.wrong()), (2, 1, 2, 2));
    }

    #[test]
    fn bytes_that_were_never_sent_are_corrupt() {
        let ledger = Ledger::default();
        let (_, sent) = ledger.attempt(&key(), 64);
        let mut other = sent.to_vec();
        other[63] ^= 1;
        assert_eq!(ledger.received(&key(), &other.into(), None), Judgement::Corrupt);
        assert_eq!(ledger.received(&key(), &sent.slice(..63), None), Judgement::Corrupt);
        assert_eq!(ledger.received(&(1, "id".into()), &sent, None), Judgement::Corrupt);
        assert_eq!(ledger.received(&key(), &sent, None), Judgement::Right);
    }
}
