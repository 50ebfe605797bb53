//! Redis against the promises: data that goes back, outages, damaged records, lost notes, a clock that is set back.
#![cfg(feature = "redis")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use petnet_redis_servers::{Append, Options, RedisServer};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{
    DeadLetter, DeadReason, Engine, FromSender, Handed, Held, ManualClock, NoObserver, Observer, Outcome,
    PartyId, Result, Sequence, StoreError, StoreState,
};

fn options(server: &RedisServer) -> RedisOptions {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    RedisOptions { timeout: Duration::from_secs(1), ..options }
}

async fn opened(options: RedisOptions) -> Arc<dyn Engine> {
    RedisStore::open(options, Arc::new(NoObserver)).await.expect("the store opens").0
}

async fn accept(store: &Arc<dyn Engine>, name: &str) -> Result<Sequence> {
    store.accept(&party("party_b"), &id(name), Bytes::copy_from_slice(name.as_bytes())).await
}

async fn names(store: &Arc<dyn Engine>) -> Vec<String> {
    pending(store, "party_b").await.into_iter().map(|(name, _)| name).collect()
}

/// A reader is handed a message.
async fn note_read(store: &Arc<dyn Engine>, name: &str) {
    let held = store.open(&FromSender::Any, &id(name)).await.expect("opens").expect("is there");
    store.note_read(&[Handed::from(&held)]);
}

fn key(of: &str) -> String {
    format!("petnet:{{party_own}}:{of}")
}

/// Counts how often it is told to look at all that is pending.
#[derive(Default)]
struct Looks(AtomicUsize);

impl Observer for Looks {
    fn arrived(&self, _: &Held) {}
    fn pending(&self, _: &PartyId, sequence: Sequence, _: u64) {
        if sequence == Sequence(0) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn died(&self, _: &DeadLetter) {}
}

/// What was accepted meanwhile, here or at another gateway, was told to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_delivers_looks_again_when_the_connection_comes_back() {
    let server = RedisServer::start(Options::default());
    let looks = Arc::new(Looks::default());
    let store = RedisStore::open(options(&server), looks.clone()).await.expect("the store opens").0;
    accept(&store, "m").await.expect("accepts");
    assert_eq!(names(&store).await, ["m"]);
    // With a heartbeat of which nothing new came.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let before = looks.0.load(Ordering::SeqCst);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    until("it is told to look", async || looks.0.load(Ordering::SeqCst) > before).await;
}

/// What is told of one message must not be taken for another one that was accepted later.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_from_before_redis_lost_its_newest_messages_ends_no_later_one() {
    for saved in [true, false] {
        let server = RedisServer::start(Options { append: Append::Never, ..Options::default() });
        let store = opened(options(&server)).await;
        accept(&store, "kept").await.expect("accepts");
        if saved {
            server.command(&["SAVE"]);
        }
        let under_way = accept(&store, "lost").await.expect("accepts");
        assert!(store.load(&party("party_b"), under_way).await.expect("loads").is_some());
        server.kill_and_restart();
        for name in ["next", "and the next"] {
            until("it takes messages again", async || accept(&store, name).await.is_ok()).await;
        }
        // The peer's answer comes only now.
        store.settle_delivered(&party("party_b"), &[under_way]).await.expect("settles");
        let found = names(&store).await;
        assert!(found.ends_with(&["next".into(), "and the next".into()]), "saved: {saved}; {found:?}");
    }
}

/// Nobody could read anything meanwhile, so no message's time went by.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_is_no_time_in_which_messages_expire() {
    let server = RedisServer::start(Options::default());
    let clock = Arc::new(ManualClock::default());
    let store = opened(RedisOptions { clock: clock.clone(), ..options(&server) }).await;
    store.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    server.kill();
    until("it is away", async || matches!(*store.state().borrow(), StoreState::Unavailable(_))).await;
    clock.advance(Duration::from_secs(2 * 3600));
    server.restart();
    until("it serves", async || *store.state().borrow() == StoreState::Serving).await;
    assert_eq!(read(&store, "m").await, Some("x".into()));
    let service_seconds = store.stats().service_seconds;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(read(&store, "m").await, Some("x".into()), "after a heartbeat ({service_seconds})");
}

