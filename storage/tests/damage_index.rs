//! Damage beside and below the index on disk: the index missing, garbage, of another store, older than the log; bits
//! flipped in a log of which a part is known to the index only. Same answers, or exactly what was hit is damaged.
//!
//! The log is on a simulated disk, the index on a real file system. `PETNET_SEED=n` picks the places.

mod common;
mod log_map;
mod sent;
mod sim_disk;
mod trials;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{copy_folder, until};
use log_map::Kind;
use petnet_storage::{Engine, FromSender, ManualClock, NoObserver, OpenReport, Outcome, Store, StoreOptions};
use sent::{All, Answers, From, Hit, PEER, a_little_of_everything, accept, ask, deliver, judge};
use sim_disk::{Rng, SimDisk};
use trials::{all, block_on, number, seed};

/// Random flips in the larger log.
const FLIPS: u64 = 600;

fn open(disk: &SimDisk) -> (Arc<dyn Engine>, OpenReport) {
    let options = StoreOptions {
        clock: Arc::new(ManualClock::default()),
        checkpoint_every: Duration::ZERO,
        spill_after: Duration::ZERO,
        housekeeping_every: Duration::from_millis(5),
        segment_bytes: 1 << 20,
        cache_bytes: 0,
        message_ttl: None,
        send_ttl: None,
        disk: Arc::new(disk.clone()),
        ..StoreOptions::new("/data")
    };
    Store::open(options, Arc::new(NoObserver)).expect("the store opens")
}

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// A store at rest, the older part of it in its index.
struct Indexed {
    disk: SimDisk,
    index: PathBuf,
    /// The index as it was half-way.
    older: PathBuf,
    all: All,
    before: Answers,
    _folder: tempfile::TempDir,
}

fn indexed() -> Indexed {
    let folder = folder();
    let index = folder.path().join("store").join("index");
    let older = folder.path().join("older");
    std::fs::create_dir_all(index.parent().expect("a parent")).expect("makes a folder");
    let disk = SimDisk::new(Path::new("/data"), Some(index.clone()));
    let (all, before) = block_on(async {
        let (store, _) = open(&disk);
        let mut all = a_little_of_everything(&store).await;
        for round in 0..3_u64 {
            for i in 0..20 {
                let name = format!("{round}-{i}");
                let sequence = accept(&store, &mut all, &name, 30_000 + i).await;
                deliver(
                    &store,
                    &mut all,
                    From::Party("party_c"),
                    &name,
                    66_000 + i,
                    Some(round * 20 + i as u64 + 1),
                )
                .await;
                if i % 4 == 0 {
                    store.settle(&common::party(PEER), sequence, Outcome::Delivered).await.expect("settles");
                    let from = FromSender::Party(common::party("party_c"));
                    store.release(&from, &common::id(&name)).await.expect("releases");
                }
            }
            if round < 2 {
                until("all is in the index on disk", async || store.stats().index_in_memory == 0).await;
            }
            if round == 0 {
                copy_folder(&index, &older);
            }
        }
        let before = ask(&store, &all).await;
        store.close().await.expect("closes");
        (all, before)
    });
    Indexed { disk, index, older, all, before, _folder: folder }
}

/// One trial on copies of the disk and, changed by `harm`, of the index.
fn trial(rest: &Indexed, hit: &Hit, harm: impl FnOnce(&SimDisk, &Path), when: &str) -> sent::Counts {
    let folder = folder();
    let index = folder.path().join("store").join("index");
    copy_folder(&rest.index, &index);
    let disk = rest.disk.with_index(&index);
    harm(&disk, &index);
    block_on(async {
        let (store, report) = open(&disk);
        let counts =
            judge(&rest.before, &ask(&store, &rest.all).await, &rest.all, hit, &format!("{when}; {report}"));
        let mut all = rest.all.clone();
        accept(&store, &mut all, "fresh", 100).await;
        let first = ask(&store, &all).await;
        store.close().await.expect("closes");
        drop(store);
        let (store, report) = open(&disk);
        assert_eq!(ask(&store, &all).await, first, "{when}, after one more start; {report}");
        counts
    })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|e| e.expect("lists").path());
    entries.filter(|p| p.is_file()).collect()
}

