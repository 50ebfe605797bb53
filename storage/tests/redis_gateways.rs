//! Several gateways of a party on one Redis: who delivers, who takes over, and what they tell each other.
#![cfg(feature = "redis")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use petnet_redis_servers::{Options, RedisServer};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{
    DeadLetter, Engine, FromSender, Handed, Held, ManualClock, NoObserver, Observer, Outcome, PartyId,
    Sequence, Stored, Tracked,
};

/// A gateway that has an address of its own.
async fn gateway(server: &RedisServer, label: &str, observer: Arc<dyn Observer>) -> Arc<dyn Engine> {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    let options = RedisOptions { label: label.into(), ..options };
    RedisStore::open(options, observer).await.expect("the store opens").0
}

/// Notes what it is told, and knows only some peers.
#[derive(Default)]
struct Watcher {
    arrived: Mutex<Vec<Held>>,
    missed: AtomicUsize,
    hints: AtomicUsize,
    died: AtomicUsize,
    not_served: Option<PartyId>,
}

impl Observer for Watcher {
    fn arrived(&self, message: &Held) {
        self.arrived.lock().expect("no panic").push(message.clone());
    }
    fn pending(&self, _: &PartyId, _: Sequence, _: u64) {
        self.hints.fetch_add(1, Ordering::SeqCst);
    }
    fn died(&self, _: &DeadLetter) {
        self.died.fetch_add(1, Ordering::SeqCst);
    }
    fn missed(&self) {
        self.missed.fetch_add(1, Ordering::SeqCst);
    }
    fn serves(&self, peer: &PartyId) -> bool {
        self.not_served.as_ref() != Some(peer)
    }
}

async fn listed(gateway: &Arc<dyn Engine>, peer: &str) -> usize {
    gateway.pending(&party(peer), Sequence(0), 1000).await.expect("lists").len()
}

