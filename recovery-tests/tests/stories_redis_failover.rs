//! Stories of a Redis that changes places: a replica that takes over from a dead primary, and a slot that moves through a
//! cluster.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use petnet_recovery_tests::clients::Mix;
use petnet_recovery_tests::fleet::Fleet;
use petnet_recovery_tests::home::{Home, prefix};
use petnet_recovery_tests::ledger::{Answer, Key};
use petnet_recovery_tests::story::{A, B};
use petnet_recovery_tests::{setting, until};
use petnet_redis_servers::{Cluster, Options, RedisServer, Replicated, Reply};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

/// Longest time from the first message at risk to the fault.
const SOON: Duration = Duration::from_millis(400);
/// Keys that move at a time.
const AT_ONCE: &str = "20";

/// Both parties send without pause while the primary of A's messages is killed; the old one comes back as a replica, and the
/// next time it is the primary again.
async fn failed_over_under_load(wait_replicas: &str) -> Fleet {
    // A primary whose replica is gone takes nothing: nor does one that was cut off from the others.
    let options = Options {
        more: vec!["min-replicas-to-write 1".into(), "min-replicas-max-lag 2".into()],
        ..Options::default()
    };
    let options = if wait_replicas == "0" { Options::default() } else { options };
    let redis = Arc::new(block_in_place(|| Replicated::start_with(&options)));
    let mut story = Fleet::new((Home::Replicated(redis.clone()), 2), (Home::server(), 1));
    for gateway in &mut story.a.gateways {
        gateway.set("REDIS_WAIT_REPLICAS", wait_replicas);
    }
    story.set("REDIS_TIMEOUT", "2s");
    story.start().await;
    for _ in 0..setting("PETNET_FAILOVERS", 2) {
        let load = story.load(Mix::default());
        story.random_moment(SOON).await;
        story.fault();
        let killed = Instant::now();
        block_in_place(|| redis.kill_primary());
        story.counts.kills += 1;
        block_in_place(|| redis.until_failed_over());
        println!("failed over after {:?}", killed.elapsed());
        block_in_place(|| redis.restart_as_replica());
        // Nobody helps: sends are accepted again.
        for via in [0, 1] {
            until("a send is accepted again", async || {
                story.try_to_send(A, via, 1, 100).await.contains(&Answer::Accepted).then_some(())
            })
            .await;
        }
        println!("sends are accepted again {:?} after the kill", killed.elapsed());
        load.stop().await;
        if wait_replicas != "0" {
            story.promises_are_kept().await;
        }
    }
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_loses_nothing_that_a_replica_was_waited_for() {
    failed_over_under_load("1").await.ends_well().await;
}

/// The replica hears nothing for a while: whatever is answered in that time, it must not come back when the replica takes over.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_whose_release_was_answered_is_back_after_a_failover() {
    let redis = Arc::new(block_in_place(Replicated::start));
    let mut story = Fleet::new((Home::server(), 1), (Home::Replicated(redis.clone()), 1));
    story.set("REDIS_WAIT_REPLICAS", "1");
    story.a.gateways[0].set("REDIS_WAIT_REPLICAS", "0");
    story.set("REDIS_TIMEOUT", "2s");
    story.start().await;
    let (mut answered, mut in_doubt, mut back) = (0, 0, 0);
    for round in 0..setting("PETNET_FAILOVERS", 2) {
        let keys: Vec<_> = (0..40).map(|n| Key { from: A, id: format!("released {round}-{n}") }).collect();
        for key in &keys {
            let sent = story.clients(A)[0].clone().send(&story.ledger, key, 300).await;
            assert_eq!(sent, Answer::Accepted);
        }
        let mut reader = story.clients(B)[0].clone();
        for key in &keys {
            until("it is there", async || reader.receive(key, SOON).await.ok().flatten().map(drop)).await;
        }
        let release = |key: &Key| {
            let (mut streams, key) = (story.b.gateways[0].streams(), key.clone());
            async move { (streams.release(&key).await.is_ok(), key) }
        };
        // Half of them while the replica follows, half while it hears nothing.
        let mut released = join_all(keys[..20].iter().map(release)).await;
        let replica = redis.replica();
        let stalled = block_in_place(|| replica.stall());
        released.extend(join_all(keys[20..].iter().map(release)).await);
        block_in_place(|| redis.kill_primary());
        drop(stalled);
        block_in_place(|| redis.until_failed_over());
        block_in_place(|| redis.restart_as_replica());
        story.b.gateways[0].healthy().await;
        for (is_answered, key) in released {
            if !is_answered {
                in_doubt += 1;
                continue;
            }
            answered += 1;
            let found =
                until("it can be asked for", async || reader.receive(&key, Duration::ZERO).await.ok()).await;
            back += usize::from(found.is_some());
        }
    }
    println!("{answered} releases answered, {in_doubt} in doubt, {back} released messages back");
    assert!(answered >= 20 && in_doubt > 0, "else this shows nothing");
    assert_eq!(back, 0);
}

