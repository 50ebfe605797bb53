//! Looking at a store changes nothing and finds what is damaged; a repair sets exactly that aside.
//!
//! `PETNET_SEED=s` chooses the bits that are flipped.

mod common;
mod messages;
mod sim_disk;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use messages::{Content, LARGE, fill, served};
use petnet_storage::inspect::{CheckpointFound, IndexFinding, InspectError, Inspection, Inspector, Repaired};
use petnet_storage::{OpenError, StoreOptions};
use sim_disk::Rng;

fn seed() -> u64 {
    std::env::var("PETNET_SEED").map_or(1, |v| v.parse().expect("PETNET_SEED is a number"))
}

/// A store in `dir` with messages, closed or left as after a kill; part of it is in the index on disk.
async fn filled(dir: &Path, close: bool) -> Content {
    let (options, clock) = clocked(dir);
    let (store, _) = open(StoreOptions { message_ttl: None, send_ttl: None, ..options });
    let content = fill(&store, 60).await;
    clock.advance(Duration::from_secs(5));
    until("the index on disk has it", async || store.stats().index_in_memory == 0).await;
    store.accept(&party("party_b"), &id("last"), "last".into()).await.expect("accepts");
    if close {
        store.close().await.expect("closes");
    }
    content
}

fn inspector(dir: &Path, scratch: &tempfile::TempDir) -> Inspector {
    Inspector::new(dir).with_scratch(scratch.path())
}

fn inspect(dir: &Path) -> Inspection {
    let scratch = tempfile::tempdir().expect("a folder");
    inspector(dir, &scratch).inspect().expect("inspects")
}

fn repair(dir: &Path) -> Repaired {
    let scratch = tempfile::tempdir().expect("a folder");
    let repaired = inspector(dir, &scratch).repair().expect("repairs");
    let after = repaired.after.as_ref().expect("there was something to repair");
    assert!(after.is_well(), "after a repair: {after:#?}");
    let again = inspect(dir);
    assert!(again.is_well(), "{again:#?}");
    let more = inspector(dir, &scratch).repair().expect("repairs");
    assert_eq!((more.after, more.copies.len()), (None, 0), "there is nothing left to repair");
    repaired
}

/// Every file below `dir` with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.insert(path.clone(), Vec::new());
            all.append(&mut files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).expect("reads"));
        }
    }
    all
}

fn segments(dir: &Path, lane: &str) -> Vec<PathBuf> {
    let log = dir.join("log");
    let all = files(&log).into_keys();
    all.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(lane))).collect()
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[offset] ^= 1;
    fs::write(path, bytes).expect("writes");
}

/// Flips a bit in the payload, in every place where it stands: a message may have been moved forward.
fn damage(dir: &Path, payload: &[u8]) {
    let mut hits = 0;
    for path in segments(dir, "") {
        let bytes = fs::read(&path).expect("reads");
        let start = places_of(&bytes, &payload[..64]);
        hits += start.len();
        for offset in start {
            flip(&path, offset);
        }
    }
    assert!(hits > 0, "it is not in the log");
}

fn places_of(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    let found = bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
    found.map(|(at, _)| at).collect()
}

async fn serves(dir: &Path, expected: &Content) {
    let (store, report) = open(StoreOptions { message_ttl: None, send_ttl: None, ..options(dir) });
    let mut found = served(&store).await;
    assert_eq!(found.remove("last"), Some("last".into()));
    for (name, bytes) in expected {
        assert!(found.get(name) == Some(bytes), "{name} is not as it was; {report}");
    }
    assert_eq!(found.len(), expected.len(), "{report}");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_healthy_store_is_well_and_looking_at_it_changes_no_byte() {
    for close in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let content = filled(dir.path(), close).await;
        let before = files(dir.path());
        let found = inspect(dir.path());
        assert!(files(dir.path()) == before, "looking changed something");
        assert!(found.is_well(), "{found:#?}");
        let outgoing = content.keys().filter(|name| name.starts_with("out")).count() as u64;
        assert_eq!(found.pending, outgoing + 1, "and the last one");
        assert_eq!(found.mailbox, content.len() as u64 - outgoing);
        assert!(matches!(found.index, IndexFinding::Agrees { entries } if entries > 0), "{:?}", found.index);
        assert!(found.checkpoints.iter().all(|c| matches!(c, CheckpointFound::Whole { .. })));
        assert_eq!(found.damage.len(), 0);
        for lane in ["small", "bulk"] {
            let of_lane = || found.segments.iter().filter(|s| s.lane == lane);
            assert!(of_lane().count() >= 2, "the test needs several segments");
            assert!(of_lane().any(|s| s.live_messages > 0 && s.live_bytes > 0 && s.dead_bytes > 0));
            assert!(of_lane().all(|s| s.live_bytes + s.dead_bytes == s.used_bytes), "{found:#?}");
        }
        let scratch = tempfile::tempdir().expect("a folder");
        let repaired = inspector(dir.path(), &scratch).repair().expect("has nothing to do");
        assert_eq!(repaired.after, None);
        assert!(files(dir.path()) == before, "a repair with nothing to repair changed something");
        serves(dir.path(), &content).await;
    }
}

