//! Stories of `kill -9` where messages are kept in Redis and a party has several gateways.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::clients::Mix;
use petnet_recovery_tests::fleet::{Fleet, Victim};
use petnet_recovery_tests::home::Home;
use petnet_recovery_tests::setting;
use petnet_recovery_tests::story::{A, B};
use tokio::time::sleep;

/// Longest time from the first message at risk to the kill, and from there to the restart.
const SOON: Duration = Duration::from_millis(400);

/// Under load through all gateways, some of the victims are killed at a random moment and started again, many times over.
async fn killed_under_load(mut story: Fleet, victims: &[Victim]) {
    story.start().await;
    for _ in 0..setting("PETNET_REDIS_ROUNDS", 10) {
        let load = story.load(Mix::default());
        story.random_moment(SOON).await;
        // Any of them, at least one.
        let choice = 1 + story.random.below((1 << victims.len()) - 1);
        let chosen = (0..victims.len()).filter(|n| choice & (1 << n) != 0);
        let chosen: Vec<_> = chosen.map(|n| victims[n]).collect();
        story.kill(&chosen).await;
        let pause = story.random.moment(SOON);
        sleep(pause).await;
        story.start().await;
        load.stop().await;
        story.promises_are_kept().await;
    }
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_gateways_and_both_redis_servers_are_killed_under_load() {
    let story = Fleet::new((Home::server(), 2), (Home::server(), 1));
    let victims = [
        Victim::Redis(A),
        Victim::Redis(B),
        Victim::Gateway(A, 0),
        Victim::Gateway(A, 1),
        Victim::Gateway(B, 0),
    ];
    killed_under_load(story, &victims).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_between_a_redis_and_an_embedded_store_that_are_killed_under_load() {
    let story = Fleet::new((Home::server(), 2), (Home::Folder, 1));
    let victims = [Victim::Redis(A), Victim::Gateway(A, 0), Victim::Gateway(A, 1), Victim::Gateway(B, 0)];
    killed_under_load(story, &victims).await;
}
