//! Everything of a store moves to Redis and back, and stays what it was.
#![cfg(feature = "redis")]

mod common;
mod transfers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use petnet_redis_servers::{Options, RedisServer};
use petnet_storage::redis::{RedisOptions, RedisSource, RedisStore, RedisTarget};
use petnet_storage::transfer::{TransferError, run};
use petnet_storage::{Engine, ManualClock, NoObserver, OpenError, Outcome, Sequence, StoreOptions, Stored};
use transfers::*;

fn redis(server: &RedisServer) -> RedisOptions {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    RedisOptions { clock: Arc::new(ManualClock::default()), ..options }
}

async fn opened_redis(server: &RedisServer) -> Arc<dyn Engine> {
    RedisStore::open(redis(server), Arc::new(NoObserver)).await.expect("the store opens").0
}

/// A stopped folder, opened as a gateway opens it.
fn opened(dir: &Path) -> Arc<dyn Engine> {
    let clock = Arc::new(ManualClock::default());
    open(StoreOptions { clock, ..options(dir) }).0
}

/// A filled folder that is called `from`.
async fn filled(count: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let from = dir.path().join("from");
    std::fs::create_dir(&from).expect("makes");
    fill(&real(), &from, count).await;
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_the_same_in_redis_and_back_in_a_folder() {
    let (server, dir) = (RedisServer::start(Options::default()), filled(9).await);
    let (from, back) = (dir.path().join("from"), dir.path().join("back"));
    let to_redis = RedisTarget::open(redis(&server)).await.expect("locks");
    let report = moved(&source(&real(), &from).expect("opens"), &to_redis).await;
    assert!(report.is_whole() && report.source == report.target && report.source.pending.messages > 20);
    drop(to_redis);
    let (old, new) = (opened(&from), opened_redis(&server).await);
    assert_eq!(everything(&old).await, everything(&new).await);

    // What is remembered of messages that are long gone came along.
    for (name, number) in RELEASED {
        let again = arrival("party_a", name, "again".into(), Some(identity(7, number, 2)));
        assert_eq!(new.store(again).await.expect("stores"), Stored::Repeated, "{name}");
    }
    for straggler in [identity(20, 1, 1), identity(19, 77, 1)] {
        let late = arrival("party_a", "replaced", "late".into(), Some(straggler));
        assert_eq!(new.store(late).await.expect("stores"), Stored::Stale);
    }
    // A new message follows all that moved.
    let last = new.accept(&party("party_b"), &id("next"), "x".into()).await.expect("accepts");
    let outgoing = new.load(&party("party_b"), last).await.expect("loads").expect("is pending");
    for older in new.pending(&party("party_b"), Sequence(0), 1000).await.expect("lists") {
        let message = new.load(&party("party_b"), older.sequence).await.expect("loads").expect("is pending");
        assert!(older.sequence <= last && message.identity.incarnation <= outgoing.identity.incarnation);
    }
    new.settle(&party("party_b"), last, Outcome::Delivered).await.expect("settles");
    let left = everything(&new).await;
    new.close().await.expect("closes");

    let from_redis = RedisSource::open(redis(&server)).await.expect("locks");
    let report = moved(&from_redis, &target(&real(), &back)).await;
    assert!(report.is_whole() && report.source == report.target);
    let back = opened(&back);
    assert_eq!(left, everything(&back).await);
    for (name, number) in RELEASED {
        let again = arrival("party_a", name, "again".into(), Some(identity(7, number, 2)));
        assert_eq!(back.store(again).await.expect("stores"), Stored::Repeated, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lifetimes_go_on_where_they_were() {
    let server = RedisServer::start(Options::default());
    let dir = tempfile::tempdir().expect("a folder");
    let from = dir.path().join("from");
    std::fs::create_dir(&from).expect("makes");
    let (options, clock) = clocked(&from);
    let (store, _) = open(options);
    store.store(arrival("party_a", "first", "1".into(), None)).await.expect("stores");
    store.accept(&party("party_b"), &id("out"), "1".into()).await.expect("accepts");
    clock.advance(Duration::from_secs(3100));
    store.store(arrival("party_a", "second", "2".into(), None)).await.expect("stores");
    store.close().await.expect("closes");
    drop(store);
    let target = RedisTarget::open(redis(&server)).await.expect("locks");
    moved(&source(&real(), &from).expect("opens"), &target).await;
    drop(target);

    let clock = Arc::new(ManualClock::default());
    let options = RedisOptions { clock: clock.clone(), ..redis(&server) };
    let (store, _) = RedisStore::open(options, Arc::new(NoObserver)).await.expect("opens");
    let pending = store.pending(&party("party_b"), Sequence(0), 9).await.expect("lists");
    assert_eq!(pending[0].expires_in, Some(604_800 - 3100));
    clock.advance(Duration::from_secs(499));
    assert!(read(&store, "first").await.is_some());
    clock.advance(Duration::from_secs(1));
    assert!(read(&store, "first").await.is_none() && read(&store, "second").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cut_off_goes_on_and_no_gateway_starts_before_its_end() {
    let (server, dir) = (RedisServer::start(Options::default()), filled(4).await);
    let from = dir.path().join("from");
    for left in [0, 1, 7, 20] {
        let target = RedisTarget::open(redis(&server)).await.expect("locks");
        let cut = Cut::after(target, left);
        let source = source(&real(), &from).expect("opens");
        assert!(run(&source, &cut, &|_| {}).await.is_err());
        let refused = RedisStore::open(redis(&server), Arc::new(NoObserver)).await;
        assert!(matches!(refused, Err(OpenError::Redis { why, .. }) if why.contains("migration")));
        drop(cut);
        // The lock of a process that was killed is waited out; here it is given back.
        server.command(&["HDEL", "petnet:{party_own}:state", "locked_by", "locked_until"]);
        let refused = RedisStore::open(redis(&server), Arc::new(NoObserver)).await;
        assert!(matches!(refused, Err(OpenError::Redis { why, .. }) if why.contains("not finished")));
    }
    let other = filled(2).await;
    let target = RedisTarget::open(redis(&server)).await.expect("locks");
    let wrong = run(&source(&real(), &other.path().join("from")).expect("opens"), &target, &|_| {}).await;
    assert!(matches!(wrong, Err(TransferError::Refused { .. })), "another store");
    let report = moved(&source(&real(), &from).expect("opens"), &target).await;
    assert!(report.is_whole() && report.resumed.again);
    drop(target);
    assert_eq!(everything(&opened(&from)).await, everything(&opened_redis(&server).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_running_gateway_or_with_messages_is_no_target() {
    let (server, dir) = (RedisServer::start(Options::default()), filled(1).await);
    let store = opened_redis(&server).await;
    for refused in
        [RedisTarget::open(redis(&server)).await.map(drop), RedisSource::open(redis(&server)).await.map(drop)]
    {
        assert!(
            matches!(&refused, Err(TransferError::Open(OpenError::Redis { why, .. })) if why.contains("is running"))
        );
    }
    store.accept(&party("party_b"), &id("m"), "x".into()).await.expect("accepts");
    store.close().await.expect("closes");
    drop(store);
    let target = RedisTarget::open(redis(&server)).await.expect("locks");
    let second = RedisTarget::open(redis(&server)).await;
    assert!(matches!(second, Err(TransferError::Open(_))), "locked");
    let refused = run(&source(&real(), &dir.path().join("from")).expect("opens"), &target, &|_| {}).await;
    assert!(matches!(refused, Err(TransferError::Refused { .. })));
}
