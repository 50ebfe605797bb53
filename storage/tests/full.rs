//! What a full disk leaves half-made, and an index that cannot be written for want of room: neither keeps a store from
//! serving.

mod common;
mod flaky_disk;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{arrival, clocked, id, open, options, party, payload, pending, read, until};
use flaky_disk::FlakyDisk;
use petnet_storage::{
    DeadReason, Engine, FromSender, Handed, NoObserver, OpenError, Outcome, Sequence, Store, StoreError,
    StoreOptions, StoreState,
};

fn on_flaky_disk(dir: &Path) -> (StoreOptions, Arc<petnet_storage::ManualClock>, FlakyDisk) {
    let disk = FlakyDisk::default();
    let (options, clock) = clocked(dir);
    (StoreOptions { disk: Arc::new(disk.clone()), ..options }, clock, disk)
}

/// What the store has, in every way to look at it.
async fn all(store: &Arc<dyn Engine>) -> (Vec<(String, bytes::Bytes)>, Vec<Option<bytes::Bytes>>, Vec<u64>) {
    let mut mail = Vec::new();
    for n in 0..20 {
        mail.push(read(store, &format!("mail {n}")).await);
    }
    let dead = store.dead_letters(Sequence(0), 100).await.expect("lists");
    (pending(store, "party_b").await, mail, dead.iter().map(|letter| letter.sequence.0).collect())
}

/// The mail that nobody has read.
async fn unread(store: &Arc<dyn Engine>) -> Vec<String> {
    let mail = store.topic(&FromSender::Any, "", Sequence(0), 100).await.expect("lists");
    mail.into_iter().filter(|found| found.unread).map(|found| found.id.to_string()).collect()
}

