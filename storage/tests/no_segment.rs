//! A file of the log that cannot be made: its cause is what the operator is told, and it goes by itself.

mod common;
mod flaky_disk;

use std::sync::Arc;

use common::{id, open, options, party, payload, pending, until};
use flaky_disk::FlakyDisk;
use petnet_storage::{StoreError, StoreOptions, StoreState};

/// What the system says, whether it is a lack of room, and the way out.
const CAUSES: [(i32, &str, bool, &str); 4] = [
    (24, "Too many open files (os error 24)", false, "LimitNOFILE"),
    (12, "Cannot allocate memory (os error 12)", false, "memory"),
    (28, "No space left on device (os error 28)", true, "free disk space"),
    (122, "Disk quota exceeded (os error 122)", true, "quota"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_no_log_file_can_be_begun_is_in_the_state_until_one_can() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FlakyDisk::default();
    let (store, _) = open(StoreOptions { disk: Arc::new(disk.clone()), ..options(dir.path()) });
    let (b, mut accepted) = (party("party_b"), 0);
    for (errno, words, is_no_room, remedy) in CAUSES {
        disk.fail_segments(errno);
        // Until what is left of the last one is too small for anything.
        let (mut lens, mut last) = (vec![0, 100, 2000, 50_000], None);
        while let Some(len) = lens.last() {
            match store.accept(&b, &id(format!("{accepted}")), payload(accepted, *len)).await {
                Ok(_) => accepted += 1,
                Err(error) => (last, _) = (Some(error), lens.pop()),
            }
        }
        let error = last.expect("it was refused");
        match &error {
            StoreError::NoSegment { why, .. } => assert!(!is_no_room && **why == *words, "{error}"),
            StoreError::Full { .. } => assert!(is_no_room, "{error}"),
            other => panic!("{other}"),
        }
        until(words, async || match &*store.state().borrow() {
            StoreState::Full(why) => why.contains(words) && why.contains(remedy),
            _ => false,
        })
        .await;
        disk.fail_segments(0);
        until("it goes by itself", async || *store.state().borrow() == StoreState::Serving).await;
    }
    assert_eq!(pending(&store, "party_b").await.len() as u64, accepted);
    // A number that no file got is given to the next one: a gap would look like a file that is lost.
    let names = std::fs::read_dir(dir.path().join("log")).expect("lists").flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut numbers: Vec<u32> = names
        .filter_map(|name| name.trim_end_matches(".seg").rsplit('-').next().and_then(|n| n.parse().ok()))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
}
