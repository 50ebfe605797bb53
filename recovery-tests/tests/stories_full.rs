//! Stories of a small file system that a gateway, alone on it, has filled by itself, and that loses its power again and
//! again: whatever half-made files that leaves, each start serves, reads and delivers, and nothing accepted is lost.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use petnet_recovery_tests::clients::{Load, Mix};
use petnet_recovery_tests::counts::Counts;
use petnet_recovery_tests::ledger::{Answer, Key};
use petnet_recovery_tests::random::Random;
use petnet_recovery_tests::story::{A, B, Story};
use petnet_recovery_tests::tools::{Need, PYTHON, have};
use petnet_recovery_tests::volume::Volume;
use petnet_recovery_tests::{LOOK_EVERY, setting, until};
use tokio::time::timeout;

/// Error code of `Response`: the store is full.
const STORE_FULL: i32 = 30_005;
/// A start serves within this time, then reads, and then delivers.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Longest time from the first message at risk to the cut.
const SOON: Duration = Duration::from_millis(1_500);
/// So many of the messages that are owed are looked for after a start.
const SAMPLE: usize = 100;
/// Rounds on one file system before it is made again, with another size.
const ROUNDS_OF_ONE: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_filled_its_ext4_always_starts_again() {
    let sizes = [96, 128, 192, 256, 400, 700];
    filled("ext4", "mkfs.ext4", &sizes, "a_gateway_that_filled_its_ext4_always_starts_again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_filled_its_xfs_always_starts_again() {
    filled("xfs", "mkfs.xfs", &[320, 400, 700], "a_gateway_that_filled_its_xfs_always_starts_again").await;
}

async fn filled(file_system: &'static str, mkfs: &'static str, mib: &[u64], name: &str) {
    if !have(&[
        Need::Root,
        Need::Loop,
        PYTHON,
        Need::FileSystem(file_system),
        Need::Program(mkfs, "e2fsprogs xfsprogs"),
    ]) {
        return;
    }
    let (mut total, mut random) = (Counts::default(), Random::new());
    let seed = random.seed();
    // Both file systems together.
    let mut rounds = setting("PETNET_FULL_ROUNDS", 20) / 2;
    while rounds > 0 {
        let size = mib[random.below(mib.len() as u64) as usize];
        println!("{name}: {file_system} of {size} MiB, {rounds} rounds left");
        let volume = Volume::small(file_system, size << 20);
        let mut story = Story::new();
        story.gateway(A).keep_data_in(&volume.path());
        story.start().await;
        // What A has in its mailbox all the time.
        story.send(B, 1, 10_000).await;
        story.promises_are_kept().await;
        story.kill(&[B]).await;
        let here = rounds.min(ROUNDS_OF_ONE);
        for round in 0..here {
            fill_and_cut(&mut story, &volume).await;
            starts_at_once(&mut story).await;
            if round % 2 == 1 {
                drains(&mut story).await;
            }
            story.kill(&[B]).await;
        }
        rounds -= here;
        story.start().await;
        drains(&mut story).await;
        total.add(&story.judge().await);
    }
    total.conclude(name, seed);
}

/// The gateway fills its disk, alone, and the power goes at a random moment of that or after it.
async fn fill_and_cut(story: &mut Story, volume: &Volume) {
    if story.random.below(3) > 0 {
        until("the store is full", async || {
            let (_, refused) = story.try_to_send(A, 32, 1 << 20).await;
            match refused? {
                Answer::Refused(STORE_FULL, _) => Some(()),
                other => panic!("a full disk gives a clear error, not {other:?}"),
            }
        })
        .await;
    }
    let mix = Mix { writers: 8, large_every: 6, ..Mix::default() };
    let client = story.gateway(A).client();
    let name = format!("load {}", story.counts.power_cuts);
    let load = Load::start(&[client], A, &name, mix, &story.ledger, &mut story.random);
    story.random_moment(SOON).await;
    story.power_cut(volume, &[A]).await;
    // What is sent meanwhile reaches nobody.
    load.stop().await;
}

/// The start after the cut, and then a peer that is there again.
async fn starts_at_once(story: &mut Story) {
    let served = timeout(AT_ONCE, story.gateway(A).start()).await;
    served.unwrap_or_else(|_| panic!("no start within {AT_ONCE:?}"));
    let mail = story.ledger.keys().into_iter().find(|key| key.from == B).unwrap();
    let read = timeout(AT_ONCE, one_comes(story, &[mail])).await;
    read.unwrap_or_else(|_| panic!("nothing is read within {AT_ONCE:?}"));
    story.gateway(B).start().await;
    let owed: Vec<_> = story.ledger.owed().into_iter().filter(|key| key.from == A).collect();
    let some: Vec<_> = owed.iter().step_by(owed.len().div_ceil(SAMPLE).max(1)).cloned().collect();
    let mut missing = Vec::new();
    for key in some {
        if !is_there(story, &key).await {
            missing.push(key);
        }
    }
    if !missing.is_empty() {
        let delivered = timeout(AT_ONCE, one_comes(story, &missing)).await;
        delivered.unwrap_or_else(|_| panic!("nothing is delivered within {AT_ONCE:?}"));
    }
}

/// A reader is handed what was promised.
async fn is_there(story: &mut Story, key: &Key) -> bool {
    let mut reader = story.gateway(key.from.other()).client();
    let found = reader.receive(key, Duration::ZERO).await.ok().flatten();
    found.is_some_and(|found| story.ledger.is_kept(key, &found))
}

/// Looks until one of them is there.
async fn one_comes(story: &mut Story, keys: &[Key]) {
    loop {
        for key in keys {
            if is_there(story, key).await {
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Everything accepted arrives, and then there is room for more.
async fn drains(story: &mut Story) {
    story.promises_are_kept().await;
    until("there is room again", async || {
        let (accepted, _) = story.try_to_send(A, 1, 64 << 10).await;
        (accepted == 1).then_some(())
    })
    .await;
}