/// A record whose head is damaged says any length, party and id.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_head_of_one_message_hurts_no_other_one() {
    let server = RedisServer::start(Options::default());
    let store = opened(options(&server)).await;
    let b = party("party_b");
    let letter = accept(&store, "a letter").await.expect("accepts");
    let refused = Outcome::Dead(DeadReason::Refused("no".into()));
    assert!(store.settle(&b, letter, refused).await.expect("settles"));
    let damaged = accept(&store, "damaged").await.expect("accepts");
    let replaced = accept(&store, "replaced").await.expect("accepts");
    for sequence in [damaged, replaced] {
        // The highest byte of the length.
        server.command(&["SETRANGE", &key(&format!("m:{}", sequence.0)), "94", "\u{7f}"]);
    }
    assert!(matches!(store.load(&b, damaged).await, Err(StoreError::Damaged { .. })));
    let why = Outcome::Dead(DeadReason::Damaged("it".into()));
    assert!(store.settle(&b, damaged, why).await.expect("settles"));
    let letters = store.dead_letters(Sequence(0), 9).await.expect("lists");
    assert_eq!(letters.iter().map(|l| l.sequence).collect::<Vec<_>>(), [letter, damaged]);
    let many = ["first", "replaced", "last"].map(|name| (b.clone(), id(name), Bytes::from("new"))).to_vec();
    for result in store.accept_many(many).await.await {
        result.expect("accepts");
    }
    assert_eq!(names(&store).await, ["first", "replaced", "last"]);
}

/// Whoever is told "refused" sends it again; so nothing of it may be there.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_failed_half_way_is_not_called_refused() {
    let server = RedisServer::start(Options::default());
    let store = opened(options(&server)).await;
    // Something in Redis is not what a script expects: it fails after its first writes.
    server.command(&["SET", &key("peers"), "no set"]);
    let result = accept(&store, "m").await;
    let is_kept = server.command(&["EXISTS", &key("m:1")]).text() == "1";
    assert!(is_kept, "else this test shows nothing");
    assert!(matches!(result, Err(StoreError::InDoubt(_))), "{result:?}");
}

/// The note of what became of an operation can get lost: with it, nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_whose_note_is_lost_is_not_called_refused() {
    let server = RedisServer::start(Options::default());
    // Its answers wait for a replica that never comes.
    let waiting = RedisOptions { wait_replicas: 1, label: "same".into(), ..options(&server) };
    let store = opened(waiting).await;
    let accepting = {
        let store = store.clone();
        tokio::spawn(async move { accept(&store, "m").await })
    };
    until("it is there", async || server.command(&["EXISTS", &key("m:1")]).text() == "1").await;
    // Another gateway of the same name starts: it is taken for the next life of this one.
    let _other = opened(RedisOptions { label: "same".into(), ..options(&server) }).await;
    let result = accepting.await.expect("no panic");
    assert!(matches!(result, Err(StoreError::InDoubt(_))), "{result:?}");
    let copies = server.command(&["HGET", &key("state"), "seq"]).text();
    assert_eq!(copies, "1", "it is written once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_its_chunks_is_damaged_and_not_gone() {
    let server = RedisServer::start(Options::default());
    let store = opened(options(&server)).await;
    let b = party("party_b");
    let sequence = store.accept(&b, &id("m"), payload(1, 700_000)).await.expect("accepts");
    store.store(arrival("party_a", "m", payload(1, 700_000), None)).await.expect("stores");
    for body in server.command(&["KEYS", &key("body:*")]).list() {
        server.command(&["DEL", &body.text()]);
    }
    let loaded = store.load(&b, sequence).await.expect("loads").expect("is pending");
    let whole = loaded.payload.whole().await;
    assert!(matches!(whole, Err(StoreError::Damaged { .. })), "{whole:?}");
    let whole = store.read(&FromSender::Any, &id("m")).await;
    assert!(matches!(whole, Err(StoreError::Damaged { .. })), "{whole:?}");
}