fn harm_file(path: &Path, work: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("reads");
    work(&mut bytes);
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn without_its_index_a_store_gives_the_same_answers() {
    let rest = indexed();
    let none = Hit::default();
    trial(&rest, &none, |_, index| std::fs::remove_dir_all(index).expect("removes"), "no index");
    trial(&rest, &none, |_, index| copy_folder(&rest.older, index), "an older index");
    for file in files(&rest.index) {
        let name = file.file_name().expect("a name").to_owned();
        let harm = |what: &'static str, work: &dyn Fn(&mut Vec<u8>)| {
            let when = format!("{}: {what}", name.display());
            trial(&rest, &none, |_, index| harm_file(&index.join(&name), work), &when);
        };
        harm("empty", &|bytes| bytes.clear());
        harm("half", &|bytes| bytes.truncate(bytes.len() / 2));
        harm("garbage", &|bytes| bytes.fill(0xa5));
        harm("zeros", &|bytes| bytes.fill(0));
        trial(
            &rest,
            &none,
            |_, index| std::fs::remove_file(index.join(&name)).expect("removes"),
            "one file less",
        );
    }
}

#[test]
fn flipped_bits_in_the_index_change_no_answer() {
    let rest = indexed();
    let file = rest.index.join("db");
    // sled's file is mostly empty.
    let used: Vec<usize> = std::fs::read(&file)
        .expect("reads")
        .iter()
        .enumerate()
        .filter(|(_, b)| **b != 0)
        .map(|(i, _)| i)
        .collect();
    let trials = all(0..number("PETNET_FLIPS").unwrap_or(100), |n| {
        let mut rng = Rng::new(seed() ^ n << 8);
        let byte = used[rng.below(used.len() as u64) as usize];
        let bit = rng.below(8);
        let flip = |_: &SimDisk, index: &Path| harm_file(&index.join("db"), |bytes| bytes[byte] ^= 1 << bit);
        trial(&rest, &Hit::default(), flip, &format!("bit {bit} of byte {byte} of the index"));
    });
    println!("{trials} flips in the index: lost=0, wrong=0 (seed {})", seed());
}

/// Found here: an index says which frame an entry is in, and two stores that do the same things have the same frames. Its
/// keys are another store's, so that nothing in the mailbox was found.
#[test]
fn the_index_of_another_store_is_not_believed() {
    let (rest, other) = (indexed(), indexed());
    trial(&rest, &Hit::default(), |_, index| copy_folder(&other.index, index), "the index of a twin");
}

#[test]
fn random_flips_in_a_large_log_hit_what_they_hit_and_no_other() {
    let rest = indexed();
    let log = Path::new("/data/log");
    let segments: Vec<_> = rest
        .disk
        .names(log)
        .into_iter()
        .filter(|n| !n.starts_with("free"))
        .map(|n| (log.join(&n), log_map::frames(&rest.disk.bytes(&log.join(&n)))))
        .filter(|(_, frames)| !frames.is_empty())
        .collect();
    let total = std::sync::Mutex::new((0, 0));
    let trials = all(0..number("PETNET_FLIPS").unwrap_or(FLIPS), |n| {
        let mut rng = Rng::new(seed() ^ n << 8);
        let mut hit = Hit::default();
        let mut flips = Vec::new();
        for _ in 0..=rng.below(4) {
            let (path, frames) = &segments[rng.below(segments.len() as u64) as usize];
            let frame = &frames[rng.below(frames.len() as u64) as usize];
            // Headers and fields as often as payloads.
            let end = if rng.chance(2) { frame.fields_end } else { frame.body_end };
            let byte = frame.bytes.start + rng.below(end - frame.bytes.start);
            hit.add(frame);
            flips.push((path, byte, rng.below(8), frame.kind));
        }
        let when = format!("trial {n}: {flips:?}");
        let counts = trial(&rest, &hit, |disk, _| flips.iter().for_each(|f| disk.flip(f.0, f.1, f.2)), &when);
        let mut total = total.lock().expect("not poisoned");
        total.0 += flips.len();
        total.1 += counts.damaged;
        assert!(flips.iter().any(|f| f.3 != Kind::Part) || counts.back == 0, "{when}");
    });
    let (flips, damaged) = total.into_inner().expect("not poisoned");
    println!(
        "{trials} trials, {flips} flips in {} segments: {damaged} set aside, lost=0, wrong=0 (seed {})",
        segments.len(),
        seed()
    );
}
