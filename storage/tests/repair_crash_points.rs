//! A repair and an inspection on a disk that loses power: whatever point it goes at, the next one does the rest.
//!
//! `PETNET_SEED=s` chooses what of un-synced writes survives.

mod common;
mod messages;
mod sim_disk;

use std::path::Path;
use std::sync::Arc;

use common::*;
use messages::{Content, fill, served};
use petnet_storage::inspect::{InspectError, Inspector};
use petnet_storage::{Disk, DiskFile, Engine, NoObserver, OpenMode, Store, StoreOptions};
use sim_disk::{Fault, SimDisk};

fn seed() -> u64 {
    std::env::var("PETNET_SEED").map_or(1, |v| v.parse().expect("PETNET_SEED is a number"))
}

fn sim_options(disk: &SimDisk) -> StoreOptions {
    StoreOptions {
        disk: Arc::new(disk.clone()),
        message_ttl: None,
        send_ttl: None,
        cache_bytes: 0,
        ..options(Path::new("/data"))
    }
}

fn sim_open(disk: &SimDisk) -> Arc<dyn Engine> {
    Store::open(sim_options(disk), Arc::new(NoObserver)).expect("the store opens").0
}

/// A store on a simulated disk, closed.
async fn sim_filled(count: u64) -> (SimDisk, Content) {
    let disk = SimDisk::new(Path::new("/data"), None);
    let store = sim_open(&disk);
    let mut content = fill(&store, count).await;
    store.accept(&party("party_b"), &id("last"), "last".into()).await.expect("accepts");
    content.insert("last".into(), "last".into());
    store.close().await.expect("closes");
    drop(store);
    (disk, content)
}

fn sim_file(disk: &SimDisk, name: &str) -> Arc<dyn DiskFile> {
    disk.open(&Path::new("/data").join(name), OpenMode::Existing).expect("opens")
}

fn sim_names(disk: &SimDisk, lane: &str) -> Vec<String> {
    let mut names = disk.list(Path::new("/data/log")).expect("lists");
    names.retain(|n| n.starts_with(lane));
    names.sort();
    names.into_iter().map(|n| format!("log/{n}")).collect()
}

fn sim_flip(disk: &SimDisk, name: &str, offset: u64) {
    let file = sim_file(disk, name);
    let mut byte = [0];
    file.read_at(&mut byte, offset).expect("reads");
    file.write_at(&mut [std::io::IoSlice::new(&[byte[0] ^ 1])], offset).expect("writes");
    file.sync_data().expect("syncs");
}

fn sim_inspector(disk: &SimDisk) -> Inspector {
    Inspector::new("/data").with_disk(Arc::new(disk.clone()))
}

#[tokio::test]
async fn a_repair_cut_off_anywhere_is_finished_by_the_next_one() {
    let (disk, _) = sim_filled(6).await;
    let (small, bulk) = (sim_names(&disk, "small"), sim_names(&disk, "bulk"));
    for (name, offset) in [(&small[0], 20), (&small[0], 60_000), (&small[0], 9000), (&bulk[0], 400_000)] {
        sim_flip(&disk, name, offset);
    }
    sim_flip(&disk, "CHECKPOINT.0", 60);
    sim_flip(&disk, "CHECKPOINT.1", 60);
    let disk = disk.after_power_cut(None);
    let whole = disk.after_power_cut(None);
    let repaired = sim_inspector(&whole).repair().expect("repairs");
    let operations = whole.operations();
    let expected = served(&sim_open(&whole)).await;
    assert!(repaired.after.is_some_and(|after| after.is_well()));
    assert!(repaired.before.damage.len() >= 4, "{:#?}", repaired.before);
    assert!(operations > 20, "{operations}");
    for at in 1..=operations {
        let cut = disk.after_power_cut(None);
        cut.set_fault(Fault::PowerCut { at });
        drop(sim_inspector(&cut).repair());
        cut.cut_power();
        let found = cut.after_power_cut((at % 3 > 0).then_some(seed() ^ at));
        let inspector = sim_inspector(&found);
        let again = inspector.repair().unwrap_or_else(|e| panic!("cut off at {at}: {e}"));
        let well = again.after.unwrap_or(again.before);
        assert!(well.is_well(), "cut off at {at}: {well:#?}");
        assert!(served(&sim_open(&found)).await == expected, "cut off at {at}");
    }
    println!("{operations} crash points of a repair");
}

/// Giving swapped segments their names back takes a temporary name for each. A start that was cut off between the two
/// renamings left files that no later start looked at: their messages were gone from view.
#[tokio::test]
async fn swapped_segments_are_all_read_again_after_a_power_cut_while_they_get_their_names_back() {
    let (disk, content) = sim_filled(60).await;
    let names = sim_names(&disk, "small");
    let [a, b, other] = [&names[0], &names[1], "log/other"].map(|n| Path::new("/data").join(n));
    for (from, to) in [(&a, &other), (&b, &a), (&other, &b)] {
        disk.rename(from, to).expect("renames");
    }
    disk.sync_dir(Path::new("/data/log")).expect("syncs");
    for at in 1..=16 {
        let cut = disk.after_power_cut(None);
        cut.set_fault(Fault::PowerCut { at });
        drop(Store::open(sim_options(&cut), Arc::new(NoObserver)));
        cut.cut_power();
        let found = cut.after_power_cut(Some(seed() ^ at));
        let looked = sim_inspector(&found).inspect().expect("inspects");
        assert_eq!(looked.pending + looked.mailbox, content.len() as u64, "cut off at {at}");
        assert!(served(&sim_open(&found)).await == content, "cut off at {at}");
    }
}

/// What a power cut leaves is no damage to whoever looks, and holds what a start then finds.
#[tokio::test]
async fn after_a_power_cut_an_inspection_says_what_the_start_finds() {
    for at in (5..200).step_by(13) {
        let disk = SimDisk::new(Path::new("/data"), None);
        disk.set_fault(Fault::PowerCut { at });
        if let Ok((store, _)) = Store::open(sim_options(&disk), Arc::new(NoObserver)) {
            for i in 0..400_u64 {
                let len = [100, 20_000, 300_000][i as usize % 3];
                if store.accept(&party("party_b"), &id(i.to_string()), payload(i, len)).await.is_err() {
                    break;
                }
            }
        }
        disk.cut_power();
        let found = disk.after_power_cut(Some(seed() ^ at));
        let looked = sim_inspector(&found).inspect();
        let (_, report) = Store::open(sim_options(&found), Arc::new(NoObserver)).expect("opens");
        match looked {
            Ok(looked) => {
                assert_eq!(looked.pending, report.pending, "cut at {at}; {report}");
                assert_eq!(looked.damage.len() as u64, report.damaged, "cut at {at}: {looked:#?}; {report}");
            }
            Err(error) => assert!(matches!(error, InspectError::NoStore { .. }), "cut at {at}: {error}"),
        }
    }
}
