//! The lists of the mailbox in Redis: a page takes the work of what it gives, and what other versions left is listed right at once.
#![cfg(feature = "redis")]

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use common::*;
use petnet_redis_servers::{Options, RedisServer, Reply};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{Engine, FromSender, NoObserver, Sequence};

/// Messages of a page.
const PAGE: usize = 100;
/// Messages that share a place in a list.
const PLACE: u64 = 16_384;
/// Messages that are passed over where many match in a place, at most.
const NEAR: u64 = 800;
const SENDERS: [&str; 3] = ["party_a", "party_b", "party_c"];

async fn opened(server: &RedisServer) -> Arc<dyn Engine> {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    RedisStore::open(options, Arc::new(NoObserver)).await.expect("the store opens").0
}

fn key(name: &str) -> String {
    format!("petnet:{{party_own}}:{name}")
}

fn of(sender: &str) -> FromSender {
    FromSender::Party(party(sender))
}

/// The first message stands so far before the end of a place.
fn start_before_a_place(server: &RedisServer, messages: u64) {
    let last = (PLACE - messages - 1).to_string();
    server.command(&["HSET", &key("state"), "seq", &last, "named", &last]);
}

/// Every 500th is of a topic of its own; `party_c` sends one of 100.
async fn store(store: &Arc<dyn Engine>, numbers: std::ops::Range<u64>) {
    let message = |n: u64| {
        let name = if n.is_multiple_of(500) { format!("rare/{n}") } else { format!("other/{n}") };
        let sender = if n % 100 == 7 { "party_c" } else { SENDERS[n as usize % 2] };
        arrival(sender, &name, "x".into(), None)
    };
    let all: Vec<_> = numbers.map(message).collect();
    for some in all.chunks(256) {
        let stored = store.store_many(some.to_vec()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
}

async fn all(store: &Arc<dyn Engine>, from: &FromSender, prefix: &str) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), Sequence(0));
    loop {
        let some = store.topic(from, prefix, after, PAGE).await.expect("lists");
        let Some(last) = some.last() else { return all };
        assert!(some.is_sorted_by(|a, b| a.sequence < b.sequence) && some[0].sequence > after);
        after = last.sequence;
        all.extend(some.into_iter().map(|found| found.id.to_string()));
    }
}

/// Commands that Redis carried out meanwhile, by name: those of scripts, too.
async fn work(server: &RedisServer, of: impl AsyncFnOnce()) -> HashMap<String, u64> {
    server.command(&["CONFIG", "RESETSTAT"]);
    of().await;
    let told = server.command(&["INFO", "commandstats"]).text();
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    told.lines().filter_map(calls).collect()
}

/// How many entries there are.
fn entries(server: &RedisServer) -> u64 {
    let keys = server.command(&["KEYS", &key("names:*")]);
    keys.list().iter().map(|key| number(&server.command(&["ZCARD", &key.text()]))).sum()
}

fn number(reply: &Reply) -> u64 {
    reply.text().parse().unwrap_or(0)
}

