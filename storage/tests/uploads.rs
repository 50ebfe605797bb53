//! Messages that come in pieces, in the segments of the embedded store. What users of any engine rely on is in `engine.rs`.

mod common;
mod sim_disk;
mod trials;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{clocked, id, identity, open, party, payload, pending, read, until, upload};
use petnet_storage::{
    Engine, FromSender, NoObserver, Outcome, Payload, Sequence, Store, StoreError, StoreOptions, Stored,
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

/// A message that spans segments needs all of them.
#[tokio::test]
async fn nothing_of_a_message_that_is_there_counts_as_given_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, _) = open(clocked(dir.path()).0);
    let bytes = payload(1, 8 * MIB);
    accept(&engine, "m", &bytes, MIB).await;
    store(&engine, "m", &bytes, 1).await;
    let stats = engine.stats();
    assert!(stats.segments > 16);
    assert!(stats.reclaimable_bytes < MIB as u64, "{} bytes", stats.reclaimable_bytes);
    engine.close().await.expect("closes");
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
