//! Stories of large messages, which come in pieces and go to the peer in parts: broken links, kills, slow lines, and one
//! that no memory holds.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::{Duration, Instant};

use petnet_recovery_tests::harness::Gateway;
use petnet_recovery_tests::ledger::Key;
use petnet_recovery_tests::link::{Link, Mode};
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::streams::{Arrived, Noise, PIECE, Streams};
use petnet_recovery_tests::{DEADLINE, setting, until};
use tokio::time::timeout;
use tonic::{Code, Status};

/// Of a large message.
const LARGE: usize = 64 << 20;
/// A link that a large message takes seconds for.
const STEADY: Mode = Mode::Slow(16 << 20);
/// Memory that a gateway may take, in MiB.
const MEMORY: u64 = 256;

/// Two gateways with links; the sender tells of every attempt that failed.
async fn over_links(stall: &str) -> Story {
    let mut story = Story::with_links();
    story.gateway(A).set("LINK_STALL", stall);
    story.gateway(A).set("RETRY_CAP", "300ms");
    story.gateway(A).set("LOGGING_LEVEL", "DEBUG");
    story.start().await;
    story
}

fn to_b(story: &Story) -> &Link {
    story.pair.to_b.as_ref().unwrap()
}

/// Waits until so many more bytes have gone to the receiver.
async fn has_passed(story: &Story, before: u64, bytes: u64) {
    until("more of it has passed", async || (to_b(story).passed() - before > bytes).then_some(())).await;
}

