//! Several gateways of a party on one Redis are one: the same settings, one quota, one operator, one that delivers.
#![cfg(feature = "redis")]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use futures_util::future::join_all;
use petnet_redis_servers::{Options, RedisServer};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{
    DeadLetter, Engine, Held, IdReuse, NoObserver, Observer, OpenError, Outcome, PartyId, Sequence,
    StoreError, StoreState,
};

fn options(server: &RedisServer, label: &str) -> RedisOptions {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    RedisOptions { label: label.into(), ..options }
}

async fn opened(options: RedisOptions) -> Arc<dyn Engine> {
    RedisStore::open(options, Arc::new(NoObserver)).await.expect("the store opens").0
}

async fn gateway(server: &RedisServer, label: &str, observer: Arc<dyn Observer>) -> Arc<dyn Engine> {
    RedisStore::open(options(server, label), observer).await.expect("the store opens").0
}

/// Why a gateway with these settings does not start.
async fn refusal(options: RedisOptions) -> String {
    match RedisStore::open(options, Arc::new(NoObserver)).await {
        Err(OpenError::Settings { why, .. }) => why,
        other => panic!("it is not refused for its settings: {:?}", other.map(|(_, report)| report)),
    }
}

const DAY: Option<Duration> = Some(Duration::from_hours(24));

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_other_settings_than_those_that_run_is_refused_and_told_which() {
    let server = RedisServer::start(Options::default());
    let one = opened(options(&server, "one")).await;
    let _same = opened(options(&server, "two")).await;
    let other = options(&server, "three");
    let all = [
        ("MESSAGE_TTL", RedisOptions { message_ttl: DAY, ..other.clone() }),
        ("SEND_TTL", RedisOptions { send_ttl: None, ..other.clone() }),
        ("STORE_MAX_BYTES", RedisOptions { max_bytes: 1 << 30, ..other.clone() }),
        ("DEAD_LETTER_MAX_BYTES", RedisOptions { dead_letter_bytes: 7, ..other.clone() }),
        ("MESSAGE_ID_REUSE", RedisOptions { id_reuse: IdReuse::Reject, ..other.clone() }),
    ];
    for (name, differing) in all {
        let why = refusal(differing).await;
        assert!(why.contains(&format!("{name} is ")) && why.matches(" here and ").count() == 1, "{why}");
        assert!(why.contains("one, two") && why.contains("REDIS_SETTINGS=set"), "{why}");
    }
    // Nothing of them was kept, and they are no gateways.
    let fields = server.command(&["HLEN", "petnet:{party_own}:gateways"]).text();
    assert_eq!((one.stats().quota_bytes, fields.as_str()), (0, "2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_others_have_stopped_those_of_the_next_one_are_kept() {
    let server = RedisServer::start(Options::default());
    let one = opened(options(&server, "one")).await;
    one.close().await.expect("closes");
    let longer = |label| RedisOptions { message_ttl: DAY, ..options(&server, label) };
    let _two = opened(longer("two")).await;
    assert!(refusal(options(&server, "one")).await.contains("MESSAGE_TTL is 3600 s here and 86400 s there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_other_settings_that_was_killed_is_waited_for() {
    let server = RedisServer::start(Options::default());
    // As when its process is killed: it tells nobody.
    drop(opened(options(&server, "one")).await);
    let longer = |label| RedisOptions { message_ttl: DAY, ..options(&server, label) };
    let since = Instant::now();
    let again = opened(longer("one")).await;
    assert!(since.elapsed() < Duration::from_secs(5), "it does not wait for its own death");
    drop(again);
    opened(options(&server, "two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_run_follow_one_that_was_told_to_change_the_settings_of_all() {
    let server = RedisServer::start(Options::default());
    let one = opened(options(&server, "one")).await;
    let sequence = one.accept(&party("party_b"), &id("m"), "x".into()).await.expect("accepts");
    let changed = RedisOptions { send_ttl: DAY, max_bytes: 1 << 20, ..options(&server, "two") };
    let two = opened(RedisOptions { set_rules: true, ..changed.clone() }).await;
    until("the first follows", async || one.stats().quota_bytes == 1 << 20).await;
    let full = one.accept(&party("party_b"), &id("large"), vec![7; 2 << 20].into()).await;
    assert!(matches!(full, Err(StoreError::Full { limit, .. }) if limit == 1 << 20), "{full:?}");
    let listed = one.pending_with_ids(&party("party_b"), Sequence(0), 1).await.expect("lists");
    assert_eq!(listed[0].0.sequence, sequence);
    assert!(listed[0].0.expires_in.is_some_and(|left| left <= 86_400), "{listed:?}");
    // They are the settings that the next one has to have, whoever set them.
    two.close().await.expect("closes");
    assert!(refusal(options(&server, "three")).await.contains("SEND_TTL"));
    opened(RedisOptions { label: "three".into(), ..changed }).await;
}

/// Pushes so many MiB in pieces; the upload, or why not.
async fn pushed(
    gateway: &Arc<dyn Engine>,
    mib: usize,
) -> Result<Box<dyn petnet_storage::Upload>, StoreError> {
    let mut upload = gateway.begin(None)?;
    for _ in 0..mib {
        upload.push(Bytes::from(vec![7; 1 << 20])).await?;
    }
    upload.flush().await?;
    Ok(upload)
}

/// A chunk that was on its way when its upload was given up came after the cleaning, and took room for a quarter of an hour.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_takes_no_room_however_far_it_was() {
    let server = RedisServer::start(Options::default());
    let store = opened(RedisOptions { max_bytes: 64 << 20, ..options(&server, "one") }).await;
    for round in 0..60 {
        let mut upload = store.begin(None).expect("begins");
        for _ in 0..=(round % 3) {
            upload.push(Bytes::from(vec![7; 1 << 20])).await.expect("is taken");
        }
        drop(upload);
    }
    let coming = || server.command(&["HLEN", "petnet:{party_own}:coming"]).text();
    until("all of it is gone", async || coming() == "0").await;
    let chunks = || server.command(&["KEYS", "petnet:{party_own}:body:*"]);
    until("its chunks are", async || format!("{:?}", chunks()).matches("body").count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_counts_what_comes_through_all_gateways() {
    let server = RedisServer::start(Options::default());
    let limited = |label| RedisOptions { max_bytes: 8 << 20, ..options(&server, label) };
    let gateways = join_all(["one", "two", "three"].map(|label| opened(limited(label)))).await;
    // Each alone has room; at the same time only one or none has.
    let all = join_all(gateways.iter().map(|gateway| pushed(gateway, 5))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert!(taken.len() <= 1);
    for refused in refused {
        let why = refused.err();
        assert!(matches!(why, Some(StoreError::Full { limit, .. }) if limit == 8 << 20), "{why:?}");
    }
    drop(taken);
    let b = party("party_b");
    let room = |bytes: usize| {
        let other = &gateways[1];
        let b = &b;
        async move { other.accept(b, &id("probe"), vec![7; bytes].into()).await }
    };
    until("what was given up takes no room", async || room(7 << 20).await.is_ok()).await;
    let probe = gateways[1].pending_with_ids(&b, Sequence(0), 1).await.expect("lists")[0].0.sequence;
    assert!(gateways[1].settle(&b, probe, petnet_storage::Outcome::Dropped).await.expect("drops"));
    // A heartbeat may have counted it.
    until("a heartbeat says so", async || gateways[0].stats().used_bytes == 0).await;
    // It counts for small messages, too, and is no more counted once it is accepted.
    let mut upload = None;
    until("the other gateway has heard of the room", async || {
        upload = pushed(&gateways[0], 6).await.ok();
        upload.is_some()
    })
    .await;
    let upload = upload.expect("there is room");
    assert!(matches!(room(3 << 20).await, Err(StoreError::Full { .. })));
    let small = vec![arrival("party_a", "m", vec![7; 500_000].into(), None); 6];
    let small = small
        .into_iter()
        .enumerate()
        .map(|(n, came)| petnet_storage::Arrival { id: id(format!("{n}")), ..came });
    let kept = gateways[1].store_many(small.collect()).await;
    assert!((3..=5).contains(&kept.iter().filter(|kept| kept.is_ok()).count()), "{kept:?}");
    upload.accept(&b, &id("large")).await.expect("its room was kept for it");
    let coming = || server.command(&["HLEN", "petnet:{party_own}:coming"]).text();
    assert_eq!(coming(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_through_a_gateway_that_died_takes_no_room() {
    let server = RedisServer::start(Options::default());
    let limited = |label| RedisOptions { max_bytes: 8 << 20, ..options(&server, label) };
    let (one, two) = (opened(limited("one")).await, opened(limited("two")).await);
    let upload = pushed(&one, 6).await.expect("there is room");
    assert!(matches!(pushed(&two, 6).await, Err(StoreError::Full { .. })));
    // It is gone, and gives nothing of it back: the others do not hear of it any more.
    std::mem::forget(upload);
    one.close().await.expect("closes");
    until("the other one has room", async || pushed(&two, 6).await.is_ok()).await;
}

/// Hears what the operator wants, and has deliveries under way as it is told.
#[derive(Default)]
struct Watcher {
    tried: Mutex<Vec<PartyId>>,
    delivering: AtomicBool,
}

impl Observer for Watcher {
    fn arrived(&self, _: &Held) {}
    fn pending(&self, _: &PartyId, _: Sequence, _: u64) {}
    fn died(&self, _: &DeadLetter) {}
    fn try_at_once(&self, peer: &PartyId) {
        self.tried.lock().expect("no panic").push(peer.clone());
    }
    fn is_delivering(&self, _: &PartyId) -> bool {
        self.delivering.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_says_at_one_gateway_holds_at_all() {
    let server = RedisServer::start(Options::default());
    let watcher = Arc::new(Watcher::default());
    let one = gateway(&server, "one", watcher.clone()).await;
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    let b = party("party_b");
    let paused = |gateway: &Arc<dyn Engine>| (**gateway.pauses().expect("kept in Redis").borrow()).clone();
    assert!(two.pause(&b, true).await.expect("pauses"));
    assert!(!two.pause(&b, true).await.expect("answers"), "it was paused already");
    assert_eq!(paused(&two), BTreeSet::from([b.clone()]), "where it was said, at once");
    until("the other one knows", async || paused(&one).contains(&b)).await;
    let three = gateway(&server, "three", Arc::new(NoObserver)).await;
    assert!(paused(&three).contains(&b), "one that starts knows, too");
    assert!(one.pause(&b, false).await.expect("resumes"));
    until("all know", async || [&one, &two, &three].iter().all(|one| paused(one).is_empty())).await;
    two.try_at_once(std::slice::from_ref(&b)).await.expect("tells");
    until("the other one is told to try", async || *watcher.tried.lock().expect("no panic") == [b.clone()])
        .await;
}

async fn listed(gateway: &Arc<dyn Engine>, peer: &str) -> usize {
    gateway.pending(&party(peer), Sequence(0), 10).await.expect("lists").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_changes_gateways_when_nothing_is_under_way_to_it_and_never_before() {
    let server = RedisServer::start(Options::default());
    let watcher = Arc::new(Watcher::default());
    let one = gateway(&server, "one", watcher.clone()).await;
    for peer in ["party_b", "party_c"] {
        for (name, len) in [("small", 5), ("large", 700_000)] {
            one.accept(&party(peer), &id(name), payload(1, len)).await.expect("accepts");
        }
        until("it delivers", async || listed(&one, peer).await == 2).await;
    }
    watcher.delivering.store(true, Ordering::SeqCst);
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    let peers = ["party_b", "party_c"];
    let count = async |gateway: &Arc<dyn Engine>| {
        join_all(peers.map(|peer| listed(gateway, peer))).await.iter().sum::<usize>()
    };
    until("it begins nothing for one of them", async || count(&one).await == 2).await;
    // For longer than the pause between two heartbeats.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        assert_eq!(count(&two).await, 0, "the other one may not yet");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watcher.delivering.store(false, Ordering::SeqCst);
    until("the other one delivers to it", async || count(&two).await == 2).await;
    // It is shown where another one delivers, too.
    for peer in peers {
        let there = one.pending_with_ids(&party(peer), Sequence(0), 10).await.expect("lists");
        for (pending, name) in there {
            for gateway in [&one, &two] {
                let shown = gateway.open_pending(&party(peer), pending.sequence).await.expect("opens");
                let shown = shown.expect("is pending");
                assert_eq!(Some(shown.id), name);
                assert_eq!(shown.payload.whole().await.expect("reads").len() as u64, pending.len);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_redis_gave_to_another_one_is_over_whatever_our_clock_says() {
    let server = RedisServer::start(Options::default());
    let one = gateway(&server, "one", Arc::new(NoObserver)).await;
    let b = party("party_b");
    one.accept(&b, &id("m"), "x".into()).await.expect("accepts");
    until("it delivers", async || one.may_deliver(&b).await.expect("asks")).await;
    server.command(&["HSET", "petnet:{party_own}:leases", "party_b", "another"]);
    let (asked, by_our_clock) = (one.may_deliver(&b).await.expect("asks"), one.holds(&b));
    assert!(!asked && by_our_clock, "{asked} {by_our_clock}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_seen_without_a_send_and_so_is_its_end() {
    let server = RedisServer::start(Options::default());
    let one = opened(options(&server, "one")).await;
    assert_eq!(*one.state().borrow(), StoreState::Serving);
    for _ in 0..2 {
        server.config_set("maxmemory", "1");
        until(
            "it says so",
            async || matches!(&*one.state().borrow(), StoreState::Full(why) if why.contains("OOM")),
        )
        .await;
        server.config_set("maxmemory", "0");
        until("it is over", async || *one.state().borrow() == StoreState::Serving).await;
    }
    // Neither does one that refuses every write go unnoticed.
    server.config_set("min-replicas-to-write", "1");
    until("it says so", async || matches!(*one.state().borrow(), StoreState::Refusing(_))).await;
    server.config_set("min-replicas-to-write", "0");
    until("it is over", async || *one.state().borrow() == StoreState::Serving).await;
}

/// The quota, too: it is used up by whoever it may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_seen_at_all_gateways_without_a_send_and_so_is_its_end() {
    let server = RedisServer::start(Options::default());
    let quota = |label| RedisOptions { max_bytes: 200_000, ..options(&server, label) };
    let (one, two) = (opened(quota("one")).await, opened(quota("two")).await);
    let b = party("party_b");
    let first = one.accept(&b, &id("first"), payload(1, 150_000)).await.expect("accepts");
    let full = async |words: &str| {
        until("both say so", async || {
            [&one, &two].iter().all(
                |store| matches!(&*store.state().borrow(), StoreState::Full(why) if why.starts_with(words)),
            )
        })
        .await;
    };
    full("messages of 64 KiB and more are refused; smaller ones still find room").await;
    assert!(matches!(two.accept(&b, &id("large"), payload(1, 70_000)).await, Err(StoreError::Full { .. })));
    let used: u64 = two.stats().used_bytes;
    let rest = payload(2, (200_000 - used - 420) as usize);
    two.accept(&b, &id("rest"), rest).await.expect("accepts");
    full("new messages are refused").await;
    one.settle(&b, first, Outcome::Delivered).await.expect("settles");
    until("both serve again", async || {
        [&one, &two].iter().all(|store| *store.state().borrow() == StoreState::Serving)
    })
    .await;
}
