//! Found by a hostile tester: each of these fails for the code that it was written against.

mod common;
mod sim_disk;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{arrival, clocked, id, identity, open, party, payload, pending, until, upload};
use petnet_storage::{Engine, FromSender, IdReuse, Outcome, Sequence, StoreError, StoreOptions};
use sim_disk::SimDisk;

const MIB: usize = 1 << 20;

fn sim(disk: &SimDisk) -> StoreOptions {
    StoreOptions {
        disk: Arc::new(disk.clone()),
        segment_bytes: MIB as u64,
        message_ttl: None,
        send_ttl: None,
        ..StoreOptions::new("/data")
    }
}

/// Traffic of several times the quota, each message settled at once; what it was refused with.
async fn traffic(
    engine: &Arc<dyn Engine>,
    clock: &petnet_storage::ManualClock,
    mib: u64,
) -> Option<StoreError> {
    let b = party("party_b");
    for n in 0..mib * 10 {
        match engine.accept(&b, &id(n.to_string()), payload(n, 100_000)).await {
            Ok(sequence) => {
                engine.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
            }
            Err(error) => return Some(error),
        }
        if n % 10 == 0 {
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    None
}

/// One upload that goes on slowly: a quarter of a megabyte of it is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_does_not_keep_the_space_of_all_others() {
    for slow in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let (options, clock) = clocked(dir.path());
        let options =
            StoreOptions { max_bytes: 32 << 20, housekeeping_every: Duration::from_millis(5), ..options };
        let (engine, _) = open(options);
        let half =
            if slow { Some(upload(&engine, &payload(1, 300_000), MIB).await.expect("pushes")) } else { None };
        let refused = traffic(&engine, &clock, 100).await;
        let segments = engine.stats().segments;
        drop(half);
        assert!(refused.is_none(), "slow upload: {slow}, {segments} segments: {refused:?}");
    }
}

/// The same, once it is accepted: half a megabyte, begun before (`slow`) or after 20 MiB of others, all of them settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_came_slowly_does_not_pin_what_came_meanwhile() {
    for slow in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let (options, clock) = clocked(dir.path());
        let options = StoreOptions { housekeeping_every: Duration::from_millis(5), ..options };
        let (engine, _) = open(options);
        let mut half = engine.begin(None).expect("begins");
        if slow {
            half.push(payload(1, 300_000)).await.expect("pushes");
        }
        assert!(traffic(&engine, &clock, 20).await.is_none());
        if !slow {
            half.push(payload(1, 300_000)).await.expect("pushes");
        }
        half.push(payload(2, 300_000)).await.expect("pushes");
        half.store(Some(&party("party_a")), &id("slow"), Some(identity(1, 1, 1))).await.expect("stores");
        let mut segments = 0;
        for n in 0..200 {
            let tick = engine.accept(&party("party_b"), &id("tick"), payload(n, 10)).await.expect("accepts");
            engine.settle(&party("party_b"), tick, Outcome::Delivered).await.expect("settles");
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(10)).await;
            segments = engine.stats().segments;
            if segments <= 8 {
                break;
            }
        }
        assert!(segments <= 8, "slow: {slow}; 0.6 MB are held, in {segments} segments of 1 MiB");
    }
}

/// A look at a topic while messages move in the log (from the index on disk to memory).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_at_a_topic_misses_none_that_moves_in_the_log() {
    const KEPT: usize = 1500;
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions {
        cache_bytes: 0,
        message_ttl: None,
        housekeeping_every: Duration::from_millis(5),
        ..options
    };
    let (engine, _) = open(options);
    let mut batch = Vec::new();
    for n in 0..KEPT * 8 {
        let name = if n % 8 == 0 { format!("t:{n}") } else { format!("f:{n}") };
        batch.push(arrival("party_a", &name, payload(n as u64, 2000), Some(identity(1, n as u64 + 1, 1))));
        if batch.len() == 256 {
            for stored in engine.store_many(std::mem::take(&mut batch)).await {
                stored.expect("stores");
            }
        }
    }
    for stored in engine.store_many(batch).await {
        stored.expect("stores");
    }
    clock.advance(Duration::from_secs(1));
    until("all are on disk", async || engine.stats().index_in_memory == 0).await;
    let over = Arc::new(AtomicBool::new(false));
    let lookers: Vec<_> = (0..3)
        .map(|_| {
            let (engine, over) = (engine.clone(), over.clone());
            tokio::spawn(async move {
                let mut least = KEPT;
                while !over.load(Ordering::Relaxed) {
                    let found =
                        engine.topic(&FromSender::Any, "t:", Sequence(0), 10 * KEPT).await.expect("looks");
                    least = least.min(found.len());
                }
                least
            })
        })
        .collect();
    engine.release_topic(&FromSender::Any, "f:").await.expect("releases");
    for _ in 0..150 {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::Relaxed);
    for looker in lookers {
        assert_eq!(looker.await.expect("no panic"), KEPT, "a look missed some");
    }
}

