//! Messages whose content comes in pieces: whole or not at all, and of any size.

mod common;
mod sim_disk;
mod trials;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, clocked, id, identity, open, options, party, payload, pending, read, until, upload};
use petnet_storage::{
    Engine, FromSender, IdReuse, NoObserver, Outcome, Payload, Sequence, Store, StoreError, StoreOptions,
    Stored,
};
use sim_disk::{Fault, SimDisk};

const MIB: usize = 1 << 20;

async fn accept(store: &Arc<dyn Engine>, name: &str, bytes: &Bytes, piece: usize) -> Sequence {
    let upload = upload(store, bytes, piece).await.expect("pushes");
    upload.accept(&party("party_b"), &id(name)).await.expect("accepts")
}

async fn store(store: &Arc<dyn Engine>, name: &str, bytes: &Bytes, number: u64) -> Stored {
    let upload = upload(store, bytes, 300_000).await.expect("pushes");
    upload.store(Some(&party("party_a")), &id(name), Some(identity(1, number, 1))).await.expect("stores")
}

#[tokio::test]
async fn what_came_in_pieces_is_the_same_after_a_restart_whatever_the_pieces_were() {
    let dir = tempfile::tempdir().expect("a folder");
    let small = StoreOptions { cache_bytes: 0, ..options(dir.path()) };
    let sizes = [0, 1, 70_000, 262_143, 262_144, 262_145, 3 * MIB + 7];
    let bytes = |n: usize| payload(n as u64, sizes[n]);
    {
        let (engine, _) = open(small.clone());
        for n in 0..sizes.len() {
            accept(&engine, &format!("out{n}"), &bytes(n), 100_000 + n).await;
            assert!(matches!(
                store(&engine, &format!("in{n}"), &bytes(n), 1 + n as u64).await,
                Stored::New(_)
            ));
        }
        engine.close().await.expect("closes");
    }
    let (engine, report) = open(small);
    assert_eq!((report.damaged, report.pending), (0, sizes.len() as u64));
    let found = pending(&engine, "party_b").await;
    for (n, found) in found.iter().enumerate() {
        assert_eq!(*found, (format!("out{n}"), bytes(n)));
        assert_eq!(read(&engine, &format!("in{n}")).await, Some(bytes(n)));
    }
    let again = store(&engine, "in6", &bytes(6), 7).await;
    assert_eq!(again, Stored::Repeated);
}

#[tokio::test]
async fn an_upload_that_ends_early_leaves_nothing_and_its_space_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let (engine, _) = open(options.clone());
    let bytes = payload(1, 8 * MIB);
    let mut half = upload(&engine, &bytes, MIB).await.expect("pushes");
    half.flush().await.expect("syncs");
    assert_eq!(half.durable(), 8 * MIB as u64);
    assert!(engine.stats().segments > 8);
    assert!(read(&engine, "m").await.is_none() && pending(&engine, "party_b").await.is_empty());
    // Housekeeping leaves what it has written alone as long as it goes on.
    for n in 0..20 {
        accept(&engine, &format!("other{n}"), &payload(n, 10), 10).await;
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(engine.stats().segments > 8);
    half.push(payload(2, MIB)).await.expect("goes on");
    drop(half);
    let mut n = 0;
    until("its segments are given back", async || {
        // A checkpoint is taken when something has changed.
        n += 1;
        accept(&engine, &format!("more{n}"), &payload(n, 10), 10).await;
        clock.advance(Duration::from_secs(1));
        engine.stats().segments <= 5
    })
    .await;
    engine.close().await.expect("closes");
    let (engine, report) = open(options);
    assert_eq!(report.damaged, 0);
    assert!(read(&engine, "m").await.is_none());
}

#[tokio::test]
async fn a_large_message_is_read_in_pieces_and_moves_with_the_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let (engine, _) = open(StoreOptions { cache_bytes: 0, ..options });
    let bytes = payload(3, 2 * MIB + 100);
    store(&engine, "m", &bytes, 1).await;
    let held = engine.open(&FromSender::Any, &id("m")).await.expect("opens").expect("is there");
    let Payload::Pieces(pieces) = &held.payload else { panic!("it is not in memory") };
    let mut all = Vec::new();
    while (all.len() as u64) < pieces.len() {
        let piece = pieces.piece(all.len() as u64).await.expect("reads");
        assert!(piece.len() <= 256 << 10);
        all.extend_from_slice(&piece);
    }
    assert_eq!(all, bytes);
    // Released while it is read: it ends with an error, never with other bytes.
    engine.release(&FromSender::Any, &id("m")).await.expect("releases");
    let mut n = 0;
    until("it is gone", async || {
        n += 1;
        accept(&engine, &format!("more{n}"), &payload(n, 300_000), MIB).await;
        let sequence = engine.pending(&party("party_b"), Sequence(0), 1).await.expect("lists")[0].sequence;
        engine.settle(&party("party_b"), sequence, Outcome::Delivered).await.expect("settles");
        clock.advance(Duration::from_secs(1));
        match pieces.piece(0).await {
            Ok(piece) => {
                assert_eq!(piece, bytes.slice(..piece.len()));
                false
            }
            Err(StoreError::Gone { .. }) => true,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    assert_eq!(engine.stats().damaged, 0);
}

#[tokio::test]
async fn small_messages_and_barriers_do_not_wait_for_an_upload() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, _) = open(options(dir.path()));
    let mut half = upload(&engine, &payload(1, MIB), MIB).await.expect("pushes");
    let known = Some(identity(1, 1, 1));
    let small = || arrival("party_a", "m", Bytes::from_static(b"small"), known);
    assert!(matches!(engine.store(small()).await, Ok(Stored::New(_))));
    // Answered when all that was queued before it is synced.
    assert!(matches!(engine.store(small()).await, Ok(Stored::Repeated)));
    assert!(engine.release(&FromSender::Any, &id("m")).await.expect("releases"));
    half.push(payload(2, MIB)).await.expect("goes on");
    half.accept(&party("party_b"), &id("large")).await.expect("accepts");
    assert_eq!(pending(&engine, "party_b").await.len(), 1);
}

