//! Stories of a Redis that is stalled, gone, full, or read-only: what senders, readers and the health are told meanwhile, and
//! that all goes on by itself afterwards.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use petnet_recovery_tests::fleet::{Fleet, Victim};
use petnet_recovery_tests::home::Home;
use petnet_recovery_tests::ledger::{Answer, Key};
use petnet_recovery_tests::story::{A, B};
use petnet_recovery_tests::tools::{Need, have, run};
use petnet_recovery_tests::{setting, until};
use petnet_redis_servers::{Append, Options, RedisServer};
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

/// Error code of `Response`: Redis does not take it, for sure.
const REDIS: i32 = 10_002;
/// `REDIS_TIMEOUT` of these stories.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a busy machine may add to anything that has a limit.
const SLACK: Duration = Duration::from_secs(10);
/// How long readers wait: longer than any outage here.
const PATIENT: Duration = Duration::from_secs(100);

/// Two gateways of A on a Redis that is to break, and one of B.
async fn before_the_outage(home: Home) -> Fleet {
    let mut story = Fleet::new((home, 2), (Home::server(), 1));
    story.set("REDIS_TIMEOUT", "1s");
    story.start().await;
    story.send(A, 0, 20, 1_000).await;
    story.send(B, 0, 20, 1_000).await;
    story
}

/// What the answers to sends in an outage were.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    refused: usize,
    in_doubt: usize,
}

/// Sends through both gateways of A while their Redis is broken. Every answer comes in time, and is one of the two: refused
/// for sure, or not known. The second time nothing can be in doubt any more.
async fn sends_are_refused(story: &mut Fleet) -> Told {
    let mut told = Told::default();
    for via in [0, 1] {
        let begun = Instant::now();
        for answer in story.try_to_send(A, via, 20, 2_000).await {
            match answer {
                Answer::Refused(REDIS, _) => told.refused += 1,
                Answer::Unknown(Code::Unavailable, _) => told.in_doubt += 1,
                other => panic!("not an answer for an outage: {other:?}"),
            }
        }
        assert!(begun.elapsed() < 3 * TIMEOUT + SLACK, "answered within three times REDIS_TIMEOUT");
    }
    println!("sends in the outage: {told:?}");
    told
}

/// A reader that waits at a gateway of A for a message that is not there yet: one call, which must not end before it is.
fn waiting_reader(story: &Fleet, id: &str) -> (Key, JoinHandle<bool>) {
    let key = Key { from: B, id: id.into() };
    let (mut client, wanted, ledger) = (story.clients(A)[1].clone(), key.clone(), story.ledger.clone());
    let reading = tokio::spawn(async move {
        let found = client.receive(&wanted, PATIENT).await;
        let found = found.expect("a waiting reader is not told of the outage");
        ledger.is_kept(&wanted, &found.expect("it waits until the message is there"))
    });
    (key, reading)
}

