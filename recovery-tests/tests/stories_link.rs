//! Stories of a bad network, and of a peer that does not answer.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::harness::Found;
use petnet_recovery_tests::ledger::Key;
use petnet_recovery_tests::link::Mode;
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::{LOOK_EVERY, setting, until};
use rustix::process::Signal;
use tokio::time::sleep;

/// Two gateways with links; deliveries give up soon, so that a silent link is noticed soon.
async fn over_links() -> Story {
    let mut story = Story::with_links();
    for party in [A, B] {
        story.gateway(party).set("LINK_STALL", "2s");
    }
    story.start().await;
    story
}

fn set_links(story: &Story, mode: Mode) {
    for link in [&story.pair.to_a, &story.pair.to_b] {
        link.as_ref().unwrap().set(mode);
    }
}

/// Under load the links break, stay so for longer than a delivery may take, and heal.
async fn links_break_and_heal(mode: Mode) {
    let mut story = over_links().await;
    let load = story.load();
    story.random_moment(Duration::from_millis(200)).await;
    set_links(&story, mode);
    sleep(Duration::from_millis(3_000)).await;
    load.stop().await;
    story.fault();
    set_links(&story, Mode::Open);
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_while_the_link_was_cut_arrives_when_it_heals() {
    links_break_and_heal(Mode::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_while_the_link_swallowed_everything_arrives_when_it_heals() {
    links_break_and_heal(Mode::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_while_no_answer_came_back_arrives_once() {
    links_break_and_heal(Mode::OneWay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_while_the_link_was_half_closed_arrives_when_it_heals() {
    links_break_and_heal(Mode::HalfClosed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_over_a_slow_link_arrives() {
    links_break_and_heal(Mode::Slow(100 << 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_link_loses_and_repeats_nothing() {
    let mut story = over_links().await;
    let load = story.load();
    for _ in 0..setting("PETNET_FLAPS", 12) {
        story.random_moment(Duration::from_millis(400)).await;
        story.fault();
        let modes = [Mode::Cut, Mode::BlackHole, Mode::OneWay, Mode::HalfClosed, Mode::Slow(200 << 10)];
        let mode = modes[story.random.below(modes.len() as u64) as usize];
        set_links(&story, mode);
        let moment = story.random.moment(Duration::from_millis(500));
        sleep(moment).await;
        set_links(&story, Mode::Open);
    }
    load.stop().await;
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_does_not_bring_a_message_back_after_its_time() {
    let mut story = over_links().await;
    story.stop_and_set(B, "MESSAGE_TTL", "1s").await;
    // The stream of the link is open then: only what goes over it is answered in vain.
    let before = Key { from: A, id: "before".into() };
    story.pair.a.client().send(&story.ledger, &before, 10).await;
    assert!(story.pair.b.client().receive(&before, Duration::from_secs(60)).await.unwrap().is_some());
    let to_b = story.pair.to_b.as_ref().unwrap();
    to_b.set(Mode::OneWay);
    let (key, mut reader) = (Key { from: A, id: "read once".into() }, story.pair.b.client());
    let accepted = story.pair.a.client().send(&story.ledger, &key, 1_000).await;
    story.counts.at_risk = 1;
    let first = reader.receive(&key, Duration::from_secs(60)).await.unwrap();
    assert!(first.is_some(), "{accepted:?}");
    until("its time is over", async || {
        reader.receive(&key, Duration::ZERO).await.unwrap().is_none().then_some(())
    })
    .await;
    // The request has passed, its answer is lost.
    let to_b = story.pair.to_b.as_ref().unwrap();
    to_b.set(Mode::Cut);
    to_b.set(Mode::Open);
    let [a, _] = story.nothing_is_pending().await;
    assert_eq!(a.dead_letters, 0, "it was delivered again");
    let again = reader.receive(&key, Duration::ZERO).await.unwrap();
    story.counts.duplicated = u64::from(again.is_some());
    story.counts.accepted = 1;
    story.counts.conclude("a_lost_acknowledgement_does_not_bring_a_message_back_after_its_time", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_peer_gets_its_messages_when_it_goes_on() {
    let mut story = over_links().await;
    story.send(A, 20, 1_000).await;
    story.gateway(B).signal(Signal::STOP);
    story.send(A, 200, 1_000).await;
    story.fault();
    // Longer than a delivery may take.
    sleep(Duration::from_secs(3)).await;
    story.gateway(B).signal(Signal::CONT);
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_large_message_shows_when_the_peer_restarts_in_the_middle_of_it() {
    let mut story = over_links().await;
    let key = Key { from: A, id: "64 MiB".into() };
    story.pair.to_b.as_ref().unwrap().set(Mode::Slow(64 << 20));
    story.pair.a.client().send(&story.ledger, &key, 64 << 20).await;
    for part in 1..=3 {
        let to_b = story.pair.to_b.as_ref().unwrap();
        let from = to_b.passed();
        until("some of it has passed", async || (to_b.passed() - from > part * (8 << 20)).then_some(()))
            .await;
        story.kill(&[B]).await;
        let Found { mailbox, .. } = story.gateway(B).start().await;
        assert_eq!(mailbox, 0, "only a part of it has passed");
        assert_eq!(story.pair.b.client().receive(&key, LOOK_EVERY).await.unwrap(), None);
    }
    set_links(&story, Mode::Open);
    story.ends_well().await;
}
