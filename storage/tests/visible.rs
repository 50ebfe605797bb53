//! A message is visible as soon as it is queued for the log, and accepted only after its sync.

mod common;
mod sim_disk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, id, identity, party, pending, read, until};
use petnet_storage::{DeadReason, Engine, FromSender, Outcome, Sequence, StoreError, StoreOptions, Stored};
use sim_disk::SimDisk;
use sim_disk::held::HeldSyncs;
use tokio::task::JoinHandle;

fn open(disk: &SimDisk) -> Arc<dyn Engine> {
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        segment_bytes: 1 << 20,
        message_ttl: None,
        send_ttl: None,
        ..StoreOptions::new("/data")
    };
    common::open(options).0
}

fn accept(
    store: &Arc<dyn Engine>,
    name: &str,
    text: &'static str,
) -> JoinHandle<Result<Sequence, StoreError>> {
    let (store, name) = (store.clone(), id(name));
    tokio::spawn(async move { store.accept(&party("party_b"), &name, Bytes::from(text)).await })
}

/// A store whose writer hangs in a sync: what comes now stays queued.
async fn with_a_hanging_sync(
    disk: &SimDisk,
) -> (Arc<dyn Engine>, JoinHandle<Result<Sequence, StoreError>>, HeldSyncs) {
    let store = open(disk);
    let held = disk.hold_syncs();
    let first = accept(&store, "first", "1");
    until("the first is written", async || store.stats().appends > 0).await;
    (store, first, held)
}

fn new_disk() -> SimDisk {
    SimDisk::new(Path::new("/data"), None)
}

#[tokio::test]
async fn a_queued_message_is_delivered_and_settled_before_it_is_accepted() {
    let disk = new_disk();
    let (store, first, held) = with_a_hanging_sync(&disk).await;
    let b = party("party_b");
    let second = accept(&store, "second", "2");
    until("it is pending", async || pending(&store, "party_b").await.len() == 2).await;
    let list = store.pending(&b, Sequence(0), 10).await.expect("lists");
    let outgoing = store.load(&b, list[1].sequence).await.expect("loads").expect("pending");
    assert_eq!(
        (outgoing.id.as_str(), &outgoing.payload.whole().await.expect("reads")[..]),
        ("second", &b"2"[..])
    );
    assert_eq!((outgoing.identity.number, outgoing.identity.low_water), (2, 1));
    assert!(store.settle(&b, list[1].sequence, Outcome::Delivered).await.expect("settles"));
    assert!(store.load(&b, list[1].sequence).await.expect("loads").is_none());
    assert!(!first.is_finished() && !second.is_finished(), "nothing is accepted without a sync");
    drop(held);
    assert!(first.await.expect("no panic").is_ok() && second.await.expect("no panic").is_ok());
    assert_eq!(pending(&store, "party_b").await, [("first".to_owned(), Bytes::from("1"))]);
    store.close().await.expect("closes");
    drop(store);
    let store = open(&disk);
    assert_eq!(pending(&store, "party_b").await, [("first".to_owned(), Bytes::from("1"))]);
}

#[tokio::test]
async fn a_queued_arrival_is_read_and_the_newest_wins() {
    let disk = new_disk();
    let (store, _first, held) = with_a_hanging_sync(&disk).await;
    let deliver = |text: &'static str, number| {
        let (store, known) = (store.clone(), identity(1, number, 1));
        tokio::spawn(async move { store.store(arrival("party_a", "m", text.into(), Some(known))).await })
    };
    let one = deliver("one", 1);
    until("it is readable", async || read(&store, "m").await == Some("one".into())).await;
    let two = deliver("two", 2);
    until("the newer one is", async || read(&store, "m").await == Some("two".into())).await;
    assert!(store.read(&FromSender::Unnamed, &id("m")).await.expect("reads").is_none());
    assert!(!one.is_finished() && !two.is_finished());
    drop(held);
    for stored in [one, two] {
        assert!(matches!(stored.await.expect("no panic").expect("stores"), Stored::New(_)));
    }
    assert_eq!(read(&store, "m").await, Some("two".into()));
    assert!(store.release(&FromSender::Any, &id("m")).await.expect("releases"));
    assert_eq!(read(&store, "m").await, None);
}

