//! A small fixed workload, killed before its N-th system call that changes the disk, for every N until it runs through.
//!
//! strace counts per thread and kind of call. So N runs through the calls of each kind, and hits the thread that makes
//! its N-th one first; each writer, the keeper and the start have their turn.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::counts::Counts;
use petnet_recovery_tests::ledger::{Answer, Key, Party};
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::tools::{STRACE, have};
use petnet_recovery_tests::{setting, until};

/// Everything that changes a file or the names in a folder, and every kind of sync.
const CALLS: [&str; 10] = [
    "pwritev",
    "pwrite64",
    "write",
    "fdatasync",
    "fsync",
    "fallocate",
    "ftruncate",
    "rename,renameat2",
    "unlink,unlinkat",
    "mkdir,mkdirat",
];

/// Small ones, one of several slices, and an id that is used twice.
const WORKLOAD: [(&str, usize); 6] = [
    ("small", 60),
    ("again", 3_000),
    ("slices", 600 << 10),
    ("again", 100),
    ("last", 70 << 10),
    ("end", 1_000),
];

/// Kills `victim` at every N-th call of every kind while `party_a` sends to `party_b`.
async fn killed_at_every_call_of(victim: Party) {
    if !have(&[STRACE]) {
        return;
    }
    let mut total = Counts::default();
    let mut seed = 0;
    for call in CALLS {
        for nth in 1..setting("PETNET_CALLS", 60) {
            let (counts, was_killed) = killed_at(victim, call, nth).await;
            if !was_killed {
                break;
            }
            total.add(&counts);
            seed = nth;
        }
    }
    total.conclude(std::thread::current().name().unwrap(), seed);
}

async fn killed_at(victim: Party, call: &str, nth: u64) -> (Counts, bool) {
    let mut story = Story::new();
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    let trace = format!("trace={call}");
    story.gateway(victim).run_under(&[
        "strace",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ]);
    story.gateway(A).spawn();
    story.gateway(B).spawn();
    run_through(&mut story, victim).await;
    let was_killed = story.gateway(victim).ended().await.code().is_none();
    story.gateway(victim).run_under(&[]);
    story.counts.crash_points = u64::from(was_killed);
    (story.judge().await, was_killed)
}

/// The workload, then a stop in order; ends early when the victim does.
async fn run_through(story: &mut Story, victim: Party) {
    let mut client = story.gateway(A).client();
    client.patience = Duration::from_secs(20);
    for (id, len) in WORKLOAD {
        let key = Key { from: A, id: id.into() };
        let mut tries = 0;
        until("a send is answered, or the victim has ended", async || {
            let answer = client.send(&story.ledger, &key, len).await;
            tries += 1;
            (answer == Answer::Accepted || story.pair.gateway(victim).has_ended().is_some()).then_some(())
        })
        .await;
    }
    story.fault();
    let ledger = story.ledger.clone();
    let mut reader = story.gateway(B).client();
    until("all is delivered, or the victim has ended", async || {
        let mut all = true;
        for key in ledger.owed() {
            let found = reader.receive(&key, Duration::from_millis(200)).await.ok().flatten();
            all &= found.is_some_and(|found| ledger.is_kept(&key, &found));
        }
        (all || story.pair.gateway(victim).has_ended().is_some()).then_some(())
    })
    .await;
    story.gateway(victim).close_stdin();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_at_any_call_that_changes_the_disk_loses_nothing() {
    killed_at_every_call_of(A).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_at_any_call_that_changes_the_disk_loses_nothing() {
    killed_at_every_call_of(B).await;
}
