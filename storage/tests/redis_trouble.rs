//! Redis in trouble: killed, stalled, full, read-only, robbed of its scripts; and bytes that are not what they were.
#![cfg(feature = "redis")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use petnet_redis_servers::{Append, Options, RedisServer};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{
    DeadReason, Engine, FromSender, NoObserver, OpenError, Outcome, Result, Sequence, StoreError, StoreState,
    Stored,
};

const TIMEOUT: Duration = Duration::from_secs(1);

fn options(server: &RedisServer) -> RedisOptions {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    RedisOptions { timeout: TIMEOUT, ..options }
}

async fn opened(server: &RedisServer) -> Arc<dyn Engine> {
    RedisStore::open(options(server), Arc::new(NoObserver)).await.expect("the store opens").0
}

async fn accept(store: &Arc<dyn Engine>, name: &str) -> Result<Sequence> {
    store.accept(&party("party_b"), &id(name), Bytes::copy_from_slice(name.as_bytes())).await
}

async fn until_serving(store: &Arc<dyn Engine>) {
    until("it serves", async || *store.state().borrow() == StoreState::Serving).await;
}

async fn until_away(store: &Arc<dyn Engine>) {
    until("it does not serve", async || {
        matches!(*store.state().borrow(), StoreState::Unavailable(_) | StoreState::Refusing(_))
    })
    .await;
}

/// Names of what is pending, each as often as it is there.
async fn names(store: &Arc<dyn Engine>) -> Vec<String> {
    pending(store, "party_b").await.into_iter().map(|(name, _)| name).collect()
}

/// Names, and what became of each.
type Results = Vec<(String, Result<Sequence>)>;

/// Accepts under names that are all different, until told to stop; what became of each.
fn load(
    store: &Arc<dyn Engine>,
    stop: &tokio_util::sync::CancellationToken,
) -> Vec<tokio::task::JoinHandle<Results>> {
    let one = |task: usize| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let mut all = Vec::new();
            while !stop.is_cancelled() {
                let name = format!("{task}-{}", all.len());
                let result = accept(&store, &name).await;
                if result.is_err() {
                    // A refusal may come at once.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                all.push((name, result));
            }
            all
        })
    };
    (0..8).map(one).collect()
}

/// What was accepted is there once; what was refused is not there.
async fn check(store: &Arc<dyn Engine>, results: Results) {
    until_serving(store).await;
    // A stall may have outlasted its lease: whoever does not deliver lists nothing.
    until("it delivers", async || store.delivers_to(&party("party_b"))).await;
    let found = names(store).await;
    let once: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(found.len(), once.len(), "nothing is there twice");
    let (mut accepted, mut refused, mut in_doubt, mut sequences) = (0, 0, 0, BTreeSet::new());
    for (name, result) in results {
        match result {
            Ok(sequence) => {
                assert!(once.contains(&name), "{name} was accepted and is gone");
                assert!(sequences.insert(sequence));
                accepted += 1;
            }
            Err(StoreError::Unavailable(why)) => {
                assert!(!once.contains(&name), "{name} was refused and is there: {why}");
                refused += 1;
            }
            Err(StoreError::InDoubt(_)) => in_doubt += 1,
            Err(other) => panic!("{name}: {other}"),
        }
    }
    println!("{accepted} accepted, {refused} refused, {in_doubt} in doubt, {} there", found.len());
    assert!(accepted > 0);
}

