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
use petnet_storage::transfer::{FolderTarget, TransferError, run};
use petnet_storage::{
    Arrival, DeadLetter, Engine, FromSender, Handed, ManualClock, NoObserver, OpenError, Outcome, Sequence,
    StoreOptions, Stored,
};
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

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_the_same_in_redis_and_back_in_a_folder() {
    let (server, dir) = (RedisServer::start(Options::default()), filled(9).await);
    let (from, back) = (dir.path().join("from"), dir.path().join("back"));
    let to_redis = RedisTarget::open(redis(&server)).await.expect("locks");
    let report = moved(&source(&real(), &from).expect("opens"), &to_redis).await;
    assert!(report.is_whole() && report.source == report.target && report.source.pending.messages > 20);
    drop(to_redis);
    // What moved there is listed by sender and id already.
    let ask = |words: &[&str]| server.command(words).text();
    let entries = server.command(&["KEYS", "petnet:{party_own}:names:*"]);
    let entries: u64 =
        entries.list().iter().map(|key| ask(&["ZCARD", &key.text()]).parse::<u64>().expect("a number")).sum();
    assert_eq!(ask(&["ZCARD", "petnet:{party_own}:mail"]), entries.to_string());
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
    hand(&store, "party_a", "first").await;
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
    // The second in which it was read may not have been a whole one.
    clock.advance(Duration::from_secs(2));
    assert!(read(&store, "first").await.is_none() && read(&store, "second").await.is_some());
    clock.advance(Duration::from_secs(604_800 - 501 - 1));
    assert!(read(&store, "second").await.is_some(), "nobody has read it");
    clock.advance(Duration::from_secs(2));
    until("it is a dead letter", async || store.count_dead_letters(9).await.expect("counts")[3] == 1).await;
}

/// A reader is handed the message of a sender.
async fn hand(store: &Arc<dyn Engine>, sender: &str, name: &str) {
    let held = store.open(&FromSender::Party(party(sender)), &id(name)).await.expect("opens");
    store.note_read(&[Handed::from(&held.expect("is there"))]);
}

/// Messages that were read and not, and what died unread, small and large.
async fn fill_mailbox(store: &Arc<dyn Engine>, clock: &ManualClock) {
    for len in [10, LARGE] {
        for sender in ["party_a", "party_c"] {
            let name = format!("dead {len}");
            store.store(arrival(sender, &name, payload(1, len), None)).await.expect("stores");
        }
    }
    let unnamed = Arrival { sender: None, id: id("dead 10"), payload: "u".into(), identity: None };
    store.store(unnamed).await.expect("stores");
    clock.advance(Duration::from_secs(604_801));
    until("they die", async || store.count_dead_letters(9).await.expect("counts")[3] == 5).await;
    for (n, len) in [10, LARGE].into_iter().enumerate() {
        for sender in ["party_a", "party_c"] {
            for what in ["read", "half read"] {
                let known = Some(identity(5, 1 + 2 * n as u64 + u64::from(what == "read"), 1));
                let came = arrival(sender, &format!("{what} {len}"), payload(2, len), known);
                store.store(came).await.expect("stores");
            }
        }
        for sender in ["party_c", "party_a"] {
            hand(store, sender, &format!("read {len}")).await;
            clock.advance(Duration::from_secs(10));
        }
        hand(store, "party_c", &format!("half read {len}")).await;
    }
}