#[tokio::test]
async fn an_unfinished_last_write_is_normal_and_a_start_cuts_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let content = filled(dir.path(), true).await;
    let found = inspect(dir.path());
    let last = found.segments.iter().rfind(|s| s.lane == "small" && s.records > 0).expect("there is one");
    let path = dir.path().join("log").join(&last.file);
    let mut bytes = fs::read(&path).expect("reads");
    let end = 4096 + last.used_bytes as usize;
    bytes[end..end + 100].fill(0xa5);
    fs::write(&path, bytes).expect("writes");
    let torn = inspect(dir.path());
    assert!(torn.is_well(), "{torn:#?}");
    assert!(torn.segments.iter().map(|s| s.torn_bytes).sum::<u64>() >= 100);
    serves(dir.path(), &content).await;
    let (cut, torn) =
        (inspect(dir.path()), |s: &Inspection| s.segments.iter().map(|s| s.torn_bytes).sum::<u64>());
    assert_eq!(torn(&cut), 0);
}

#[tokio::test]
async fn a_damaged_message_is_set_aside_and_all_others_are_served() {
    for (hit, close) in [("out1", true), ("in7", false), ("in14", true)] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut content = filled(dir.path(), close).await;
        let bytes = content.remove(hit).expect("it is one of them");
        damage(dir.path(), &bytes);
        let before = files(dir.path());
        let found = inspect(dir.path());
        assert!(!found.is_well() && !found.damage.is_empty(), "{hit}: {found:#?}");
        assert_eq!(found.missing_messages, u64::from(bytes.len() < LARGE), "{hit}");
        let told = found.damage.iter().map(|d| d.what.as_str()).collect::<String>();
        assert!(told.contains(&format!("{hit:?}")), "the damage names the message: {told}");
        assert!(files(dir.path()) == before, "looking changed something");
        let repaired = repair(dir.path());
        assert_eq!(repaired.before, found);
        // What was damaged is in corrupt/, whole.
        let copies = repaired.copies.iter().map(|name| dir.path().join("corrupt").join(name));
        assert!(copies.into_iter().any(|copy| fs::read(copy).expect("reads").len() >= bytes.len()), "{hit}");
        // An older message under the same id must not come back in the place of a damaged large one.
        serves_after_repair(dir.path(), &content, hit).await;
    }
}

/// `out1` was replaced: the message before it may be what is found now, since nothing says any more that it was.
async fn serves_after_repair(dir: &Path, expected: &Content, hit: &str) {
    let mut expected = expected.clone();
    if hit == "out1" {
        expected.insert(hit.into(), payload(1, 100));
        let found = inspect(dir);
        if found.pending + found.mailbox < expected.len() as u64 + 1 {
            expected.remove(hit);
        }
    }
    serves(dir, &expected).await;
}

#[tokio::test]
async fn a_large_message_with_a_damaged_slice_goes_and_the_one_it_replaced_stays_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut content = filled(dir.path(), false).await;
    let bytes = content.remove("out9").expect("is there");
    damage(dir.path(), &bytes);
    let found = inspect(dir.path());
    let told = found.damage.iter().map(|d| d.what.as_str()).collect::<Vec<_>>();
    assert!(
        told.iter().any(|what| what.contains("\"out9\" to \"party_b\" lacks 1 of its 3 slices")),
        "{told:?}"
    );
    let repaired = repair(dir.path());
    let rest = repaired.copies.iter().find(|name| name.ends_with(".partial")).expect("the rest is saved");
    let rest = fs::read(dir.path().join("corrupt").join(rest)).expect("reads");
    assert!(rest.len() == bytes.len() && rest[262_144..] == bytes[262_144..]);
    serves(dir.path(), &content).await;
}