/// How many are lost is shown, and is not held against it: the start says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_without_waiting_for_replicas_repeats_nothing_and_garbles_nothing() {
    let mut story = failed_over_under_load("0").await;
    story.patience = Duration::from_secs(20);
    let log = story.a.gateways[0].whole_log();
    assert!(
        log.contains("accepted messages can be lost: a failover loses"),
        "the start says what can be lost"
    );
    story.ends_well_but_for_losses().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_the_messages_of_both_parties() {
    let cluster = Arc::new(block_in_place(Cluster::start));
    let mut story = Fleet::new((Home::Cluster(cluster.clone()), 2), (Home::Cluster(cluster.clone()), 1));
    story.start().await;
    let load = story.load(Mix::default());
    for _ in 0..2 {
        story.random_moment(SOON).await;
        story.fault();
        // A node takes its slots along until it is back.
        block_in_place(|| {
            cluster.server_of(&prefix(A)).kill_and_restart();
            cluster.until_ok();
        });
        story.counts.kills += 1;
    }
    load.stop().await;
    story.promises_are_kept().await;
    story.ends_well().await;
}

fn node_id(server: &RedisServer) -> String {
    server.command(&["CLUSTER", "MYID"]).text()
}

fn done(server: &RedisServer, words: &[&str]) {
    let reply = server.command(words);
    assert!(reply.is_ok(), "{words:?}: {reply}");
}

/// Moves a slot with all its keys, as an operator does it, key by key.
fn move_slot(cluster: &Cluster, slot: &str, from: &RedisServer, to: &RedisServer) -> usize {
    done(to, &["CLUSTER", "SETSLOT", slot, "IMPORTING", &node_id(from)]);
    done(from, &["CLUSTER", "SETSLOT", slot, "MIGRATING", &node_id(to)]);
    let port = to.port().to_string();
    let mut moved = 0;
    loop {
        let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", slot, AT_ONCE]);
        let keys: Vec<_> = keys.list().iter().map(Reply::text).collect();
        if keys.is_empty() {
            break;
        }
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        let reply = from.command(&words);
        assert!(reply.is_ok() || reply.text() == "NOKEY", "{reply}");
        moved += keys.len();
    }
    let owner = node_id(to);
    done(to, &["CLUSTER", "SETSLOT", slot, "NODE", &owner]);
    for server in cluster.servers().iter().filter(|server| server.port() != to.port()) {
        done(server, &["CLUSTER", "SETSLOT", slot, "NODE", &owner]);
    }
    moved
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_to_another_node_under_load_loses_nothing() {
    let cluster = Arc::new(block_in_place(Cluster::start));
    let mut story = Fleet::new((Home::Cluster(cluster.clone()), 2), (Home::server(), 1));
    story.set("REDIS_TIMEOUT", "2s");
    story.start().await;
    let slot = cluster.servers()[0].command(&["CLUSTER", "KEYSLOT", &prefix(A)]).text();
    let owner = cluster.server_of(&prefix(A)).port();
    let (mut at, others) = (owner, cluster.servers().iter().map(RedisServer::port).collect::<Vec<_>>());
    for _ in 0..setting("PETNET_SLOT_MOVES", 2) {
        let load = story.load(Mix::default());
        story.random_moment(SOON).await;
        // Something that is there, also large messages, when the slot begins to move.
        sleep(SOON).await;
        story.fault();
        let choices: Vec<_> = others.iter().filter(|port| **port != at).copied().collect();
        let to = choices[story.random.below(2) as usize];
        let server = |port: u16| cluster.servers().iter().find(|server| server.port() == port).unwrap();
        let begun = Instant::now();
        let moved = block_in_place(|| move_slot(&cluster, &slot, server(at), server(to)));
        println!("{moved} keys moved in {:?}", begun.elapsed());
        at = to;
        for via in [0, 1] {
            until("a send is accepted again", async || {
                story.try_to_send(A, via, 1, 100).await.contains(&Answer::Accepted).then_some(())
            })
            .await;
        }
        load.stop().await;
        story.promises_are_kept().await;
    }
    story.ends_well().await;
}
