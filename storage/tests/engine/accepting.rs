//! Accepting: what was accepted is pending, in its order, and survives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use petnet_storage::{
    DeadLetter, DeadReason, Engine, FromSender, Held, MessageId, Observer, Outcome, PartyId, Sequence,
    StoreError, StoreState, Stored,
};

use super::bench::{Bench, End, Settings, listed, sync_ends};
use crate::common::{arrival, id, identity, party, payload, pending, read, until};

const MIB: usize = 1 << 20;
const SIZES: [usize; 13] = [
    0,
    1,
    64,
    4096,
    20_000,
    65_535,
    65_536,
    300_000,
    MIB / 2 - 1,
    MIB / 2,
    MIB / 2 + 1,
    3 * MIB,
    5 * MIB + 3,
];

pub async fn accepted_messages_of_all_sizes_are_pending_after_reopening<B: Bench>(bench: &B) {
    let b = party("party_b");
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    for (round, end) in (0..).zip(B::ENDS) {
        for (i, size) in SIZES.into_iter().enumerate() {
            let seed = round * 100 + i as u64;
            store.accept(&b, &id(format!("{round}/{i}")), payload(seed, size)).await.expect("accepts");
        }
        let count = (round as usize + 1) * SIZES.len();
        check_sizes(&store, count).await;
        store = bench.reopen(store, &settings, *end).await.that_found(count, 0, 0);
        check_sizes(&store, count).await;
    }
}

async fn check_sizes(store: &Arc<dyn Engine>, count: usize) {
    let all = pending(store, "party_b").await;
    assert_eq!(all.len(), count);
    for (name, bytes) in all {
        let (r, i) = name.split_once('/').expect("our name");
        let (r, i): (u64, usize) = (r.parse().expect("a number"), i.parse().expect("a number"));
        assert!(bytes == payload(r * 100 + i as u64, SIZES[i]), "{name}");
    }
}

pub async fn a_newer_message_supersedes_a_pending_one_with_its_id<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    let first = store.accept(&b, &id("m"), "one".into()).await.expect("accepts");
    store.accept(&b, &id("other"), "x".into()).await.expect("accepts");
    bench.settle_down(&store).await;
    let key = store.pending(&b, Sequence(0), 1).await.expect("lists")[0].id_key;
    let second = store.accept(&b, &id("m"), "two".into()).await.expect("accepts");
    assert!(store.load(&b, first).await.expect("loads").is_none(), "superseded");
    assert!(!store.settle(&b, first, Outcome::Delivered).await.expect("settles"), "it is over");
    // A list is a hint: it may name one that is over.
    let list = store.pending(&b, Sequence(0), 10).await.expect("lists");
    let keys: Vec<_> = list.iter().filter(|p| p.sequence != first).map(|p| (p.sequence, p.id_key)).collect();
    assert_eq!((keys.len(), keys[1]), (2, (second, key)), "one key for one id");
    assert_ne!(keys[0].1, key);
    let expected = vec![("other".to_owned(), Bytes::from("x")), ("m".to_owned(), Bytes::from("two"))];
    assert_eq!(pending(&store, "party_b").await, expected);
    for end in [End::Dropped].iter().chain(B::ENDS) {
        store = bench.reopen(store, &settings, *end).await.that_found(2, 0, 0);
        assert_eq!(pending(&store, "party_b").await, expected, "{end:?}");
    }
}

