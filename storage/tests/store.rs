//! What callers of the store rely on, through its public face.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use petnet_storage::{
    DeadReason, Engine, FromSender, IdReuse, IndexFound, NoObserver, OpenError, Outcome, Sequence, Store,
    StoreError, StoreOptions, Stored,
};

const SIZES: [usize; 9] = [0, 1, 64, 4096, 20_000, 65_535, 65_536, 300_000, 3 << 20];

#[tokio::test]
async fn accepted_messages_of_all_sizes_are_pending_after_reopening() {
    let dir = tempfile::tempdir().expect("a folder");
    let b = party("party_b");
    for round in 0..3 {
        let (store, report) = open(options(dir.path()));
        assert_eq!(report.pending, round * SIZES.len() as u64);
        for (i, size) in SIZES.into_iter().enumerate() {
            let seed = round * 100 + i as u64;
            store.accept(&b, &id(format!("{round}/{i}")), payload(seed, size)).await.expect("accepts");
        }
        let all = pending(&store, "party_b").await;
        assert_eq!(all.len() as u64, (round + 1) * SIZES.len() as u64);
        for (name, bytes) in all {
            let (r, i) = name.split_once('/').expect("our name");
            let (r, i): (u64, usize) = (r.parse().expect("a number"), i.parse().expect("a number"));
            assert_eq!(bytes, payload(r * 100 + i as u64, SIZES[i]), "{name}");
        }
        if round == 1 {
            // As after a kill: no close.
            drop(store);
        } else {
            store.close().await.expect("closes");
        }
    }
}

#[tokio::test]
async fn reading_does_not_remove_and_the_last_write_wins() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    assert_eq!(read(&store, "m").await, None);
    store.store(arrival("party_a", "m", Bytes::new(), None)).await.expect("stores");
    assert_eq!(read(&store, "m").await, Some(Bytes::new()));
    for text in ["one", "two"] {
        store.store(arrival("party_a", "m", text.into(), None)).await.expect("stores");
        assert_eq!(read(&store, "m").await, Some(text.into()));
        assert_eq!(read(&store, "m").await, Some(text.into()));
    }
    store.close().await.expect("closes");
    let (store, report) = open(options(dir.path()));
    assert_eq!((read(&store, "m").await, report.mailbox), (Some("two".into()), 1));
}

#[tokio::test]
async fn senders_do_not_hide_each_others_mail() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    store.store(arrival("party_a", "m", "from a".into(), None)).await.expect("stores");
    store.store(arrival("party_c", "m", "from c".into(), None)).await.expect("stores");
    assert_eq!(read(&store, "m").await, Some("from c".into()), "a plain read gives the newest");
    let of_a =
        store.read(&FromSender::Party(party("party_a")), &id("m")).await.expect("reads").expect("is there");
    assert_eq!((of_a.payload, of_a.sender), ("from a".into(), Some(party("party_a"))));
    assert!(store.read(&FromSender::Unnamed, &id("m")).await.expect("reads").is_none());
}

#[tokio::test]
async fn a_repeated_delivery_changes_nothing_even_after_release_and_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, _clock) = clocked(dir.path());
    for restarted in [false, true] {
        let (store, _) = open(options.clone());
        let stored = store.store(arrival("party_a", "m", "x".into(), Some(identity(1, 1, 1)))).await;
        if restarted {
            assert_eq!(stored.expect("answers"), Stored::Repeated);
        } else {
            assert!(matches!(stored.expect("answers"), Stored::New(_)));
            assert!(store.release(&FromSender::Any, &id("m")).await.expect("releases"));
        }
        assert_eq!(read(&store, "m").await, None);
        assert_eq!(store.stats().repeated, u64::from(restarted));
        store.close().await.expect("closes");
    }
}

#[tokio::test]
async fn a_late_retry_of_an_older_message_never_replaces_a_newer_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    let send =
        |text: &'static str, identity| store.store(arrival("party_a", "m", text.into(), Some(identity)));
    send("new", identity(5, 8, 1)).await.expect("stores");
    assert_eq!(send("old", identity(5, 7, 1)).await.expect("answers"), Stored::Stale);
    assert_eq!(read(&store, "m").await, Some("new".into()));
    send("restarted sender", identity(9, 1, 1)).await.expect("stores");
    assert_eq!(send("straggler", identity(5, 9, 1)).await.expect("answers"), Stored::Stale);
    assert_eq!(read(&store, "m").await, Some("restarted sender".into()));
    assert_eq!(
        store
            .store(arrival("party_a", "n", "below the mark".into(), Some(identity(5, 3, 4))))
            .await
            .expect("answers"),
        Stored::New(Sequence(3)),
        "a number is not below its own mark"
    );
}