/// A caller goes away while its message waits for the sync; another one uses the id with other bytes.
#[tokio::test]
async fn with_reject_what_a_caller_who_went_away_left_queued_counts() {
    let disk = SimDisk::new(Path::new("/data"), None);
    let (engine, _) = open(StoreOptions { id_reuse: IdReuse::Reject, ..sim(&disk) });
    let b = party("party_b");
    let held = disk.hold_syncs();
    let first = tokio::spawn({
        let (engine, b) = (engine.clone(), b.clone());
        async move { engine.accept(&b, &id("first"), "x".into()).await }
    });
    until("the first is written", async || engine.stats().appends > 0).await;
    let gone = tokio::spawn({
        let (engine, b) = (engine.clone(), b.clone());
        async move { engine.accept(&b, &id("m"), "one".into()).await }
    });
    until("it is pending", async || pending(&engine, "party_b").await.len() == 2).await;
    // It is pending, has been given out for delivery, and its peer has it.
    gone.abort();
    drop(gone.await);
    let second = tokio::spawn({
        let (engine, b) = (engine.clone(), b.clone());
        async move { engine.accept(&b, &id("m"), "two".into()).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(held);
    first.await.expect("no panic").expect("accepts");
    let second = second.await.expect("no panic");
    assert!(matches!(second, Err(StoreError::Conflict { .. })), "{second:?}");
}

/// A message that a peer may have waits for room on a full disk. Meanwhile readers look, and give space back.
#[tokio::test]
async fn on_a_full_disk_topics_are_found_and_released() {
    let disk = SimDisk::new(Path::new("/data"), None);
    let (engine, _) = open(sim(&disk));
    let b = party("party_b");
    for n in 1..=3 {
        let known = Some(identity(1, n, 1));
        engine.store(arrival("party_a", &format!("job:{n}"), "x".into(), known)).await.expect("stores");
    }
    let held = disk.hold_syncs();
    let sends: Vec<_> = (0..30)
        .map(|n| {
            let (engine, name) = (engine.clone(), id(n.to_string()));
            tokio::spawn(async move { engine.accept(&party("party_b"), &name, payload(n, 60_000)).await })
        })
        .collect();
    let listed = async || engine.pending(&b, Sequence(0), 100).await.expect("lists");
    until("all are pending", async || listed().await.len() == 30).await;
    let last = listed().await[29].sequence;
    assert!(engine.load(&b, last).await.expect("loads").is_some());
    disk.set_full(true);
    drop(held);
    until("all but that one are answered", async || sends.iter().filter(|s| s.is_finished()).count() == 29)
        .await;
    let known = engine.knows(&party("party_a"), &identity(1, 1, 1)).await;
    let found = engine.topic(&FromSender::Any, "job:", Sequence(0), 10).await;
    let released = engine.release_topic(&FromSender::Any, "job:").await;
    disk.set_full(false);
    assert_eq!(found.as_ref().map(Vec::len).ok(), Some(3), "found: {found:?}");
    assert_eq!(released.as_ref().ok(), Some(&3), "released: {released:?}");
    assert!(known.is_ok(), "known: {known:?}");
}

/// Loading many while the few that are left in old segments move forward, and those segments are given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_moves_in_the_log_is_loaded_undamaged() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions {
        cache_bytes: 0,
        send_ttl: None,
        housekeeping_every: Duration::from_millis(2),
        ..options
    };
    let (engine, _) = open(options);
    let b = party("party_b");
    for round in 0..6_u64 {
        let many: Vec<_> =
            (0..1500_u64).map(|n| (b.clone(), id(format!("{round}:{n}")), payload(n, 20_000))).collect();
        let accepted: Vec<_> =
            engine.accept_many(many).await.await.into_iter().map(|a| a.expect("accepts")).collect();
        clock.advance(Duration::from_secs(1));
        let (kept, over): (Vec<_>, Vec<_>) = accepted.into_iter().enumerate().partition(|(n, _)| n % 8 == 0);
        let kept: Vec<Sequence> = kept.into_iter().map(|(_, sequence)| sequence).collect();
        let over: Vec<Sequence> = over.into_iter().map(|(_, sequence)| sequence).collect();
        engine.settle_delivered(&b, &over).await.expect("settles");
        for _ in 0..60 {
            clock.advance(Duration::from_secs(1));
            for (sequence, loaded) in kept.iter().zip(engine.load_many(&b, &kept).await) {
                let loaded =
                    loaded.unwrap_or_else(|error| panic!("{sequence:?}: {error}")).expect("is pending");
                let n: u64 =
                    loaded.id.as_str().split(':').nth(1).and_then(|n| n.parse().ok()).expect("a number");
                assert_eq!(loaded.payload.whole().await.expect("reads"), payload(n, 20_000));
            }
        }
        engine.settle_delivered(&b, &kept).await.expect("settles");
    }
    assert_eq!(engine.stats().damaged, 0);
}