/// Which of two gateways delivers to a peer.
async fn owner(one: &Arc<dyn Engine>, two: &Arc<dyn Engine>, peer: &str) -> Option<usize> {
    match (listed(one, peer).await, listed(two, peer).await) {
        (0, 0) => None,
        (_, 0) => Some(1),
        (0, _) => Some(2),
        both => panic!("both deliver to {peer}: {both:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_accepts_and_one_delivers_and_peers_are_shared_out() {
    let server = RedisServer::start(Options::default());
    let one = gateway(&server, "one", Arc::new(NoObserver)).await;
    for peer in ["party_b", "party_c", "party_d", "party_e"] {
        one.accept(&party(peer), &id("m"), "x".into()).await.expect("accepts");
    }
    assert_eq!(listed(&one, "party_b").await, 1);
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    let accepted = two.accept(&party("party_b"), &id("n"), "y".into()).await.expect("accepts");
    until("each has two peers", async || {
        let mut counts = [0; 3];
        for peer in ["party_b", "party_c", "party_d", "party_e"] {
            counts[owner(&one, &two, peer).await.unwrap_or(0)] += 1;
        }
        counts == [0, 2, 2]
    })
    .await;
    // Whoever does not deliver can neither load nor list, and whoever does sees what the other accepted.
    let of_b = owner(&one, &two, "party_b").await;
    let (mine, other) = if of_b == Some(1) { (&one, &two) } else { (&two, &one) };
    assert!(other.load(&party("party_b"), accepted).await.expect("answers").is_none());
    let loaded = mine.load(&party("party_b"), accepted).await.expect("loads").expect("is pending");
    assert_eq!((loaded.identity.number, loaded.identity.low_water), (2, 1));
    assert!(mine.settle(&party("party_b"), accepted, Outcome::Delivered).await.expect("settles"));
    until("both know what became of it", async || {
        let track = async |gateway: &Arc<dyn Engine>| gateway.track_sent(&party("party_b"), &id("n")).await;
        let delivered = Tracked::Delivered { sequence: accepted };
        track(&one).await.expect("tracks") == delivered && track(&two).await.expect("tracks") == delivered
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_gateway_that_died_is_taken_over_within_ten_seconds_and_at_once_when_it_left() {
    let server = RedisServer::start(Options::default());
    let one = gateway(&server, "one", Arc::new(NoObserver)).await;
    one.accept(&party("party_b"), &id("m"), "x".into()).await.expect("accepts");
    assert_eq!(listed(&one, "party_b").await, 1);
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    assert_eq!(owner(&one, &two, "party_b").await, Some(1));
    // As when its process is killed: it tells nobody.
    drop(one);
    let died = Instant::now();
    until("it is taken over", async || listed(&two, "party_b").await == 1).await;
    let took = died.elapsed();
    println!("taken over after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");

    let three = gateway(&server, "three", Arc::new(NoObserver)).await;
    assert_eq!(listed(&three, "party_b").await, 0);
    two.close().await.expect("closes");
    until("it is taken over", async || listed(&three, "party_b").await == 1).await;
    // One that starts anew at the same address needs not wait for its own death.
    drop(three);
    let again = gateway(&server, "three", Arc::new(NoObserver)).await;
    assert_eq!(listed(&again, "party_b").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_delivers_to_no_peer_that_it_does_not_know() {
    let server = RedisServer::start(Options::default());
    let watcher = Watcher { not_served: Some(party("party_b")), ..Watcher::default() };
    let one = gateway(&server, "one", Arc::new(watcher)).await;
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    for n in 0..3 {
        one.accept(&party("party_b"), &id(format!("{n}")), "x".into()).await.expect("accepts");
    }
    until("the other one delivers", async || owner(&one, &two, "party_b").await == Some(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_at_one_gateway_is_told_to_all_and_is_the_same_everywhere() {
    let server = RedisServer::start(Options::default());
    let watcher = Arc::new(Watcher::default());
    let one = gateway(&server, "one", watcher.clone()).await;
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    for len in [0, 10, 600_000] {
        let bytes = payload(len, len as usize);
        let came = arrival("party_a", &format!("m{len}"), bytes.clone(), Some(identity(1, 1 + len, 1)));
        assert!(matches!(two.store(came.clone()).await.expect("stores"), Stored::New(_)));
        until("it is told", async || watcher.arrived.lock().expect("no panic").len() == 1).await;
        let held = watcher.arrived.lock().expect("no panic").pop().expect("is there");
        assert_eq!(held.read().await.expect("reads").payload, bytes);
        assert_eq!(one.store(came).await.expect("answers"), Stored::Repeated, "the memory is shared");
    }
    assert!(two.release(&FromSender::Any, &id("m10")).await.expect("releases"));
    assert!(read(&one, "m10").await.is_none());
    until("the end is known", async || {
        let tracked = one.track_received(&FromSender::Any, &id("m10")).await.expect("tracks");
        matches!(tracked, Tracked::Released { .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_have_missed_news_is_told_to_look() {
    let server = RedisServer::start(Options::default());
    let watcher = Arc::new(Watcher::default());
    let _one = gateway(&server, "one", watcher.clone()).await;
    let two = gateway(&server, "two", Arc::new(NoObserver)).await;
    let missed = || watcher.missed.load(Ordering::SeqCst);
    let before = missed();
    // A number is left out, as if its news were lost on their way.
    server.command(&["HINCRBY", "petnet:{party_own}:state", "news", "1"]);
    until("the gap is noticed", async || missed() > before).await;
    let before = missed();
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    two.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    until("the lost connection is noticed", async || missed() > before).await;
    two.store(arrival("party_a", "n", "x".into(), None)).await.expect("stores");
    until("news come again", async || {
        watcher.arrived.lock().expect("no panic").iter().any(|held| held.id == id("n"))
    })
    .await;
}

/// What was accepted when the connections broke was never heard of; the lease outlasted that, so nothing but the next message
/// led to another look, and a peer to which no more was sent got what was there after the next restart.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_delivers_looks_again_when_connections_broke_for_less_than_a_lease() {
    let server = RedisServer::start(Options::default());
    let watcher = Arc::new(Watcher::default());
    let one = gateway(&server, "one", watcher.clone()).await;
    one.accept(&party("party_b"), &id("m"), "x".into()).await.expect("accepts");
    until("it delivers to the peer", async || listed(&one, "party_b").await == 1).await;
    for kind in ["pubsub", "normal"] {
        let (hints, missed) = (watcher.hints.load(Ordering::SeqCst), watcher.missed.load(Ordering::SeqCst));
        server.command(&["CLIENT", "KILL", "TYPE", kind]);
        until("news come again", async || watcher.missed.load(Ordering::SeqCst) > missed).await;
        until("it is told to look", async || watcher.hints.load(Ordering::SeqCst) > hints).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_at_one_gateway_is_read_at_all_and_what_nobody_reads_dies_once() {
    let server = RedisServer::start(Options::default());
    let clock = Arc::new(ManualClock::default());
    let unread_ttl = Some(Duration::from_secs(100));
    let opened = async |label: &str, watcher: &Arc<Watcher>| {
        let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
        let options = RedisOptions { label: label.into(), clock: clock.clone(), unread_ttl, ..options };
        RedisStore::open(options, watcher.clone()).await.expect("the store opens").0
    };
    let (watcher, other_watcher) = (Arc::new(Watcher::default()), Arc::new(Watcher::default()));
    let (one, two) = (opened("one", &watcher).await, opened("two", &other_watcher).await);
    for sender in ["party_a", "party_c"] {
        for name in ["m", "unread"] {
            one.store(arrival(sender, name, sender.to_owned().into(), None)).await.expect("stores");
        }
    }
    let found = async |gateway: &Arc<dyn Engine>, from: &str| {
        let opened = gateway.open(&FromSender::Party(party(from)), &id("m")).await.expect("opens");
        opened.expect("is there")
    };
    two.note_read(&[Handed::from(&found(&two, "party_a").await)]);
    until("it is read everywhere", async || !found(&one, "party_a").await.unread).await;
    // So a plain receive at the other one knows which of the two is new.
    let plain = one.open(&FromSender::Any, &id("m")).await.expect("opens").expect("is there");
    assert_eq!((plain.sender, plain.unread), (Some(party("party_c")), true));
    one.note_read(&[Handed::from(&found(&one, "party_c").await)]);
    until("both are read", async || !found(&two, "party_c").await.unread).await;
    for (gateway, sender) in [(&one, "party_a"), (&two, "party_c"), (&one, "party_a")] {
        gateway.note_read(&[Handed::from(&found(gateway, sender).await)]);
        for any in [&one, &two] {
            until("the one that was read last comes first everywhere", async || {
                let plain = any.open(&FromSender::Any, &id("m")).await.expect("opens").expect("is there");
                plain.sender == Some(party(sender))
            })
            .await;
        }
    }
    // One gateway may be behind the other: so long, lives are longer.
    clock.advance(Duration::from_secs(104));
    until("both have looked", async || [&one, &two].iter().all(|g| g.stats().service_seconds >= 104)).await;
    assert_eq!(one.count_dead_letters(9).await.expect("counts")[3], 0, "not before what they may differ by");
    clock.advance(Duration::from_secs(6));
    until("what nobody read is dead", async || one.count_dead_letters(9).await.expect("counts")[3] == 2)
        .await;
    until("one of them says so", async || {
        let died = |watcher: &Watcher| watcher.died.load(Ordering::SeqCst);
        died(&watcher) + died(&other_watcher) == 2
    })
    .await;
    let letter = two.dead_letters(Sequence(0), 1).await.expect("lists").remove(0);
    assert!(two.retry_dead_letter(letter.sequence).await.expect("retries").is_some());
    let back = one.open(&FromSender::Any, &id("unread")).await.expect("opens").expect("is back");
    assert_eq!((back.sender.as_ref(), back.unread), (letter.correspondent.party(), true));
    assert!(!found(&one, "party_a").await.unread, "what was read stays");
}

/// Reads cost no command each, and a gateway where nobody reads sends nothing for it.
#[tokio::test(flavor = "multi_thread")]
async fn many_reads_are_noted_together_and_no_reads_not_at_all() {
    let server = RedisServer::start(Options::default());
    let one = gateway(&server, "one", Arc::new(NoObserver)).await;
    let mut read = Vec::new();
    for n in 0..400 {
        let Stored::New(sequence) =
            one.store(arrival("party_a", &n.to_string(), "x".into(), None)).await.expect("stores")
        else {
            panic!("it is new")
        };
        read.push(Handed { sender: Some(party("party_a")), id: id(n.to_string()), sequence });
    }
    let calls = || {
        let stats = server.command(&["INFO", "commandstats"]);
        let calls = stats.field("cmdstat_evalsha").unwrap_or_default();
        calls.trim_start_matches("calls=").split(',').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = calls();
    for again in 0..10 {
        for read in &read {
            one.note_read(std::slice::from_ref(read));
        }
        assert!(again > 0 || calls() - before < 10, "it does not wait for Redis");
    }
    let written = || server.command(&["ZCARD", "petnet:{party_own}:read"]).text() == "400";
    until("all are noted", async || written()).await;
    assert!(calls() - before < 40, "4,000 reads took {} scripts", calls() - before);
    one.close().await.expect("closes");
}