/// A clock that is set back must not make a dead gateway live for as long.
#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_dead_gateway_is_taken_over_after_the_clock_of_redis_was_set_back() {
    let server = RedisServer::start(Options::default());
    let one = opened(RedisOptions { label: "one".into(), ..options(&server) }).await;
    accept(&one, "m").await.expect("accepts");
    assert_eq!(names(&one).await, ["m"]);
    let two = opened(RedisOptions { label: "two".into(), ..options(&server) }).await;
    drop(one);
    // What it said last is in the future, as it is when the clock was set back by an hour.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let gateways = server
        .command(&["HGETALL", &key("gateways")])
        .list()
        .iter()
        .map(petnet_redis_servers::Reply::text)
        .collect::<Vec<_>>();
    let dead = gateways.chunks(2).find(|pair| pair[1].contains("\none")).expect("it is noted");
    let (seen, rest) = dead[1].split_once('\n').expect("two lines");
    let later = seen.parse::<u64>().expect("a time") + 3_600_000;
    server.command(&["HSET", &key("gateways"), &dead[0], &format!("{later}\n{rest}")]);
    let since = Instant::now();
    until("it is taken over", async || names(&two).await == ["m"]).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_fit_together_are_accepted_together() {
    let server = RedisServer::start(Options::default());
    let store = opened(RedisOptions { max_bytes: 100 * 1500, ..options(&server) }).await;
    let many = (0..100).map(|n| (party("party_b"), id(format!("{n:03}")), payload(n, 1000))).collect();
    let results = store.accept_many(many).await.await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 100, "{:?}", results.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_messages_in_front_keep_no_others_from_expiring() {
    let server = RedisServer::start(Options::default());
    let clock = Arc::new(ManualClock::default());
    let store = opened(RedisOptions { clock: clock.clone(), ..options(&server) }).await;
    for n in 0..30 {
        store.store(arrival("party_a", &format!("{n}"), "x".into(), None)).await.expect("stores");
    }
    for n in 1..=12 {
        server.command(&["SETRANGE", &key(&format!("m:{n}")), "20", "x"]);
    }
    for n in 13..=24 {
        server.command(&["DEL", &key(&format!("m:{n}"))]);
    }
    // Of these one is read: it ends as others do.
    note_read(&store, "29").await;
    until("it is noted", async || server.command(&["ZCARD", &key("read")]).text() == "1").await;
    server.command(&["SETRANGE", &key("m:30"), "20", "x"]);
    clock.advance(Duration::from_secs(604_801));
    until("all are gone", async || server.command(&["ZCARD", &key("mail")]).text() == "0").await;
    // What nobody read is not just gone, damaged or not.
    assert_eq!(store.count_dead_letters(100).await.expect("counts"), [0, 0, 24, 5]);
    let letters = store.dead_letters(Sequence(0), 100).await.expect("lists");
    assert!(letters.iter().all(|letter| letter.correspondent.is_from()), "{letters:?}");
    for letter in letters {
        let retried = store.retry_dead_letter(letter.sequence).await;
        assert_eq!(retried.is_ok(), letter.reason == DeadReason::Unread, "{letter:?}: {retried:?}");
        if retried.is_err() {
            assert!(store.drop_dead_letter(letter.sequence).await.expect("drops"));
        }
    }
    assert!(store.dead_letters(Sequence(0), 1).await.expect("lists").is_empty());
}

/// A gateway of an older version, or one that runs beside this one, writes nothing of what is read, and ends messages without it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_left_counts_as_unread_and_what_it_ended_leaves_nothing() {
    let server = RedisServer::start(Options::default());
    let clock = Arc::new(ManualClock::default());
    let store = opened(RedisOptions { clock: clock.clone(), ..options(&server) }).await;
    for name in ["ended", "left"] {
        store.store(arrival("party_a", name, "x".into(), None)).await.expect("stores");
    }
    note_read(&store, "ended").await;
    until("it is noted", async || server.command(&["ZCARD", &key("read")]).text() == "1").await;
    server.command(&["ZREM", &key("mail"), "1"]);
    server.command(&["HDEL", &key("in"), "party_a\0ended"]);
    server.command(&["UNLINK", &key("m:1")]);
    clock.advance(Duration::from_secs(3601));
    until("the note is gone", async || server.command(&["ZCARD", &key("read")]).text() == "0").await;
    assert_eq!(store.stats().expired, 0);
    let left = store.open(&FromSender::Any, &id("left")).await.expect("opens").expect("is there");
    assert!(left.unread && left.age >= 3601, "{left:?}");
    clock.advance(Duration::from_secs(604_801));
    until("it is a dead letter", async || {
        !store.dead_letters(Sequence(0), 1).await.expect("lists").is_empty()
    })
    .await;
    // Of one that died before it was noted when, that is not known.
    server.command(&["DEL", &key("died")]);
    let letter = store.dead_letters(Sequence(0), 1).await.expect("lists").remove(0);
    assert_eq!((letter.id.as_str(), letter.dead_for), ("left", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_noted_in_a_full_redis_so_that_it_empties() {
    let server =
        RedisServer::start(Options { max_memory: Some((0, "noeviction".into())), ..Options::default() });
    let clock = Arc::new(ManualClock::default());
    let store = opened(RedisOptions { clock: clock.clone(), ..options(&server) }).await;
    for name in ["read", "unread"] {
        store.store(arrival("party_a", name, "x".into(), None)).await.expect("stores");
    }
    server.config_set("maxmemory", "1mb");
    assert!(accept(&store, "refused").await.is_err());
    note_read(&store, "read").await;
    until("it is noted", async || server.command(&["ZCARD", &key("read")]).text() == "1").await;
    clock.advance(Duration::from_secs(3601));
    until("it goes", async || server.command(&["ZCARD", &key("mail")]).text() == "1").await;
    assert_eq!(read(&store, "unread").await, Some("x".into()));
    clock.advance(Duration::from_secs(604_801));
    until("the other one dies", async || server.command(&["ZCARD", &key("dead")]).text() == "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_an_outage_is_noted_after_it() {
    let server = RedisServer::start(Options::default());
    let store = opened(options(&server)).await;
    store.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    let held = store.open(&FromSender::Any, &id("m")).await.expect("opens").expect("is there");
    server.kill();
    store.note_read(&[Handed::from(&held)]);
    until("it is away", async || matches!(*store.state().borrow(), StoreState::Unavailable(_))).await;
    server.restart();
    until("it is noted", async || server.command(&["ZCARD", &key("read")]).text() == "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_leaves_leaves_nothing_of_itself() {
    let server = RedisServer::start(Options::default());
    for n in 0..3 {
        let store = opened(options(&server)).await;
        accept(&store, &format!("{n}")).await.expect("accepts");
        store.close().await.expect("closes");
    }
    assert_eq!(server.command(&["HLEN", &key("ops")]).text(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_kept_again_after_one_was_damaged() {
    let server = RedisServer::start(Options::default());
    let store = opened(RedisOptions { dead_letter_bytes: 3000, ..options(&server) }).await;
    let b = party("party_b");
    for n in 0..6 {
        let sequence = store.accept(&b, &id(format!("{n}")), payload(n, 1000)).await.expect("accepts");
        let refused = Outcome::Dead(DeadReason::Refused("no".into()));
        store.settle(&b, sequence, refused).await.expect("settles");
        if n < 3 {
            server.command(&["SETRANGE", &key(&format!("m:{}", sequence.0)), "20", "x"]);
        }
    }
    let letters = store.dead_letters(Sequence(0), 9).await.expect("lists");
    let ids: Vec<_> = letters.iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(ids, ["3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_replicas_that_are_waited_for_it_does_not_serve_and_deliveries_go_on() {
    let (server, replica) = (RedisServer::start(Options::default()), RedisServer::start(Options::default()));
    let store = opened(RedisOptions { wait_replicas: 1, ..options(&server) }).await;
    let result = accept(&store, "in doubt").await;
    assert!(matches!(result, Err(StoreError::InDoubt(_))), "{result:?}");
    assert!(matches!(&*store.state().borrow(), StoreState::Refusing(why) if why.contains("WAIT_REPLICAS")));
    let since = Instant::now();
    for _ in 0..5 {
        assert_eq!(names(&store).await, ["in doubt"]);
    }
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "no load waits for the replicas: {:?}",
        since.elapsed()
    );
    replica.command(&["REPLICAOF", "127.0.0.1", &server.port().to_string()]);
    until("it serves by itself", async || *store.state().borrow() == StoreState::Serving).await;
    accept(&store, "accepted").await.expect("accepts");
}
