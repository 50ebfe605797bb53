//! A move to a disk that loses power: whatever point it goes at, the next run does the rest.
//!
//! `PETNET_SEED=s` chooses what of un-synced writes survives; `PETNET_CRASH_AT=n` runs one point.

mod common;
mod sim_disk;
mod transfers;
mod trials;

use std::path::Path;
use std::sync::Arc;

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
    let points = (1..=operations).step_by(every);
    let count = all(points, |point| {
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
            // Finished, and the answer was lost: it must be whole.
            let held = FolderSource::open(&Inspector::new("/data").with_disk(Arc::new(disk)), None);
            let summary = block_on(held.expect("opens").summary()).expect("is there");
            assert_eq!(summary.messages, expected.target.all().messages, "point {point}");
            return;
        }
        let report = cut_run(&source, &disk).unwrap_or_else(|| panic!("point {point}: does not go on"));
        assert!(report.is_whole(), "point {point}: {:?}", report.differences);
        assert_eq!(report.target, expected.target, "point {point}");
    });
    println!("{count} of {operations} points");
}
