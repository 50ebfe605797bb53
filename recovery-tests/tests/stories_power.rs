//! Stories of a power cut: what was not synced is gone. See `volume.rs` for how.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::ledger::Party;
use petnet_recovery_tests::setting;
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::tools::{Need, PYTHON, have};
use petnet_recovery_tests::volume::Volume;
use tokio::time::sleep;

/// Longest time from the first message at risk to the cut.
const SOON: Duration = Duration::from_millis(250);

/// Under load, the machines of the victims lose their power at a random moment, many times over.
async fn power_is_cut(file_system: &'static str, mkfs: &'static str, victims: &[Party]) {
    if !have(&[
        Need::Root,
        Need::Loop,
        PYTHON,
        Need::FileSystem(file_system),
        Need::Program(mkfs, "e2fsprogs xfsprogs"),
    ]) {
        return;
    }
    let volume = Volume::with_power(file_system);
    let mut story = Story::new();
    for party in victims {
        story.gateway(*party).keep_data_in(&volume.path());
    }
    story.start().await;
    for _ in 0..setting("PETNET_POWER_CUTS", 6) {
        let load = story.load();
        story.random_moment(SOON).await;
        story.power_cut(&volume, victims).await;
        story.start().await;
        load.stop().await;
        story.promises_are_kept().await;
    }
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_the_sender_loses_power() {
    power_is_cut("ext4", "mkfs.ext4", &[A]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_the_receiver_loses_power() {
    power_is_cut("ext4", "mkfs.ext4", &[B]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_both_lose_power() {
    power_is_cut("ext4", "mkfs.ext4", &[A, B]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_both_lose_power_on_xfs() {
    power_is_cut("xfs", "mkfs.xfs", &[A, B]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_during_recovery_and_another_one_change_nothing() {
    if !have(&[Need::Root, Need::Loop, PYTHON, Need::Program("mkfs.ext4", "e2fsprogs")]) {
        return;
    }
    let volume = Volume::with_power("ext4");
    let mut story = Story::new();
    story.gateway(A).keep_data_in(&volume.path());
    story.gateway(A).start().await;
    story.send(A, 2_000, 500).await;
    story.power_cut(&volume, &[A]).await;
    let opening = story.gateway(A).start().await.took;
    story.power_cut(&volume, &[A]).await;
    for _ in 0..setting("PETNET_POWER_CUTS", 6) {
        story.gateway(A).spawn();
        let moment = story.random.moment(opening);
        sleep(moment).await;
        story.power_cut(&volume, &[A]).await;
    }
    let found = story.gateway(A).start().await;
    assert_eq!((found.pending, found.damaged), (2_000, 0));
    story.ends_well().await;
}
