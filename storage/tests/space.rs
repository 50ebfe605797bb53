//! Space comes back: recycled files by need, and that of an empty index on disk, since sled gives none back by itself.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, clocked, id, open, party, payload, pending, read, read_all, until};
use petnet_storage::{Engine, Outcome, Sequence, StoreError, StoreOptions, StoreState};
use tokio::task::JoinSet;

const MESSAGES: usize = 60_000;
/// Senders at a time.
const SENDERS: usize = 64;
/// An index of so many entries takes more, in bytes; a new one far less.
const LARGE: u64 = 8 << 20;

fn index_bytes(dir: &Path) -> u64 {
    // It may just be made anew.
    std::fs::metadata(dir.join("index/db")).map_or(0, |file| file.len())
}

async fn fill(store: &Arc<dyn Engine>) {
    let mut tasks = JoinSet::new();
    for first in 0..SENDERS {
        let store = store.clone();
        tasks.spawn(async move {
            for n in (first..MESSAGES).step_by(SENDERS) {
                let (name, text) = (n.to_string(), Bytes::from_static(b"a message"));
                if n % 2 == 0 {
                    store.accept(&party("party_b"), &id(name), text).await.expect("accepts");
                } else {
                    store.store(arrival("party_a", &name, text, None)).await.expect("stores");
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_index_on_disk_gives_its_space_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions {
        index_memory_entries: 1000,
        checkpoint_every: Duration::from_millis(50),
        message_ttl: Some(Duration::from_secs(100)),
        ..options
    };
    let (store, _) = open(options.clone());
    fill(&store).await;
    until("the index is large", async || {
        // Time for entries to move there.
        clock.advance(Duration::from_millis(100));
        index_bytes(dir.path()) > LARGE
    })
    .await;
    loop {
        let list = store.pending(&party("party_b"), Sequence(0), 4096).await.expect("lists");
        let Some(_) = list.first() else { break };
        for one in list {
            assert!(
                store.settle(&party("party_b"), one.sequence, Outcome::Delivered).await.expect("settles")
            );
        }
    }
    read_all(&store).await;
    clock.advance(Duration::from_secs(101));
    until("the index is small", async || {
        clock.advance(Duration::from_secs(1));
        let tick = store.accept(&party("party_b"), &id("tick"), Bytes::new()).await.expect("accepts");
        store.settle(&party("party_b"), tick, Outcome::Delivered).await.expect("settles");
        index_bytes(dir.path()) < LARGE
    })
    .await;
    store.accept(&party("party_b"), &id("new"), "new".into()).await.expect("accepts");
    store.store(arrival("party_a", "new", "arrived".into(), None)).await.expect("stores");
    store.close().await.expect("closes");
    drop(store);
    let (store, _) = open(options);
    assert_eq!(pending(&store, "party_b").await, [("new".to_owned(), Bytes::from("new"))]);
    assert_eq!(read(&store, "new").await, Some("arrived".into()));
    assert_eq!(read(&store, "1").await, None, "expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recycled_files_are_kept_by_need_and_one_when_idle() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, _) = clocked(dir.path());
    let options = StoreOptions { checkpoint_every: Duration::from_millis(50), ..options };
    let (store, _) = open(options);
    let b = party("party_b");
    let mut most = 0;
    let mut number = 0;
    until("several are kept", async || {
        // A segment holds ten of these; each replaces the one before it.
        for _ in 0..40 {
            number += 1;
            store.accept(&b, &id("m"), common::payload(number, 100_000)).await.expect("accepts");
        }
        most = most.max(store.stats().spare_segments);
        most > 1
    })
    .await;
    until("one is left", async || store.stats().spare_segments <= 1).await;
    assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), common::payload(number, 100_000))]);
}

/// It said "serving" for as long as a few hundred bytes found room, while every message that its program sent was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_what_is_sent_says_so_though_smaller_ones_find_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = StoreOptions {
        max_bytes: 64 << 20,
        housekeeping_every: Duration::from_millis(10),
        ..common::options(dir.path())
    };
    let (store, _) = open(options);
    let b = party("party_b");
    let state = || store.state().borrow().clone();
    until("there are log files", async || state() == StoreState::Serving).await;
    let mut accepted = Vec::new();
    let why = loop {
        let large = payload(accepted.len() as u64, 3 << 20);
        match store.accept(&b, &id(format!("{}", accepted.len())), large).await {
            Ok(sequence) => accepted.push(sequence),
            Err(error) => break error,
        }
        assert!(accepted.len() < 32, "it is full some time");
    };
    assert!(matches!(why, StoreError::Full { .. }), "{why}");
    let StoreState::Full(why) = state() else { panic!("it is not {:?}", state()) };
    assert!(why.contains("smaller ones still find room"), "{why}");
    store.accept(&b, &id("small"), Bytes::from_static(b"x")).await.expect("finds room");
    for sequence in accepted {
        assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
    }
    until("there is room again", async || state() == StoreState::Serving).await;
}
