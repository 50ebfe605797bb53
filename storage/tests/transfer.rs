//! Everything of a store moves to another one and stays what it was; a move that is cut off anywhere goes on.

mod common;
mod transfers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::*;
use petnet_storage::inspect::Inspector;
use petnet_storage::transfer::{
    Fate, FolderSource, FolderTarget, Moved, Remembered, Report, Result, Resume, Source, Summary, Target,
    TransferError, run,
};
use petnet_storage::{
    DeadReason, Engine, ManualClock, NoObserver, Outcome, Sequence, Store, StoreError, StoreOptions, Stored,
};
use transfers::*;

/// A filled folder and one that it was moved to.
async fn filled_and_moved(count: u64) -> (tempfile::TempDir, Report) {
    let dir = tempfile::tempdir().expect("a folder");
    let from = dir.path().join("from");
    std::fs::create_dir(&from).expect("makes");
    fill(&real(), &from, count).await;
    let source = source(&real(), &from).expect("opens");
    let report = moved(&source, &target(&real(), &dir.path().join("to"))).await;
    assert!(report.is_whole());
    (dir, report)
}

/// A stopped folder, opened as a gateway opens it.
fn opened(dir: &Path) -> Arc<dyn Engine> {
    let clock = Arc::new(ManualClock::default());
    open(StoreOptions { clock, ..options(dir) }).0
}

#[tokio::test]
async fn everything_is_the_same_after_a_move() {
    let (dir, report) = filled_and_moved(9).await;
    assert_eq!(report.source, report.target);
    let tallies = report.source;
    assert!(tallies.pending.messages > 20 && tallies.mailbox.messages == 19 && tallies.dead.messages > 10);
    let (old, new) = (opened(&dir.path().join("from")), opened(&dir.path().join("to")));
    assert_eq!(everything(&old).await, everything(&new).await);
    assert_eq!(read(&new, "replaced").await.as_deref(), Some(&b"new"[..]));
    // A new message follows all that moved.
    let last = new.accept(&party("party_b"), &id("next"), "x".into()).await.expect("accepts");
    let outgoing = new.load(&party("party_b"), last).await.expect("loads").expect("is pending");
    for older in new.pending(&party("party_b"), Sequence(0), 1000).await.expect("lists") {
        let message = new.load(&party("party_b"), older.sequence).await.expect("loads").expect("is pending");
        assert!(older.sequence <= last && message.identity.incarnation <= outgoing.identity.incarnation);
    }
}

#[tokio::test]
async fn a_delivery_that_was_had_before_the_move_is_a_repetition_after_it() {
    let (dir, _) = filled_and_moved(6).await;
    for _ in 0..2 {
        let store = opened(&dir.path().join("to"));
        for (name, number) in RELEASED {
            let again = arrival("party_a", name, "again".into(), Some(identity(7, number, 2)));
            assert_eq!(store.store(again).await.expect("stores"), Stored::Repeated, "{name}");
        }
        let below = arrival("party_a", "below the mark", "again".into(), Some(identity(7, 1, 1)));
        assert_eq!(store.store(below).await.expect("stores"), Stored::Repeated);
        let held = arrival("party_a", "in1", "again".into(), Some(identity(11, 4, 1)));
        assert_eq!(store.store(held).await.expect("stores"), Stored::Repeated);
        // Never came before, and is older than what is here under its id, by its number or by its incarnation.
        for straggler in [identity(20, 1, 1), identity(19, 77, 1)] {
            let late = arrival("party_a", "replaced", "late".into(), Some(straggler));
            assert_eq!(store.store(late).await.expect("stores"), Stored::Stale);
        }
        assert_eq!(read(&store, "replaced").await.as_deref(), Some(&b"new"[..]));
        store.close().await.expect("closes");
    }
    let store = opened(&dir.path().join("to"));
    let new = arrival("party_a", "new", "new".into(), Some(identity(7, 9, 2)));
    assert!(matches!(store.store(new).await.expect("stores"), Stored::New(_)));
}

#[tokio::test]
async fn lifetimes_go_on_where_they_were() {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).expect("makes");
    let (options, clock) = clocked(&from);
    let (store, _) = open(options);
    store.store(arrival("party_a", "first", "1".into(), None)).await.expect("stores");
    read_all(&store).await;
    store.accept(&party("party_b"), &id("out"), "1".into()).await.expect("accepts");
    clock.advance(Duration::from_secs(3000));
    store.store(arrival("party_a", "second", "2".into(), None)).await.expect("stores");
    read_all(&store).await;
    clock.advance(Duration::from_secs(100));
    store.close().await.expect("closes");
    moved(&source(&real(), &from).expect("opens"), &target(&real(), &to)).await;

    let (options, clock) = clocked(&to);
    let (store, _) = open(options);
    let pending = store.pending(&party("party_b"), Sequence(0), 9).await.expect("lists");
    assert_eq!(pending[0].expires_in, Some(604_800 - 3100));
    clock.advance(Duration::from_secs(499));
    assert!(read(&store, "first").await.is_some());
    // The second in which it was read may not have been a whole one.
    clock.advance(Duration::from_secs(2));
    assert!(read(&store, "first").await.is_none() && read(&store, "second").await.is_some());
    // With it the service time is written down.
    store.store(arrival("party_a", "third", "3".into(), None)).await.expect("stores");
    store.close().await.expect("closes");
    drop(store);
    // What is over stays where it is.
    let ttl = Some(Duration::from_secs(3600));
    let over =
        FolderSource::open(&Inspector::new(&to), ttl).expect("opens").summary().await.expect("is there");
    assert_eq!(over.messages, 3);
}

