//! Stories of several gateways that share one mailbox in Redis: one takes over from another, and readers at any of them hear
//! of what came through any other.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use petnet_recovery_tests::fleet::{Fleet, Victim};
use petnet_recovery_tests::home::{Home, prefix};
use petnet_recovery_tests::ledger::{Answer, Key};
use petnet_recovery_tests::story::{A, B};
use petnet_recovery_tests::{DEADLINE, LOOK_EVERY, setting, until};
use petnet_redis_servers::Reply;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep, timeout};

/// The promise: a dead gateway's work is taken over within this.
const TAKEN_OVER: Duration = Duration::from_secs(10);
/// What a busy machine may add to that.
const SLACK: Duration = Duration::from_secs(10);

/// Which gateway of A delivers to B, as Redis has it.
async fn who_delivers(story: &Fleet) -> usize {
    let home = story.a.home.clone();
    until("a gateway of A delivers to B", async || {
        let owner = home.ask(&["HGET", &format!("{}leases", prefix(A)), B.name()]);
        let Reply::Bytes(owner) = owner else { return None };
        let owner = String::from_utf8(owner).unwrap();
        let gateway = home.ask(&["HGET", &format!("{}gateways", prefix(A)), &owner]).text();
        story.a.gateways.iter().position(|one| gateway.contains(&one.address()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_gateway_was_to_deliver_is_delivered_by_the_other_one() {
    let mut story = Fleet::new((Home::server(), 2), (Home::server(), 1));
    story.start().await;
    let mut longest = Duration::ZERO;
    for _ in 0..setting("PETNET_TAKEOVERS", 2) {
        story.send(A, 0, 1, 100).await;
        let victim = who_delivers(&story).await;
        story.kill(&[Victim::Gateway(B, 0)]).await;
        story.send(A, 0, 100, 1_000).await;
        story.send(A, 1, 100, 1_000).await;
        // Under way to B, or about to be, at the moment of the kill.
        story.b.gateways[0].healthy().await;
        story.kill(&[Victim::Gateway(A, victim)]).await;
        let killed = Instant::now();
        let home = story.a.home.clone();
        until("the other one has delivered all", async || (home.held(A).pending == 0).then_some(())).await;
        longest = longest.max(killed.elapsed());
        assert!(longest < TAKEN_OVER + SLACK, "delivered {longest:?} after the kill");
        assert_ne!(who_delivers(&story).await, victim);
        story.promises_are_kept().await;
        story.start().await;
    }
    println!("a dead gateway's messages were all delivered within {longest:?} of its death");
    story.ends_well().await;
}

/// A reader that waits at a gateway of B: one call.
fn reader(story: &Fleet, at: usize, key: &Key) -> JoinHandle<Instant> {
    let (mut client, wanted, ledger) = (story.clients(B)[at].clone(), key.clone(), story.ledger.clone());
    tokio::spawn(async move {
        let found = client.receive(&wanted, DEADLINE).await.expect("it is not told of any trouble");
        let found = found.expect("it waits until the message is there");
        assert!(ledger.is_kept(&wanted, &found), "{}", ledger.describe(&wanted, Some(&found)));
        Instant::now()
    })
}

/// One reader at each gateway of B; then one message is sent. Gives how long after it was accepted both had it.
async fn both_are_woken(story: &Fleet, id: String, trouble: impl AsyncFnOnce(&Fleet)) -> Duration {
    let key = Key { from: A, id };
    let readers = [0, 1].map(|at| reader(story, at, &key));
    trouble(story).await;
    let answer = story.clients(A)[0].clone().send(&story.ledger, &key, 5_000).await;
    assert_eq!(answer, Answer::Accepted);
    let accepted = Instant::now();
    let mut longest = Duration::ZERO;
    for reader in readers {
        let woken = timeout(TAKEN_OVER + SLACK, reader).await.expect("it is woken in time").unwrap();
        longest = longest.max(woken.saturating_duration_since(accepted));
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_at_one_gateway_gets_what_arrives_at_another() {
    let mut story = Fleet::new((Home::server(), 1), (Home::server(), 2));
    story.start().await;
    let mut all = Vec::new();
    for n in 0..20 {
        all.push(both_are_woken(&story, format!("woken {n}"), async |_| {}).await);
    }
    all.sort_unstable();
    println!(
        "from accepted to in the hands of readers at both gateways: median {:?}, most {:?}",
        all[10], all[19]
    );
    // As many as it takes until the address of the other gateway is used, too.
    story.kill(&[Victim::Gateway(B, 0)]).await;
    let key = Key { from: A, id: "through the second".into() };
    let waiting = reader(&story, 1, &key);
    assert_eq!(story.clients(A)[0].clone().send(&story.ledger, &key, 500).await, Answer::Accepted);
    story.fault();
    timeout(TAKEN_OVER + SLACK, waiting).await.expect("it is woken in time").unwrap();
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_gets_its_message_after_redis_was_killed_under_it() {
    let mut story = Fleet::new((Home::server(), 1), (Home::server(), 2));
    story.start().await;
    let mut longest = Duration::ZERO;
    for n in 0..3 {
        let woken = both_are_woken(&story, format!("after a kill {n}"), async |story| {
            let server = story.b.home.redis();
            // The readers wait when the gateways have looked for them.
            sleep(LOOK_EVERY).await;
            block_in_place(|| server.kill_and_restart());
        });
        longest = longest.max(woken.await);
        story.counts.kills += 1;
    }
    println!("after a kill of Redis readers had their message {longest:?} after it was accepted, at most");
    story.send(A, 0, 10, 100).await;
    story.fault();
    story.ends_well().await;
}

/// The connections over which news come are cut without pause while messages arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_gets_its_message_when_the_news_of_it_are_lost() {
    let mut story = Fleet::new((Home::server(), 1), (Home::server(), 2));
    story.start().await;
    let (mut longest, mut cut) = (Duration::ZERO, 0);
    for n in 0..setting("PETNET_REDIS_ROUNDS", 10) {
        let home = story.b.home.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // Also so often that no new connection for news lives until a reader has looked.
        let pause = story.random.moment(Duration::from_millis(if n % 2 == 0 { 1 } else { 30 }));
        let cutting = tokio::spawn(async move {
            let mut cut = 0;
            while !stopped.load(Ordering::Relaxed) {
                if let Reply::Integer(some) = home.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]) {
                    cut += some;
                }
                sleep(pause).await;
            }
            cut
        });
        let woken = both_are_woken(&story, format!("without news {n}"), async |_| {}).await;
        stop.store(true, Ordering::Relaxed);
        cut += cutting.await.unwrap();
        longest = longest.max(woken);
    }
    println!(
        "{cut} connections for news were cut; readers had their message {longest:?} after it was accepted, at most"
    );
    assert!(cut > 0, "nothing was cut, which proves nothing");
    story.send(A, 0, 10, 100).await;
    story.fault();
    story.ends_well().await;
}
