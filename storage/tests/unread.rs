//! Unread mail in the embedded store: found by its age however much is at rest, and never hidden by a disk that is full.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{arrival, clocked, id, identity, open, party, until};
use petnet_storage::{DeadReason, Engine, FromSender, Handed, Sequence, StoreOptions};

/// More than one round of housekeeping takes, and than was once looked through.
const AT_REST: u64 = 70_000;
const OLD: u64 = 5000;

async fn bring(store: &Arc<dyn Engine>, numbers: std::ops::Range<u64>) {
    let numbers: Vec<u64> = numbers.collect();
    for numbers in numbers.chunks(256) {
        let arrivals = numbers
            .iter()
            .map(|n| arrival("party_a", &n.to_string(), "precious".into(), Some(identity(1, *n + 1, 1))));
        for stored in store.store_many(arrivals.collect()).await {
            stored.expect("stores");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_unread_mail_than_any_round_takes_becomes_dead_letters() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock) = clocked(dir.path());
    let options = StoreOptions {
        unread_ttl: Some(Duration::from_secs(1000)),
        message_ttl: Some(Duration::from_secs(100)),
        spill_after: Duration::ZERO,
        dead_letter_bytes: 0,
        ..options
    };
    let (store, _) = open(options.clone());
    bring(&store, 0..OLD).await;
    clock.advance(Duration::from_secs(500));
    bring(&store, OLD..AT_REST).await;
    until("all is in the index on disk", async || store.stats().index_in_memory == 0).await;
    // Some were read: these end without a word.
    let read = store.topic(&FromSender::Any, "", Sequence(0), 1000).await.expect("lists");
    let read = read.into_iter().map(|m| Handed { sender: m.sender, id: m.id, sequence: m.sequence });
    store.note_read(&read.collect::<Vec<_>>());
    clock.advance(Duration::from_secs(110));
    until("what was read is over", async || store.stats().expired == 1000).await;
    clock.advance(Duration::from_secs(391));
    until("what is old dies", async || store.stats().dead_letters == OLD - 1000).await;
    assert_eq!(store.stats().mailbox_messages, AT_REST - OLD);
    drop(store);
    let (store, report) = open(options);
    assert_eq!((report.mailbox, report.dead_letters), (AT_REST - OLD, OLD - 1000), "{report}");
    let newest = store.newest_dead_letters(1).await.expect("lists").remove(0);
    assert_eq!((newest.id, newest.reason), (id((OLD - 1).to_string()), DeadReason::Unread));
    let counted = store.count_dead_letters(100_000).await.expect("counts");
    assert_eq!(counted, [0, 0, 0, (OLD - 1000) as usize as u64]);
    let last = store.read(&FromSender::Party(party("party_a")), &id((AT_REST - 1).to_string())).await;
    assert_eq!(last.expect("reads").expect("is there").payload, "precious");
}