/// What a reader is told of the mailbox, and an operator of what died in it.
async fn mailbox(store: &Arc<dyn Engine>) -> Vec<String> {
    let mut all = Vec::new();
    for found in store.topic(&FromSender::Any, "", Sequence(0), 1000).await.expect("lists") {
        let plain = store.open(&FromSender::Any, &found.id).await.expect("one of them");
        all.push(format!("{found:?}, the plain one is of {:?}", plain.expect("is there").sender));
    }
    for letter in store.dead_letters(Sequence(0), 1000).await.expect("lists") {
        let (_, content) = store.open_dead_letter(letter.sequence).await.expect("opens").expect("is there");
        let content = content.whole().await.expect("reads");
        let whole = if content == payload(1, content.len()) { "whole" } else { "another" };
        // For how long it has been one does not move.
        all.push(format!("{:?} {whole}", DeadLetter { dead_for: None, ..letter }));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_and_what_died_unread_moves_with_its_times() {
    let dir = tempfile::tempdir().expect("a folder");
    let servers = [0; 3].map(|_| RedisServer::start(Options::default()));
    let clock = Arc::new(ManualClock::default());
    let options = RedisOptions { clock: clock.clone(), ..redis(&servers[0]) };
    let (store, _) = RedisStore::open(options, Arc::new(NoObserver)).await.expect("opens");
    fill_mailbox(&store, &clock).await;
    let expected = mailbox(&store).await;
    assert_eq!(expected.len(), 8 + 5, "{expected:#?}");
    store.close().await.expect("closes");
    drop(store);
    // From Redis to Redis, to a folder, and from there to Redis.
    let from = RedisSource::open(redis(&servers[0])).await.expect("locks");
    let to = RedisTarget::open(redis(&servers[1])).await.expect("locks");
    assert!(moved(&from, &to).await.is_whole());
    drop((from, to));
    // The lock of a source is waited out; here it is given back.
    servers[0].command(&["HDEL", "petnet:{party_own}:state", "locked_by", "locked_until"]);
    assert_eq!(mailbox(&opened_redis(&servers[1]).await).await, expected);
    let folder = dir.path().join("folder");
    let from = RedisSource::open(redis(&servers[0])).await.expect("locks");
    assert!(moved(&from, &target(&real(), &folder)).await.is_whole());
    drop(from);
    let in_folder = opened(&folder);
    assert_eq!(mailbox(&in_folder).await, expected);
    in_folder.close().await.expect("closes");
    drop(in_folder);
    let to = RedisTarget::open(redis(&servers[2])).await.expect("locks");
    assert!(moved(&source(&real(), &folder).expect("opens"), &to).await.is_whole());
    drop(to);
    let store = opened_redis(&servers[2]).await;
    assert_eq!(mailbox(&store).await, expected);
    // And lives there as it would have.
    let letter = store.dead_letters(Sequence(0), 1).await.expect("lists").remove(0);
    let back = store.retry_dead_letter(letter.sequence).await.expect("retries").expect("is there");
    let from = FromSender::Party(party("party_a"));
    let held = store.open(&from, &id("dead 10")).await.expect("opens").expect("is back");
    assert_eq!((held.sequence, held.unread), (back, true));
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
        drop(cut);
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
async fn a_move_whose_end_nobody_heard_is_confirmed_until_a_gateway_has_used_the_store() {
    let (server, dir) = (RedisServer::start(Options::default()), filled(3).await);
    let from = dir.path().join("from");
    let run_again = async || {
        let target = RedisTarget::open(redis(&server)).await.expect("locks");
        run(&source(&real(), &from).expect("opens"), &target, &|_| {}).await
    };
    let first = run_again().await.expect("moves");
    // Nothing is written any more: a gateway may come to it at any time.
    let had = server.command(&["KEYS", "petnet:{party_own}:had:*"]).list()[0].text();
    let more = "ffffffffffff0002:ffffffffffff0001";
    server.command(&["ZADD", &had, "0", more]);
    let differs = run_again().await.expect("is compared");
    assert!(!differs.finished && differs.differing == 1, "{differs:?}");
    assert_eq!(server.command(&["ZREM", &had, more]).text(), "1", "it is as it was");
    for _ in 0..2 {
        let again = run_again().await.expect("is confirmed");
        assert!(again.is_whole() && again.resumed.again, "{again:?}");
        assert_eq!(again.target, first.target);
    }
    let store = opened_redis(&server).await;
    store.close().await.expect("closes");
    drop(store);
    assert!(matches!(run_again().await, Err(TransferError::Refused { .. })), "it was used since");
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
    // Nothing was changed, and nobody has to wait for a lock. (That of a process that was killed is waited out.)
    let store = opened_redis(&server).await;
    assert_eq!(pending(&store, "party_b").await.len(), 1);
    store.close().await.expect("closes");
    drop(store);
    let from = RedisSource::open(redis(&server)).await.expect("locks");
    let full = StoreOptions::new(dir.path().join("from"));
    let refused = run(&from, &FolderTarget::new(full), &|_| {}).await;
    assert!(matches!(refused, Err(TransferError::Refused { .. })), "{refused:?}");
    opened_redis(&server).await;
}
