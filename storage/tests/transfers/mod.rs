//! A store with everything in it, and both ends of a move.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its part")]

mod contents;
mod cut;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use petnet_storage::inspect::Inspector;
use petnet_storage::transfer::{FolderSource, FolderTarget, Report, Result, Source, Target, run};
use petnet_storage::{
    Arrival, DeadReason, Disk, Engine, FromSender, ManualClock, Outcome, RealDisk, StoreOptions,
};

use crate::common::*;

pub use contents::everything;
pub use cut::Cut;

pub const LARGE: usize = 700_000;
pub const PEERS: [&str; 2] = ["party_b", "party_ü"];

/// Ids and senders of deliveries that were read and released before the move.
pub const RELEASED: [(&str, u64); 2] = [("released", 3), ("released large", 4)];

/// Three starts of a gateway, and messages of all kinds.
pub async fn fill(disk: &Arc<dyn Disk>, dir: &Path, count: u64) {
    for start in 0..3 {
        let clock = Arc::new(ManualClock::default());
        let options = StoreOptions {
            clock: clock.clone(),
            disk: disk.clone(),
            checkpoint_every: Duration::ZERO,
            spill_after: Duration::ZERO,
            send_ttl: None,
            ..options(dir)
        };
        let (store, _) = open(options);
        send_some(&store, start, count, &clock).await;
        if start == 1 {
            receive_some(&store, count, &clock).await;
        }
        clock.advance(Duration::from_secs(60));
        store.close().await.expect("closes");
    }
}

/// A filled folder that is called `from`.
pub async fn filled(count: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let from = dir.path().join("from");
    std::fs::create_dir(&from).expect("makes");
    fill(&real(), &from, count).await;
    dir
}

async fn send_some(store: &Arc<dyn Engine>, start: u64, count: u64, clock: &ManualClock) {
    for (p, peer) in PEERS.map(party).iter().enumerate() {
        for i in 0..count {
            let len = [10, 0, 5000, LARGE, 70_000][((i + p as u64) % 5) as usize];
            let name = id(format!("out{start}-{i}"));
            let bytes = payload(start * 1000 + i, len);
            let sequence = store.accept(peer, &name, bytes).await.expect("accepts");
            let outcome = match i % 7 {
                0 => Outcome::Delivered,
                2 => Outcome::Dead(DeadReason::Refused(format!("no {i}"))),
                4 => Outcome::Dead(DeadReason::Expired),
                _ => continue,
            };
            store.settle(peer, sequence, outcome).await.expect("settles");
            clock.advance(Duration::from_millis(700));
        }
        // Replaced; the name of a dead letter used again, and dead again.
        store.accept(peer, &id("out again"), payload(start, 30)).await.expect("accepts");
        let again = store.accept(peer, &id("out0-2"), payload(start, 40)).await.expect("accepts");
        if start == 1 {
            let refused = Outcome::Dead(DeadReason::Refused("again".into()));
            store.settle(peer, again, refused).await.expect("settles");
        }
    }
}

async fn receive_some(store: &Arc<dyn Engine>, count: u64, clock: &ManualClock) {
    let a = FromSender::Party(party("party_a"));
    for (name, number) in RELEASED {
        let len = if number == 4 { LARGE } else { 50 };
        store
            .store(arrival("party_a", name, payload(number, len), Some(identity(7, number, 2))))
            .await
            .expect("stores");
        assert!(store.release(&a, &id(name)).await.expect("releases"));
    }
    for i in 0..count {
        let known = Some(identity(10 + i % 2, 2 + 2 * i, 1));
        let len = [10, 5000, LARGE][(i % 3) as usize];
        store.store(arrival("party_a", &format!("in{i}"), payload(i, len), known)).await.expect("stores");
        let unnamed =
            Arrival { sender: None, id: id(format!("in{i}")), payload: payload(i, 20), identity: None };
        store.store(unnamed).await.expect("stores");
        clock.advance(Duration::from_millis(300));
    }
    for (number, text) in [(5, "old"), (6, "new")] {
        let known = Some(identity(20, number, 1));
        store.store(arrival("party_a", "replaced", text.into(), known)).await.expect("stores");
    }
}

pub fn source(disk: &Arc<dyn Disk>, dir: &Path) -> Result<FolderSource> {
    FolderSource::open(&Inspector::new(dir).with_disk(disk.clone()), None)
}

pub fn target(disk: &Arc<dyn Disk>, dir: &Path) -> FolderTarget {
    FolderTarget::new(StoreOptions { disk: disk.clone(), ..options(dir) })
}

pub fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

pub async fn moved(source: &dyn Source, target: &dyn Target) -> Report {
    let report = run(source, target, &|_| {}).await.expect("moves");
    assert!(report.finished && report.differences.is_empty(), "{:?}", report.differences);
    report
}