/// What is found by the beginning of its id, and dead letters by their party.
async fn named(store: &Arc<dyn Engine>) -> (Vec<String>, Vec<String>, usize) {
    let mail = store.topic(&FromSender::Any, "mail 1", Sequence(0), 100).await.expect("lists");
    let b = party("party_b");
    until("it is known which there are", async || {
        store.pending_named(None, "", Sequence(0), 1).await.is_ok_and(|page| page.is_some())
    })
    .await;
    let large = store.pending_named(Some(&b), "large 1", Sequence(0), 100).await.expect("lists");
    let large = large.expect("there is such a list").messages;
    let dead = store.dead_letters_of(&b, Sequence(0), 100).await.expect("lists");
    (
        mail.into_iter().map(|found| found.id.to_string()).collect(),
        large.into_iter().map(|(_, _, id)| id.to_string()).collect(),
        dead.expect("there is such a list").len(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_cannot_be_written_is_given_up_and_all_that_it_held_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, clock, disk) = on_flaky_disk(dir.path());
    let (store, _) = open(options.clone());
    let b = party("party_b");
    for n in 0..20_u64 {
        store.accept(&b, &id(format!("{n}")), payload(n, 500)).await.expect("accepts");
        store.accept(&b, &id(format!("large {n}")), payload(n, 300_000)).await.expect("accepts");
        store
            .store(arrival("party_a", &format!("mail {n}"), payload(n, 70_000), None))
            .await
            .expect("stores");
        let bad = store.accept(&b, &id(format!("bad {n}")), payload(n, 10)).await.expect("accepts");
        let refused = Outcome::Dead(DeadReason::Refused("no".into()));
        assert!(store.settle(&b, bad, refused).await.expect("settles"));
    }
    until("everything is in the index on disk", async || {
        clock.advance(Duration::from_millis(100));
        store.stats().index_in_memory == 0
    })
    .await;
    let mail = store.topic(&FromSender::Any, "", Sequence(0), 100).await.expect("lists");
    let handed =
        mail.into_iter().step_by(2).map(|m| Handed { sender: m.sender, id: m.id, sequence: m.sequence });
    store.note_read(&handed.collect::<Vec<_>>());
    let never_read = unread(&store).await;
    assert_eq!(never_read.len(), 10);
    let before = all(&store).await;
    assert_eq!((before.0.len(), before.2.len()), (40, 20));
    let by_name = named(&store).await;
    assert_eq!((by_name.0.len(), by_name.1.len(), by_name.2), (11, 11, 20));
    disk.fill_index(true);
    store.accept(&b, &id("one more"), payload(7, 100)).await.expect("accepts");
    until("the index is given up", async || {
        clock.advance(Duration::from_millis(100));
        !dir.path().join("index").exists() && store.stats().index_in_memory > 80
    })
    .await;
    assert_eq!(*store.state().borrow(), StoreState::Serving);
    let mut expected = before;
    expected.0.push(("one more".into(), payload(7, 100)));
    assert!(all(&store).await == expected && unread(&store).await == never_read);
    assert_eq!(named(&store).await, by_name);
    // What came back ends as what was never away.
    let first = store.pending(&b, Sequence(0), 1).await.expect("lists")[0].sequence;
    assert!(store.settle(&b, first, Outcome::Delivered).await.expect("settles"));
    assert!(!store.settle(&b, first, Outcome::Delivered).await.expect("settles"));
    expected.0.remove(0);
    assert!(all(&store).await == expected && unread(&store).await == never_read);
    disk.fill_index(false);
    until("there is an index again, and it takes everything", async || {
        clock.advance(Duration::from_millis(100));
        store.stats().index_in_memory == 0
    })
    .await;
    assert!(all(&store).await == expected && unread(&store).await == never_read);
    assert_eq!(named(&store).await, by_name);
    store.close().await.expect("closes");
    drop(store);
    let (store, _) = open(options);
    assert!(all(&store).await == expected && unread(&store).await == never_read);
    assert_eq!(named(&store).await, by_name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_made_is_gone_after_a_start_and_what_is_whole_is_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    store.accept(&party("party_b"), &id("m"), payload(1, 100)).await.expect("accepts");
    store.close().await.expect("closes");
    drop(store);
    let log = dir.path().join("log");
    let (half, empty, whole) =
        (log.join("free-0000000034.seg"), log.join("free-0000000035.seg"), log.join("free-0000000036.seg"));
    std::fs::write(&half, vec![0; 300_000]).expect("writes");
    std::fs::write(&empty, "").expect("writes");
    std::fs::write(&whole, vec![0xa5; 1 << 20]).expect("writes");
    for name in ["FORMAT.tmp", "MOVING.tmp"] {
        std::fs::write(dir.path().join(name), "petnet").expect("writes");
    }
    let (store, _) = open(options(dir.path()));
    assert!(!half.exists() && !empty.exists());
    assert!(!dir.path().join("FORMAT.tmp").exists() && !dir.path().join("MOVING.tmp").exists());
    for n in 0..60 {
        store.accept(&party("party_b"), &id(format!("{n}")), payload(n, 50_000)).await.expect("accepts");
    }
    assert!(!whole.exists(), "it is in use");
    assert_eq!(pending(&store, "party_b").await.len(), 61);
}

/// Such a start warned that a checkpoint was lost, and so did the next one, and the one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_finds_no_checkpoint_writes_one_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let rarely = |dir: &Path| StoreOptions { checkpoint_every: Duration::from_hours(1), ..options(dir) };
    let (store, _) = open(rarely(dir.path()));
    let b = party("party_b");
    store.accept(&b, &id("m"), payload(1, 100)).await.expect("accepts");
    let segment = |number: u32| {
        let names = std::fs::read_dir(dir.path().join("log")).expect("lists").flatten();
        let name = format!("-{number:010}.seg");
        names.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(&name))
    };
    for n in 0.. {
        store.accept(&b, &id("n"), payload(n, 100_000)).await.expect("accepts");
        if segment(3).is_some() && segment(4).is_some() {
            break;
        }
    }
    // The third file half-made, the fourth one there: the number is missing after the start.
    let copy = tempfile::tempdir().expect("a folder");
    let into = copy.path();
    std::fs::create_dir(into.join("log")).expect("makes");
    for file in ["FORMAT", "CHECKPOINT.0", "CHECKPOINT.1"] {
        std::fs::copy(dir.path().join(file), into.join(file)).expect("copies");
    }
    for number in [1, 2, 4] {
        let from = segment(number).expect("is there");
        std::fs::copy(&from, into.join("log").join(from.file_name().expect("has one"))).expect("copies");
    }
    std::fs::write(into.join("log/free-0000000003.seg"), vec![0; 300_000]).expect("writes");
    let is_written = || {
        let begins = |file: &str| std::fs::read(into.join(file)).expect("reads").starts_with(b"PETNCHK1");
        begins("CHECKPOINT.0") || begins("CHECKPOINT.1")
    };
    assert!(!is_written(), "there was none");
    let (store, _) = open(rarely(into));
    until("a checkpoint is written", async || is_written()).await;
    assert!(pending(&store, "party_b").await.iter().any(|(name, _)| name == "m"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_lock_file_lets_nobody_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(options(dir.path()));
    std::fs::remove_file(dir.path().join("LOCK")).expect("removes");
    let second = Store::open(options(dir.path()), Arc::new(NoObserver)).map(drop);
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    let looked = petnet_storage::inspect::Inspector::new(dir.path()).inspect();
    assert!(looked.is_err_and(|why| why.to_string().contains("in use")));
    store.close().await.expect("closes");
    drop(store);
    open(options(dir.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_makes_the_folder_readable_by_its_owner_only() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(options(dir.path())));
    let everything = |each: &mut dyn FnMut(&Path)| {
        let mut folders = vec![dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            each(&folder);
            for entry in std::fs::read_dir(&folder).expect("lists") {
                let path = entry.expect("lists").path();
                if path.is_dir() { folders.push(path) } else { each(&path) }
            }
        }
    };
    everything(&mut |path| {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changes");
    });
    drop(open(options(dir.path())));
    everything(&mut |path| {
        let mode = std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    });
}

/// A folder with a small quota said `full` until the writers had said how much their first segments hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_with_a_small_quota_is_serving_from_the_first_moment() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, _) = open(StoreOptions { max_bytes: 1 << 20, ..options(dir.path()) });
        assert_eq!(*store.state().borrow(), StoreState::Serving);
        store.accept(&party("party_b"), &id("m"), payload(1, 50_000)).await.expect("accepts");
        store.close().await.expect("closes");
    }
}

/// A gauge of the quota alone stood at 0.79 when everything was refused, and no alarm at 0.85 of it could ever be raised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_has_used_its_limit_and_says_how_much_still_fits() {
    const QUOTA: u64 = 32 << 20;
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = open(StoreOptions { max_bytes: QUOTA, ..options(dir.path()) });
    let b = party("party_b");
    let refused = loop {
        let n = store.stats().appends;
        if let Err(error) = store.accept(&b, &id(format!("{n}")), payload(n, 50_000)).await {
            break error;
        }
    };
    let StoreError::Full { used, limit, .. } = refused else { panic!("{refused}") };
    assert!(used <= limit && limit - used < 60_000, "{used} of {limit}");
    let stats = store.stats();
    assert!(stats.limit_bytes <= QUOTA && stats.quota_bytes == QUOTA, "{stats:?}");
    until("the gauges say it, too", async || {
        let stats = store.stats();
        stats.used_bytes <= stats.limit_bytes && stats.used_bytes * 100 > stats.limit_bytes * 95
    })
    .await;
    store.close().await.expect("closes");
}