pub async fn pending_messages_come_in_the_order_of_acceptance_and_in_pages<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let mut accepted = Vec::new();
    for n in 0..30_usize {
        let peer = ["party_b", "party_c", "party_b"][n % 3];
        let len = [10, 100_000, 0, 700_000][n % 4];
        let name = id(format!("{n}"));
        let sequence = store.accept(&party(peer), &name, payload(n as u64, len)).await.expect("accepts");
        accepted.push((peer, sequence, len as u64));
        if n == 10 {
            bench.settle_down(&store).await;
        }
    }
    assert!(accepted.is_sorted_by(|a, b| a.1 < b.1), "sequences rise");
    for end in [None].into_iter().chain(B::ENDS.iter().map(|end| Some(*end))) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, end).await.that_found(30, 0, 0);
        }
        for peer in ["party_b", "party_c"] {
            let expected: Vec<_> = accepted.iter().filter(|a| a.0 == peer).map(|a| (a.1, a.2)).collect();
            for page in [1, 7, 1000] {
                let (mut all, mut after) = (Vec::new(), Sequence(0));
                loop {
                    let some = store.pending(&party(peer), after, page).await.expect("lists");
                    let Some(last) = some.last() else { break };
                    assert!(some.len() <= page);
                    after = last.sequence;
                    all.extend(some.into_iter().map(|pending| (pending.sequence, pending.len)));
                }
                assert_eq!(all, expected, "{peer} in pages of {page}, {end:?}");
            }
        }
        let mut peers = store.peers_with_pending().await.expect("lists");
        peers.sort();
        assert_eq!(peers, [party("party_b"), party("party_c")]);
        let unknown = store.pending(&party("party_x"), Sequence(0), 10).await.expect("lists");
        assert_eq!(unknown, []);
    }
}

pub async fn many_at_once_are_accepted_in_their_order_and_the_last_of_an_id_wins<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    let old = store.accept(&b, &id("7"), "from before".into()).await.expect("accepts");
    let name = |n: u64| (n % 60).to_string();
    let many = (0..100).map(|n| (b.clone(), id(name(n)), payload(n, n as usize))).collect();
    let accepted = store.accept_many(many).await.await;
    let accepted: Vec<_> = accepted.into_iter().map(|one| one.expect("accepts")).collect();
    assert_eq!(accepted.len(), 100);
    assert!(old < accepted[0] && accepted.is_sorted_by(|a, b| a < b), "{accepted:?}");
    assert!(store.load(&b, old).await.expect("loads").is_none(), "replaced");
    for (n, sequence) in (0..).zip(&accepted) {
        let loaded = store.load(&b, *sequence).await.expect("loads");
        assert_eq!(loaded.is_some(), n >= 40, "{n}");
        if let Some(outgoing) = loaded {
            assert_eq!((outgoing.id, outgoing.sequence), (id(name(n)), *sequence));
        }
    }
    let expected: Vec<_> = (40..100).map(|n| (name(n), payload(n, n as usize))).collect();
    assert_eq!(pending(&store, "party_b").await, expected);
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(60, 0, 0);
        assert_eq!(pending(&store, "party_b").await, expected);
    }
    assert_eq!(store.accept_many(Vec::new()).await.await.len(), 0);
}

/// Messages of one stream, in its order: the last one is the one that counts.
pub async fn the_last_of_many_under_an_id_wins_whatever_their_sizes(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let b = party("party_b");
    let many =
        vec![(b.clone(), id("m"), payload(1, 2 * MIB)), (b.clone(), id("m"), Bytes::from_static(b"last"))];
    for accepted in engine.accept_many(many).await.await {
        accepted.expect("accepts");
    }
    let left = pending(&engine, "party_b").await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1.len(), 4, "the older one came to stand in place of the newer one");
}

pub async fn many_messages_survive_every_end<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    let mut expected = Vec::new();
    for (round, end) in (0..).zip(B::ENDS) {
        for part in 0..4_u64 {
            let numbers = || part * 100..(part + 1) * 100;
            let name = |n: u64| format!("{round}-{n}");
            let out = numbers().map(|n| (b.clone(), id(name(n)), payload(n, 100))).collect();
            let arrivals = numbers()
                .map(|n| arrival("party_a", &name(n), payload(n, 50), Some(identity(round + 1, n + 1, 1))));
            for stored in store.store_many(arrivals.collect()).await {
                assert!(matches!(stored, Ok(Stored::New(_))), "{stored:?}");
            }
            for (n, accepted) in numbers().zip(store.accept_many(out).await.await) {
                let sequence = accepted.expect("accepts");
                if n % 5 == 0 {
                    assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
                } else {
                    expected.push((name(n), payload(n, 100)));
                }
            }
            if part == 1 {
                bench.settle_down(&store).await;
            }
        }
        sync_ends(&store).await;
        let mail = (round as usize + 1) * 400;
        store = bench.reopen(store, &settings, *end).await.that_found(expected.len() + 1, mail, 0);
        assert_eq!(pending(&store, "party_b").await, expected, "{end:?}");
        for n in (0..400).step_by(37) {
            assert_eq!(read(&store, &format!("{round}-{n}")).await, Some(payload(n, 50)), "{end:?}");
        }
    }
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn note(&self, what: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    async fn until(&self, what: &str) {
        until(what, async || {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&what.to_owned())
        })
        .await;
    }
}