/// What there is for a key at the receiver.
async fn look(story: &Story, key: &Key) -> Option<Arrived> {
    story.pair.b.streams().receive(key, Duration::ZERO, |_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_goes_on_where_it_was_however_often_its_link_is_cut() {
    const EVERY: u64 = 4 << 20;
    let mut story = over_links("10s").await;
    to_b(&story).set(Mode::Short(EVERY));
    story.send_in_pieces(A, LARGE).await;
    story.fault();
    story.promises_are_kept().await;
    let (passed, connections) = (to_b(&story).passed(), to_b(&story).connections());
    println!("{LARGE} bytes arrived with {passed} over {connections} connections");
    assert!(connections >= LARGE as u64 / EVERY, "the link was cut");
    assert!(
        passed < 2 * LARGE as u64,
        "it was begun anew: {passed} bytes went over {connections} connections"
    );
    to_b(&story).set(Mode::Open);
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_arrives_once_when_its_sender_is_killed_in_the_middle_of_it() {
    let mut story = over_links("10s").await;
    to_b(&story).set(STEADY);
    let key = story.send_in_pieces(A, LARGE).await;
    for part in 1..=3 {
        has_passed(&story, 0, part * (8 << 20)).await;
        assert_eq!(look(&story, &key).await, None, "only a part of it has passed");
        story.kill(&[A]).await;
        assert_eq!(story.gateway(A).start().await.pending, 1);
    }
    to_b(&story).set(Mode::Open);
    story.promises_are_kept().await;
    let passed = to_b(&story).passed();
    println!("{LARGE} bytes arrived with {passed} from three lives of the sender");
    assert!(passed < 2 * LARGE as u64, "it was begun anew: {passed} bytes");
    let arrived = look(&story, &key).await;
    story.nothing_is_pending().await;
    assert_eq!(look(&story, &key).await, arrived, "it is the same one and did not come again");
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_arrives_when_its_receiver_is_killed_in_the_middle_of_it() {
    let mut story = over_links("10s").await;
    to_b(&story).set(STEADY);
    let key = story.send_in_pieces(A, LARGE).await;
    for part in 1..=2 {
        has_passed(&story, to_b(&story).passed(), part * (16 << 20)).await;
        story.kill(&[B]).await;
        assert_eq!(story.gateway(B).start().await.mailbox, 0, "only a part of it has passed");
        assert_eq!(look(&story, &key).await, None);
    }
    to_b(&story).set(Mode::Open);
    story.ends_well().await;
}

/// Whether there is room for a message of so many bytes: it is announced, and then does not come.
async fn has_room(streams: &mut Streams, len: u64) -> bool {
    let key = Key { from: A, id: "is there room".into() };
    let refused = streams.send_pieces(&key, Noise::from_seed(0).pieces(1), Some(len)).await.unwrap_err();
    refused.code() != Code::ResourceExhausted
}

/// A client dies after it has sent most of what there is room for, and has not said how long it will be.
async fn dies_in_the_middle(death: Mode) {
    const ROOM: u64 = 224 << 20;
    let mut story = Story::new();
    story.gateway(A).set("STORE_MAX_BYTES", "512MiB");
    story.gateway(A).start().await;
    story.send(A, 20, 1_000).await;
    let mut other = story.pair.a.streams();
    assert!(has_room(&mut other, ROOM).await);
    let port = story.pair.a.address().rsplit_once(':').unwrap().1.parse().unwrap();
    let link = Link::to(port);
    let mut client = Streams::of(&format!("127.0.0.1:{}", link.port()));
    let key = Key { from: A, id: "never whole".into() };
    let pieces = Noise::from_seed(1).pieces(u64::MAX);
    let sending = tokio::spawn(async move { client.send_pieces(&key, pieces, None).await });
    until("most of it is there", async || (link.passed() > 192 << 20).then_some(())).await;
    assert!(!has_room(&mut other, ROOM).await, "what came of it takes room");
    story.fault();
    link.set(death);
    let answer: Result<u64, Status> = timeout(DEADLINE, sending).await.expect("it fails").unwrap();
    assert!(answer.is_err(), "{answer:?}");
    until("its room is back", async || has_room(&mut other, ROOM).await.then_some(())).await;
    story.kill(&[A]).await;
    assert_eq!(story.gateway(A).start().await.pending, 20, "nothing of it is left");
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_cut_off_in_the_middle_of_a_stream_leaves_nothing() {
    dies_in_the_middle(Mode::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_in_the_middle_of_a_stream_leaves_nothing() {
    dies_in_the_middle(Mode::HalfClosed).await;
}

/// What a log says when an attempt was given up because nothing moved.
const GIVEN_UP: &str = "no answer within 1s";

/// `PETNET_SLOW_MIB` sets the size of the message: 64 take some five minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_that_moves_is_never_cut() {
    let mut story = over_links("1s").await;
    story.send(A, 5, 100).await;
    story.promises_are_kept().await;
    // 2 Mbit/s. What the kernels on the way pass on at a time, some 64 KiB, must take less than LINK_STALL.
    to_b(&story).set(Mode::Slow(256 << 10));
    story.send_in_pieces(A, (setting("PETNET_SLOW_MIB", 2) as usize) << 20).await;
    for _ in 0..10 {
        story.send(A, 1, 1_000).await;
    }
    story.fault();
    let mut all = false;
    while !all {
        let from = to_b(&story).passed();
        until("more has passed, or all of them are there", async || {
            assert!(!story.pair.a.log().contains(GIVEN_UP), "a link that moved was given up");
            all = story.is_delivered().await;
            (all || to_b(&story).passed() > from + (4 << 20)).then_some(())
        })
        .await;
    }
    story.promises_are_kept().await;
    let connections = to_b(&story).connections();
    assert!(connections <= 2, "one for small messages and one for large ones, not {connections}");
    to_b(&story).set(Mode::Open);
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_does_not_move_is_given_up_and_the_message_arrives_over_the_next_one() {
    let mut story = over_links("1s").await;
    to_b(&story).set(STEADY);
    let key = story.send_in_pieces(A, 16 << 20).await;
    has_passed(&story, 0, 4 << 20).await;
    to_b(&story).freeze();
    let before = to_b(&story).connections();
    story.fault();
    story.promises_are_kept().await;
    assert!(look(&story, &key).await.is_some());
    assert!(story.pair.a.log().contains(GIVEN_UP), "it was given up");
    assert!(to_b(&story).connections() > before, "over another connection");
    story.ends_well().await;
}

/// `PETNET_STREAM_GIB` says how large it is; 300 MiB without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_memory_passes_through_two_gateways() {
    let gib = setting("PETNET_STREAM_GIB", 0);
    let len = if gib == 0 { 300 << 20 } else { gib << 30 };
    let patience = DEADLINE + Duration::from_secs(60) * gib as u32;
    let mut story = Story::new();
    story.start().await;
    let (noise, key) =
        (Noise::from_seed(story.random.seed()), Key { from: A, id: "larger than memory".into() });
    let (mut a, mut b) = (story.pair.a.streams(), story.pair.b.streams());
    let start = Instant::now();
    let (pieces, sent) = (noise.pieces(len / PIECE as u64), key.clone());
    let sending = tokio::spawn(async move { a.send_pieces(&sent, pieces, Some(len)).await });
    let reading = tokio::spawn(async move { b.receive(&key, patience, noise.check()).await });
    timeout(patience, sending).await.expect("it is accepted in time").unwrap().unwrap();
    let accepted = start.elapsed();
    let arrived = timeout(patience, reading).await.expect("it arrives in time").unwrap().unwrap();
    assert_eq!(arrived.map(|arrived| arrived.len), Some(len));
    let (took, memory) = (start.elapsed(), [&story.pair.a, &story.pair.b].map(Gateway::peak_memory));
    println!(
        "{} MiB: accepted in {accepted:.1?}, read at the other end in {took:.1?}; memory at most {memory:?} MiB",
        len >> 20
    );
    assert!(memory.iter().all(|peak| *peak <= MEMORY), "{memory:?} MiB of memory");
}
