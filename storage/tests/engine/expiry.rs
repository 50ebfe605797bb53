//! Messages expire, in service time: that during which the gateway was up.

use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{FromSender, Sequence, Tracked};

use super::bench::{Bench, End, Settings, hand, until_stats};
use crate::common::{arrival, id, party, pending, read, until};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub async fn messages_expire_in_service_time_only<B: Bench>(bench: &B) {
    let settings = Settings { message_ttl: Some(secs(100)), ..Settings::default() };
    let store = bench.open(&settings).await;
    store.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    let read_at = hand(&store, "m").await;
    bench.until_read_is_kept(&store, read_at).await;
    bench.advance(secs(60));
    let store = bench.reopen(store, &settings, End::Closed).await.engine;
    bench.advance(secs(39));
    assert_eq!(read(&store, "m").await, Some("x".into()), "time off does not count");
    bench.advance(secs(2));
    assert_eq!(read(&store, "m").await, None);

    // Nor does it for what nobody reads.
    let settings = Settings { unread_ttl: Some(secs(100)), ..Settings::default() };
    let store = bench.reopen(store, &settings, End::Closed).await.engine;
    store.store(arrival("party_a", "n", "x".into(), None)).await.expect("stores");
    bench.advance(secs(60));
    let store = bench.reopen(store, &settings, End::Closed).await.engine;
    bench.advance(secs(39));
    assert_eq!(read(&store, "n").await, Some("x".into()), "time off does not count");
    bench.advance(secs(2));
    until_stats(&store, "it is a dead letter", |stats| stats.dead_letters == 1).await;
    assert_eq!(read(&store, "n").await, None);
}

pub async fn expired_messages_are_nowhere(bench: &impl Bench) {
    let settings = Settings { message_ttl: Some(secs(100)), ..Settings::default() };
    let store = bench.open(&settings).await;
    let any = FromSender::Any;
    for len in [1, 100_000] {
        let name = len.to_string();
        store.store(arrival("party_a", &name, vec![7; len].into(), None)).await.expect("stores");
        let read_at = hand(&store, &name).await;
        bench.until_read_is_kept(&store, read_at).await;
    }
    bench.settle_down(&store).await;
    bench.advance(secs(50));
    store.store(arrival("party_a", "later", "x".into(), None)).await.expect("stores");
    let found = store.topic(&any, "1", Sequence(0), 10).await.expect("looks");
    assert_eq!(found.len(), 2);
    bench.advance(secs(51));
    for found in found {
        assert!(store.open_found(&found).await.expect("opens").is_none());
        assert!(store.open(&any, &found.id).await.expect("opens").is_none());
        assert_eq!(store.held(&any, &found.id).await.expect("looks"), []);
        // Expired, or forgotten with its space.
        let tracked = store.track_received(&any, &found.id).await.expect("tracks");
        assert!(matches!(tracked, Tracked::Expired { .. } | Tracked::Unknown), "{tracked:?}");
        assert!(!store.release(&any, &found.id).await.expect("releases"));
    }
    let left = store.topic(&any, "", Sequence(0), 10).await.expect("looks");
    assert_eq!(left.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["later"]);
    assert_eq!(store.release_topic(&any, "1").await.expect("releases"), 0);
    store.store(arrival("party_a", "1", "new".into(), None)).await.expect("stores");
    assert_eq!(read(&store, "1").await, Some("new".into()), "its id is free");
}

pub async fn what_is_pending_says_how_long_it_has<B: Bench>(bench: &B) {
    let settings = Settings { send_ttl: Some(secs(1000)), ..Settings::default() };
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    let left = async |store: &std::sync::Arc<dyn petnet_storage::Engine>| {
        let list = store.pending(&b, Sequence(0), 10).await.expect("lists");
        for pending in &list {
            assert_eq!(pending.expires_in, Some(1000 - pending.age));
        }
        list.into_iter().map(|pending| pending.expires_in).collect::<Vec<_>>()
    };
    store.accept(&b, &id("m"), Bytes::new()).await.expect("accepts");
    bench.advance(secs(300));
    store.accept(&b, &id("n"), Bytes::new()).await.expect("accepts");
    assert_eq!(left(&store).await, [Some(700), Some(1000)]);
    store = bench.reopen(store, &settings, End::Closed).await.that_found(2, 0, 0);
    bench.advance(secs(100));
    assert_eq!(left(&store).await, [Some(600), Some(900)]);
}

/// Times are whole seconds: what came late in one lost the rest of it.
pub async fn nothing_ends_before_its_time_by_rounding(bench: &impl Bench) {
    let ttl = Some(secs(100));
    let settings = Settings { message_ttl: ttl, unread_ttl: ttl, send_ttl: ttl, ..Settings::default() };
    let store = bench.open(&settings).await;
    let b = party("party_b");
    let bring = async |name: &str| {
        store.accept(&b, &id(format!("{name} sent")), Bytes::new()).await.expect("accepts");
        store.store(arrival("party_a", &format!("{name} unread"), "x".into(), None)).await.expect("stores");
        store.store(arrival("party_a", &format!("{name} read"), "x".into(), None)).await.expect("stores");
        let read_at = hand(&store, &format!("{name} read")).await;
        bench.until_read_is_kept(&store, read_at).await;
    };
    bring("old").await;
    bench.advance(Duration::from_millis(2900));
    bring("new").await;
    bench.advance(Duration::from_millis(99_950));
    let is_dead = async |name: &str| {
        let letters = store.dead_letters(Sequence(0), 100).await.expect("lists");
        letters.iter().any(|letter| letter.id.as_str() == name)
    };
    // Whatever looks for what is over finds both or one.
    until("the old ones are dead", async || is_dead("old sent").await && is_dead("old unread").await).await;
    assert!(!is_dead("new sent").await && !is_dead("new unread").await, "50 ms too early");
    assert_eq!(read(&store, "new unread").await, Some("x".into()));
    assert_eq!(read(&store, "new read").await, Some("x".into()));
    assert_eq!(read(&store, "old read").await, None);
    let sent = pending(&store, "party_b").await;
    assert_eq!(sent, [("new sent".to_owned(), Bytes::new())]);
    bench.advance(Duration::from_millis(1100));
    until("the new ones are dead", async || is_dead("new sent").await && is_dead("new unread").await).await;
    assert_eq!(read(&store, "new read").await, None);
}

pub async fn nothing_expires_without_a_limit<B: Bench>(bench: &B) {
    let settings = Settings { send_ttl: None, message_ttl: None, unread_ttl: None, ..Settings::default() };
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    store.accept(&b, &id("m"), "out".into()).await.expect("accepts");
    store.store(arrival("party_a", "m", "in".into(), None)).await.expect("stores");
    store.store(arrival("party_a", "read", "in".into(), None)).await.expect("stores");
    hand(&store, "read").await;
    for end in B::ENDS {
        bench.advance(secs(1_000_000_000));
        assert_eq!(store.pending(&b, Sequence(0), 1).await.expect("lists")[0].expires_in, None);
        assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), Bytes::from("out"))]);
        assert_eq!(read(&store, "m").await, Some("in".into()));
        assert_eq!(read(&store, "read").await, Some("in".into()));
        store = bench.reopen(store, &settings, *end).await.that_found(1, 2, 0);
    }
}
