//! One flipped bit in a small file of the data folder, one damaged record, one error of reading: each is told for what it
//! is.

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::{arrival, id, open, options, party, payload, pending};
use petnet_storage::inspect::Inspector;
use petnet_storage::{FromSender, NoObserver, Store, StoreError, StoreOptions};

/// Flips one bit of a file.
fn flip(path: &Path, bit: usize) {
    let mut bytes = std::fs::read(path).expect("reads");
    bytes[bit / 8] ^= 1 << (bit % 8);
    std::fs::write(path, bytes).expect("writes");
}

/// A closed store with one pending message.
async fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    store.accept(&party("party_b"), &id("m"), payload(1, 5000)).await.expect("accepts");
    store.close().await.expect("closes");
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flipped_bit_in_format_is_refused_with_the_command_that_mends_it() {
    let dir = folder().await;
    let format = dir.path().join("FORMAT");
    let before = std::fs::read(&format).expect("reads");
    // In the version, the id, the secret and the checksum.
    for bit in [13 * 8, 20 * 8 + 1, 70 * 8 + 2, 95 * 8] {
        flip(&format, bit);
        let refused = Store::open(options(dir.path()), Arc::new(NoObserver)).map(drop);
        let told = refused.expect_err("is refused").to_string();
        assert!(told.contains(&format!("petnet repair {}", dir.path().display())), "{told}");
        let looked = Inspector::new(dir.path()).inspect().expect_err("is not well").to_string();
        assert!(looked.contains("petnet repair"), "{looked}");
        let repaired = Inspector::new(dir.path()).repair().expect("repairs");
        assert!(repaired.format_mended && repaired.before.is_well());
        assert_eq!(std::fs::read(&format).expect("reads"), before, "bit {bit}");
        let (store, _) = open(options(dir.path()));
        assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), payload(1, 5000))]);
        store.close().await.expect("closes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flipped_bit_in_a_checkpoint_is_told_and_costs_nothing() {
    for name in ["CHECKPOINT.0", "CHECKPOINT.1"] {
        let dir = folder().await;
        flip(&dir.path().join(name), 50 * 8);
        let found = Inspector::new(dir.path()).inspect().expect("looks");
        // The other one may be empty still; then there is nothing in this one.
        if std::fs::read(dir.path().join(name)).expect("reads")[0] != 0 {
            assert!(found.has_damaged_checkpoint(), "{found:?}");
        }
        let (store, _) = open(options(dir.path()));
        assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), payload(1, 5000))]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_record_counts_once_however_often_it_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(StoreOptions { cache_bytes: 0, ..options(dir.path()) });
    store.store(arrival("party_a", "m", payload(1, 5000), None)).await.expect("stores");
    let log = dir.path().join("log");
    let segment = std::fs::read_dir(&log).expect("lists").flatten().find(|entry| {
        entry.file_name().to_string_lossy().starts_with("small-")
            && std::fs::read(entry.path()).is_ok_and(|bytes| bytes[4096..8192].iter().any(|b| *b != 0))
    });
    let file = std::fs::File::options().write(true).open(segment.expect("it is there").path());
    file.expect("opens").write_all_at(&[0xff; 16], 4096 + 1000).expect("writes");
    for _ in 0..5 {
        let read = store.read(&FromSender::Any, &id("m")).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    }
    assert_eq!(store.stats().damaged, 1);
}