/// Incarnations used to be ordered by first contact. After an outage the messages of several starts of the sender come in
/// any order; then what it accepted last was taken for a straggler, acknowledged, and thrown away.
#[tokio::test]
async fn what_was_accepted_last_wins_also_when_an_earlier_start_of_its_sender_is_heard_of_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let (store, _) = open(options);
    let send = async |name: &str, text: &'static str, identity| {
        store.store(arrival("party_a", name, text.into(), Some(identity))).await.expect("answers")
    };
    send("other", "from the second start", identity(2, 1, 1)).await;
    for (name, on_disk) in [("m", false), ("n", true)] {
        let number = 2 + u64::from(on_disk) * 2;
        send(name, "old", identity(1, number, 1)).await;
        if on_disk {
            clock.advance(Duration::from_secs(10));
            until("indexed on disk", async || store.stats().index_in_memory == 0).await;
        }
        assert!(matches!(send(name, "new", identity(2, number, 1)).await, Stored::New(_)));
        assert_eq!(send(name, "older still", identity(1, number - 1, 1)).await, Stored::Stale);
        assert_eq!(read(&store, name).await, Some("new".into()));
    }
}

#[tokio::test]
async fn a_newer_message_supersedes_a_pending_one_with_its_id() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let (store, _) = open(options.clone());
    let b = party("party_b");
    let first = store.accept(&b, &id("m"), "one".into()).await.expect("accepts");
    store.accept(&b, &id("other"), "x".into()).await.expect("accepts");
    clock.advance(Duration::from_secs(10));
    until("the first ones are indexed on disk", async || store.stats().index_in_memory == 0).await;
    store.accept(&b, &id("m"), "two".into()).await.expect("accepts");
    assert!(store.load(&b, first).await.expect("loads").is_none(), "superseded");
    let expected = vec![("other".to_owned(), Bytes::from("x")), ("m".to_owned(), Bytes::from("two"))];
    assert_eq!(pending(&store, "party_b").await, expected);
    drop(store);
    let (store, report) = open(options);
    assert_eq!((pending(&store, "party_b").await, report.pending), (expected, 2));
}

#[tokio::test]
async fn settled_messages_stay_settled() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let b = party("party_b");
    let (store, _) = open(options.clone());
    for i in 0..100 {
        store
            .accept(&b, &id(format!("{i}")), payload(i, if i % 10 == 0 { 70_000 } else { 64 }))
            .await
            .expect("accepts");
        if i == 50 {
            clock.advance(Duration::from_secs(10));
            until("indexed on disk", async || store.stats().index_in_memory == 0).await;
        }
    }
    for p in store
        .pending(&b, Sequence(0), 1000)
        .await
        .expect("lists")
        .into_iter()
        .filter(|p| p.sequence.0 % 3 == 0)
    {
        assert!(store.settle(&b, p.sequence, Outcome::Delivered).await.expect("settles"));
        assert!(!store.settle(&b, p.sequence, Outcome::Delivered).await.expect("settles"), "only once");
    }
    let before = pending(&store, "party_b").await;
    assert_eq!(before.len(), 67);
    store.close().await.expect("closes");
    drop(store);
    for index_lost in [false, true] {
        if index_lost {
            std::fs::remove_dir_all(dir.path().join("index")).expect("the index is there");
        }
        let (store, report) = open(options.clone());
        let found = if index_lost { IndexFound::Rebuilt } else { IndexFound::CaughtUp };
        assert_eq!((report.pending, report.index), (67, found));
        assert_eq!(pending(&store, "party_b").await, before);
        store.close().await.expect("closes");
        drop(store);
    }
}

#[tokio::test]
async fn the_low_water_mark_never_passes_a_pending_number() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
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
}

#[tokio::test]
async fn messages_expire_in_service_time_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions { message_ttl: Some(Duration::from_secs(100)), ..options };
    let (store, _) = open(options.clone());
    store.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    clock.advance(Duration::from_secs(60));
    store.close().await.expect("closes");
    let (store, _) = open(options.clone());
    clock.advance(Duration::from_secs(39));
    assert_eq!(read(&store, "m").await, Some("x".into()), "time off does not count");
    clock.advance(Duration::from_secs(2));
    assert_eq!(read(&store, "m").await, None);
}

