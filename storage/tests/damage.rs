//! Damage on the disk: cut files and flipped bits. The store opens with no human step, sets exactly what was hit aside,
//! serves everything else, and never gives wrong bytes.
//!
//! The log here is on a simulated disk without an index, so that a start reads all of it; `damage_index.rs` has it with an
//! index, `misplaced.rs` whole records and files in wrong places. `PETNET_SEED=n` picks which bits flip,
//! `PETNET_CRASH_AT=n` runs one trial.

mod at_rest;
mod common;
mod log_map;
mod sent;
mod sim_disk;
mod trials;

use at_rest::{Segment, Total, after_damage, at_rest, goes_on};
use log_map::{HEADER, Kind, PAGE, SEGMENT_HEADER};
use petnet_storage::StoreOptions;
use sent::{Hit, a_little_of_everything};
use trials::{all, block_on, seed};

/// Bytes of a segment where a flip is worth a trial. Inside the payload of a slice all bytes are alike: one checksum
/// covers them and nothing looks into them; likewise the empty rest of the header's page.
fn places(segment: &Segment) -> Vec<u64> {
    let alike = |byte: u64| {
        let in_slice = segment
            .owner(byte)
            .is_some_and(|f| f.kind == Kind::Part && (f.fields_end + 64..f.body_end - 64).contains(&byte));
        in_slice && !byte.is_multiple_of(509)
            || (SEGMENT_HEADER + 8..PAGE).contains(&byte) && !byte.is_multiple_of(61)
    };
    // And behind the end, where the next header will be.
    (0..segment.end() + HEADER).filter(|byte| !alike(*byte)).collect()
}

#[test]
fn one_flipped_bit_hits_one_message_and_no_other() {
    let rest = at_rest(a_little_of_everything);
    let flips: Vec<(usize, u64)> = rest
        .segments
        .iter()
        .enumerate()
        .flat_map(|(at, segment)| places(segment).into_iter().map(move |byte| (at, byte)))
        .collect();
    let total = Total::default();
    let trials = all(0..flips.len() as u64, |n| {
        let (at, byte) = flips[n as usize];
        let segment = &rest.segments[at];
        let disk = rest.disk.after_kill();
        disk.flip(&segment.path, byte, byte + seed());
        let mut hit = Hit::default();
        if let Some(frame) = segment.owner(byte) {
            hit.add(frame);
        }
        let when = format!("trial {n}: a bit flipped in byte {byte} of {}", segment.path.display());
        total.add(block_on(async {
            let counts = after_damage(&rest, &disk, &hit, true, &when).await;
            if n.is_multiple_of(16) {
                goes_on(&rest, &disk, &when).await;
            }
            counts
        }));
    });
    println!("{trials} flips: {total}");
}

/// Cut lengths worth a trial: all, but for those inside the payload of a slice and of the header's empty rest.
fn cuts(segment: &Segment) -> Vec<u64> {
    places(segment).into_iter().filter(|at| *at <= segment.end()).collect()
}

/// Found by these cuts: a start took the end of a shortened file for the end of the log and said nothing, although the
/// header says how long the file was.
#[test]
fn a_cut_file_loses_what_was_cut_off_and_nothing_else() {
    let rest = at_rest(a_little_of_everything);
    let cuts: Vec<(usize, u64, bool)> = rest
        .segments
        .iter()
        .enumerate()
        .flat_map(|(at, segment)| cuts(segment).into_iter().map(move |cut| (at, cut)))
        .flat_map(|(at, cut)| [(at, cut, true), (at, cut, false)])
        .collect();
    let total = Total::default();
    let trials = all(0..cuts.len() as u64, |n| {
        let (at, cut, shorter) = cuts[n as usize];
        let segment = &rest.segments[at];
        let disk = rest.disk.after_kill();
        if shorter {
            disk.cut_file(&segment.path, cut);
        } else {
            let len = segment.end() - cut;
            disk.put_bytes(&segment.path, cut, &vec![0; len as usize]);
        }
        let mut hit = Hit::default();
        segment.frames.iter().filter(|f| f.body_end > cut).for_each(|f| hit.add(f));
        // Zeros behind a whole frame are how every log ends.
        let torn = segment.frames.iter().find(|f| f.bytes.start < cut && cut < f.body_end);
        let can_know = shorter || torn.is_some_and(|f| !segment.is_zero(cut..f.body_end));
        let how = if shorter { "cut to" } else { "zero from" };
        let when = format!("trial {n}: {} {how} {cut}", segment.path.display());
        total.add(block_on(async {
            let counts = after_damage(&rest, &disk, &hit, can_know, &when).await;
            if n.is_multiple_of(16) {
                goes_on(&rest, &disk, &when).await;
            }
            counts
        }));
    });
    println!("{trials} cuts: {total}");
}

/// Frames used to be looked for only 17 MiB behind a bad place, also where no torn write can be: what stood behind a
/// larger hole was dropped with it, and counted as torn.
#[tokio::test]
async fn undamaged_messages_behind_a_large_hole_are_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = || StoreOptions { segment_bytes: 32 << 20, ..StoreOptions::new(dir.path()) };
    let peer = common::party("party_b");
    let (store, _) = common::open(options());
    for n in 0..900_u64 {
        store.accept(&peer, &common::id(n.to_string()), common::payload(n, 32 << 10)).await.expect("accepts");
    }
    store.close().await.expect("closes");
    drop(store);
    let hole = vec![0; 18 << 20];
    let segment = dir.path().join("log/small-0000000001.seg");
    let file = std::fs::OpenOptions::new().write(true).open(segment).expect("the first segment");
    std::os::unix::fs::FileExt::write_all_at(&file, &hole, 2 << 20).expect("writes");
    for name in ["CHECKPOINT.0", "CHECKPOINT.1"] {
        std::fs::remove_file(dir.path().join(name)).expect("is there");
    }
    let (store, report) = common::open(options());
    let hit = (18 << 20) / (32 << 10) + 2;
    assert!(report.pending >= 900 - hit && report.pending < 900, "{report}");
    assert_eq!((report.damaged > 0, report.torn_bytes), (true, 0), "{report}");
    for (name, bytes) in common::pending(&store, "party_b").await {
        assert!(bytes == common::payload(name.parse().expect("a number"), 32 << 10), "{name}");
    }
}
