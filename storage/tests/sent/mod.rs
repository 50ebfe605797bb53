//! Messages of every kind, sent through the public face of a store, and what a store says about each of them later.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{Arrival, DeadReason, Engine, FromSender, Outcome, Sequence, StoreError, Stored};

use crate::common::{id, identity, party, payload};
use crate::log_map::{Frame, Kind};

/// Peer of all outgoing messages.
pub const PEER: &str = "party_b";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// It is outgoing.
    Us,
    Party(&'static str),
    Unnamed,
}

/// A message that was accepted.
#[derive(Debug, Clone)]
pub struct Sent {
    pub from: From,
    pub id: String,
    pub payload: Bytes,
}

/// What a store says about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Pending or in the mailbox, with these bytes.
    Is(Bytes),
    /// Pending or in the mailbox, and reported as damaged.
    Damaged,
    /// A dead letter of so many bytes, for this reason.
    Letter(u64, DeadReason),
}

/// All that a store says, by sequence.
pub type Answers = BTreeMap<u64, Answer>;

/// Everything sent, by sequence.
pub type All = BTreeMap<u64, Sent>;

pub async fn accept(store: &Arc<dyn Engine>, all: &mut All, name: &str, len: usize) -> Sequence {
    let payload = payload(all.len() as u64 + 1, len);
    let sequence = store.accept(&party(PEER), &id(name), payload.clone()).await.expect("accepts");
    all.insert(sequence.0, Sent { from: From::Us, id: name.into(), payload });
    sequence
}

pub async fn deliver(
    store: &Arc<dyn Engine>,
    all: &mut All,
    from: From,
    name: &str,
    len: usize,
    number: Option<u64>,
) {
    let payload = payload(all.len() as u64 + 1, len);
    let sender = match from {
        From::Party(name) => Some(party(name)),
        From::Us | From::Unnamed => None,
    };
    let identity = number.map(|n| identity(1, n, 1));
    let arrival = Arrival { sender, id: id(name), payload: payload.clone(), identity };
    let Stored::New(sequence) = store.store(arrival).await.expect("stores") else { panic!("{name} is new") };
    all.insert(sequence.0, Sent { from, id: name.into(), payload });
}

/// A little of everything: small and large, both ways, ended in every way.
pub async fn a_little_of_everything(store: &Arc<dyn Engine>) -> All {
    let mut all = All::new();
    let mut pending = Vec::new();
    for (i, len) in [0, 1, 64, 200, 24, 70_000, 100].into_iter().enumerate() {
        pending.push(accept(store, &mut all, &format!("out{i}"), len).await);
    }
    for (i, len) in [80, 7, 66_000, 300].into_iter().enumerate() {
        let number = Some(i as u64 + 1);
        deliver(store, &mut all, From::Party("party_a"), &format!("in{i}"), len, number).await;
    }
    deliver(store, &mut all, From::Unnamed, "unnamed", 50, None).await;
    accept(store, &mut all, "two slices", 262_144 + 3000).await;
    let b = party(PEER);
    store.settle(&b, pending[1], Outcome::Delivered).await.expect("settles");
    for at in [3, 4] {
        let refused = Outcome::Dead(DeadReason::Refused(format!("no {at}")));
        store.settle(&b, pending[at], refused).await.expect("buries");
    }
    store.release(&FromSender::Party(party("party_a")), &id("in1")).await.expect("releases");
    store.drop_dead_letter(pending[4]).await.expect("drops");
    accept(store, &mut all, "last large", 65_536).await;
    accept(store, &mut all, "last but one", 40).await;
    accept(store, &mut all, "last", 333).await;
    all
}

/// Asks a store for everything: what is pending, in the mailbox, dead. Panics at bytes that were never sent.
pub async fn ask(store: &Arc<dyn Engine>, all: &All) -> Answers {
    let mut answers = Answers::new();
    let b = party(PEER);
    for p in store.pending(&b, Sequence(0), 1_000_000).await.expect("lists") {
        let loaded = async {
            let Some(m) = store.load(&b, p.sequence).await? else { return Ok(None) };
            Ok(Some((m.id, m.payload.whole().await?)))
        };
        let answer = match loaded.await {
            Ok(Some((id, payload))) => {
                let sent = all.get(&p.sequence.0).unwrap_or_else(|| panic!("{p:?} was never sent"));
                assert_eq!((&*sent.id, &sent.payload), (id.as_str(), &payload), "WRONG: {p:?}");
                Answer::Is(payload)
            }
            Ok(None) => continue,
            Err(StoreError::Damaged { .. }) => Answer::Damaged,
            Err(other) => panic!("{p:?}: {other}"),
        };
        answers.insert(p.sequence.0, answer);
    }
    for (sequence, sent) in all {
        let from = match sent.from {
            From::Us => continue,
            From::Party(name) => FromSender::Party(party(name)),
            From::Unnamed => FromSender::Unnamed,
        };
        match store.read(&from, &id(&sent.id)).await {
            Ok(Some(m)) => {
                assert_eq!((m.sequence.0, &m.payload), (*sequence, &sent.payload), "WRONG: {}", sent.id);
                answers.insert(*sequence, Answer::Is(m.payload));
            }
            Ok(None) => {}
            Err(StoreError::Damaged { .. }) => {
                answers.insert(*sequence, Answer::Damaged);
            }
            Err(other) => panic!("{}: {other}", sent.id),
        }
    }
    for letter in store.dead_letters(Sequence(0), 1_000_000).await.expect("lists") {
        let known = answers.insert(letter.sequence.0, Answer::Letter(letter.len, letter.reason));
        assert_eq!(known, None, "{} is a dead letter and something else", letter.sequence.0);
    }
    answers
}

/// What was done to a store: the frames that do not check out any more.
#[derive(Debug, Default)]
pub struct Hit {
    /// Messages of which a part is damaged.
    pub messages: BTreeSet<u64>,
    /// Messages of which a record of their end is damaged: they may be back as they were before.
    pub records: BTreeSet<u64>,
}

impl Hit {
    pub fn add(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Message | Kind::Part | Kind::Commit => self.messages.insert(frame.sequence),
            Kind::Settle | Kind::Dead => self.records.insert(frame.sequence),
        };
    }
}

/// Counts over many trials.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages that a damaged frame belongs to, and that were not served.
    pub damaged: u64,
    /// Messages that came back since the record of their end was damaged.
    pub back: u64,
    /// Messages served as before.
    pub served: u64,
}

/// Asserts that only what was hit answers otherwise than before.
pub fn judge(before: &Answers, after: &Answers, all: &All, hit: &Hit, when: &str) -> Counts {
    let mut counts = Counts::default();
    for (sequence, sent) in all {
        let (was, is) = (before.get(sequence), after.get(sequence));
        if was == is {
            counts.served += u64::from(is.is_some());
            continue;
        }
        let name = &sent.id;
        let whole = matches!(is, Some(Answer::Is(_) | Answer::Letter(..)));
        if hit.records.contains(sequence) && whole {
            counts.back += 1;
        } else if hit.messages.contains(sequence) && !matches!(is, Some(Answer::Is(_))) {
            counts.damaged += 1;
        } else {
            let brief = |a: Option<&Answer>| match a {
                Some(Answer::Is(bytes)) => format!("{} bytes", bytes.len()),
                other => format!("{other:?}"),
            };
            panic!("LOST: {when}: {name} was {}, is {}; hit {hit:?}", brief(was), brief(is));
        }
    }
    counts
}
