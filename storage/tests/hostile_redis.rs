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
    DeadLetter, DeadReason, Engine, FromSender, Held, ManualClock, NoObserver, Observer, Outcome, PartyId,
    Result, Sequence, StoreError, StoreState,
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

