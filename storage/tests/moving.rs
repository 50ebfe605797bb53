//! Messages that end, or are replaced, at the very moment in which they move to the index on disk.
//!
//! The moments are of two threads, so each test goes through very many of them.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, clocked, id, identity, open, party, pending, read, until};
use petnet_storage::{Engine, FromSender, Outcome, Sequence, StoreOptions, Stored};

const ROUNDS: usize = 60;
const IDS: usize = 16;

/// A store that moves everything to the index on disk as soon as it can.
fn restless(dir: &std::path::Path) -> Arc<dyn Engine> {
    let (options, _) = clocked(dir);
    open(StoreOptions { housekeeping_every: Duration::from_millis(1), cache_bytes: 0, ..options }).0
}

async fn accept(store: &Arc<dyn Engine>, name: &str, text: &str) -> Sequence {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    store.accept(&party("party_b"), &id(name), payload).await.expect("accepts")
}

async fn all_on_disk(store: &Arc<dyn Engine>) {
    until("all is in the index on disk", async || store.stats().index_in_memory == 0).await;
}

/// Does the same for every id, side by side.
async fn for_each_id<F: Future<Output = ()> + 'static>(work: impl Fn(String) -> F) {
    let tasks = tokio::task::LocalSet::new();
    let all: Vec<_> = (0..IDS).map(|n| tasks.spawn_local(work(format!("m{n}")))).collect();
    tasks.await;
    for one in all {
        one.await.expect("the work does not panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_superseded_message_is_not_back_when_the_newer_one_is_settled_while_it_moves() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = restless(dir.path());
    for round in 0..ROUNDS {
        for n in 0..IDS {
            accept(&store, &format!("m{n}"), "old").await;
        }
        all_on_disk(&store).await;
        for_each_id(|name| {
            let store = store.clone();
            async move {
                let newer = accept(&store, &name, "new").await;
                let settled = store.settle(&party("party_b"), newer, Outcome::Delivered).await;
                assert!(settled.expect("settles"), "it was pending");
                let back: Vec<_> =
                    pending(&store, "party_b").await.into_iter().filter(|p| p.0 == name).collect();
                assert_eq!(back, [], "round {round}");
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_moves_stays_pending_while_the_one_it_replaced_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = restless(dir.path());
    for round in 0..ROUNDS {
        let mut old = Vec::new();
        for n in 0..IDS {
            old.push(accept(&store, &format!("m{n}"), "old").await);
        }
        all_on_disk(&store).await;
        for_each_id(|name| {
            let store = store.clone();
            let old = old[name[1..].parse::<usize>().expect("a number")];
            async move {
                let (_, ()) = tokio::join!(accept(&store, &name, "new"), async {
                    drop(store.settle(&party("party_b"), old, Outcome::Delivered).await);
                });
                let latest = accept(&store, &name, "latest").await;
                until("the latest is the only one", async || {
                    let mut all = pending(&store, "party_b").await;
                    all.retain(|p| p.0 == name);
                    assert!(!all.is_empty(), "round {round}: {name} is gone");
                    all.iter().all(|p| p.1 == "latest")
                })
                .await;
                store.settle(&party("party_b"), latest, Outcome::Delivered).await.expect("settles");
            }
        })
        .await;
        assert_eq!(pending(&store, "party_b").await, [], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mail_that_moves_stays_readable_while_the_one_it_replaced_is_released() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = restless(dir.path());
    for round in 0..ROUNDS {
        for n in 0..IDS {
            store.store(arrival("party_b", &format!("m{n}"), "old".into(), None)).await.expect("stores");
        }
        all_on_disk(&store).await;
        for_each_id(|name| {
            let store = store.clone();
            async move {
                let from = FromSender::Party(party("party_b"));
                let named = id(&name);
                let (released, ()) = tokio::join!(store.release(&from, &named), async {
                    let newer = arrival("party_b", &name, "new".into(), None);
                    store.store(newer).await.expect("stores");
                });
                released.expect("releases");
                // Released before or after the newer one came: gone or the newer one, and it stays so.
                let found = read(&store, &name).await;
                assert!(found.as_ref().is_none_or(|f| f == "new"), "round {round}: {found:?} is back");
                until("it is in the index on disk", async || store.stats().index_in_memory == 0).await;
                assert_eq!(read(&store, &name).await, found, "round {round}: {name}");
            }
        })
        .await;
    }
}

/// Found by a cut in the index: which message is the newest under an id was lost there, and the message was not. A newer
/// one did not end it, and it was back when that one was settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_index_forgot_of_an_id_ends_all_the_same_when_a_newer_message_comes() {
    for harm in ["nothing is known", "one is not known", "one more is known", "one is another"] {
        let dir = tempfile::tempdir().expect("a folder");
        let store = restless(dir.path());
        for n in 0..IDS {
            accept(&store, &format!("m{n}"), "old").await;
        }
        all_on_disk(&store).await;
        store.close().await.expect("closes");
        drop(store);
        {
            let index = sled::open(dir.path().join("index")).expect("opens the index");
            let latest = index.open_tree("latest").expect("opens");
            let (key, value) = latest.first().expect("reads").expect("some are pending");
            match harm {
                "nothing is known" => latest.clear().expect("clears"),
                "one is not known" => drop(latest.remove(key).expect("removes")),
                "one more is known" => drop(latest.insert([7; 16], value).expect("inserts")),
                _ => drop(latest.insert(key, &[0; 10]).expect("inserts")),
            }
            index.flush().expect("flushes");
        }
        let store = restless(dir.path());
        assert_eq!(pending(&store, "party_b").await.len(), IDS, "{harm}");
        let mut newer = Vec::new();
        for n in 0..IDS {
            newer.push(accept(&store, &format!("m{n}"), "new").await);
        }
        all_on_disk(&store).await;
        for sequence in newer {
            let settled = store.settle(&party("party_b"), sequence, Outcome::Delivered).await;
            assert!(settled.expect("settles"), "{harm}");
        }
        assert_eq!(pending(&store, "party_b").await, [], "{harm}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_delivery_replaces_nothing_newer_that_moves_while_it_comes() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = restless(dir.path());
    let mut number = 0;
    for round in 0..4 * ROUNDS {
        let mut deliveries = Vec::new();
        for n in 0..IDS {
            number += 2;
            deliveries.push((format!("m{n}"), number));
        }
        for (name, number) in &deliveries {
            let newer = arrival("party_b", name, "new".into(), Some(identity(1, *number, 1)));
            assert!(matches!(store.store(newer).await, Ok(Stored::New(_))));
        }
        for_each_id(|name| {
            let store = store.clone();
            let number = deliveries[name[1..].parse::<usize>().expect("a number")].1;
            async move {
                let late = arrival("party_b", &name, "late".into(), Some(identity(1, number - 1, 1)));
                let stored = store.store(late).await;
                assert!(matches!(stored, Ok(Stored::Stale)), "round {round}: {name} is {stored:?}");
                assert_eq!(read(&store, &name).await.as_deref(), Some(&b"new"[..]), "round {round}: {name}");
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_is_always_something_to_read_while_mail_is_replaced_and_moves() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = restless(dir.path());
    for name in ["m0", "m1"] {
        store.store(arrival("party_b", name, "0".into(), None)).await.expect("stores");
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let (store, done, name) = (store.clone(), done.clone(), id(format!("m{}", n % 2)));
            tokio::spawn(async move {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = store.read(&FromSender::Any, &name).await.expect("reads");
                    assert!(found.is_some(), "nothing is there after {reads} reads");
                    reads += 1;
                }
            })
        })
        .collect();
    for round in 1..20 * ROUNDS {
        for name in ["m0", "m1"] {
            let newer = arrival("party_b", name, Bytes::from(round.to_string()), None);
            store.store(newer).await.expect("stores");
        }
        if round % 2 == 0 {
            all_on_disk(&store).await;
        }
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("something is always there");
    }
}
