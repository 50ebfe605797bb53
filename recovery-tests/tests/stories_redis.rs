//! Stories of `kill -9` where messages are kept in Redis and a party has several gateways.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::clients::Mix;
use petnet_recovery_tests::fleet::{Fleet, Victim};
use petnet_recovery_tests::home::Home;
use petnet_recovery_tests::ledger::Party;
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

/// What happens to a Redis that stays alive.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// It does nothing for a while, shorter or longer than anybody waits.
    Stalls,
    /// Its connections are cut.
    Cuts,
    /// Only those for news are.
    CutsNews,
    /// It forgets all scripts.
    ForgetsScripts,
    /// It has no memory left for a while.
    Full,
    /// It is no primary for a while.
    Demoted,
    /// One of the gateways is killed while it stalls.
    StallsAtAKill,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::Stalls,
    Trouble::Cuts,
    Trouble::CutsNews,
    Trouble::ForgetsScripts,
    Trouble::Full,
    Trouble::Demoted,
    Trouble::StallsAtAKill,
];

/// Longest trouble: some are over before anybody gives up (`REDIS_TIMEOUT` is 1 s), others are not.
const LONGEST: Duration = Duration::from_millis(3_500);

async fn trouble(story: &mut Fleet, at: Party, trouble: Trouble) {
    let home = story.side(at).home.clone();
    let pause = story.random.moment(LONGEST);
    let gateways = story.side(at).gateways.len() as u64;
    let victim = story.random.below(gateways) as usize;
    println!("{} {trouble:?} for {pause:?}", at.name());
    match trouble {
        Trouble::Stalls => {
            let stalled = home.redis().stall();
            sleep(pause).await;
            drop(stalled);
        }
        Trouble::StallsAtAKill => {
            let stalled = home.redis().stall();
            sleep(pause / 4).await;
            story.kill(&[Victim::Gateway(at, victim)]).await;
            sleep(pause / 4).await;
            drop(stalled);
        }
        Trouble::Cuts => drop(home.ask(&["CLIENT", "KILL", "TYPE", "normal"])),
        Trouble::CutsNews => drop(home.ask(&["CLIENT", "KILL", "TYPE", "pubsub"])),
        Trouble::ForgetsScripts => drop(home.ask(&["SCRIPT", "FLUSH"])),
        Trouble::Full => {
            home.redis().config_set("maxmemory", "1mb");
            sleep(pause).await;
            home.redis().config_set("maxmemory", "0");
        }
        Trouble::Demoted => {
            assert!(home.ask(&["REPLICAOF", "127.0.0.1", "1"]).is_ok());
            sleep(pause).await;
            assert!(home.ask(&["REPLICAOF", "NO", "ONE"]).is_ok());
        }
    }
}

/// Nobody is killed but a gateway now and then; Redis is there and does what it should not, under load, at random.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_not_there_and_what_was_accepted_is_whatever_redis_does() {
    let mut story = Fleet::new((Home::server(), 2), (Home::server(), 2));
    story.set("REDIS_TIMEOUT", "1s");
    story.start().await;
    for _ in 0..setting("PETNET_REDIS_ROUNDS", 10) {
        let load = story.load(Mix::default());
        story.random_moment(SOON).await;
        story.fault();
        let at = [A, B][story.random.below(2) as usize];
        let what = TROUBLES[story.random.below(TROUBLES.len() as u64) as usize];
        trouble(&mut story, at, what).await;
        story.start().await;
        load.stop().await;
        story.promises_are_kept().await;
    }
    story.ends_well().await;
}
