//! A release that was answered stays: over power cuts, on a full disk, of messages wherever they are indexed, and many at once.

mod common;
mod sim_disk;
mod trials;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, clocked, id, payload, read, until};
use petnet_storage::{Engine, FromSender, Sequence, StoreOptions};
use sim_disk::store::open_small;
use sim_disk::{Fault, SimDisk};
use tokio::task::JoinSet;
use trials::block_on;

/// Without checkpoints of its own accord: the log alone must know it.
fn open(disk: &SimDisk) -> Arc<dyn Engine> {
    open_small(disk, Duration::from_secs(3600))
}

async fn arrive(store: &Arc<dyn Engine>, name: &str, len: usize) {
    store.store(arrival("party_a", name, payload(1, len), None)).await.expect("stores");
}

async fn release(store: &Arc<dyn Engine>, name: &str) -> bool {
    store.release(&FromSender::Any, &id(name)).await.expect("releases")
}

#[test]
fn a_release_that_was_answered_is_not_undone_by_a_power_cut() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open(&disk);
        for (n, len) in [100, 60_000, 70_000, 600_000].into_iter().enumerate() {
            let name = format!("m{n}");
            arrive(&store, &name, len).await;
            assert!(release(&store, &name).await);
            let after = open(&disk.after_power_cut(None));
            assert_eq!(read(&after, &name).await, None, "{len} bytes");
            assert!(!release(&store, &name).await, "a release asked for again finds nothing");
        }
        for n in 0..500 {
            arrive(&store, &format!("job:{n}"), if n % 100 == 0 { 70_000 } else { 10 }).await;
        }
        assert_eq!(store.release_topic(&FromSender::Any, "job:").await.expect("releases"), 500);
        let after = open(&disk.after_power_cut(None));
        assert_eq!(after.topic(&FromSender::Any, "", Sequence(0), 10).await.expect("looks"), []);
    });
}

#[test]
fn a_second_release_says_that_nothing_is_there_only_when_that_is_durable() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open(&disk);
        for len in [100, 70_000] {
            arrive(&store, "m", len).await;
            disk.hold_syncs_of("small-");
            let first = tokio::spawn({
                let store = store.clone();
                async move { release(&store, "m").await }
            });
            until("the first is carried out", async || read(&store, "m").await.is_none()).await;
            let second = tokio::spawn({
                let store = store.clone();
                async move { release(&store, "m").await }
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!first.is_finished() && !second.is_finished(), "neither is answered before the sync");
            disk.let_syncs_go("small-");
            assert!(first.await.expect("no panic") && !second.await.expect("no panic"));
            assert_eq!(read(&open(&disk.after_power_cut(None)), "m").await, None);
        }
    });
}

#[test]
fn a_release_whose_sync_fails_is_not_answered_as_done() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open(&disk);
        arrive(&store, "m", 100).await;
        disk.set_fault(Fault::FailSync { at: disk.syncs() + 1 });
        store.release(&FromSender::Any, &id("m")).await.expect_err("its sync failed");
    });
}

#[test]
fn many_who_release_at_the_same_time_share_syncs() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open(&disk);
        for n in 0..64 {
            arrive(&store, &format!("m{n}"), 10).await;
        }
        let before = store.stats().syncs;
        disk.hold_syncs_of("");
        let mut tasks = JoinSet::new();
        for n in 0..64 {
            let store = store.clone();
            tasks.spawn(async move { release(&store, &format!("m{n}")).await });
        }
        until("all are carried out", async || {
            store.topic(&FromSender::Any, "", Sequence(0), 100).await.expect("looks").is_empty()
        })
        .await;
        disk.let_syncs_go("");
        assert!(tasks.join_all().await.into_iter().all(|released| released));
        let syncs = store.stats().syncs - before;
        assert!(syncs <= 4, "64 releases took {syncs} syncs");
        let after = open(&disk.after_power_cut(None));
        assert_eq!(after.topic(&FromSender::Any, "", Sequence(0), 10).await.expect("looks"), []);
    });
}

/// The log takes no more record: what is released then is kept by checkpoints.
#[test]
fn on_a_disk_without_room_for_one_more_record_a_release_is_answered_and_kept() {
    const MESSAGES: usize = 60_000;
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open(&disk);
        for from in (0..MESSAGES).step_by(1000) {
            let some = (from..from + 1000).map(|n| arrival("party_a", &format!("t:{n}"), Bytes::new(), None));
            assert!(store.store_many(some.collect()).await.into_iter().all(|stored| stored.is_ok()));
        }
        arrive(&store, "large", 70_000).await;
        arrive(&store, "last", 10).await;
        disk.set_full(true);
        let in_time = Duration::from_secs(60);
        let all = tokio::time::timeout(in_time, store.release_topic(&FromSender::Any, "t:")).await;
        assert_eq!(all.expect("a release does not wait for room").expect("releases"), MESSAGES as u64);
        let after = open(&disk.after_power_cut(None));
        assert_eq!(after.topic(&FromSender::Any, "t:", Sequence(0), 10).await.expect("looks"), []);
        for name in ["large", "last"] {
            let released = tokio::time::timeout(in_time, release(&store, name)).await;
            assert!(released.expect("a release does not wait for room"), "{name}");
            assert_eq!(read(&open(&disk.after_power_cut(None)), name).await, None, "{name}");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_released_out_of_the_index_on_disk_does_not_come_back_after_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let copy = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions { housekeeping_every: Duration::from_millis(5), ..options };
    let (store, _) = common::open(options);
    for n in 0..50 {
        arrive(&store, &format!("job:{n}"), if n % 10 == 0 { 70_000 } else { 10 }).await;
    }
    clock.advance(Duration::from_secs(1));
    until("all is indexed on disk", async || store.stats().index_in_memory == 0).await;
    for n in 0..10 {
        assert!(release(&store, &format!("job:{n}")).await);
    }
    assert_eq!(store.release_topic(&FromSender::Any, "job:2").await.expect("releases"), 10);
    // As a kill leaves it.
    common::copy_folder(dir.path(), copy.path());
    let (after, _) = common::open(clocked(copy.path()).0);
    let left = after.topic(&FromSender::Any, "job:", Sequence(0), 100).await.expect("looks");
    assert_eq!(left.len(), 30);
}