#[tokio::test]
async fn random_flips_cost_what_they_hit_and_nothing_else() {
    let mut rng = Rng::new(seed());
    let mut flips = 0;
    let dir = tempfile::tempdir().expect("a folder");
    let content = filled(dir.path(), true).await;
    for _ in 0..5 {
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(dir.path(), copy.path());
        let found = inspect(copy.path());
        for _ in 0..=rng.below(6) {
            let used = found.segments.iter().filter(|s| s.used_bytes > 0).collect::<Vec<_>>();
            let segment = used[rng.below(used.len() as u64) as usize];
            let offset = rng.below(4096 + segment.used_bytes);
            flip(&copy.path().join("log").join(&segment.file), offset as usize);
            flips += 1;
        }
        let before = inspect(copy.path());
        if !before.is_well() {
            repair(copy.path());
        }
        let (store, report) =
            open(StoreOptions { message_ttl: None, send_ttl: None, ..options(copy.path()) });
        let mut lost = 0;
        let now = served(&store).await;
        for (name, bytes) in &content {
            // A damaged one may have had a predecessor; everything else is as it was or not there.
            if now.get(name) != Some(bytes) {
                lost += 1;
                assert!(
                    !now.contains_key(name) || name == "out1" || name == "out9",
                    "{name} has other bytes"
                );
            }
        }
        assert!(
            lost <= before.damage.len() + 1,
            "{lost} lost, {} places damaged; {report}",
            before.damage.len()
        );
        assert!(report.damaged == 0, "{report}");
    }
    println!("{flips} bits flipped (seed {})", seed());
}

fn copy_folder(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let to = to.join(path.strip_prefix(from).expect("is below"));
        if path.is_dir() {
            fs::create_dir_all(to).expect("creates");
        } else {
            fs::create_dir_all(to.parent().expect("has one")).expect("creates");
            fs::write(to, bytes).expect("writes");
        }
    }
}

/// What happens to the files, what the report must say, and whether everything is served afterwards.
type Harm = (&'static str, fn(&Path), &'static str, bool);

#[tokio::test]
async fn harm_to_whole_files_is_named_and_mended() {
    let harms: [Harm; 9] = [
        (
            "header",
            |dir| flip(&segments(dir, "small")[1], 20),
            "the header of the segment does not match",
            true,
        ),
        (
            "bulk header",
            |dir| flip(&segments(dir, "bulk")[0], 0),
            "the header of the segment does not match",
            true,
        ),
        ("swapped", |dir| swap(&segments(dir, "small")), "under another one's name", true),
        ("foreign", foreign, "is a segment of another store", true),
        (
            "missing",
            |dir| fs::remove_file(&segments(dir, "small")[1]).expect("removes"),
            "the file is missing",
            false,
        ),
        ("short", cut, "the file is cut short", false),
        ("index", |dir| fs::write(dir.join("index/db"), vec![0xa5; 100_000]).expect("writes"), "", true),
        ("checkpoints", |dir| checkpoints(dir, &[0, 1]), "neither does the other one", true),
        ("end", end_of_sealed, "", false),
    ];
    let dir = tempfile::tempdir().expect("a folder");
    let content = filled(dir.path(), true).await;
    for (name, harm, told, all) in harms {
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(dir.path(), copy.path());
        harm(copy.path());
        let before = files(copy.path());
        let found = inspect(copy.path());
        assert!(!found.is_well(), "{name}: {found:#?}");
        assert!(told.is_empty() || found.damage.iter().any(|d| d.what.contains(told)), "{name}: {found:#?}");
        assert!(files(copy.path()) == before, "{name}: looking changed something");
        repair(copy.path());
        if all {
            serves(copy.path(), &content).await;
        } else {
            let (store, report) =
                open(StoreOptions { message_ttl: None, send_ttl: None, ..options(copy.path()) });
            let now = served(&store).await;
            let kept = content.iter().filter(|(id, bytes)| now.get(*id) == Some(bytes)).count();
            assert!(
                kept > content.len() / 2 && kept < content.len(),
                "{name}: {kept} of {}; {report}",
                content.len()
            );
        }
    }
}

