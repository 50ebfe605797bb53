//! What clients were told, kept outside the fault; and what may therefore be found afterwards.
//!
//! A message id may be sent several times, one after the other; each time is an *attempt*, with bytes of its own that
//! follow from sender, id and attempt. So what a reader is handed says which attempt it was.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};

use crate::random::Random;

/// Whose gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// `party_a`
    A,
    /// `party_b`
    B,
}

impl Party {
    /// Its id.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "party_a",
            Self::B => "party_b",
        }
    }

    /// The one it talks to.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Which message: ids of different senders do not meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Who sent it.
    pub from: Party,
    /// Its id.
    pub id: String,
}

/// What the sending client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A success.
    Accepted,
    /// An answer that says no: error code and text.
    Refused(i32, String),
    /// No answer, or a failed call: it may or may not have been accepted.
    Unknown(tonic::Code, String),
}

/// What a look at the receiver came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The newest accepted attempt, or a later one that may have been accepted.
    Whole,
    /// Nothing is there, and nothing was promised.
    Absent,
    /// Something was promised and is not there, or is hidden by something older.
    Lost,
    /// Something older came back after the reader had been handed something newer.
    Duplicated,
    /// Refused, and kept nevertheless.
    Kept,
    /// Bytes that nobody sent.
    Wrong,
}

/// What is known of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It may have been accepted or not.
    Nothing,
    Accepted,
    /// For sure: it must never be found.
    Refused,
}

#[derive(Debug)]
struct Attempt {
    len: usize,
    told: Told,
}

#[derive(Debug, Default)]
struct Record {
    attempts: Vec<Attempt>,
    /// Newest attempt that a reader was handed; attempts count from 1.
    shown: usize,
    /// The reader needs it no more: from now on nothing may be there.
    released: bool,
}

impl Record {
    /// The newest accepted attempt; 0 = none.
    fn promised(&self) -> usize {
        self.attempts.iter().rposition(|attempt| attempt.told == Told::Accepted).map_or(0, |at| at + 1)
    }
}

/// The ledger of one story.
#[derive(Debug, Default)]
pub struct Ledger {
    records: Mutex<BTreeMap<Key, Record>>,
}

impl Ledger {
    /// Notes that an attempt begins, before anything is sent. Gives its number and its bytes.
    pub fn begin(&self, key: &Key, len: usize) -> (usize, Bytes) {
        let mut records = self.lock();
        let record = records.entry(key.clone()).or_default();
        record.attempts.push(Attempt { len, told: Told::Nothing });
        let attempt = record.attempts.len();
        (attempt, payload(key, attempt, len))
    }

    /// Notes what the client was told.
    pub fn answered(&self, key: &Key, attempt: usize, answer: &Answer) {
        self.lock().get_mut(key).unwrap().attempts[attempt - 1].told = match answer {
            Answer::Accepted => Told::Accepted,
            Answer::Refused(..) => Told::Refused,
            Answer::Unknown(..) => Told::Nothing,
        };
    }

    /// Accepted attempts.
    pub fn accepted(&self) -> u64 {
        self.count(Told::Accepted)
    }

    /// Attempts that were refused for sure.
    pub fn refused(&self) -> u64 {
        self.count(Told::Refused)
    }

    /// Attempts of which nobody knows.
    pub fn unknown(&self) -> u64 {
        self.count(Told::Nothing)
    }

    fn count(&self, told: Told) -> u64 {
        let records = self.lock();
        records.values().flat_map(|record| &record.attempts).filter(|attempt| attempt.told == told).count()
            as u64
    }

    /// Notes that the reader who was handed a message has released it. Not for one of which a later attempt may still
    /// arrive: see [`may_be_released`](Self::may_be_released).
    pub fn released(&self, key: &Key) {
        self.lock().get_mut(key).unwrap().released = true;
    }

    /// Whether a reader has the last attempt of a message, so that nothing of it can come any more.
    pub fn may_be_released(&self, key: &Key) -> bool {
        let records = self.lock();
        let record = &records[key];
        record.shown > 0 && record.shown == record.attempts.len() && !record.released
    }