#[tokio::test]
async fn a_move_cut_off_after_every_few_puts_gives_the_same_in_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let from = dir.path().join("from");
    std::fs::create_dir(&from).expect("makes");
    fill(&real(), &from, 7).await;
    let expected =
        moved(&source(&real(), &from).expect("opens"), &target(&real(), &dir.path().join("whole"))).await;
    for every in [1, 4, 11] {
        let to = dir.path().join(format!("to{every}"));
        let mut rounds = 0;
        // What is there is put again, and so each round gets further only when it lasts longer.
        let report = loop {
            rounds += 1;
            let source = source(&real(), &from).expect("opens");
            let cut = Cut::after(target(&real(), &to), rounds * every);
            match run(&source, &cut, &|_| {}).await {
                Ok(report) => break report,
                Err(TransferError::Store(StoreError::Closed)) => {}
                Err(other) => panic!("{other}"),
            }
            drop(cut);
            let refused =
                Store::open(options(&to), Arc::new(NoObserver)).expect_err("is refused").to_string();
            assert!(refused.contains("not finished") && refused.contains("remove"), "{refused}");
            Inspector::new(&to).inspect().expect_err("is refused");
        };
        assert!(rounds > 1 && report.resumed.again && report.is_whole(), "{report:?}");
        assert_eq!((report.source, report.target), (expected.source, expected.target));
    }
}

#[tokio::test]
async fn more_than_a_batch_goes_on_behind_what_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).expect("makes");
    let store = opened(&from);
    for i in 0..1000_u64 {
        let sequence =
            store.accept(&party("party_b"), &id(format!("{i}")), payload(i, 9)).await.expect("accepts");
        if i % 3 == 0 {
            let dead = Outcome::Dead(DeadReason::Expired);
            store.settle(&party("party_b"), sequence, dead).await.expect("settles");
        }
    }
    store.close().await.expect("closes");
    drop(store);
    let source = source(&real(), &from).expect("opens");
    // Most of it is in the index on disk.
    let small = || {
        FolderTarget::new(StoreOptions {
            index_memory_entries: 100,
            housekeeping_every: Duration::from_millis(5),
            checkpoint_every: Duration::ZERO,
            ..options(&to)
        })
    };
    let cut = Cut::after(small(), 700);
    run(&source, &cut, &|_| {}).await.expect_err("is cut off");
    drop(cut);
    let report = moved(&source, &small()).await;
    assert!(report.resumed.after > Sequence(300) && report.source == report.target, "{:?}", report.resumed);
    drop(source);
    assert_eq!(everything(&opened(&from)).await, everything(&opened(&to)).await);
}

#[tokio::test]
async fn a_move_whose_end_nobody_heard_is_confirmed_until_a_store_has_used_the_folder() {
    let dir = filled(3).await;
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let first = moved(&source(&real(), &from).expect("opens"), &target(&real(), &to)).await;
    for _ in 0..2 {
        let again = moved(&source(&real(), &from).expect("opens"), &target(&real(), &to)).await;
        assert!(again.is_whole() && again.resumed.again, "{again:?}");
        assert_eq!(again.target, first.target);
    }
    let store = opened(&to);
    store.close().await.expect("closes");
    drop(store);
    let used = run(&source(&real(), &from).expect("opens"), &target(&real(), &to), &|_| {}).await;
    assert!(used.expect_err("is refused").to_string().contains("not empty"));
    assert_eq!(everything(&opened(&from)).await, everything(&opened(&to)).await);
}