#[tokio::test]
async fn pending_messages_expire_into_dead_letters_that_can_be_retried_and_dropped() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions { send_ttl: Some(Duration::from_secs(100)), ..options };
    let b = party("party_b");
    let (store, _) = open(options.clone());
    let refused = store.accept(&b, &id("refused"), "r".into()).await.expect("accepts");
    store.accept(&b, &id("late"), payload(1, 100_000)).await.expect("accepts");
    let outcome = Outcome::Dead(DeadReason::Refused("no".into()));
    assert!(store.settle(&b, refused, outcome).await.expect("settles"));
    clock.advance(Duration::from_secs(101));
    until("the other one expires", async || store.stats().dead_letters == 2).await;
    assert_eq!(pending(&store, "party_b").await, vec![]);
    for _ in 0..2 {
        let letters = store.dead_letters(Sequence(0), 10).await.expect("lists");
        let found: Vec<_> = letters.iter().map(|l| (l.id.as_str(), l.reason.clone(), l.len)).collect();
        let expected =
            [("refused", DeadReason::Refused("no".into()), 1), ("late", DeadReason::Expired, 100_000)];
        assert_eq!(found, expected);
        clock.advance(Duration::from_secs(10));
        until("indexed on disk", async || store.stats().index_in_memory == 0).await;
    }
    drop(store);
    let (store, report) = open(options.clone());
    assert_eq!((report.dead_letters, report.pending), (2, 0));
    let letters = store.dead_letters(Sequence(0), 10).await.expect("lists");
    assert!(store.drop_dead_letter(letters[0].sequence).await.expect("drops"));
    assert!(store.retry_dead_letter(letters[1].sequence).await.expect("retries").is_some());
    assert_eq!(pending(&store, "party_b").await, vec![("late".to_owned(), payload(1, 100_000))]);
    store.close().await.expect("closes");
    let (store, report) = open(options);
    assert_eq!((report.dead_letters, report.pending), (0, 1));
    drop(store);
}

/// Found by the model: a start took a newer message under the same id for the end of a dead letter, which only the
/// operator may end: it was gone without a trace.
#[tokio::test]
async fn a_dead_letter_stays_when_a_newer_message_takes_its_id() {
    for settled in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let (options, _clock) = clocked(dir.path());
        let b = party("party_b");
        let (store, _) = open(options.clone());
        for len in [10, 70_000] {
            let first = store.accept(&b, &id(format!("{len}")), payload(1, len)).await.expect("accepts");
            let outcome = Outcome::Dead(DeadReason::Refused("no".into()));
            assert!(store.settle(&b, first, outcome).await.expect("settles"));
            let second = store.accept(&b, &id(format!("{len}")), payload(2, len)).await.expect("accepts");
            if settled {
                assert!(store.settle(&b, second, Outcome::Delivered).await.expect("settles"));
            }
        }
        drop(store);
        for index_lost in [false, true, false] {
            if index_lost {
                std::fs::remove_dir_all(dir.path().join("index")).expect("the index is there");
            }
            let (store, report) = open(options.clone());
            let found = (report.dead_letters, report.pending);
            assert_eq!(found, (2, if settled { 0 } else { 2 }), "settled {settled}, {report}");
            store.close().await.expect("closes");
        }
    }
}

#[tokio::test]
async fn dead_letters_keep_within_their_bound_and_the_oldest_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options =
        StoreOptions { dead_letter_bytes: 300_000, send_ttl: Some(Duration::from_secs(50)), ..options };
    let b = party("party_b");
    let (store, _) = open(options.clone());
    for i in 0..40 {
        store.accept(&b, &id(format!("{i}")), payload(i, 50_000)).await.expect("accepts");
    }
    clock.advance(Duration::from_secs(51));
    let kept = async |store: &Arc<dyn Engine>| {
        let letters = store.dead_letters(Sequence(0), 100).await.expect("lists");
        letters.into_iter().map(|l| l.id.to_string()).collect::<Vec<_>>()
    };
    let newest: Vec<String> = (34..40).map(|i| i.to_string()).collect();
    until("all expire and the oldest go", async || {
        store.stats().pending.is_empty() && kept(&store).await == newest
    })
    .await;
    until("their space comes back", async || {
        clock.advance(Duration::from_secs(1));
        store.store(arrival("party_a", "tick", Bytes::new(), None)).await.expect("stores");
        store.stats().segments <= 4
    })
    .await;
    drop(store);
    assert_eq!(kept(&open(options).0).await, newest, "also after a restart");
}

#[tokio::test]
async fn space_comes_back_when_everything_is_settled_and_expired() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions { message_ttl: Some(Duration::from_secs(50)), ..options };
    let b = party("party_b");
    let (store, _) = open(options);
    for i in 0..300 {
        let size = if i % 2 == 0 { 60_000 } else { 100_000 };
        let sequence = store.accept(&b, &id(format!("{i}")), payload(i, size)).await.expect("accepts");
        store.store(arrival("party_a", &format!("{i}"), payload(i, size), None)).await.expect("stores");
        store.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
    }
    assert!(store.stats().segments > 10, "{:?}", store.stats());
    clock.advance(Duration::from_secs(51));
    until("the segments are given back", async || {
        // Time goes on, and something happens now and then.
        clock.advance(Duration::from_secs(1));
        store.store(arrival("party_a", "tick", Bytes::new(), None)).await.expect("stores");
        store.stats().segments <= 4 && store.stats().disk_bytes <= 6 << 20
    })
    .await;
    assert!(store.stats().mailbox_messages < 50, "only what shares a segment in use is still counted");
}