    /// Whether its reader has released it.
    pub fn is_released(&self, key: &Key) -> bool {
        self.lock()[key].released
    }

    /// Messages that are promised and that no reader was handed yet.
    pub fn at_risk(&self) -> u64 {
        self.lock().values().filter(|record| record.promised() > record.shown).count() as u64
    }

    /// The messages that are promised and that no reader was handed yet.
    pub fn owed(&self) -> Vec<Key> {
        let records = self.lock();
        let owed = records.iter().filter(|(_, record)| record.promised() > record.shown);
        owed.map(|(key, _)| key.clone()).collect()
    }

    /// Every message that was ever begun.
    pub fn keys(&self) -> Vec<Key> {
        self.lock().keys().cloned().collect()
    }

    /// Whether `found` is what the newest promise, or a later attempt, put there. Until all deliveries are over this
    /// may be false without anything being wrong.
    pub fn is_kept(&self, key: &Key, found: &Bytes) -> bool {
        let records = self.lock();
        let record = &records[key];
        attempt_of(key, record, found).is_some_and(|attempt| attempt >= record.promised())
    }

    /// The rules: what `found` at the receiver means once all deliveries are over.
    pub fn judge(&self, key: &Key, found: Option<&Bytes>) -> Verdict {
        let mut records = self.lock();
        let Some(record) = records.get_mut(key) else {
            return if found.is_some() { Verdict::Wrong } else { Verdict::Absent };
        };
        let promised = record.promised();
        let Some(found) = found else {
            let may_be_absent = record.released || (promised == 0 && record.shown == 0);
            return if may_be_absent { Verdict::Absent } else { Verdict::Lost };
        };
        match attempt_of(key, record, found) {
            None => Verdict::Wrong,
            Some(attempt) if record.attempts[attempt - 1].told == Told::Refused => Verdict::Kept,
            Some(_) if record.released => Verdict::Duplicated,
            Some(attempt) if attempt < record.shown => Verdict::Duplicated,
            Some(attempt) if attempt < promised => Verdict::Lost,
            Some(attempt) => {
                record.shown = attempt;
                Verdict::Whole
            }
        }
    }

