//! What became of a message.

use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{Arrival, DeadReason, FromSender, Outcome, Sequence, Stored, Tracked};

use super::bench::{Bench, Settings, hand, until_stats};
use crate::common::{arrival, id, identity, party, payload};

pub async fn what_became_of_a_message_can_be_asked(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let b = party("party_b");
    let sent = async |name: &str| engine.track_sent(&b, &id(name)).await.expect("tracks");
    assert_eq!(sent("m").await, Tracked::Unknown);
    for on_disk in [false, true] {
        let sequence = engine.accept(&b, &id("m"), Bytes::from_static(b"12345")).await.expect("accepts");
        let dead = engine.accept(&b, &id("dead"), Bytes::from_static(b"1")).await.expect("accepts");
        let dropped = engine.accept(&b, &id("dropped"), Bytes::new()).await.expect("accepts");
        if on_disk {
            bench.settle_down(&engine).await;
        }
        assert_eq!(sent("m").await, Tracked::Pending { sequence, len: 5 });
        engine.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
        assert_eq!(sent("m").await, Tracked::Delivered { sequence });
        let reason = DeadReason::Refused("no".into());
        engine.settle(&b, dead, Outcome::Dead(reason.clone())).await.expect("settles");
        let died = |dead_for| Tracked::Dead { sequence: dead, len: 1, reason: reason.clone(), dead_for };
        assert_eq!(sent("dead").await, died(Some(0)));
        if on_disk {
            bench.settle_down(&engine).await;
            // That may take a second of service time.
            let tracked = sent("dead").await;
            assert!(tracked == died(Some(0)) || tracked == died(Some(1)), "{tracked:?}");
        }
        engine.settle(&b, dropped, Outcome::Dropped).await.expect("settles");
        assert_eq!(sent("dropped").await, Tracked::Dropped { sequence: dropped });
    }
    let received = async |from: &FromSender| engine.track_received(from, &id("in")).await.expect("tracks");
    let from = FromSender::Party(party("party_a"));
    assert_eq!(received(&from).await, Tracked::Unknown);
    let came = arrival("party_a", "in", payload(1, 3), Some(identity(1, 1, 1)));
    engine.store(came).await.expect("stores");
    let Tracked::Held { sender, sequence, len } = received(&FromSender::Any).await else { panic!("is held") };
    assert_eq!((sender, len), (Some(party("party_a")), 3));
    engine.release(&from, &id("in")).await.expect("releases");
    assert_eq!(received(&from).await, Tracked::Released { sequence });
}

pub async fn what_became_of_an_arrival_can_be_asked_by_its_sender<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let arrivals = [Some("party_a"), Some("party_c"), None].map(|sender| Arrival {
        sender: sender.map(party),
        id: id("in"),
        payload: payload(1, sender.map_or(70_000, str::len)),
        identity: None,
    });
    let mut held = Vec::new();
    for came in arrivals {
        let (sender, len) = (came.sender.clone(), came.payload.len() as u64);
        let from = FromSender::from(sender.clone());
        let stored = engine.store(came).await.expect("stores");
        let Stored::New(sequence) = stored else { panic!("{stored:?}") };
        held.push((from, Tracked::Held { sender, sequence, len }));
    }
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            engine = bench.reopen(engine, &settings, end).await.that_found(0, 3, 0);
        }
        for (from, tracked) in &held {
            assert_eq!(engine.track_received(from, &id("in")).await.expect("tracks"), *tracked, "{end:?}");
        }
        let newest = engine.track_received(&FromSender::Any, &id("in")).await.expect("tracks");
        assert_eq!(newest, held[2].1, "{end:?}");
    }
    // An id that was sent is none that arrived.
    assert_eq!(engine.track_sent(&party("party_a"), &id("in")).await.expect("tracks"), Tracked::Unknown);
    assert_eq!(engine.release_topic(&FromSender::Any, "i").await.expect("releases"), 3);
    for (from, tracked) in &held {
        let Tracked::Held { sequence, .. } = *tracked else { panic!("it was held") };
        let now = engine.track_received(from, &id("in")).await.expect("tracks");
        assert_eq!(now, Tracked::Released { sequence });
    }
}

