//! A small fixed workload, killed before its N-th system call that changes the disk, for every N until it runs through.
//!
//! strace counts per thread and kind of call. So N runs through the calls of each kind, and hits the thread that comes
//! to its N-th one first: the start, which reads back the log, then the writers, the keeper, and the end.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::counts::Counts;
use petnet_recovery_tests::ledger::{Answer, Key, Party};
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::tools::{STRACE, have, kill_at};
use petnet_recovery_tests::{setting, until};

/// What changes the bytes of a file. The first start of all fills a whole segment with them.
const WRITES: [&str; 2] = ["pwritev", "pwrite64"];
/// Every kind of sync, and what changes names or lengths.
const OTHERS: [&str; 7] =
    ["fdatasync", "fsync", "fallocate", "ftruncate", "rename,renameat2", "unlink,unlinkat", "mkdir,mkdirat"];

/// Small ones, one of several slices, and an id that is used twice.
const WORKLOAD: [(&str, usize); 6] = [
    ("small", 60),
    ("again", 3_000),
    ("slices", 600 << 10),
    ("again", 100),
    ("last", 70 << 10),
    ("end", 1_000),
];

/// More than a segment of 64 MiB: the log goes on in another file.
const ROLL: [(&str, usize); 4] =
    [("large", 30 << 20), ("larger", 40 << 20), ("small", 100), ("large", 10 << 20)];

/// Which life of the victim is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    First,
    Second,
}

/// What `party_a` sends to `party_b`, and who is killed at it.
#[derive(Debug, Clone, Copy)]
struct Case {
    victim: Party,
    life: Life,
    workload: &'static [(&'static str, usize)],
}

/// Kills the victim at every N-th call of every kind.
async fn killed_at_every_call(case: Case, calls: &[&str]) {
    if !have(&[STRACE]) {
        return;
    }
    let mut total = Counts::default();
    for call in calls {
        for nth in 1..=setting("PETNET_CALLS", 100) {
            let (counts, was_killed) = killed_at(case, call, nth).await;
            if !was_killed {
                println!("{call}: killed at each of {} calls", nth - 1);
                break;
            }
            total.add(&counts);
        }
    }
    total.conclude(std::thread::current().name().unwrap(), 0);
}

async fn killed_at(case: Case, call: &str, nth: u64) -> (Counts, bool) {
    let Case { victim, life, workload } = case;
    let mut story = Story::new();
    if life == Life::Second {
        story.gateway(A).start().await;
        story.send(A, 5, 1_000).await;
        if victim == B {
            story.start().await;
            until("it is delivered", async || story.is_delivered().await.then_some(())).await;
            story.kill(&[B]).await;
        }
        story.kill(&[A]).await;
    }
    let strace = kill_at(call, nth);
    story.gateway(victim).run_under(&strace.each_ref().map(String::as_str));
    story.gateway(A).spawn();
    story.gateway(B).spawn();
    run_through(&mut story, victim, workload).await;
    let was_killed = story.gateway(victim).ended().await.code().is_none();
    story.gateway(victim).run_under(&[]);
    story.counts.crash_points = u64::from(was_killed);
    (story.judge().await, was_killed)
}

/// The workload, each message delivered before the next, then a stop in order; ends early when the victim does.
async fn run_through(story: &mut Story, victim: Party, workload: &[(&str, usize)]) {
    let mut client = story.gateway(A).client();
    client.patience = Duration::from_secs(20);
    for (id, len) in workload {
        let key = Key { from: A, id: (*id).into() };
        until("it is accepted, or the victim has ended", async || {
            let accepted = client.send(&story.ledger, &key, *len).await == Answer::Accepted;
            (accepted || story.pair.gateway(victim).has_ended().is_some()).then_some(())
        })
        .await;
        until("all is delivered, or the victim has ended", async || {
            (story.pair.gateway(victim).has_ended().is_some() || story.is_delivered().await).then_some(())
        })
        .await;
    }
    story.fault();
    story.gateway(victim).close_stdin();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_at_any_call_that_changes_the_disk_loses_nothing() {
    let case = Case { victim: A, life: Life::Second, workload: &WORKLOAD };
    killed_at_every_call(case, &[&WRITES[..], &OTHERS].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_at_any_call_that_changes_the_disk_loses_nothing() {
    let case = Case { victim: B, life: Life::Second, workload: &WORKLOAD };
    killed_at_every_call(case, &[&WRITES[..], &OTHERS].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_at_any_sync_or_change_of_a_name_in_its_first_life_starts_without_help() {
    killed_at_every_call(Case { victim: A, life: Life::First, workload: &WORKLOAD }, &OTHERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_while_its_log_goes_on_in_another_file_loses_nothing() {
    let names = ["fallocate", "ftruncate", "rename,renameat2", "fsync"];
    killed_at_every_call(Case { victim: A, life: Life::Second, workload: &ROLL }, &names).await;
}
