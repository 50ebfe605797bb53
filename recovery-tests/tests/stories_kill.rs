//! Stories of `kill -9`. The page cache survives it: for power cuts see `stories_power.rs`.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::ledger::Party;
use petnet_recovery_tests::setting;
use petnet_recovery_tests::story::{A, B, Story};
use tokio::time::sleep;

/// Longest time from the first message at risk to the kill.
const SOON: Duration = Duration::from_millis(250);

/// Under load from both sides, the victims are killed at a random moment and started again, many times over.
async fn killed_under_load(victims: &[Party]) {
    let mut story = Story::new();
    story.start().await;
    for _ in 0..setting("PETNET_KILL_ROUNDS", 10) {
        let load = story.load();
        story.random_moment(SOON).await;
        story.kill(victims).await;
        story.start().await;
        load.stop().await;
        story.promises_are_kept().await;
    }
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_one_gateway_is_killed_under_load() {
    killed_under_load(&[A]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_both_gateways_are_killed_under_load() {
    killed_under_load(&[A, B]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_again_while_it_reads_back_its_log_starts_in_the_end() {
    let mut story = Story::new();
    story.gateway(A).start().await;
    story.send(A, 5_000, 500).await;
    story.kill(&[A]).await;
    let opening = story.gateway(A).start().await.took;
    story.kill(&[A]).await;
    for _ in 0..setting("PETNET_KILL_ROUNDS", 10) {
        story.gateway(A).spawn();
        let moment = story.random.moment(opening);
        sleep(moment).await;
        story.kill(&[A]).await;
    }
    let found = story.gateway(A).start().await;
    assert_eq!((found.pending, found.damaged), (5_000, 0));
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_a_receiver_that_is_gone_for_many_backoffs() {
    let mut story = Story::new();
    story.gateway(A).set("RETRY_CAP", "300ms");
    story.start().await;
    story.send(A, 50, 1_000).await;
    story.kill(&[B]).await;
    story.send(A, 500, 1_000).await;
    story.fault();
    // Pauses of 100, 200, 300, 300 ... ms, each halved at most: at least eight of them.
    sleep(Duration::from_millis(2_400)).await;
    story.kill(&[A]).await;
    story.ends_well().await;
}
