//! What a store costs that holds much: opening it after a kill, its folder once all is over, its memory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petnet_storage::{
    Arrival, DeliveryIdentity, Engine, Incarnation, ManualClock, NoObserver, Outcome, Sequence, Store,
    StoreOptions,
};

use crate::child::Role;
use crate::load::{fill, id, payload, peer};
use crate::report::{Args, Bar, Table};

const GB: usize = 1_000_000_000;

/// Opens a store whose process was killed with `count` messages of `size` in it.
pub(crate) fn reopen(dir: &Path, args: &Args, table: &mut Table, size: usize, count: usize) {
    let count = count / args.pick(1, 10);
    let filling = Role::play("fill", dir, size, count);
    let fill_seconds = filling.said[0];
    drop(filling);
    // Each is killed too; the first opening is the one that counts.
    let opened: Vec<f64> = (0..3).map(|_| Role::play("open", dir, size, count).said[0]).collect();
    let measured = format!(
        "open {:.2} s; again after another kill {:.2} and {:.2} s; filled in {fill_seconds:.1} s",
        opened[0], opened[1], opened[2]
    );
    table.add(
        format!("reopen after a kill, {count} of {size} B"),
        measured,
        (opened[0], "s"),
        Bar::AtMost(2.0),
    );
}

/// Bytes that the files of a folder take on the disk.
fn on_disk(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        // A file may go while we look.
        let Ok(entry) = entry else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { on_disk(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}

/// 1 GB of 4 KiB, half of it pending, half of it arrived; then the one half is delivered and the other expires.
pub(crate) async fn space(dir: &Path, args: &Args, table: &mut Table) {
    const SIZE: usize = 4096;
    const BAR: u64 = 300_000_000;
    let half = GB / SIZE / 2 / args.pick(1, 10);
    let clock = Arc::new(ManualClock::default());
    let options = StoreOptions { clock: clock.clone(), ..StoreOptions::new(dir) };
    let (engine, _) = Store::open(options, Arc::new(NoObserver)).unwrap();
    fill(&engine, SIZE, half).await;
    arrive(&engine, SIZE, half).await;
    let full = on_disk(dir);
    let start = Instant::now();
    loop {
        let pending = engine.pending(&peer(), Sequence(0), 4096).await.unwrap();
        if pending.is_empty() {
            break;
        }
        for message in pending {
            engine.settle(&peer(), message.sequence, Outcome::Delivered).await.unwrap();
        }
    }
    clock.advance(Duration::from_secs(3601));
    while on_disk(dir) >= BAR && start.elapsed() < Duration::from_secs(180) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (below, took) = (on_disk(dir), start.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(15)).await;
    let last = on_disk(dir);
    engine.close().await.unwrap();
    let closed = on_disk(dir);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let measured = format!(
        "{:.0} MB full; {:.0} MB after {took:.1} s, {:.0} MB 15 s later, {:.0} MB closed",
        mb(full),
        mb(below),
        mb(last),
        mb(closed)
    );
    table.add(
        "folder when all is settled or expired",
        measured,
        (mb(last.max(closed)), "MB"),
        Bar::AtMost(300.0),
    );
}

async fn arrive(engine: &Arc<dyn Engine>, size: usize, count: usize) {
    const PEERS: usize = 64;
    let content = payload(size);
    let incarnation = Incarnation { started_ms: 1, random: 1 };
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..PEERS {
        let (engine, content) = (engine.clone(), content.clone());
        tasks.spawn(async move {
            for n in (first..count).step_by(PEERS) {
                let low_water = (n.saturating_sub(4 * PEERS) + 1) as u64;
                let identity = DeliveryIdentity { incarnation, number: n as u64 + 1, low_water };
                let arrival = Arrival {
                    sender: Some(peer()),
                    id: id(&format!("arrived:{n}")),
                    payload: content.clone(),
                    identity: Some(identity),
                };
                engine.store(arrival).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// Resident memory of a process that holds 2 GiB of pending messages.
pub(crate) fn memory(dir: &Path, args: &Args, table: &mut Table, size: usize) {
    let bytes: usize = args.pick(2 << 30, 256 << 20);
    let count = bytes / size;
    let held = Role::play("memory", dir, size, count);
    let [before, filled, highest, settled, took] = held.said[..] else { panic!("five numbers") };
    let measured = format!(
        "{count} messages: {before:.0} MiB before, {filled:.0} when filled ({took:.0} s), {settled:.0} 15 s later, \
         {highest:.0} at most"
    );
    table.add(
        format!("memory, {} MiB pending of {} KiB", bytes >> 20, size >> 10),
        measured,
        (highest, "MiB"),
        Bar::AtMost(256.0),
    );
}