fn swap(files: &[PathBuf]) {
    let other = files[0].with_extension("other");
    fs::rename(&files[0], &other).expect("renames");
    fs::rename(&files[1], &files[0]).expect("renames");
    fs::rename(&other, &files[1]).expect("renames");
}

fn foreign(dir: &Path) {
    let other = tempfile::tempdir().expect("a folder");
    drop(open(options(other.path())));
    let path = segments(other.path(), "small").remove(0);
    fs::copy(path, dir.join("log/small-0000000999.seg")).expect("copies");
}

/// A segment with live messages, and the offset of its end.
fn sealed(dir: &Path) -> (PathBuf, usize) {
    let found = inspect(dir);
    let sealed =
        found.segments.iter().find(|s| s.lane == "small" && s.live_messages > 5).expect("there is one");
    (dir.join("log").join(&sealed.file), 4096 + sealed.used_bytes as usize)
}

fn cut(dir: &Path) {
    let (path, end) = sealed(dir);
    let bytes = fs::read(&path).expect("reads");
    fs::write(path, &bytes[..=end / 2]).expect("writes");
}

fn checkpoints(dir: &Path, which: &[usize]) {
    for n in which {
        flip(&dir.join(format!("CHECKPOINT.{n}")), 60);
    }
}

/// The last frames of a segment that is full.
fn end_of_sealed(dir: &Path) {
    let (path, end) = sealed(dir);
    let mut bytes = fs::read(&path).expect("reads");
    bytes[end - 9000..end].fill(0x5a);
    fs::write(path, bytes).expect("writes");
}

#[tokio::test]
async fn one_unfinished_checkpoint_and_no_index_are_normal() {
    let dir = tempfile::tempdir().expect("a folder");
    let content = filled(dir.path(), true).await;
    checkpoints(dir.path(), &[1]);
    let found = inspect(dir.path());
    assert_eq!(found.checkpoints[1], CheckpointFound::Damaged);
    assert!(found.is_well(), "{found:#?}");
    fs::remove_dir_all(dir.path().join("index")).expect("removes");
    let found = inspect(dir.path());
    assert_eq!(found.index, IndexFinding::Absent);
    assert!(found.is_well(), "{found:#?}");
    assert!(matches!(Inspector::new(dir.path()).inspect().expect("inspects").index, IndexFinding::Absent));
    serves(dir.path(), &content).await;
    let without_scratch = Inspector::new(dir.path()).inspect().expect("inspects");
    assert!(matches!(without_scratch.index, IndexFinding::NotChecked(_)));
}

#[tokio::test]
async fn a_folder_that_is_in_use_or_no_store_or_newer_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |dir: &Path| {
        let before = dir.exists().then(|| files(dir));
        let errors = [Inspector::new(dir).inspect().map(drop), Inspector::new(dir).repair().map(drop)];
        assert!(dir.exists().then(|| files(dir)) == before, "a refusal changed something");
        errors.map(|result| result.expect_err("refused"))
    };
    for error in refused(&dir.path().join("missing")).into_iter().chain(refused(dir.path())) {
        assert!(matches!(error, InspectError::NoStore { .. }), "{error}");
    }
    let (store, _) = open(options(dir.path()));
    for error in refused(dir.path()) {
        assert!(matches!(error, InspectError::Open(OpenError::InUse { .. })), "{error}");
    }
    store.close().await.expect("closes");
    drop(store);
    let format = dir.path().join("FORMAT");
    let text = fs::read_to_string(&format).expect("reads");
    // As a newer version writes it: with a checksum that matches. Without one it would be a flipped bit.
    let newer = text[..text.find("crc ").expect("has one")].replace("store 1", "store 9");
    fs::write(&format, format!("{newer}crc {:08x}\n", crc32fast::hash(newer.as_bytes()))).expect("writes");
    for error in refused(dir.path()) {
        assert!(error.to_string().contains("format version 9"), "{error}");
    }
    fs::write(&format, text).expect("writes");
    let segment = segments(dir.path(), "small").remove(0);
    let mut bytes = fs::read(&segment).expect("reads");
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..41]);
    bytes[41..45].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, bytes).expect("writes");
    for error in refused(dir.path()) {
        assert!(error.to_string().contains("format version 2"), "{error}");
    }
}
