//! The embedded store and its folder: space that comes back, kills with part of it indexed on disk, one owner.
//!
//! What users of any engine rely on is in `engine.rs`.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use petnet_storage::{Engine, ManualClock, NoObserver, OpenError, Outcome, Store, StoreOptions};

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
    read_all(&store).await;
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

/// What is indexed in memory only is read back from the log, and with it what ended in between.
#[tokio::test]
async fn a_start_reads_little_though_a_message_stays_for_long() {
    let ended = async |options: StoreOptions, bytes: usize| {
        let clock = Arc::new(ManualClock::default());
        let rest = Duration::from_secs(60);
        let options = StoreOptions {
            clock: clock.clone(),
            checkpoint_every: Duration::ZERO,
            spill_after: rest,
            ..options
        };
        let (b, c) = (party("party_b"), party("party_c"));
        let (store, _) = open(options.clone());
        store.accept(&c, &id("stays"), "here".into()).await.expect("accepts");
        clock.advance(Duration::from_secs(6));
        for i in 0..2000 {
            let sequence = store.accept(&b, &id(format!("{i}")), payload(i, bytes)).await.expect("accepts");
            store.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
        }
        store.accept(&c, &id("sync"), Bytes::new()).await.expect("accepts");
        two_rounds(&store, &options).await;
        store.close().await.expect("closes");
        drop(store);
        let (store, report) = open(options);
        assert!(report.replayed < 1500, "{report:?}");
        assert_eq!(report.pending, 4);
        assert_eq!(pending(&store, "party_c").await[0], ("stays".into(), "here".into()));
    };
    let (many, long) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    // Where there are many, and where the log has gone on by segments.
    ended(StoreOptions { index_memory_entries: 500, ..options(many.path()) }, 10).await;
    ended(options(long.path()), 2000).await;
}

/// As a repair asks for, which ends messages that it expects in memory.
#[tokio::test]
async fn with_an_endless_rest_everything_stays_in_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(ManualClock::default());
    let options = StoreOptions {
        clock: clock.clone(),
        checkpoint_every: Duration::ZERO,
        spill_after: Duration::MAX,
        index_memory_entries: usize::MAX,
        ..options(dir.path())
    };
    let (store, _) = open(options.clone());
    for i in 0..100 {
        store.accept(&party("party_b"), &id(format!("{i}")), payload(i, 60_000)).await.expect("accepts");
    }
    assert!(store.stats().segments > 4, "{:?}", store.stats());
    clock.advance(Duration::from_secs(1000));
    two_rounds(&store, &options).await;
    store.close().await.expect("closes");
    drop(store);
    assert!(open(options).1.replayed >= 100, "a start reads all of them back");
}

/// Waits for two rounds of housekeeping, each of which ends with a checkpoint since something changed.
async fn two_rounds(store: &Arc<dyn Engine>, options: &StoreOptions) {
    for round in ["first", "second"] {
        store.accept(&party("party_c"), &id(round), "x".into()).await.expect("accepts");
        let written = || {
            ["CHECKPOINT.0", "CHECKPOINT.1"]
                .map(|name| std::fs::read(options.data_dir.join(name)).expect("reads"))
        };
        let before = written();
        until("a round of housekeeping", async || written() != before).await;
    }
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

/// A close wrote a checkpoint only when something had changed, and what nobody wrote down had not been.
#[tokio::test]
async fn time_in_which_nothing_happened_is_service_time_after_a_close() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let mut known = 0;
    for hours in 1..=5 {
        let (store, _) = open(options.clone());
        assert!(store.stats().service_seconds >= known, "{hours} h: {:?}", store.stats());
        let checkpoints =
            || ["CHECKPOINT.0", "CHECKPOINT.1"].map(|name| std::fs::read(dir.path().join(name)).ok());
        let before = checkpoints();
        store.store(arrival("party_a", "m", payload(hours, 10), None)).await.expect("stores");
        until("a checkpoint is written", async || checkpoints() != before).await;
        clock.advance(Duration::from_hours(1));
        known = store.stats().service_seconds;
        store.close().await.expect("closes");
    }
    assert_eq!(open(options).0.stats().service_seconds, 5 * 3600);
}
