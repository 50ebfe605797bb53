//! Stories of starts: with much to read back, on a folder in use, on an old copy of one, at another time.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::Path;
use std::time::Instant;

use petnet_recovery_tests::ledger::Key;
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::tools::{Need, fake_time, have, run};
use petnet_recovery_tests::{setting, until};

/// Exit code: could not start.
const COULD_NOT_START: Option<i32> = Some(3);

fn copy(from: &Path, to: &Path) {
    run(&["cp", "-a", from.to_str().unwrap(), to.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_folder_is_refused_and_disturbs_nothing() {
    let mut story = Story::new();
    story.start().await;
    story.kill(&[B]).await;
    story.send(A, 100, 1_000).await;
    let folder = story.pair.folder().to_owned();
    story.gateway(B).keep_data_in(&folder.join("elsewhere"));
    let (first, second) = (story.pair.a.data().to_owned(), story.pair.b.data().to_owned());
    std::fs::create_dir(folder.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(first, second).unwrap();
    story.gateway(B).spawn();
    until("the second one has ended", async || story.pair.b.has_ended()).await;
    assert_eq!(story.gateway(B).ended().await.code(), COULD_NOT_START);
    assert!(story.pair.b.whole_log().contains("in use by another process"), "{}", story.pair.b.log_tail());
    story.gateway(B).keep_data_in(&folder);
    story.fault();
    story.kill(&[A]).await;
    story.ends_well().await;
}

/// The sender goes back to a copy from the morning: it has forgotten what it sent since, and counts from there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_restored_from_an_old_copy_neither_repeats_nor_hides_anything() {
    let mut story = Story::new();
    story.start().await;
    story.send(A, 50, 500).await;
    story.promises_are_kept().await;
    story.kill(&[B]).await;
    story.send(A, 50, 500).await;
    story.gateway(A).stop().await;
    let (data, old) = (story.pair.a.data().to_owned(), story.pair.folder().join("old"));
    copy(&data, &old);
    story.start().await;
    story.promises_are_kept().await;
    let key = Key { from: A, id: "batch 2/7".into() };
    story.pair.a.client().send(&story.ledger, &key, 700).await;
    story.promises_are_kept().await;
    story.fault();
    story.gateway(A).stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&old, &data).unwrap();
    // What it delivers again has been delivered; what it accepts now has numbers that were never used.
    story.start().await;
    story.send(A, 50, 500).await;
    story.fault();
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_pending_messages_survive_a_kill_and_are_delivered() {
    let mut story = Story::new();
    story.gateway(A).start().await;
    let count = setting("PETNET_PENDING", 20_000);
    story.send(A, count, 64).await;
    story.kill(&[A]).await;
    let found = story.gateway(A).start().await;
    assert_eq!((found.pending, found.damaged), (count, 0));
    println!("serving again after a kill with {count} pending messages: {:.1?}", found.took);
    let drained = Instant::now();
    story.start().await;
    story.promises_are_kept().await;
    println!("delivered and read {count} messages in {:.1?}", drained.elapsed());
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_stored_bytes_survive_a_kill() {
    let mut story = Story::new();
    story.gateway(A).start().await;
    let mib = setting("PETNET_STORED_MIB", 256);
    story.send(A, mib, 1 << 20).await;
    story.kill(&[A]).await;
    let found = story.gateway(A).start().await;
    assert_eq!((found.pending, found.damaged), (mib, 0));
    println!("serving again after a kill with {mib} MiB stored: {:.1?}", found.took);
    story.ends_well().await;
}

/// Wall-clock time jumps, also while the gateway is down; the log shows that it saw it. Monotonic time goes on, as it
/// does when somebody sets a clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_years_expires_nothing_and_stops_no_retries() {
    if !have(&[Need::FakeTime]) {
        return;
    }
    let mut story = Story::new();
    let clock = story.pair.folder().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    story.gateway(A).set("LD_PRELOAD", fake_time().unwrap().to_str().unwrap());
    story.gateway(A).set("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
    story.gateway(A).set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    story.gateway(A).set("FAKETIME_NO_CACHE", "1");
    story.gateway(A).start().await;
    story.gateway(B).start().await;
    for (jump, restart) in
        [("+3600", false), ("-3600", false), ("+3650d", false), ("-3650d", true), ("+3650d", true)]
    {
        story.kill(&[B]).await;
        story.send(A, 50, 500).await;
        if restart {
            story.kill(&[A]).await;
        }
        std::fs::write(&clock, jump).unwrap();
        story.gateway(A).start().await;
        story.send(A, 50, 500).await;
        story.fault();
        story.gateway(B).start().await;
        story.promises_are_kept().await;
    }
    let years = |log: &str| log.lines().filter_map(|line| line.get(..4)?.parse().ok()).collect::<Vec<u32>>();
    let years = years(&story.pair.a.whole_log());
    assert!(years.iter().max().unwrap() - years.iter().min().unwrap() >= 19, "it saw no jump: {years:?}");
    story.ends_well().await;
}
