//! Delivering: loading what is pending, and settling it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{DeadReason, DeliveryIdentity, Engine, Incarnation, Outcome, Sequence};

use super::bench::{Bench, Settings, listed, sync_ends, until_stats};
use crate::common::{id, party, payload, pending, until};

pub async fn settled_messages_stay_settled<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    for i in 0..100 {
        store
            .accept(&b, &id(format!("{i}")), payload(i, if i % 10 == 0 { 70_000 } else { 64 }))
            .await
            .expect("accepts");
        if i == 50 {
            bench.settle_down(&store).await;
        }
    }
    for sequence in listed(&store, "party_b").await.into_iter().skip(2).step_by(3) {
        assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
        assert!(!store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"), "only once");
    }
    let before = pending(&store, "party_b").await;
    assert_eq!(before.len(), 67);
    let bytes = before.iter().map(|(_, payload)| payload.len() as u64).sum::<u64>();
    until_stats(&store, "they are counted", |stats| {
        stats.pending.iter().any(|p| (p.peer.as_str(), p.messages, p.bytes) == ("party_b", 67, bytes))
    })
    .await;
    sync_ends(&store).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(68, 0, 0);
        assert_eq!(pending(&store, "party_b").await, before, "{end:?}");
    }
}

pub async fn the_low_water_mark_never_passes_a_pending_number(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let b = party("party_b");
    let mut sequences = Vec::new();
    for i in 0..5 {
        sequences.push(store.accept(&b, &id(format!("{i}")), "x".into()).await.expect("accepts"));
    }
    let mark = async |s| store.load(&b, s).await.expect("loads").expect("pending").identity.low_water;
    assert_eq!(mark(sequences[4]).await, 1);
    store.settle(&b, sequences[1], Outcome::Delivered).await.expect("settles");
    assert_eq!(mark(sequences[4]).await, 1);
    store.settle(&b, sequences[0], Outcome::Delivered).await.expect("settles");
    assert_eq!(mark(sequences[4]).await, 3);
    // Whatever ends the lowest: a newer one of its id (once that is synced), death, the operator, and many at once.
    store.accept(&b, &id("2"), "y".into()).await.expect("accepts");
    until("the mark rises", async || mark(sequences[4]).await == 4).await;
    let outcome = Outcome::Dead(DeadReason::Refused("no".into()));
    assert!(store.settle(&b, sequences[3], outcome).await.expect("settles"));
    assert_eq!(mark(sequences[4]).await, 5);
    let last = store.accept(&b, &id("last"), "x".into()).await.expect("accepts");
    assert!(store.settle(&b, sequences[4], Outcome::Dropped).await.expect("settles"));
    assert_eq!(mark(last).await, 6);
    let all = listed(&store, "party_b").await;
    store.settle_delivered(&b, &all[..1]).await.expect("settles");
    assert_eq!((all.len(), mark(last).await), (2, 7));
}

pub async fn the_low_water_mark_is_that_of_its_peer(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let mut numbers = BTreeMap::new();
    for n in 0..6 {
        let peer = ["party_b", "party_c"][n % 2];
        let sequence = store.accept(&party(peer), &id("m".repeat(n + 1)), "x".into()).await.expect("accepts");
        let outgoing = store.load(&party(peer), sequence).await.expect("loads").expect("pending");
        assert_eq!((outgoing.identity.number, outgoing.identity.low_water), (n as u64 / 2 + 1, 1));
        numbers.insert(n, (peer, sequence));
        let other = ["party_c", "party_b"][n % 2];
        assert!(store.load(&party(other), sequence).await.expect("loads").is_none(), "it is not theirs");
    }
    for n in [0, 2] {
        let (peer, sequence) = numbers[&n];
        assert!(store.settle(&party(peer), sequence, Outcome::Delivered).await.expect("settles"));
    }
    let mark = async |n| {
        let (peer, sequence) = numbers[&n];
        store.load(&party(peer), sequence).await.expect("loads").expect("pending").identity.low_water
    };
    assert_eq!((mark(4).await, mark(5).await), (3, 1));
}

async fn identities(store: &Arc<dyn Engine>) -> BTreeMap<Sequence, DeliveryIdentity> {
    let mut all = BTreeMap::new();
    for sequence in listed(store, "party_b").await {
        let outgoing = store.load(&party("party_b"), sequence).await.expect("loads").expect("pending");
        all.insert(sequence, outgoing.identity);
    }
    let mut lowest: BTreeMap<Incarnation, u64> = BTreeMap::new();
    for known in all.values() {
        let low = lowest.entry(known.incarnation).or_insert(u64::MAX);
        *low = known.number.min(*low);
    }
    for known in all.values() {
        assert!(known.low_water <= lowest[&known.incarnation], "{known:?} passes a pending number");
    }
    all
}

