//! Mailbox messages by the beginning of their ids, and what became of messages.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, clocked, id, identity, open, party, payload, until};
use petnet_storage::{DeadReason, Engine, FromSender, Outcome, Sequence, StoreOptions, Tracked};

async fn store(store: &Arc<dyn Engine>, sender: &str, name: &str, len: usize, number: u64) {
    let known = Some(identity(1, number, 1));
    store.store(arrival(sender, name, payload(number, len), known)).await.expect("stores");
}

async fn topic(store: &Arc<dyn Engine>, from: &FromSender, prefix: &str, limit: usize) -> Vec<String> {
    let found = store.topic(from, prefix, Sequence(0), limit).await.expect("looks");
    found.into_iter().map(|found| found.id.to_string()).collect()
}

#[tokio::test]
async fn a_topic_is_found_in_memory_on_disk_and_after_a_restart_and_released_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions { cache_bytes: 0, ..options };
    let (engine, _) = open(options.clone());
    let mut number = 0;
    for n in 0..30 {
        for (sender, name, len) in [
            ("party_a", format!("job:{n}"), 10),
            ("party_b", format!("job:b{n}"), 70_000),
            ("party_a", format!("other:{}{n}", "x".repeat(900)), 10),
        ] {
            number += 1;
            store(&engine, sender, &name, len, number).await;
        }
        if n == 14 {
            clock.advance(Duration::from_secs(1));
            until("the first half is on disk", async || engine.stats().index_in_memory == 0).await;
        }
    }
    engine.accept(&party("party_b"), &id("job:mine"), Bytes::new()).await.expect("accepts");
    let of_a = FromSender::Party(party("party_a"));
    let check = async |engine: &Arc<dyn Engine>| {
        assert_eq!(topic(engine, &FromSender::Any, "job:", 1000).await.len(), 60);
        let wanted: Vec<_> = (0..7).map(|n| format!("job:{n}")).collect();
        assert_eq!(topic(engine, &of_a, "job:", 7).await, wanted, "the first that came");
        assert_eq!(topic(engine, &of_a, "job:2", 100).await.len(), 11);
        assert_eq!(topic(engine, &FromSender::Unnamed, "", 100).await, Vec::<String>::new());
    };
    check(&engine).await;
    engine.close().await.expect("closes");
    let (engine, _) = open(options);
    check(&engine).await;
    let all = engine.topic(&of_a, "job:", Sequence(0), 100).await.expect("looks");
    let rest = engine.topic(&of_a, "job:", all[9].sequence, 100).await.expect("looks");
    assert_eq!(rest, all[10..]);
    assert_eq!(engine.release_topic(&of_a, "job:").await.expect("releases"), 30);
    assert_eq!(engine.release_topic(&of_a, "job:").await.expect("releases"), 0);
    assert_eq!(topic(&engine, &FromSender::Any, "job:", 1000).await.len(), 30);
    assert_eq!(engine.release_topic(&FromSender::Any, "").await.expect("releases"), 60);
    assert_eq!(engine.stats().mailbox_messages, 0);
    assert_eq!(engine.stats().pending[0].messages, 1, "what is pending is in no topic");
}

#[tokio::test]
async fn what_became_of_a_message_can_be_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let (engine, _) = open(options);
    let b = party("party_b");
    let sent = async |name: &str| engine.track_sent(&b, &id(name)).await.expect("tracks");
    assert_eq!(sent("m").await, Tracked::Unknown);
    for on_disk in [false, true] {
        let sequence = engine.accept(&b, &id("m"), Bytes::from_static(b"12345")).await.expect("accepts");
        let dead = engine.accept(&b, &id("dead"), Bytes::from_static(b"1")).await.expect("accepts");
        let dropped = engine.accept(&b, &id("dropped"), Bytes::new()).await.expect("accepts");
        if on_disk {
            clock.advance(Duration::from_secs(1));
            until("they are on disk", async || engine.stats().index_in_memory == 0).await;
        }
        assert_eq!(sent("m").await, Tracked::Pending { sequence, len: 5 });
        engine.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
        assert_eq!(sent("m").await, Tracked::Delivered { sequence });
        let reason = DeadReason::Refused("no".into());
        engine.settle(&b, dead, Outcome::Dead(reason.clone())).await.expect("settles");
        let expected = Tracked::Dead { sequence: dead, len: 1, reason };
        assert_eq!(sent("dead").await, expected);
        if on_disk {
            clock.advance(Duration::from_secs(1));
            until("the letter is on disk", async || engine.stats().index_in_memory == 0).await;
            assert_eq!(sent("dead").await, expected);
        }
        engine.settle(&b, dropped, Outcome::Dropped).await.expect("settles");
        assert_eq!(sent("dropped").await, Tracked::Dropped { sequence: dropped });
    }
    let received = async |from: &FromSender| engine.track_received(from, &id("in")).await.expect("tracks");
    let from = FromSender::Party(party("party_a"));
    assert_eq!(received(&from).await, Tracked::Unknown);
    store(&engine, "party_a", "in", 3, 1).await;
    let Tracked::Held { sender, sequence, len } = received(&FromSender::Any).await else { panic!("is held") };
    assert_eq!((sender, len), (Some(party("party_a")), 3));
    engine.release(&from, &id("in")).await.expect("releases");
    assert_eq!(received(&from).await, Tracked::Released { sequence });
}