    /// A message in words: its attempts, what was shown, and what was found now.
    pub fn describe(&self, key: &Key, found: Option<&Bytes>) -> String {
        let records = self.lock();
        let Some(record) = records.get(key) else { return format!("{key:?}, which nobody sent") };
        let attempt = found.map(|found| attempt_of(key, record, found));
        format!("{key:?}: {record:?}; found attempt {attempt:?}")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Record>> {
        self.records.lock().unwrap()
    }
}

/// Newest attempt with these bytes.
fn attempt_of(key: &Key, record: &Record, found: &Bytes) -> Option<usize> {
    let same = |at: &usize| {
        let len = record.attempts[at - 1].len;
        found.len() == len && *found == payload(key, *at, len)
    };
    (1..=record.attempts.len()).rev().find(same)
}

/// The bytes of an attempt. They begin in words, for the reader of a dump; the rest is noise that the words determine.
fn payload(key: &Key, attempt: usize, len: usize) -> Bytes {
    let words = format!("attempt {attempt} of {} from {}, {len} bytes: ", key.id, key.from.name());
    let seed = words.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let mut noise = Random::from_seed(seed);
    let mut bytes = BytesMut::with_capacity(len + words.len() + 8);
    bytes.put_slice(words.as_bytes());
    while bytes.len() < len {
        bytes.put_u64(noise.number());
    }
    bytes.truncate(len);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with attempts that came to these answers, and their bytes.
    fn ledger(accepted: &[bool]) -> (Ledger, Key, Vec<Bytes>) {
        let (ledger, key) = (Ledger::default(), Key { from: Party::A, id: "m".into() });
        let sent = accepted.iter().map(|accepted| {
            let (attempt, bytes) = ledger.begin(&key, 100);
            if *accepted {
                ledger.answered(&key, attempt, &Answer::Accepted);
            }
            bytes
        });
        let sent = sent.collect();
        (ledger, key, sent)
    }

    #[test]
    fn a_promised_message_must_be_there() {
        let (ledger, key, sent) = ledger(&[true]);
        assert_eq!((ledger.at_risk(), ledger.owed().len()), (1, 1));
        assert_eq!(ledger.judge(&key, None), Verdict::Lost);
        assert_eq!(ledger.judge(&key, Some(&sent[0])), Verdict::Whole);
        assert_eq!((ledger.at_risk(), ledger.accepted()), (0, 1));
        assert_eq!(ledger.judge(&key, None), Verdict::Lost);
    }

    #[test]
    fn what_was_not_promised_may_be_absent_or_whole() {
        let (ledger, key, sent) = ledger(&[false]);
        assert_eq!(ledger.at_risk(), 0);
        assert_eq!(ledger.judge(&key, None), Verdict::Absent);
        assert_eq!(ledger.judge(&key, Some(&sent[0].slice(..99))), Verdict::Wrong);
        assert_eq!(ledger.judge(&key, Some(&sent[0])), Verdict::Whole);
    }

    #[test]
    fn what_was_refused_must_not_be_there() {
        let (ledger, key, sent) = ledger(&[true, false]);
        ledger.answered(&key, 2, &Answer::Refused(10_002, "no".into()));
        assert_eq!(ledger.judge(&key, Some(&sent[0])), Verdict::Whole);
        assert_eq!(ledger.judge(&key, Some(&sent[1])), Verdict::Kept);
        assert_eq!((ledger.accepted(), ledger.refused(), ledger.unknown()), (1, 1, 0));
    }

    #[test]
    fn what_was_released_must_not_come_back() {
        let (ledger, key, sent) = ledger(&[false, true]);
        assert!(!ledger.may_be_released(&key), "nobody has it");
        assert_eq!(ledger.judge(&key, Some(&sent[1])), Verdict::Whole);
        assert!(ledger.may_be_released(&key));
        ledger.released(&key);
        assert_eq!(ledger.judge(&key, None), Verdict::Absent);
        assert_eq!(ledger.judge(&key, Some(&sent[1])), Verdict::Duplicated);
    }

    #[test]
    fn something_older_than_the_promise_does_not_keep_it() {
        let (ledger, key, sent) = ledger(&[true, true, false]);
        assert!(!ledger.is_kept(&key, &sent[0]) && ledger.is_kept(&key, &sent[2]));
        assert_eq!(ledger.judge(&key, Some(&sent[0])), Verdict::Lost);
        assert_eq!(ledger.judge(&key, Some(&sent[1])), Verdict::Whole);
    }

    #[test]
    fn something_older_than_what_was_shown_is_a_duplicate() {
        let (ledger, key, sent) = ledger(&[true, false]);
        assert_eq!(ledger.judge(&key, Some(&sent[1])), Verdict::Whole);
        assert_eq!(ledger.judge(&key, Some(&sent[0])), Verdict::Duplicated);
    }

    #[test]
    fn what_nobody_sent_is_wrong() {
        let (ledger, key, sent) = ledger(&[true]);
        let mut flipped = BytesMut::from(&*sent[0]);
        flipped[57] ^= 1;
        assert_eq!(ledger.judge(&key, Some(&flipped.freeze())), Verdict::Wrong);
        let other = Key { from: Party::B, id: "m".into() };
        assert_eq!(ledger.judge(&other, Some(&sent[0])), Verdict::Wrong);
        assert_eq!(ledger.judge(&other, None), Verdict::Absent);
    }

    #[test]
    fn bytes_say_which_attempt_they_are() {
        let key = Key { from: Party::B, id: "long".into() };
        assert_eq!(payload(&key, 7, 100_000), payload(&key, 7, 100_000));
        assert_ne!(payload(&key, 7, 100_000)[50..], payload(&key, 8, 100_000)[50..]);
        assert!(payload(&key, 7, 100).starts_with(b"attempt 7 of long from party_b"));
    }
}