#[tokio::test]
async fn few_live_messages_do_not_pin_old_segments() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let b = party("party_b");
    let (store, _) = open(options.clone());
    let mut kept = Vec::new();
    for i in 0..400u64 {
        let size = if i % 2 == 0 { 60_000 } else { 100_000 };
        let sequence = store.accept(&b, &id(format!("{i}")), payload(i, size)).await.expect("accepts");
        if i % 40 < 2 {
            kept.push((format!("{i}"), payload(i, size)));
        } else {
            store.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
        }
    }
    // 32 MB were written, into segments of 1 MiB.
    until("old segments are given back", async || {
        clock.advance(Duration::from_secs(1));
        store.store(arrival("party_a", "tick", Bytes::new(), None)).await.expect("stores");
        store.stats().segments < 16
    })
    .await;
    assert_eq!(pending(&store, "party_b").await, kept);
    drop(store);
    let (store, _) = open(options);
    assert_eq!(pending(&store, "party_b").await, kept);
}

#[tokio::test]
async fn a_full_store_refuses_new_messages_only_and_accepts_again_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, _clock) = clocked(dir.path());
    let options = StoreOptions { max_bytes: 16 << 20, ..options };
    let b = party("party_b");
    let (store, _) = open(options);
    let mut accepted = Vec::new();
    let refused = loop {
        match store.accept(&b, &id(format!("{}", accepted.len())), payload(7, 50_000)).await {
            Ok(sequence) => accepted.push(sequence),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(accepted.len() > 150, "{}", accepted.len());
    assert_eq!(pending(&store, "party_b").await.len(), accepted.len());
    for sequence in accepted {
        assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settling goes on"));
    }
    until("there is room again", async || store.accept(&b, &id("again"), payload(8, 50_000)).await.is_ok())
        .await;
}

#[tokio::test]
async fn with_reject_the_same_bytes_are_accepted_again_and_others_are_a_conflict() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = StoreOptions { id_reuse: IdReuse::Reject, ..options(dir.path()) };
    let (store, _) = open(options);
    let b = party("party_b");
    let first = store.accept(&b, &id("m"), "x".into()).await.expect("accepts");
    assert_eq!(store.accept(&b, &id("m"), "x".into()).await.expect("the same"), first);
    let other = store.accept(&b, &id("m"), "y".into()).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })));
    store.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    assert_eq!(
        store.store(arrival("party_a", "m", "x".into(), None)).await.expect("the same"),
        Stored::Repeated
    );
    assert!(matches!(
        store.store(arrival("party_a", "m", "y".into(), None)).await,
        Err(StoreError::Conflict { .. })
    ));
}

#[tokio::test]
async fn a_second_store_on_the_folder_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    let second = Store::open(options(dir.path()), Arc::new(NoObserver));
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    store.close().await.expect("closes");
    open(options(dir.path()));
}

#[tokio::test]
async fn a_closed_store_takes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    store.close().await.expect("closes");
    let refused = store.accept(&party("party_b"), &id("m"), "x".into()).await;
    assert!(matches!(refused, Err(StoreError::Closed)));
}

#[tokio::test]
async fn many_messages_survive_a_kill_with_part_of_them_indexed_on_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let b = party("party_b");
    let mut expected = Vec::new();
    for round in 0..4u64 {
        let (store, _) = open(options.clone());
        for i in 0..2000u64 {
            let name = format!("{round}-{i}");
            let sequence = store.accept(&b, &id(&name), payload(i, 100)).await.expect("accepts");
            store
                .store(arrival("party_a", &name, payload(i, 50), Some(identity(round + 1, i + 1, 1))))
                .await
                .expect("stores");
            if i % 5 == 0 {
                store.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
            } else {
                expected.push((name, payload(i, 100)));
            }
            if i % 500 == 499 {
                clock.advance(Duration::from_secs(1));
            }
        }
        // Settling is lazy: let it reach the log, as it does within a moment.
        store.accept(&party("party_c"), &id("sync"), Bytes::new()).await.expect("accepts");
        drop(store);
    }
    let (store, report) = open(options);
    assert_eq!(report.pending, expected.len() as u64 + 1);
    assert_eq!(report.mailbox, 8000);
    assert_eq!(pending(&store, "party_b").await, expected);
    for i in (0..2000).step_by(37) {
        assert_eq!(read(&store, &format!("2-{i}")).await, Some(payload(i, 50)));
    }
}