pub async fn what_is_pending_keeps_its_identity_and_no_identity_is_used_twice<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    let mut used = BTreeSet::new();
    let mut starts = BTreeSet::new();
    for (round, end) in (0..).zip(B::ENDS.iter().chain(B::ENDS)) {
        let mut accepted = Vec::new();
        for n in 0..6 {
            let name = id(format!("{round}-{n}"));
            accepted.push(store.accept(&b, &name, Bytes::from("x")).await.expect("accepts"));
        }
        let all = identities(&store).await;
        for sequence in &accepted {
            let DeliveryIdentity { incarnation, number, .. } = all[sequence];
            assert!(used.insert((incarnation, number)), "{incarnation} {number} was used before");
            starts.insert(incarnation);
        }
        for sequence in [accepted[0], accepted[4]] {
            assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
        }
        sync_ends(&store).await;
        let before = identities(&store).await;
        let pending = before.len() + 1;
        store = bench.reopen(store, &settings, *end).await.that_found(pending, 0, 0);
        let after = identities(&store).await;
        let names = |all: &BTreeMap<Sequence, DeliveryIdentity>| -> Vec<_> {
            all.iter().map(|(sequence, known)| (*sequence, known.incarnation, known.number)).collect()
        };
        assert_eq!(names(&after), names(&before), "{end:?}");
        for (sequence, known) in &after {
            assert!(known.low_water >= before[sequence].low_water, "a mark does not fall: {end:?}");
        }
    }
    if B::STARTS_HAVE_NAMES {
        assert_eq!(starts.len(), 2 * B::ENDS.len(), "each start has a name of its own");
    }
}

pub async fn loading_many_gives_what_loading_each_gives<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    let mut asked = vec![Sequence(u64::MAX), Sequence(0)];
    for n in 0..20_usize {
        let len = [0, 10, 70_000, 1 << 20][n % 4];
        asked.push(store.accept(&b, &id(format!("{n}")), payload(n as u64, len)).await.expect("accepts"));
        if n == 9 {
            bench.settle_down(&store).await;
        }
    }
    asked.push(store.accept(&party("party_c"), &id("0"), "of another".into()).await.expect("accepts"));
    for n in [3, 5, 12] {
        assert!(store.settle(&b, asked[n], Outcome::Delivered).await.expect("settles"));
    }
    asked.reverse();
    asked.push(asked[4]);
    sync_ends(&store).await;
    for end in [None].into_iter().chain(B::ENDS.iter().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, *end).await.that_found(19, 0, 0);
        }
        let many = store.load_many(&b, &asked).await;
        assert_eq!(many.len(), asked.len());
        let mut found = 0;
        for (sequence, many) in asked.iter().zip(many) {
            let (many, one) = (many.expect("loads"), store.load(&b, *sequence).await.expect("loads"));
            assert_eq!(many.is_some(), one.is_some(), "{sequence:?}");
            let (Some(many), Some(one)) = (many, one) else { continue };
            found += 1;
            assert_eq!((&many.receiver, many.sequence), (&b, *sequence));
            assert_eq!((many.id, many.sequence, many.identity), (one.id, one.sequence, one.identity));
            assert!(many.payload.whole().await.expect("reads") == one.payload.whole().await.expect("reads"));
        }
        assert_eq!(found, 18, "17 and one twice, {end:?}");
    }
    let unknown = store.load_many(&party("party_x"), &asked).await;
    assert!(unknown.into_iter().all(|one| matches!(one, Ok(None))));
    assert!(store.load_many(&b, &[]).await.is_empty());
}

pub async fn settling_what_is_not_pending_changes_nothing(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let b = party("party_b");
    let kept = store.accept(&b, &id("kept"), "x".into()).await.expect("accepts");
    let over = store.accept(&b, &id("over"), "x".into()).await.expect("accepts");
    assert!(store.settle(&b, over, Outcome::Dropped).await.expect("settles"));
    for sequence in [Sequence(0), over, Sequence(over.0 + 1), Sequence(1 << 53), Sequence(u64::MAX)] {
        for outcome in [Outcome::Delivered, Outcome::Dropped, Outcome::Dead(DeadReason::Refused("no".into()))]
        {
            assert!(!store.settle(&b, sequence, outcome).await.expect("answers"), "{sequence:?}");
            assert!(store.load(&b, sequence).await.expect("answers").is_none());
        }
    }
    for peer in ["party_c", "party_x"] {
        assert!(!store.settle(&party(peer), kept, Outcome::Delivered).await.expect("answers"));
    }
    assert_eq!(pending(&store, "party_b").await, [("kept".to_owned(), Bytes::from("x"))]);
    assert!(store.dead_letters(Sequence(0), 10).await.expect("lists").is_empty());
}

pub async fn many_are_settled_at_once_and_unknown_ones_are_passed_over<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    let mut accepted = Vec::new();
    for n in 0..40 {
        let len = if n % 8 == 0 { 100_000 } else { 10 };
        accepted.push(store.accept(&b, &id(format!("{n}")), payload(n, len)).await.expect("accepts"));
        if n == 20 {
            bench.settle_down(&store).await;
        }
    }
    let of_another = store.accept(&party("party_c"), &id("0"), "x".into()).await.expect("accepts");
    let mut ended: Vec<_> = accepted.iter().copied().step_by(2).collect();
    ended.extend([Sequence(0), of_another, accepted[0], Sequence(u64::MAX), Sequence(of_another.0 + 1)]);
    store.settle_delivered(&b, &ended).await.expect("settles");
    store.settle_delivered(&b, &ended).await.expect("settles again");
    store.settle_delivered(&party("party_x"), &ended).await.expect("an unknown party");
    store.settle_delivered(&b, &[]).await.expect("none");
    let left: Vec<_> = accepted.iter().copied().skip(1).step_by(2).collect();
    assert_eq!(listed(&store, "party_b").await, left);
    sync_ends(&store).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(22, 0, 0);
        assert_eq!(listed(&store, "party_b").await, left, "{end:?}");
        assert_eq!(listed(&store, "party_c").await, [of_another], "{end:?}");
    }
}