/// Redis is back: health, sends through both gateways, and the reader, all without anybody's help.
async fn all_goes_on(story: &mut Fleet, key: &Key, reading: JoinHandle<bool>) {
    let back = Instant::now();
    story.until_health(A, Serving).await;
    assert!(back.elapsed() < Duration::from_secs(5) + SLACK, "healthy after {:?}", back.elapsed());
    assert!(!reading.is_finished(), "the reader still waits");
    let answer = story.clients(B)[0].clone().send(&story.ledger, key, 3_000).await;
    assert_eq!(answer, Answer::Accepted);
    let got = timeout(2 * SLACK, reading).await.expect("the reader gets it in time").unwrap();
    assert!(got, "the reader got it whole");
    for via in [0, 1] {
        story.send(A, via, 10, 1_000).await;
    }
    println!("all goes on {:?} after Redis is back", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stalls_leaves_nobody_waiting_and_nothing_half_done() {
    let mut story = before_the_outage(Home::server()).await;
    let (key, reading) = waiting_reader(&story, "after the stall");
    story.fault();
    let home = story.a.home.clone();
    let stalled = home.redis().stall();
    // In doubt is what it had by then: none, where a heartbeat noticed the stall before the first send.
    sends_are_refused(&mut story).await;
    story.until_health(A, NotServing).await;
    let told = sends_are_refused(&mut story).await;
    assert_eq!(told.in_doubt, 0, "known to be away");
    drop(stalled);
    all_goes_on(&mut story, &key, reading).await;
    story.ends_well().await;
}

/// `PETNET_REDIS_GONE_SECONDS` says for how long.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_gone_for_long_is_found_again() {
    let mut story = before_the_outage(Home::server()).await;
    let (key, reading) = waiting_reader(&story, "after it was gone");
    let gone = Instant::now();
    story.kill(&[Victim::Redis(A)]).await;
    story.until_health(A, NotServing).await;
    sends_are_refused(&mut story).await;
    let told = sends_are_refused(&mut story).await;
    assert_eq!(told.in_doubt, 0, "known to be away");
    // The length of the outage is the fault.
    sleep(Duration::from_secs(setting("PETNET_REDIS_GONE_SECONDS", 8)).saturating_sub(gone.elapsed())).await;
    let home = story.a.home.clone();
    block_in_place(|| home.redis().restart());
    all_goes_on(&mut story, &key, reading).await;
    story.ends_well().await;
}

/// A stall that is over within `REDIS_TIMEOUT` costs senders its length and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn short_stalls_are_not_noticed() {
    let mut story = before_the_outage(Home::server()).await;
    let home = story.a.home.clone();
    for _ in 0..setting("PETNET_REDIS_ROUNDS", 10).min(20) {
        let stalled = home.redis().stall();
        let pause = story.random.moment(TIMEOUT / 2);
        let (answers, ()) = tokio::join!(story.try_to_send(A, 0, 5, 500), async {
            sleep(pause).await;
            drop(stalled);
        });
        assert!(answers.iter().all(|answer| *answer == Answer::Accepted), "{answers:?}");
    }
    story.fault();
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_sends_only_and_takes_them_again_when_there_is_room() {
    let mut story = before_the_outage(Home::server()).await;
    story.promises_are_kept().await;
    let (key, reading) = waiting_reader(&story, "after it was full");
    // Something to be delivered, and something to be read, when it is full.
    story.kill(&[Victim::Gateway(B, 0)]).await;
    story.send(A, 0, 50, 4_000).await;
    story.send(A, 1, 1, 900_000).await;
    story.fault();
    let server = story.a.home.clone();
    server.redis().config_set("maxmemory", "1mb");
    let told = sends_are_refused(&mut story).await;
    assert_eq!(told.in_doubt, 0, "Redis said no");
    let takes_sends = async |story: &Fleet| story.a.gateways[0].health_of("petnet.send").await;
    until("it says that it takes none", async || {
        (takes_sends(&story).await == Some(NotServing)).then_some(())
    })
    .await;
    assert_eq!(story.a.gateways[0].health().await, Some(Serving), "reading goes on");
    story.b.gateways[0].healthy().await;
    // B's messages for A wait at B.
    story.send(B, 0, 5, 100).await;
    until("what is there is delivered, and settled", async || (server.held(A).pending == 0).then_some(()))
        .await;
    let mail = server.held(A).mailbox;
    assert!(mail > 0, "there is something to be read");
    for key in story.ledger.keys().into_iter().filter(|key| key.from == B && key.id.starts_with("batch 2/")) {
        if !story.ledger.is_released(&key) {
            let found = story.clients(A)[0].clone().receive(&key, Duration::ZERO).await.unwrap();
            assert!(found.is_some_and(|found| story.ledger.is_kept(&key, &found)), "{key:?} is read");
            story.a.gateways[0].streams().release(&key).await.expect("is released");
            story.ledger.released(&key);
        }
    }
    assert!(story.a.home.held(A).mailbox < mail, "released in a full Redis");
    assert_eq!(takes_sends(&story).await, Some(NotServing), "still full");
    server.redis().config_set("maxmemory", "0");
    all_goes_on(&mut story, &key, reading).await;
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_made_a_replica_is_left_alone_until_it_is_a_primary_again() {
    let mut story = before_the_outage(Home::server()).await;
    let (key, reading) = waiting_reader(&story, "after it was a replica");
    story.fault();
    let home = story.a.home.clone();
    // Of a server that is not there, so that it keeps what it has.
    assert!(home.ask(&["REPLICAOF", "127.0.0.1", "1"]).is_ok());
    let told = sends_are_refused(&mut story).await;
    assert_eq!(told.in_doubt, 0, "Redis said no");
    story.until_health(A, NotServing).await;
    assert!(home.ask(&["REPLICAOF", "NO", "ONE"]).is_ok());
    all_goes_on(&mut story, &key, reading).await;
    story.ends_well().await;
}

/// The folder of a server's append-only file, in a small file system of its own; unmounted when it is dropped.
struct SmallDisk(String);

impl SmallDisk {
    fn under(server: &RedisServer) -> Self {
        let folder = server.folder().join("appendonlydir").display().to_string();
        let aside = format!("{folder}.aside");
        server.shut_down();
        run(&["mv", &folder, &aside]);
        run(&["mkdir", &folder]);
        run(&["mount", "-t", "tmpfs", "-o", "size=2m", "petnet-recovery", &folder]);
        run(&["cp", "-a", &format!("{aside}/."), &folder]);
        server.restart();
        Self(folder)
    }

    fn fill(&self) -> String {
        let filler = format!("{}/filler", self.0);
        // Ends when there is no room.
        drop(std::process::Command::new("dd").args(["if=/dev/zero", &format!("of={filler}")]).output());
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").args(["-l", &self.0]).output());
    }
}

/// With `appendfsync everysec` Redis goes on serving what it has, and answers MISCONF to what is to be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_disk_is_full_refuses_sends_until_there_is_room() {
    if !have(&[Need::Root]) {
        return;
    }
    let options = Options { append: Append::EverySecond, ..Options::default() };
    let server = Arc::new(RedisServer::start(options));
    let disk = block_in_place(|| SmallDisk::under(&server));
    let mut story = before_the_outage(Home::Server(server.clone())).await;
    story.promises_are_kept().await;
    let (key, reading) = waiting_reader(&story, "after its disk was full");
    story.send(A, 0, 1, 100).await;
    story.fault();
    let filler = block_in_place(|| disk.fill());
    until("Redis notices", async || {
        let written = server.command(&["SET", "something", "else"]);
        written.text().starts_with("MISCONF").then_some(())
    })
    .await;
    let told = sends_are_refused(&mut story).await;
    assert_eq!(told.in_doubt, 0, "Redis said no");
    story.until_health(A, NotServing).await;
    std::fs::remove_file(filler).unwrap();
    all_goes_on(&mut story, &key, reading).await;
    server.command(&["DEL", "something"]);
    story.ends_well().await;
    drop(disk);
}

/// With `appendfsync always` Redis ends itself when it cannot write: nothing that it had not synced was accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_ends_because_its_disk_is_full_had_what_was_accepted() {
    if !have(&[Need::Root]) {
        return;
    }
    let server = Arc::new(RedisServer::start(Options::default()));
    let disk = block_in_place(|| SmallDisk::under(&server));
    let mut story = before_the_outage(Home::Server(server.clone())).await;
    let (key, reading) = waiting_reader(&story, "after Redis ended");
    let full = until("its disk is full", async || {
        let answers = story.try_to_send(A, 0, 20, 4_000).await;
        answers.into_iter().find(|answer| *answer != Answer::Accepted)
    });
    println!("with a full disk: {:?}", full.await);
    story.fault();
    story.until_health(A, NotServing).await;
    // Room: the file system may be larger from now on.
    run(&["mount", "-o", "remount,size=64m", &disk.0]);
    block_in_place(|| {
        server.kill();
        server.restart();
    });
    all_goes_on(&mut story, &key, reading).await;
    story.ends_well().await;
    drop(disk);
}