#[tokio::test]
async fn the_place_in_the_order_is_that_of_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = options(dir.path());
    {
        let (engine, _) = open(options.clone());
        let large = payload(1, MIB);
        let b = party("party_b");
        let begun = upload(&engine, &large, MIB).await.expect("pushes");
        let small = engine.accept(&b, &id("m"), Bytes::from_static(b"small")).await.expect("accepts");
        let last = begun.accept(&b, &id("m")).await.expect("accepts");
        assert!(last > small);
        let begun = upload(&engine, &large, MIB).await.expect("pushes");
        let small = engine.accept(&b, &id("n"), Bytes::from_static(b"small")).await.expect("accepts");
        engine.settle(&b, small, Outcome::Delivered).await.expect("settles");
        begun.accept(&b, &id("n")).await.expect("accepts");
        // Not closed: the process is gone.
    }
    let (engine, _) = open(options);
    let expected = [("m".to_owned(), payload(1, MIB)), ("n".to_owned(), payload(1, MIB))];
    assert_eq!(pending(&engine, "party_b").await, expected);
}

#[tokio::test]
async fn with_reject_an_upload_must_bring_the_same_bytes_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, _) = open(StoreOptions { id_reuse: IdReuse::Reject, ..options(dir.path()) });
    let (bytes, other) = (payload(1, MIB), payload(2, MIB));
    let b = party("party_b");
    let first = accept(&engine, "m", &bytes, 70_000).await;
    assert_eq!(accept(&engine, "m", &bytes, 300_000).await, first);
    assert_eq!(engine.accept(&b, &id("m"), bytes.clone()).await.expect("the same"), first);
    let refused = upload(&engine, &other, MIB).await.expect("pushes").accept(&b, &id("m")).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert!(matches!(store(&engine, "m", &bytes, 1).await, Stored::New(_)));
    assert_eq!(store(&engine, "m", &bytes, 2).await, Stored::Repeated);
    let upload = upload(&engine, &other, MIB).await.expect("pushes");
    let refused = upload.store(Some(&party("party_a")), &id("m"), Some(identity(1, 3, 1))).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_full_store_refuses_an_upload_and_takes_the_next_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let (engine, _) = open(StoreOptions { max_bytes: 16 << 20, ..options });
    let bytes = payload(1, 32 * MIB);
    let refused = upload(&engine, &bytes, MIB).await.expect_err("it cannot fit");
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    let mut n = 0;
    until("another one finds room", async || {
        n += 1;
        drop(engine.accept(&party("party_b"), &id("small"), payload(n, 10)).await);
        clock.advance(Duration::from_secs(1));
        match upload(&engine, &payload(2, 4 * MIB), MIB).await {
            Ok(upload) => upload.accept(&party("party_b"), &id("m")).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
    assert!(pending(&engine, "party_b").await.contains(&("m".into(), payload(2, 4 * MIB))));
}

#[test]
fn after_a_power_cut_anywhere_it_is_whole_or_not_there() {
    trials::all(1..=120, |at| {
        trials::block_on(async move {
            let disk = SimDisk::new(Path::new("/data"), None);
            let options = |disk: &SimDisk| StoreOptions {
                segment_bytes: MIB as u64,
                disk: Arc::new(disk.clone()),
                cache_bytes: 0,
                ..StoreOptions::new("/data")
            };
            let (engine, _) = Store::open(options(&disk), Arc::new(NoObserver)).expect("opens");
            disk.set_fault(Fault::PowerCut { at: disk.operations() + at });
            let bytes = payload(1, 3 * MIB + 5);
            let told = match upload(&engine, &bytes, 200_000).await {
                Ok(upload) => upload.accept(&party("party_b"), &id("m")).await.is_ok(),
                Err(_) => false,
            };
            drop(engine);
            let disk = disk.after_power_cut(Some(at));
            let (engine, _) = Store::open(options(&disk), Arc::new(NoObserver)).expect("opens again");
            match &pending(&engine, "party_b").await[..] {
                [] => assert!(!told, "accepted and lost"),
                [(name, found)] => assert!(name == "m" && *found == bytes, "wrong bytes"),
                more => panic!("{} messages", more.len()),
            }
        });
    });
}