pub async fn a_message_is_tracked_through_death_retry_and_delivery(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let b = party("party_b");
    let sent = async || engine.track_sent(&b, &id("m")).await.expect("tracks");
    let first = engine.accept(&b, &id("m"), "one".into()).await.expect("accepts");
    let reason = DeadReason::Refused("no".into());
    engine.settle(&b, first, Outcome::Dead(reason.clone())).await.expect("settles");
    let retried = engine.retry_dead_letter(first).await.expect("retries").expect("is there");
    assert_eq!(sent().await, Tracked::Pending { sequence: retried, len: 3 });
    engine.settle_delivered(&b, &[retried]).await.expect("settles");
    assert_eq!(sent().await, Tracked::Delivered { sequence: retried });
    let newer = engine.accept(&b, &id("m"), "four".into()).await.expect("accepts");
    assert_eq!(sent().await, Tracked::Pending { sequence: newer, len: 4 });
    engine.settle(&b, newer, Outcome::Dead(reason.clone())).await.expect("settles");
    assert_eq!(sent().await, Tracked::Dead { sequence: newer, len: 4, reason, dead_for: Some(0) });
    assert_eq!(engine.track_sent(&party("party_c"), &id("m")).await.expect("tracks"), Tracked::Unknown);
}

pub async fn an_expired_message_is_a_dead_letter_to_whoever_asks<B: Bench>(bench: &B) {
    let settings = Settings { send_ttl: Some(Duration::from_secs(100)), ..Settings::default() };
    let mut engine = bench.open(&settings).await;
    let b = party("party_b");
    let sequence = engine.accept(&b, &id("m"), "late".into()).await.expect("accepts");
    bench.advance(Duration::from_secs(101));
    until_stats(&engine, "it expires", |stats| stats.dead_letters == 1).await;
    for end in B::ENDS {
        let tracked = engine.track_sent(&b, &id("m")).await.expect("tracks");
        let Tracked::Dead { sequence: dead, len: 4, reason: DeadReason::Expired, dead_for } = tracked else {
            panic!("{tracked:?} before {end:?}")
        };
        assert_eq!(dead, sequence);
        assert!(dead_for.is_some_and(|seconds| seconds < 100), "{dead_for:?}");
        engine = bench.reopen(engine, &settings, *end).await.that_found(0, 0, 1);
    }
}

pub async fn pending_messages_are_listed_with_their_ids<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    let mut accepted = Vec::new();
    for (name, len) in [("small", 3), ("großer Name\n", 10), ("large", 2 << 20), ("empty", 0)] {
        let sequence = store.accept(&b, &id(name), payload(1, len)).await.expect("accepts");
        accepted.push((sequence, len as u64, Some(id(name))));
    }
    accepted.sort_by_key(|(sequence, ..)| *sequence);
    for end in [None, None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, end).await.that_found(4, 0, 0);
        }
        let list = store.pending_with_ids(&b, Sequence(0), 10).await.expect("lists");
        let found: Vec<_> = list.into_iter().map(|(p, name)| (p.sequence, p.len, name)).collect();
        assert_eq!(found, accepted, "{end:?}");
        let page = store.pending_with_ids(&b, accepted[0].0, 2).await.expect("lists");
        assert_eq!(page.iter().map(|(p, _)| p.sequence).collect::<Vec<_>>(), [accepted[1].0, accepted[2].0]);
        bench.settle_down(&store).await;
    }
}

pub async fn expired_mail_is_counted<B: Bench>(bench: &B) {
    let settings = Settings { message_ttl: Some(Duration::from_secs(100)), ..Settings::default() };
    let store = bench.open(&settings).await;
    for n in 0..3 {
        let name = n.to_string();
        store.store(arrival("party_a", &name, payload(1, 10), None)).await.expect("stores");
        let read_at = hand(&store, &name).await;
        bench.until_read_is_kept(&store, read_at).await;
    }
    bench.settle_down(&store).await;
    assert_eq!(store.stats().expired, 0);
    bench.advance(Duration::from_secs(101));
    until_stats(&store, "all of them are counted", |stats| stats.expired == 3).await;
    assert_eq!(store.stats().mailbox_messages, 0);
}
