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