/// The segment in use is never freed, and in a small store it is all that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_store_that_was_emptied_takes_messages_again_also_after_a_start() {
    for (quota, len) in [(2_u64 << 20, 300_000), (4 << 20, 300_000), (8 << 20, 3_600_000)] {
        for restarts in [false, true] {
            let when = format!("{quota} bytes, messages of {len}, restarted: {restarts}");
            let dir = tempfile::tempdir().expect("a folder");
            let (options, _) = clocked(dir.path());
            let options =
                StoreOptions { max_bytes: quota, checkpoint_every: Duration::from_millis(50), ..options };
            let (mut store, _) = open(options.clone());
            let b = party("party_b");
            let mut taken = Vec::new();
            loop {
                match store.accept(&b, &id(format!("{}", taken.len())), payload(7, len)).await {
                    Ok(sequence) => taken.push(sequence),
                    Err(StoreError::Full { .. }) => break,
                    Err(error) => panic!("{when}: {error}"),
                }
            }
            assert!(!taken.is_empty(), "{when}");
            for sequence in taken {
                assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"), "{when}");
            }
            if restarts {
                store.close().await.expect("closes");
                drop(store);
                store = open(options).0;
            }
            until("it takes messages again", async || {
                store.accept(&b, &id("again"), payload(8, len)).await.is_ok()
            })
            .await;
            assert_eq!(pending(&store, "party_b").await, [("again".to_owned(), payload(8, len))], "{when}");
        }
    }
}

/// What is left of the segment in use is too short for it, however little of that was ever used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_takes_what_a_new_one_takes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (options, _) = clocked(dir.path());
    let options = StoreOptions { max_bytes: 2 << 20, checkpoint_every: Duration::from_millis(50), ..options };
    let (store, _) = open(options);
    let b = party("party_b");
    for len in [100_000, 950_000, 70_000, 950_000] {
        until("it takes the message", async || {
            match store.accept(&b, &id("m"), payload(len as u64, len)).await {
                Ok(sequence) => store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"),
                Err(StoreError::Full { remedy, .. }) => {
                    assert!(remedy.starts_with("wait until"), "one of {len} bytes has room: {remedy}");
                    false
                }
                Err(error) => panic!("{error}"),
            }
        })
        .await;
    }
}