#[tokio::test]
async fn a_folder_that_holds_something_else_is_refused_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, other, to) = (dir.path().join("from"), dir.path().join("other"), dir.path().join("to"));
    for folder in [&from, &other] {
        std::fs::create_dir(folder).expect("makes");
        fill(&real(), folder, 2).await;
    }
    let source_of = |dir: &Path| source(&real(), dir).expect("opens");
    let refused = run(&source_of(&from), &target(&real(), &other), &|_| {}).await.expect_err("is refused");
    assert!(refused.to_string().contains("not empty"), "{refused}");
    drop(opened(&other));
    // Half of another store's move.
    let cut = Cut::after(target(&real(), &to), 3);
    run(&source_of(&from), &cut, &|_| {}).await.expect_err("is cut off");
    drop(cut);
    let refused = run(&source_of(&other), &target(&real(), &to), &|_| {}).await.expect_err("is refused");
    assert!(refused.to_string().contains("unfinished migration"), "{refused}");
    // The source was used since. To open it and go again need not write anything.
    let used = opened(&from);
    used.accept(&party("party_b"), &id("since"), "x".into()).await.expect("accepts");
    used.close().await.expect("closes");
    drop(used);
    let refused = run(&source_of(&from), &target(&real(), &to), &|_| {}).await.expect_err("is refused");
    assert!(refused.to_string().contains("changed since"), "{refused}");
    // Each end is locked against a gateway.
    let running = opened(&other);
    assert!(source(&real(), &other).is_err());
    drop(running);
    let source = source_of(&other);
    Store::open(options(&other), Arc::new(NoObserver)).expect_err("is in use");
    drop(source);
    let junk = dir.path().join("junk");
    std::fs::create_dir(&junk).expect("makes");
    std::fs::write(junk.join("notes.txt"), "mine").expect("writes");
    run(&source_of(&other), &target(&real(), &junk), &|_| {}).await.expect_err("is refused");
    assert!(!junk.join("MOVING").exists());
}

/// Flips a bit where `bytes` stand in a file of the log.
fn flip(dir: &Path, bytes: &[u8]) {
    for entry in std::fs::read_dir(dir.join("log")).expect("lists") {
        let path = entry.expect("lists").path();
        let mut content = std::fs::read(&path).expect("reads");
        if let Some(at) = content.windows(bytes.len()).position(|w| w == bytes) {
            content[at] ^= 1;
            return std::fs::write(&path, content).expect("writes");
        }
    }
    panic!("the bytes are in no file");
}

#[tokio::test]
async fn what_is_damaged_is_named_and_the_rest_moves() {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).expect("makes");
    let store = opened(&from);
    let b = party("party_b");
    for (name, seed, len) in
        [("a", 1, 100), ("large", 2, LARGE), ("small", 3, 5000), ("later", 5, LARGE), ("z", 4, 100)]
    {
        store.accept(&b, &id(name), payload(seed, len)).await.expect("accepts");
    }
    store.close().await.expect("closes");
    drop(store);
    flip(&from, &payload(2, LARGE)[300_000..300_064]);
    flip(&from, &payload(3, 5000)[100..164]);
    let before = std::fs::read(from.join("CHECKPOINT.0")).expect("reads");
    let source = source(&real(), &from).expect("opens");
    // One more goes bad while it is moved.
    flip(&from, &payload(5, LARGE)[300_000..300_064]);
    let report = moved(&source, &target(&real(), &to)).await;
    assert!(!report.is_whole());
    let unreadable: Vec<_> = report.unreadable.iter().map(ToString::to_string).collect();
    assert_eq!(unreadable.len(), 2, "{unreadable:?}");
    assert!(unreadable[0].contains("\"large\"") && unreadable[1].contains("\"later\""), "{unreadable:?}");
    for name in ["log/small-", "\"large\""] {
        assert!(report.damage.iter().any(|what| what.contains(name)), "{:?}", report.damage);
    }
    assert_eq!((report.source.pending.messages, report.source), (2, report.target));
    let names: Vec<_> = pending(&opened(&to), "party_b").await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "z"]);
    // The source is as it was.
    assert!(
        std::fs::read(from.join("CHECKPOINT.0")).expect("reads") == before && !from.join("corrupt").exists()
    );
}

/// Forgets the last message.
struct Forgetful(FolderTarget);

#[async_trait]
impl Target for Forgetful {
    async fn begin(&self, source: &Summary) -> Result<Resume> {
        self.0.begin(source).await
    }
    async fn remember(&self, mut memory: Vec<Remembered>) -> Result<()> {
        memory.retain(|remembered| remembered.incarnation.started_ms != 7);
        self.0.remember(memory).await
    }
    async fn put(&self, mut messages: Vec<Moved>) -> Result<()> {
        messages.pop();
        for message in &mut messages {
            if message.fate == Fate::Pending && message.id == id("out2-1") {
                message.payload = payload(5, message.payload.len() as usize).into();
            }
        }
        self.0.put(messages).await
    }
    async fn read_back(&self) -> Result<Arc<dyn Source>> {
        self.0.read_back().await
    }
    async fn finish(&self) -> Result<()> {
        self.0.finish().await
    }
}

#[tokio::test]
async fn what_differs_is_said_and_the_target_stays_unusable() {
    let dir = filled(4).await;
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let source = source(&real(), &from).expect("opens");
    let report = run(&source, &Forgetful(target(&real(), &to)), &|_| {}).await.expect("runs");
    let said: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
    assert!(!report.finished && report.source != report.target);
    for what in ["is missing in the target", "content is another", "is remembered otherwise"] {
        assert!(said.iter().any(|said| said.contains(what)), "{what}: {said:?}");
    }
    Store::open(options(&to), Arc::new(NoObserver)).expect_err("is refused");
}
