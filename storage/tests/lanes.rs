//! Two lanes are synced each for itself: what one lane's records say about the other lane's messages must hold whichever
//! of them a power cut leaves behind.

mod common;
mod sim_disk;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::{id, party, payload, pending, until};
use petnet_storage::{DeadReason, Engine, OpenReport, Outcome, Sequence, StoreError, StoreOptions};
use sim_disk::SimDisk;
use tokio::task::JoinHandle;

/// Beginnings of the names of the lanes' files.
const SMALL: &str = "small-";
const BULK: &str = "bulk-";
/// Bytes of a message of the bulk lane.
const LARGE: usize = 100 << 10;

type Accepting = JoinHandle<Result<Sequence, StoreError>>;

fn new_disk() -> SimDisk {
    SimDisk::new(Path::new("/data"), None)
}

fn open(disk: &SimDisk) -> (Arc<dyn Engine>, OpenReport) {
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        segment_bytes: 1 << 20,
        message_ttl: None,
        send_ttl: None,
        ..StoreOptions::new("/data")
    };
    common::open(options)
}

/// Syncs of a lane that do not come back. They are let go when it is dropped: a failing test must not hang.
struct Held(SimDisk, &'static str);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.let_syncs_go(self.1);
    }
}

fn hold(disk: &SimDisk, lane: &'static str) -> Held {
    disk.hold_syncs_of(lane);
    Held(disk.clone(), lane)
}

fn accept(store: &Arc<dyn Engine>, name: &str, bytes: Bytes) -> Accepting {
    let (store, name) = (store.clone(), id(name));
    tokio::spawn(async move { store.accept(&party("party_b"), &name, bytes).await })
}

async fn accepted(accepting: Accepting) -> Sequence {
    accepting.await.expect("no panic").expect("accepts")
}

async fn indexed(store: &Arc<dyn Engine>, count: u64) {
    until(&format!("{count} frames are indexed"), async || store.stats().index_in_memory == count).await;
}

/// The power goes now; what the disk holds afterwards.
fn power_cut(disk: &SimDisk) -> SimDisk {
    disk.cut_power();
    disk.after_power_cut(None)
}

/// A large message is written and not synced when it `ends`. The power goes; another message, accepted, comes to stand
/// where it stood, and the power goes once more.
async fn what_comes_to_stand_there_is_kept(ends: Outcome) {
    let disk = new_disk();
    let (store, _) = open(&disk);
    let held = hold(&disk, BULK);
    let _lost = accept(&store, "lost", payload(1, LARGE));
    indexed(&store, 1).await;
    let b = party("party_b");
    let sequence = store.pending(&b, Sequence(0), 10).await.expect("lists")[0].sequence;
    let is_delivered = ends == Outcome::Delivered;
    let mut ending = tokio::spawn({
        let store = store.clone();
        async move { store.settle(&party("party_b"), sequence, ends).await }
    });
    if is_delivered {
        // Else it may have to wait for the sync.
        assert!((&mut ending).await.expect("no panic").expect("settles"));
    }
    // Takes along what waits in its lane.
    for n in 0..3_u64 {
        accepted(accept(&store, &format!("small {n}"), payload(n, 100))).await;
    }
    let disk = power_cut(&disk);
    drop(held);
    if !is_delivered {
        drop(ending.await);
    }
    drop(store);
    let (store, report) = open(&disk);
    assert_eq!((report.pending, report.dead_letters, report.damaged), (3, 0, 0), "{report:?}");
    accepted(accept(&store, "kept", payload(2, LARGE))).await;
    let disk = power_cut(&disk);
    drop(store);
    // What the first start thinks, the checkpoint tells the second.
    for _ in 0..2 {
        let (store, report) = open(&disk);
        assert_eq!((report.pending, report.dead_letters, report.damaged), (4, 0, 0), "{report:?}");
        let found = pending(&store, "party_b").await;
        assert_eq!(found.last(), Some(&("kept".to_owned(), payload(2, LARGE))));
        store.close().await.expect("closes");
    }
}

#[tokio::test]
async fn the_record_of_a_delivery_ends_no_message_that_came_to_stand_in_its_place() {
    what_comes_to_stand_there_is_kept(Outcome::Delivered).await;
}

#[tokio::test]
async fn a_dead_letter_is_not_made_of_a_message_that_came_to_stand_in_its_place() {
    what_comes_to_stand_there_is_kept(Outcome::Dead(DeadReason::Refused("no".into()))).await;
}

#[tokio::test]
async fn a_message_delivered_while_it_is_synced_stays_delivered() {
    let disk = new_disk();
    let (store, _) = open(&disk);
    let held = hold(&disk, BULK);
    let accepting = accept(&store, "m", payload(1, LARGE));
    indexed(&store, 1).await;
    let b = party("party_b");
    let sequence = store.pending(&b, Sequence(0), 10).await.expect("lists")[0].sequence;
    assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
    drop(held);
    accepted(accepting).await;
    store.close().await.expect("closes");
    drop(store);
    let (_store, report) = open(&power_cut(&disk));
    assert_eq!((report.pending, report.damaged), (0, 0));
}

/// Were its number given up before the newer one is synced, the receiver would be told that it is settled, and would
/// take it for a repetition when a power cut brings it back.
#[tokio::test]
async fn a_message_superseded_by_one_of_the_other_lane_holds_the_low_water_mark_until_that_is_synced() {
    let disk = new_disk();
    let (store, _) = open(&disk);
    let b = party("party_b");
    let (small, bulk) = (hold(&disk, SMALL), hold(&disk, BULK));
    let first = accept(&store, "first", payload(1, LARGE));
    indexed(&store, 1).await;
    let older = accept(&store, "m", payload(2, LARGE));
    until("the older one is queued", async || pending(&store, "party_b").await.len() == 2).await;
    let newer = accept(&store, "m", payload(3, 100));
    indexed(&store, 2).await;
    drop(bulk);
    accepted(first).await;
    accepted(older).await;
    let mark = async |name: &str| {
        let list = store.pending(&b, Sequence(0), 10).await.expect("lists");
        let mut loaded = Vec::new();
        for one in list {
            loaded.extend(store.load(&b, one.sequence).await.expect("loads"));
        }
        let found = loaded.into_iter().find(|outgoing| outgoing.id == id(name)).expect("pending");
        (found.identity.number, found.identity.low_water)
    };
    let list = store.pending(&b, Sequence(0), 10).await.expect("lists");
    assert!(store.settle(&b, list[0].sequence, Outcome::Delivered).await.expect("settles"), "the first");
    assert_eq!(mark("m").await, (3, 2), "the older one may come back");
    drop(small);
    accepted(newer).await;
    assert_eq!(mark("m").await, (3, 3), "now it cannot");
}
