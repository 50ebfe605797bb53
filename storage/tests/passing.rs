//! An error of reading that passes: told as that, and nothing is taken for damaged.

mod common;
mod flaky_disk;

use std::sync::Arc;

use common::{arrival, clocked, id, open, party, payload, until};
use flaky_disk::FlakyDisk;
use petnet_storage::{Engine, FromSender, Sequence, StoreError, StoreOptions, StoreState};

/// In one frame, in one frame of the bulk lane, in slices, and more than one read gives.
const SIZES: [usize; 4] = [100, 60_000, 300_000, 3 << 20];

fn passes<T: std::fmt::Debug>(result: Result<T, StoreError>, what: &str) {
    match result {
        Err(StoreError::Io { ref source, .. }) => assert_eq!(source.raw_os_error(), Some(5), "{what}"),
        other => panic!("{what}: {other:?}"),
    }
}

async fn whole(store: &Arc<dyn Engine>, name: &str) -> Result<Option<bytes::Bytes>, StoreError> {
    match store.open(&FromSender::Any, &id(name)).await? {
        Some(held) => held.payload.whole().await.map(Some),
        None => Ok(None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_fails_once_is_told_as_that_and_the_next_one_gives_the_message() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let disk = FlakyDisk::default();
    let options = StoreOptions { disk: Arc::new(disk.clone()), ..options };
    let (store, _) = open(options.clone());
    let b = party("party_b");
    for (n, len) in (0..).zip(SIZES) {
        store.store(arrival("party_a", &format!("mail {n}"), payload(n, len), None)).await.expect("stores");
        store.accept(&b, &id(format!("sent {n}")), payload(n, len)).await.expect("accepts");
    }
    until("everything is in the index on disk", async || {
        clock.advance(std::time::Duration::from_millis(100));
        store.stats().index_in_memory == 0
    })
    .await;
    store.close().await.expect("closes");
    drop(store);
    // Nothing is in memory.
    let (store, _) = open(options.clone());
    let sent: Vec<_> = store.pending(&b, Sequence(0), 10).await.expect("lists");
    assert_eq!(sent.len(), SIZES.len());
    for (n, len) in (0..).zip(SIZES) {
        let name = format!("mail {n}");
        disk.fail_reads(1);
        passes(whole(&store, &name).await, &name);
        assert_eq!(whole(&store, &name).await.expect("reads"), Some(payload(n, len)), "{name}");

        let sequence = sent[n as usize].sequence;
        let load = async || match store.load(&b, sequence).await? {
            Some(message) => message.payload.whole().await.map(Some),
            None => Ok(None),
        };
        disk.fail_reads(1);
        passes(load().await, "a load");
        assert_eq!(load().await.expect("loads"), Some(payload(n, len)), "sent {n}");
    }
    assert_eq!(*store.state().borrow(), StoreState::Serving);
    assert_eq!((store.stats().damaged, disk.left()), (0, 0));
    assert!(store.dead_letters(Sequence(0), 10).await.expect("lists").is_empty());
    let set_aside = std::fs::read_dir(dir.path().join("corrupt")).map_or(0, Iterator::count);
    assert_eq!(set_aside, 0);
    store.close().await.expect("closes");
    drop(store);
    let (_, report) = open(options);
    assert_eq!(report.damaged, 0);
}
