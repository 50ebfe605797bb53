//! Stories of a disk that is full, fails, or goes away, and of a process that may open no more files.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::fs;
use std::time::Duration;

use petnet_recovery_tests::counts::Counts;
use petnet_recovery_tests::ledger::Answer;
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::tools::{Need, PRLIMIT, STRACE, fail_at, have};
use petnet_recovery_tests::until;
use petnet_recovery_tests::volume::Volume;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Error code of `Response`: the store is full.
const STORE_FULL: i32 = 30_005;
/// Exit code: a write or sync failed.
const POISONED: Option<i32> = Some(4);

/// Sends until the store is full. Gives how many were accepted.
async fn fill(story: &mut Story) -> u64 {
    let mut accepted = 0;
    until("the store is full", async || {
        let (some, refused) = story.try_to_send(A, 32, 1 << 20).await;
        accepted += some;
        match refused? {
            Answer::Refused(STORE_FULL, _) => Some(accepted),
            other => panic!("a full disk gives a clear error, not {other:?}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_sends_only_and_accepts_them_again_when_there_is_room() {
    if !have(&[Need::Root]) {
        return;
    }
    let volume = Volume::in_memory(640 << 20);
    let mut story = Story::new();
    story.gateway(A).keep_data_in(&volume.path());
    story.start().await;
    story.send(B, 10, 1_000).await;
    story.kill(&[B]).await;
    assert!(fill(&mut story).await > 0);
    story.fault();
    assert!(story.gateway(A).is_serving().await, "a full disk is not the end");
    // The kill finds the disk full, and so does the start after it.
    story.kill(&[A]).await;
    story.start().await;
    story.promises_are_kept().await;
    until("there is room again", async || {
        let (accepted, _) = story.try_to_send(A, 1, 1 << 20).await;
        (accepted == 1).then_some(())
    })
    .await;
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_process_with_its_own_code_and_a_restart_is_clean() {
    if !have(&[STRACE]) {
        return;
    }
    let mut total = Counts::default();
    for nth in [20, 33, 50] {
        let mut story = Story::new();
        let strace = fail_at("fdatasync", "EIO", nth);
        story.gateway(A).run_under(&strace.each_ref().map(String::as_str));
        story.gateway(A).spawn();
        let ended = until("it has ended", async || {
            story.try_to_send(A, 5, 2_000).await;
            story.pair.a.has_ended()
        });
        assert_eq!(ended.await.code(), POISONED, "{}", story.pair.a.log());
        story.fault();
        story.gateway(A).ended().await;
        story.gateway(A).run_under(&[]);
        story.counts.crash_points = 1;
        total.add(&story.judge().await);
    }
    total.conclude("a_failed_sync_ends_the_process_with_its_own_code_and_a_restart_is_clean", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_turns_read_only_ends_the_process_and_a_restart_is_clean() {
    if !have(&[
        Need::Root,
        Need::Loop,
        Need::Program("mkfs.ext4", "e2fsprogs"),
        Need::Program("findmnt", "util-linux"),
    ]) {
        return;
    }
    let volume = Volume::with_power("ext4");
    volume.read_only_after_errors();
    let mut story = Story::new();
    story.gateway(A).keep_data_in(&volume.path());
    story.gateway(A).start().await;
    story.send(A, 100, 2_000).await;
    story.fault();
    volume.disk_error();
    let ended = until("it has ended", async || {
        story.try_to_send(A, 5, 2_000).await;
        story.pair.a.has_ended()
    });
    assert_eq!(ended.await.code(), POISONED, "{}", story.pair.a.log());
    story.gateway(A).ended().await;
    volume.power_on();
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_take_all_files_do_not_hurt_what_was_accepted() {
    if !have(&[PRLIMIT]) {
        return;
    }
    let mut story = Story::new();
    story.gateway(A).run_under(&["prlimit", "--nofile=64:64"]);
    story.gateway(A).start().await;
    story.send(A, 100, 2_000).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(story.pair.a.address()).await.unwrap());
    }
    // More than what the log files that are there hold.
    let (_, refused) = story.try_to_send(A, 300, 256 << 10).await;
    if let Some(Answer::Refused(code, text)) = refused {
        panic!("a shortage of open files is told as what it is, not as {code}: {text}");
    }
    story.fault();
    drop(silent);
    until("it serves again", async || {
        let mut client = story.pair.a.client();
        client.patience = Duration::from_secs(2);
        story.pair.a.is_serving().await.then_some(())
    })
    .await;
    story.ends_well().await;
}

/// sled panics where its file cannot be synced, and did so while the gateway stopped: exit code 101.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_of_the_index_is_no_panic() {
    if !have(&[STRACE]) {
        return;
    }
    let mut total = Counts::default();
    for (error, nth) in [("EIO", "2+"), ("EIO", "4"), ("EIO", "6+"), ("ENOSPC", "5+"), ("EROFS", "8")] {
        let mut story = Story::new();
        story.start().await;
        story.send(A, 10, 5_000).await;
        story.promises_are_kept().await;
        story.send(A, 10, 5_000).await;
        story.kill(&[A]).await;
        let inject = format!("inject=fsync:error={error}:when={nth}");
        story.gateway(A).run_under(&[
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fsync",
            "-e",
            &inject,
        ]);
        story.gateway(A).spawn();
        let ended = async {
            loop {
                story.try_to_send(A, 5, 2_000).await;
                if let Some(status) = story.pair.a.has_ended() {
                    return status;
                }
            }
        };
        // Where the index can be done without, it goes on.
        if timeout(Duration::from_secs(5), ended).await.is_err() {
            story.gateway(A).close_stdin();
        }
        let code = story.gateway(A).ended().await.code();
        let log = story.pair.a.log();
        assert!(matches!(code, Some(0 | 3 | 4)), "{error} {nth}: {code:?}, {log}");
        assert!(!log.contains("panicked"), "{error} {nth}: {log}");
        story.gateway(A).run_under(&[]);
        story.counts.crash_points = 1;
        total.add(&story.judge().await);
    }
    total.conclude("a_failed_sync_of_the_index_is_no_panic", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_file_size_is_told_and_ends_nothing() {
    if !have(&[PRLIMIT]) {
        return;
    }
    let mut story = Story::new();
    story.gateway(A).run_under(&["prlimit", "--fsize=41943040"]);
    story.gateway(A).start().await;
    assert!(story.pair.a.log().contains("ulimit -f"), "{}", story.pair.a.log());
    story.send(A, 300, 256 << 10).await;
    story.kill(&[A]).await;
    story.gateway(A).start().await;
    story.ends_well().await;
}

/// The open files of a removed folder still take everything, and no start would ever find it.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_was_removed_is_noticed() {
    let mut story = Story::new();
    story.gateway(A).start().await;
    fs::remove_dir_all(story.pair.a.data()).unwrap();
    let ended = until("it has ended", async || {
        story.try_to_send(A, 1, 100).await;
        story.pair.a.has_ended()
    });
    assert_eq!(ended.await.code(), POISONED, "{}", story.pair.a.log());
    assert!(story.pair.a.log().contains("party_a removed?"), "{}", story.pair.a.log());
}