impl Observer for Heard {
    fn arrived(&self, message: &Held) {
        let sender = message.sender.as_ref().map_or("nobody", PartyId::as_str);
        self.note(format!("{} of {sender}, {} bytes", message.id, message.payload.len()));
    }

    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64) {
        self.note(format!("{} for {peer}, {len} bytes", sequence.0));
    }

    fn died(&self, letter: &DeadLetter) {
        self.note(format!("{} for {} is dead: {}", letter.id, letter.correspondent.name(), letter.reason));
    }
}

pub async fn what_becomes_visible_is_told(bench: &impl Bench) {
    let heard = Arc::new(Heard::default());
    let store = bench.open_observed(&Settings::default(), heard.clone()).await.engine;
    let b = party("party_b");
    for len in [5, 600_000] {
        let sequence = store.accept(&b, &id(len.to_string()), payload(1, len)).await.expect("accepts");
        heard.until(&format!("{} for party_b, {len} bytes", sequence.0)).await;
        let outcome = Outcome::Dead(DeadReason::Refused("no".into()));
        assert!(store.settle(&b, sequence, outcome).await.expect("settles"));
        let reason = DeadReason::Refused("no".into());
        heard.until(&format!("{len} for party_b is dead: {reason}")).await;
        let name = format!("in {len}");
        store.store(arrival("party_a", &name, payload(2, len), None)).await.expect("stores");
        heard.until(&format!("{name} of party_a, {len} bytes")).await;
    }
    let many = ["x", "y"].map(|name| (b.clone(), id(name), Bytes::from_static(b"123")));
    for accepted in store.accept_many(many.into()).await.await {
        heard.until(&format!("{} for party_b, 3 bytes", accepted.expect("accepts").0)).await;
    }
    let arrivals = ["x", "y"].map(|name| arrival("party_a", name, "1234".into(), Some(identity(1, 1, 1))));
    store.store_many(arrivals.into()).await;
    heard.until("x of party_a, 4 bytes").await;
}

pub async fn callers_at_the_same_time_get_places_of_their_own(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50_u64 {
        let store = store.clone();
        tasks.spawn(async move {
            let len = if n % 10 == 0 { 200_000 } else { 100 };
            let name = n.to_string();
            let sent = store.accept(&party("party_b"), &id(&name), payload(n, len)).await.expect("accepts");
            let came = arrival("party_a", &name, payload(n, len), Some(identity(1, n + 1, 1)));
            let Stored::New(stored) = store.store(came).await.expect("stores") else { panic!("it is new") };
            [sent, stored]
        });
    }
    let sequences: BTreeSet<Sequence> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(sequences.len(), 100);
    assert_eq!(listed(&store, "party_b").await.len(), 50);
    for n in (0..50).step_by(7) {
        let len = if n % 10 == 0 { 200_000 } else { 100 };
        assert!(read(&store, &n.to_string()).await == Some(payload(n, len)));
    }
}

pub async fn a_closed_store_takes_nothing(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let mut state = store.state();
    assert_eq!(*state.borrow_and_update(), StoreState::Serving);
    store.close().await.expect("closes");
    assert_eq!(*state.borrow_and_update(), StoreState::Closed);
    let (b, m): (PartyId, MessageId) = (party("party_b"), id("m"));
    let refused = store.accept(&b, &m, "x".into()).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    let refused = store.store(arrival("party_a", "m", "x".into(), None)).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    for refused in store.accept_many(vec![(b.clone(), m.clone(), "x".into()), (b, m, "y".into())]).await.await
    {
        assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    }
    let refused = store.begin(None).map(drop);
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    assert!(!matches!(store.read(&FromSender::Any, &id("m")).await, Ok(Some(_))));
}