async fn under_load(server: &RedisServer, trouble: impl AsyncFnOnce()) {
    let store = opened(server).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let tasks = load(&store, &stop);
    until("it runs", async || store.stats().used_bytes > 0).await;
    trouble().await;
    until_serving(&store).await;
    stop.cancel();
    let mut results = Vec::new();
    for task in tasks {
        results.extend(task.await.expect("no panic"));
    }
    check(&store, results).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_under_load_double_and_lose_nothing() {
    let server = RedisServer::start(Options::default());
    under_load(&server, async || {
        for _ in 0..40 {
            server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_under_load_loses_nothing_that_was_accepted() {
    let server = RedisServer::start(Options::default());
    under_load(&server, async || {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.kill_and_restart();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stalls_takes_nothing_afterwards_of_what_was_given_up() {
    let server = RedisServer::start(Options::default());
    under_load(&server, async || {
        let stalled = server.stall();
        // What was under way is in doubt by then, and what comes is refused.
        tokio::time::sleep(5 * TIMEOUT).await;
        drop(stalled);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_what_is_new_and_everything_else_goes_on() {
    let server =
        RedisServer::start(Options { max_memory: Some((0, "noeviction".into())), ..Options::default() });
    let store = opened(&server).await;
    let sequence = accept(&store, "before").await.expect("accepts");
    let dead = accept(&store, "dead").await.expect("accepts");
    store.store(arrival("party_a", "in", "x".into(), Some(identity(1, 1, 1)))).await.expect("stores");
    server.config_set("maxmemory", "1mb");
    for _ in 0..3 {
        assert!(
            matches!(accept(&store, "refused").await, Err(StoreError::Unavailable(why)) if why.contains("OOM"))
        );
        let refused = store.store(arrival("party_a", "refused", "x".into(), Some(identity(1, 2, 1)))).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
    let words = "new messages are refused: Redis has no memory for them (OOM ";
    until(
        "it says that it is full",
        async || matches!(&*store.state().borrow(), StoreState::Full(why) if why.starts_with(words)),
    )
    .await;
    let loaded = store.load(&party("party_b"), sequence).await.expect("loads").expect("is pending");
    assert_eq!(loaded.payload.whole().await.expect("reads"), "before");
    assert!(store.settle(&party("party_b"), sequence, Outcome::Delivered).await.expect("settles"));
    let refused = Outcome::Dead(DeadReason::Refused("no".into()));
    assert!(store.settle(&party("party_b"), dead, refused).await.expect("settles"));
    assert_eq!(read(&store, "in").await, Some("x".into()));
    assert!(store.release(&FromSender::Any, &id("in")).await.expect("releases"));
    // A start works, too, and with a server that came back.
    drop(store);
    let store = opened(&server).await;
    assert_eq!(names(&store).await, Vec::<String>::new());
    server.config_set("maxmemory", "0");
    until("it takes new messages again by itself", async || accept(&store, "after").await.is_ok()).await;
    until_serving(&store).await;
    assert_eq!(names(&store).await, ["after"]);
    let second = store.store(arrival("party_a", "refused", "x".into(), Some(identity(1, 2, 1)))).await;
    assert!(matches!(second, Ok(Stored::New(_))), "nothing of it was kept: {second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_becomes_a_replica_takes_nothing_until_it_is_one_again() {
    let (server, other) = (RedisServer::start(Options::default()), RedisServer::start(Options::default()));
    let store = opened(&server).await;
    accept(&store, "before").await.expect("accepts");
    server.config_set("replica-read-only", "yes");
    // Its data goes with that; here there is nothing to sync from, so that it stays.
    other.kill();
    server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    assert!(matches!(
        accept(&store, "refused").await,
        Err(StoreError::Unavailable(_) | StoreError::InDoubt(_))
    ));
    until_away(&store).await;
    server.command(&["REPLICAOF", "NO", "ONE"]);
    until("it takes new messages again by itself", async || accept(&store, "after").await.is_ok()).await;
    assert_eq!(names(&store).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_redis_forgot_are_sent_again() {
    let server = RedisServer::start(Options::default());
    let store = opened(&server).await;
    for n in 0..5 {
        server.command(&["SCRIPT", "FLUSH"]);
        accept(&store, &format!("{n}")).await.expect("accepts");
        server.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(names(&store).await.len(), n + 1);
    }
}

/// What a damaged record, or a write that Redis did in part, can leave behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_figure_that_went_wrong_stops_nobody_and_is_right_again_when_all_has_ended() {
    let server = RedisServer::start(Options::default());
    let store = opened(&server).await;
    let pending = accept(&store, "pending").await.expect("accepts");
    for (hash, field) in [("sizes", "party_b"), ("state", "used")] {
        server.command(&["HSET", &format!("petnet:{{party_own}}:{hash}"), field, "-7000"]);
    }
    let other = RedisStore::open(options(&server), Arc::new(NoObserver)).await.expect("the store opens").0;
    until_serving(&store).await;
    until_serving(&other).await;
    assert!(store.settle(&party("party_b"), pending, Outcome::Delivered).await.expect("settles"));
    until("nothing is counted for nothing", async || {
        let read = |hash: &str, field: &str| {
            server.command(&["HGET", &format!("petnet:{{party_own}}:{hash}"), field]).text()
        };
        let used = read("state", "used") == "0";
        used && server.command(&["HEXISTS", "petnet:{party_own}:sizes", "party_b"]).text() == "0"
    })
    .await;
}

/// A crash cuts a transaction off within, as `begun` has it: what Redis was writing when it died.
fn tear_the_end(server: &RedisServer, begun: &[&[&str]]) {
    let folder = server.folder().join("appendonlydir");
    let files =
        std::fs::read_dir(folder).expect("an append-only file").map(|file| file.expect("a file").path());
    let last = files.filter(|file| file.to_string_lossy().ends_with(".incr.aof")).max().expect("a file");
    let whole = |command: &[&str]| {
        let words = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        format!("*{}\r\n{}", command.len(), words.collect::<String>())
    };
    let begun: String = begun.iter().map(|command| whole(command)).collect();
    let torn = whole(&["MULTI"]) + &begun + "*3\r\n$3\r\nSET\r\n$2\r\nxy\r\n$500\r\nhalf of it";
    let mut file = std::fs::OpenOptions::new().append(true).open(last).expect("opens");
    std::io::Write::write_all(&mut file, torn.as_bytes()).expect("writes");
}

/// Redis 7.0 cuts such a file within the transaction, and carries its part out with what comes next, one start later.
#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_write_that_a_crash_of_redis_tore_never_comes_back() {
    for waits in [false, true] {
        let server = RedisServer::start(Options::default());
        let store = opened(&server).await;
        let sequence = accept(&store, "first").await.expect("accepts").0.to_string();
        server.kill();
        let of = |name: &str| format!("petnet:{{party_own}}:{name}");
        let (pending, state) = (of("pend:party_b"), of("state"));
        tear_the_end(&server, &[&["ZREM", &pending, &sequence], &["HINCRBY", &state, "used", "7000"]]);
        server.restart();
        until("it takes messages again", async || accept(&store, "second").await.is_ok()).await;
        if waits {
            let is = |name, value| server.info(name).as_deref() == Some(value);
            let rewritten = async || is("aof_rewrite_in_progress", "0") && is("aof_rewrites", "1");
            until("Redis has rewritten its file", rewritten).await;
        }
        let used = server.command(&["HGET", &state, "used"]).text();
        server.kill_and_restart();
        until_serving(&store).await;
        assert_eq!(names(&store).await, ["first", "second"]);
        assert_eq!(server.command(&["HGET", &state, "used"]).text(), used);
    }
}

/// A replica that is filled, or a snapshot, puts the rewriting of the file off.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_redis_that_was_killed_before_it_rewrites_its_file() {
    let server = RedisServer::start(Options::default());
    let store = opened(&server).await;
    let sequence = accept(&store, "first").await.expect("accepts").0.to_string();
    store.close().await.expect("closes");
    server.kill();
    tear_the_end(&server, &[&["ZREM", "petnet:{party_own}:pend:party_b", &sequence]]);
    server.restart();
    // Each of the keys takes 0.3 s.
    server.config_set("rdb-key-save-delay", "300000");
    assert!(matches!(server.command(&["BGSAVE"]), petnet_redis_servers::Reply::Status(_)));
    let is = |name: &str, value: &str| server.info(name).as_deref() == Some(value);
    let mut opened = None;
    until("a gateway works with it", async || {
        opened = RedisStore::open(options(&server), Arc::new(NoObserver)).await.ok();
        opened.is_some()
    })
    .await;
    assert!(!is("aof_rewrite_scheduled", "1"), "it was put off, and has begun");
    let store: Arc<dyn Engine> = opened.expect("opened").0;
    accept(&store, "second").await.expect("accepts");
    server.kill_and_restart();
    until_serving(&store).await;
    assert_eq!(names(&store).await, ["first", "second"]);
}

/// An identity that was given out before the server lost its newest data must not name another message afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_its_newest_messages_gives_out_no_identity_twice() {
    let server = RedisServer::start(Options { append: Append::Never, ..Options::default() });
    let store = opened(&server).await;
    let kept = accept(&store, "kept").await.expect("accepts");
    server.command(&["SAVE"]);
    let lost = accept(&store, "lost").await.expect("accepts");
    let of = async |sequence| {
        store.load(&party("party_b"), sequence).await.expect("loads").map(|message| message.identity)
    };
    let (first, second) = (of(kept).await.expect("is pending"), of(lost).await.expect("is pending"));
    server.kill_and_restart();
    until("it takes messages again", async || accept(&store, "next").await.is_ok()).await;
    let all = store.pending(&party("party_b"), Sequence(0), 9).await.expect("lists");
    let next = of(all.last().expect("is pending").sequence).await.expect("is pending");
    assert_eq!(of(kept).await.map(|known| (known.incarnation, known.number)), Some((first.incarnation, 1)));
    assert_ne!((next.incarnation, next.number), (second.incarnation, second.number));
    assert!(next.incarnation > second.incarnation, "newer wins where both came");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_never_handed_out_and_everything_else_is() {
    let server = RedisServer::start(Options::default());
    let store = opened(&server).await;
    let large = payload(1, 700_000);
    let mut sequences = Vec::new();
    for name in ["small", "large", "good"] {
        let bytes = if name == "large" { large.clone() } else { Bytes::from(name) };
        sequences.push(store.accept(&party("party_b"), &id(name), bytes.clone()).await.expect("accepts"));
        store.store(arrival("party_a", name, bytes, None)).await.expect("stores");
    }
    let flip = |key: &str, at: &str| {
        server.command(&["SETRANGE", key, at, "\u{1}"]);
    };
    for (n, at) in [("1", "20"), ("2", "120")] {
        flip(&format!("petnet:{{party_own}}:m:{n}"), at);
    }
    let b = party("party_b");
    assert!(matches!(store.load(&b, sequences[0]).await, Err(StoreError::Damaged { .. })));
    let read_small = store.read(&FromSender::Any, &id("small")).await;
    assert!(matches!(read_small, Err(StoreError::Damaged { .. })), "{read_small:?}");
    assert!(
        store
            .settle(&b, sequences[0], Outcome::Dead(DeadReason::Damaged("it".into())))
            .await
            .expect("settles")
    );
    for body in server.command(&["KEYS", "petnet:{party_own}:body:*"]).list() {
        server.command(&["HSET", &body.text(), "1", "other bytes"]);
    }
    let loaded = store.load(&b, sequences[1]).await.expect("loads").expect("is pending");
    assert!(matches!(loaded.payload.whole().await, Err(StoreError::Damaged { .. })));
    let read_large = store.read(&FromSender::Any, &id("large")).await;
    assert!(matches!(read_large, Err(StoreError::Damaged { .. })), "{read_large:?}");
    let why = DeadReason::Damaged("it".into());
    assert!(store.settle(&b, sequences[1], Outcome::Dead(why)).await.expect("settles"));
    assert_eq!(read(&store, "good").await, Some("good".into()));
    assert_eq!(names(&store).await, ["good"]);
    assert_eq!(store.dead_letters(Sequence(0), 9).await.expect("lists").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loses_messages_is_refused_where_that_is_asked_for() {
    let evicting = RedisServer::start(Options {
        max_memory: Some((100 << 20, "allkeys-lru".into())),
        ..Options::default()
    });
    let open = async |options| RedisStore::open(options, Arc::new(NoObserver)).await;
    let refused = open(options(&evicting)).await;
    assert!(matches!(refused, Err(OpenError::Redis { why, .. }) if why.contains("allkeys-lru")));
    let allowed = RedisOptions { allow_volatile: true, ..options(&evicting) };
    let (_store, report) = open(allowed).await.expect("is allowed");
    assert!(report.to_string().contains("allkeys-lru"), "{report}");

    let lazy = RedisServer::start(Options { append: Append::EverySecond, ..Options::default() });
    let (_store, report) = open(options(&lazy)).await.expect("outside of production it is said");
    assert!(report.to_string().contains("everysec"), "{report}");
    let strict = RedisOptions { strict: true, ..options(&lazy) };
    let refused = open(strict.clone()).await;
    assert!(matches!(refused, Err(OpenError::Redis { why, .. }) if why.contains("everysec")));
    lazy.config_set("appendfsync", "always");
    let (store, report) = open(strict).await.expect("is good");
    assert!(report.durability.losses.is_empty());
    // It is looked at again with every connection.
    lazy.config_set("appendfsync", "no");
    lazy.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until_away(&store).await;
    assert!(
        matches!(accept(&store, "m").await, Err(StoreError::Unavailable(why)) if why.contains("appendfsync"))
    );
}
