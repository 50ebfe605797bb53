//! A move to a disk that loses power: whatever point it goes at, the next run does the rest.
//!
//! `PETNET_SEED=s` chooses what of un-synced writes survives; `PETNET_CRASH_AT=n` runs one point.

mod common;
mod sim_disk;
mod transfers;
mod trials;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use petnet_storage::inspect::Inspector;
use petnet_storage::transfer::{FolderSource, Report, Source, run};
use petnet_storage::{Disk, NoObserver, Store, StoreOptions};
use sim_disk::{Fault, SimDisk};
use transfers::*;
use trials::{all, block_on, seed};

/// One run on a disk on which the power goes; what it finished with.
fn cut_run(source: &FolderSource, disk: &SimDisk) -> Option<Report> {
    let target = target(&(Arc::new(disk.clone()) as Arc<dyn Disk>), Path::new("/data"));
    block_on(run(source, &target, &|_| {})).ok()
}

#[test]
fn a_move_on_which_the_power_goes_anywhere_goes_on_and_is_whole() {
    let seed = seed();
    println!("PETNET_SEED={seed}");
    let dir = tempfile::tempdir().expect("a folder");
    block_on(fill(&real(), dir.path(), 5));
    let source = source(&real(), dir.path()).expect("opens");
    let whole = SimDisk::new(Path::new("/data"), None);
    let expected = cut_run(&source, &whole).expect("moves");
    let operations = whole.operations();
    let every = (operations / 120).max(1) as usize;
    // The last of all, in which it ends, each.
    let last = operations.saturating_sub(10);
    let points = (1..last).step_by(every).chain(last..=operations + 10);
    let answers_lost = AtomicU64::new(0);
    let cut_at = |point, seed: u64| {
        let disk = SimDisk::new(Path::new("/data"), None);
        disk.set_fault(Fault::PowerCut { at: point });
        let first = cut_run(&source, &disk);
        let disk = disk.after_power_cut(Some(seed ^ point));
        let sim = StoreOptions { disk: Arc::new(disk.clone()), ..options(Path::new("/data")) };
        let is_marked = disk.names(Path::new("/data")).iter().any(|name| name == "MOVING");
        if first.is_some() {
            assert!(!is_marked, "point {point}: finished and still marked");
            return;
        }
        if is_marked {
            assert!(Store::open(sim, Arc::new(NoObserver)).is_err(), "point {point}: half a store is opened");
        } else if !disk.names(Path::new("/data")).iter().any(|name| name == "FORMAT") {
            // Not begun.
        } else {
            // Finished, and the answer was lost: it is whole, and the same run says so again.
            answers_lost.fetch_add(1, Ordering::Relaxed);
            let inspector = Inspector::new("/data").with_disk(Arc::new(disk.clone()));
            let held = FolderSource::open(&inspector, None);
            let summary = block_on(held.expect("opens").summary()).expect("is there");
            assert_eq!(summary.messages, expected.target.all().messages, "point {point}");
        }
        let report = cut_run(&source, &disk).unwrap_or_else(|| panic!("point {point}: does not go on"));
        assert!(report.is_whole(), "point {point}: {:?}", report.differences);
        assert_eq!(report.target, expected.target, "point {point}");
    };
    let count = all(points, |point| {
        // The last is the sync of the folder, when the name of the mark has changed: half the seeds keep that. How many operations
        // there are varies a little, since housekeeping goes on beside a move.
        let seeds = if point >= last { 8 } else { 1 };
        (0..seeds).for_each(|n| cut_at(point, seed.wrapping_add(n)));
    });
    let answers_lost = answers_lost.into_inner();
    println!("{count} of {operations} points, {answers_lost} of them after its end");
    // The power goes when all is done, and nobody heard that.
    let again = cut_run(&source, &whole.after_power_cut(Some(seed))).expect("is confirmed");
    assert!(again.is_whole() && again.resumed.ended, "{again:?}");
    assert_eq!(again.target, expected.target);
}