/// A kill takes what is queued. A reader that was handed it would then be handed the older one.
#[tokio::test]
async fn a_queued_arrival_hides_none_that_is_in_the_log() {
    let disk = new_disk();
    let store = open(&disk);
    let deliver = |name: &'static str, text: &'static str, number| {
        let (store, known) = (store.clone(), identity(1, number, 1));
        tokio::spawn(async move { store.store(arrival("party_a", name, text.into(), Some(known))).await })
    };
    assert!(deliver("m", "older", 1).await.expect("no panic").is_ok());
    let held = disk.hold_syncs();
    let _first = accept(&store, "first", "1");
    until("the first is written", async || store.stats().appends == 2).await;
    let newer = deliver("m", "newer", 2);
    let after = deliver("after", "it", 3);
    until("both are queued", async || read(&store, "after").await == Some("it".into())).await;
    assert_eq!(read(&store, "m").await, Some("older".into()));
    assert!(!newer.is_finished() && !after.is_finished());
    drop(held);
    assert!(newer.await.expect("no panic").is_ok());
    assert_eq!(read(&store, "m").await, Some("newer".into()));
}

#[tokio::test]
async fn a_queued_message_supersedes_and_can_become_a_dead_letter() {
    let disk = new_disk();
    let (store, _first, held) = with_a_hanging_sync(&disk).await;
    let b = party("party_b");
    let older = accept(&store, "m", "older");
    until("it is pending", async || pending(&store, "party_b").await.len() == 2).await;
    let older_sequence = store.pending(&b, Sequence(0), 10).await.expect("lists")[1].sequence;
    let newer = accept(&store, "m", "newer");
    until("the newer one is", async || {
        pending(&store, "party_b").await.last() == Some(&("m".to_owned(), "newer".into()))
    })
    .await;
    assert!(store.load(&b, older_sequence).await.expect("loads").is_none(), "superseded");
    let sequence = store.pending(&b, Sequence(0), 10).await.expect("lists")[1].sequence;
    let dying = tokio::spawn({
        let (store, b) = (store.clone(), b.clone());
        async move { store.settle(&b, sequence, Outcome::Dead(DeadReason::Refused("no".into()))).await }
    });
    drop(held);
    assert!(older.await.expect("no panic").is_ok() && newer.await.expect("no panic").is_ok());
    assert!(dying.await.expect("no panic").expect("settles"));
    assert_eq!(store.stats().dead_letters, 1);
    assert_eq!(pending(&store, "party_b").await.len(), 1);
}

/// A peer may have it: telling its sender that it was refused would not be true.
#[tokio::test]
async fn what_was_given_out_for_delivery_is_not_refused_on_a_full_disk() {
    let disk = new_disk();
    let store = open(&disk);
    let b = party("party_b");
    let held = disk.hold_syncs();
    // More than the segment in use holds: the last ones need another one, for which there is no room.
    let sends: Vec<_> = (0..30)
        .map(|n| {
            let (store, name) = (store.clone(), id(n.to_string()));
            tokio::spawn(
                async move { store.accept(&party("party_b"), &name, common::payload(n, 60_000)).await },
            )
        })
        .collect();
    until("all are pending", async || store.pending(&b, Sequence(0), 100).await.is_ok_and(|p| p.len() == 30))
        .await;
    let last = store.pending(&b, Sequence(0), 100).await.expect("lists")[29].sequence;
    assert!(store.load(&b, last).await.expect("loads").is_some());
    disk.set_full(true);
    drop(held);
    let refused = async || sends.iter().filter(|send| send.is_finished()).count();
    until("all but that one are answered", async || refused().await == 29).await;
    assert!(store.load(&b, last).await.expect("loads").is_some(), "it waits for room");
    disk.set_full(false);
    let mut results = Vec::new();
    for send in sends {
        results.push(
            tokio::time::timeout(Duration::from_secs(30), send).await.expect("answered").expect("no panic"),
        );
    }
    assert!(results.iter().any(|r| matches!(r, Err(StoreError::Full { .. }))), "{results:?}");
    assert_eq!(results.iter().filter_map(|r| r.as_ref().ok()).max(), Some(&last));
}