/// Whether everything is listed that is there.
fn is_complete(server: &RedisServer) -> bool {
    let of_state = |name: &str| number(&server.command(&["HGET", &key("state"), name]));
    of_state("named") == of_state("seq")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_takes_the_work_of_what_it_gives_and_not_of_what_is_there() {
    const MANY: u64 = 10_000;
    let server = RedisServer::start(Options::default());
    let engine = opened(&server).await;
    start_before_a_place(&server, MANY * 7 / 10);
    store(&engine, 1..MANY + 1).await;
    let middle = engine.topic(&FromSender::Any, "", Sequence(0), MANY as usize / 2).await.expect("lists");
    let middle = middle.last().expect("is there").sequence;
    let (any, some, few, none) = (FromSender::Any, of("party_a"), of("party_c"), FromSender::Unnamed);
    let cases = [
        (&any, "", PAGE),
        (&any, "rare/", 10),
        (&any, "rare/70", 1),
        (&any, "other/", PAGE),
        (&any, "nothing", 0),
        (&some, "", PAGE),
        (&some, "rare/", 10),
        (&some, "other/", PAGE),
        (&few, "", 50),
        (&few, "other/", 50),
        (&few, "rare/", 0),
        (&none, "", 0),
    ];
    for (from, prefix, wanted) in cases {
        let mut found = 0;
        let done = work(&server, async || {
            found = engine.topic(from, prefix, middle, PAGE).await.expect("lists").len();
        })
        .await;
        assert_eq!(found, wanted, "{from:?} {prefix:?}");
        let of = |name: &str| done.get(name).copied().unwrap_or(0);
        // A heartbeat looks at some, too.
        let heads = of("getrange");
        assert!(heads <= 3 * found as u64 + 20, "{heads} messages were read: {from:?} {prefix:?}");
        let seeks = of("zrangebylex");
        let most = 3 * SENDERS.len() as u64 * (MANY / PLACE + 2);
        assert!(seeks <= most, "{seeks} looks at lists: {from:?} {prefix:?}");
    }
}

/// A page of messages that came in a burst is near where it goes on, or far behind what came before; and it is never looked for message by message.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_listed_once_and_in_order_wherever_it_is() {
    const BEFORE: u64 = 2000;
    const BURST: u64 = 5000;
    let server = RedisServer::start(Options::default());
    let engine = opened(&server).await;
    start_before_a_place(&server, BEFORE + 3 * BURST / 5);
    let of_number = |n: u64| {
        let topic = if (BEFORE..BEFORE + BURST).contains(&n) { "burst" } else { "other" };
        arrival(SENDERS[n as usize % 2], &format!("{topic}/{n}"), "x".into(), None)
    };
    let messages: Vec<_> = (0..2 * BEFORE + BURST).map(of_number).collect();
    for some in messages.chunks(256) {
        let stored = engine.store_many(some.to_vec()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
    let done = work(&server, async || {
        let page = engine.topic(&FromSender::Any, "burst/", Sequence(0), PAGE).await.expect("lists");
        assert_eq!(page.len(), PAGE);
        assert_eq!(page[0].id.to_string(), format!("burst/{BEFORE}"));
    })
    .await;
    let heads = done.get("getrange").copied().unwrap_or(0);
    assert!(heads <= NEAR + PAGE as u64 + 20, "{heads} messages were read");
    // Some end.
    for n in (BEFORE..BEFORE + BURST).step_by(7) {
        let sender = of(SENDERS[n as usize % 2]);
        assert!(engine.release(&sender, &id(format!("burst/{n}"))).await.expect("releases"));
    }
    for (from, share) in [(FromSender::Any, None), (of("party_a"), Some(0)), (of("party_b"), Some(1))] {
        let wanted: Vec<_> = (BEFORE..BEFORE + BURST)
            .filter(|n| share.is_none_or(|share| n % 2 == share) && !(n - BEFORE).is_multiple_of(7))
            .map(|n| format!("burst/{n}"))
            .collect();
        assert!(all(&engine, &from, "burst/").await == wanted, "{from:?}");
    }
    assert_eq!(all(&engine, &FromSender::Any, "other/").await.len() as u64, 2 * BEFORE);
}

/// A burst that fills more than two places, with few others before and behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_several_places_is_listed_once_and_in_order() {
    const OTHERS: u64 = 300;
    let server = RedisServer::start(Options::default());
    let engine = opened(&server).await;
    let burst = OTHERS..OTHERS + 2 * PLACE + 5000;
    let of_number = |n: u64| {
        let topic = if burst.contains(&n) { "burst" } else { "other" };
        arrival(SENDERS[n as usize % 2], &format!("{topic}/{n}"), "x".into(), None)
    };
    let messages: Vec<_> = (0..burst.end + OTHERS).map(of_number).collect();
    for some in messages.chunks(512) {
        let stored = engine.store_many(some.to_vec()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
    for (from, share) in [(FromSender::Any, None), (of("party_b"), Some(1))] {
        let wanted: Vec<_> = burst
            .clone()
            .filter(|n| share.is_none_or(|share| n % 2 == share))
            .map(|n| format!("burst/{n}"))
            .collect();
        let found = all(&engine, &from, "burst/").await;
        assert!(found == wanted, "{from:?}: {} of {}", found.len(), wanted.len());
    }
    assert_eq!(all(&engine, &FromSender::Any, "other/").await.len() as u64, 2 * OTHERS);
}

/// Few messages of many senders, with many sequences between them: lists are searched some places ahead, not all of them as far.
#[tokio::test(flavor = "multi_thread")]
async fn what_many_senders_have_far_apart_is_listed_once_and_in_order() {
    let seed = std::env::var("PETNET_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(std::process::id().into());
    println!("PETNET_SEED={seed}");
    let mut random: u64 = seed;
    let mut draw = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for senders in [2, 10, 30, 100] {
        let server = RedisServer::start(Options::default());
        let engine = opened(&server).await;
        let mut sequence = 0;
        let mut ids: Vec<(u64, String)> = Vec::new();
        for _ in 0..60 {
            sequence += draw(3 * PLACE);
            let last = sequence.to_string();
            server.command(&["HSET", &key("state"), "seq", &last, "named", &last]);
            let messages: Vec<_> = (0..=draw(8))
                .map(|_| {
                    sequence += 1;
                    let sender = draw(senders);
                    ids.push((sender, format!("{}/{sequence}", ["rare", "few", "x"][draw(3) as usize])));
                    arrival(&format!("party_{sender}"), &ids[ids.len() - 1].1, "x".into(), None)
                })
                .collect();
            let stored = engine.store_many(messages).await;
            assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        }
        for prefix in ["rare/", "few/", "none/"] {
            for one in [None, Some(0), Some(draw(senders))] {
                let from = one.map_or(FromSender::Any, |n| of(&format!("party_{n}")));
                let is_of = |sender: u64| one.is_none_or(|n| n == sender);
                let wanted: Vec<_> = ids
                    .iter()
                    .filter(|(sender, id)| is_of(*sender) && id.starts_with(prefix))
                    .map(|(_, id)| id.clone())
                    .collect();
                assert_eq!(all(&engine, &from, prefix).await, wanted, "{senders} senders, {from:?} {prefix}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_kept_is_listed_right_at_once_and_from_lists_later() {
    const MANY: u64 = 6000;
    let server = RedisServer::start(Options::default());
    let engine = opened(&server).await;
    start_before_a_place(&server, 4096);
    store(&engine, 1..MANY + 1).await;
    let check = async || {
        assert_eq!(all(&engine, &FromSender::Any, "rare/").await.len() as u64, MANY / 500);
        assert_eq!(all(&engine, &of("party_c"), "").await.len() as u64, MANY / 100);
        assert_eq!(all(&engine, &of("party_a"), "rare/").await.len() as u64, MANY / 500);
        assert_eq!(all(&engine, &FromSender::Any, "").await.len() as u64, MANY);
    };
    check().await;
    assert!(is_complete(&server) && entries(&server) == MANY);
    for lost in ["all of it", "what came last"] {
        if lost == "all of it" {
            for sender in SENDERS {
                server.command(&["UNLINK", &key(&format!("names:{sender}"))]);
            }
            server.command(&["HDEL", &key("state"), "named"]);
        } else {
            // As when a gateway of an older version kept the second half, beside this one.
            server.command(&["HSET", &key("state"), "named", &(PLACE - 96).to_string()]);
            for sender in SENDERS {
                let list = key(&format!("names:{sender}"));
                // Those of the second place.
                server.command(&["ZREMRANGEBYLEX", &list, "[0000000001", "+"]);
            }
        }
        check().await;
        until("the lists are complete", async || is_complete(&server)).await;
        assert_eq!(entries(&server), MANY, "{lost}");
        check().await;
    }
}

/// Its ends leave entries; nobody sees them, and they go.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_ended_is_listed_no_more_and_leaves_nothing() {
    let server = RedisServer::start(Options::default());
    let engine = opened(&server).await;
    store(&engine, 1..601).await;
    let end = |n: u64| {
        server.command(&["ZREM", &key("mail"), &n.to_string()]);
        server.command(&["UNLINK", &key(&format!("m:{n}"))]);
    };
    (11..=400).for_each(end);
    assert_eq!(all(&engine, &of("party_c"), "").await, ["other/7", "other/407", "other/507"]);
    assert_eq!(all(&engine, &FromSender::Any, "rare/").await, ["rare/500"]);
    assert_eq!(all(&engine, &FromSender::Any, "other/").await.len(), 600 - 390 - 1);
    // What is met goes at once.
    assert_eq!(entries(&server), 600 - 390);
    // Others do when they are the oldest.
    (1..=10).chain(401..=600).for_each(end);
    until("the entries are gone", async || entries(&server) == 0).await;
    assert_eq!(all(&engine, &of("party_a"), "").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_leaves_no_entry() {
    let server = RedisServer::start(Options::default());
    let engine = opened(&server).await;
    store(&engine, 1..301).await;
    assert_eq!(entries(&server), 300);
    // Some are replaced, and some in the same operation.
    store(&engine, 1..101).await;
    let twice: Vec<_> =
        (0..50).map(|n| arrival("party_a", &format!("{}", n % 5), "x".into(), None)).collect();
    assert!(engine.store_many(twice).await.iter().all(Result::is_ok));
    assert_eq!(entries(&server), 305);
    assert!(engine.release(&of("party_b"), &id("other/1")).await.expect("releases"));
    assert_eq!(entries(&server), 304);
    assert_eq!(engine.release_topic(&of("party_a"), "other/").await.expect("releases"), 150);
    assert_eq!(engine.release_topic(&FromSender::Any, "").await.expect("releases"), 154);
    assert_eq!(entries(&server), 0);
}
