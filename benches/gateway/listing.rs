//! The case of the operator who lists: one page of 100 while ten thousand, a hundred thousand and a million messages are there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cases;
use crate::clients::{PARTIES, client};
use crate::pair::Places;
use crate::pending::{Heap, OFTEN, SENDERS, calm};
use crate::report::{Args, Bar, Table, folder, percentile_ms};
use crate::status::asked;

/// What is asked: where, for which figure. Ids are `heap/SENDER:NUMBER`: of one sender in six they begin with `heap/1`; with
/// `heap/63:155` few do, the last ones; with `absent` none.
const QUESTIONS: [(usize, &[&str]); 9] = [
    (0, &["queue", "ls", "--limit", "100"]),
    (0, &["queue", "ls", "--limit", "100", "--prefix", "heap/1"]),
    (0, &["queue", "ls", "--limit", "100", "--prefix", "heap/63:155"]),
    (1, &["mailbox", "ls", "--limit", "100"]),
    (1, &["mailbox", "ls", "--limit", "100", "--sender", PARTIES[0]]),
    (1, &["mailbox", "ls", "--limit", "100", "--prefix", "heap/"]),
    (1, &["mailbox", "ls", "--limit", "100", "--prefix", "heap/1"]),
    (1, &["mailbox", "ls", "--limit", "100", "--prefix", "heap/63:155"]),
    (1, &["mailbox", "ls", "--limit", "100", "--prefix", "absent"]),
];
/// Sends of which the slowest hundredth is looked at.
const SENDS: usize = 2000;

/// A page costs what it gives: with the most messages it takes at most twice what it takes with the fewest. The life of the
/// process that asks is in both.
pub(crate) async fn listing(args: &Args, table: &mut Table) -> Result<()> {
    let counts = [10_000, 100_000, args.pick(1_000_000, 100_000)];
    let mut times = [[f64::NAN; 3]; QUESTIONS.len()];
    let mut beside = [f64::NAN; 2];
    for (round, count) in counts.into_iter().enumerate() {
        let folder = folder();
        let places = Places::new(folder.path());
        let heap = Heap::of(count, 64, SENDERS);
        let a = places.start(0, &OFTEN);
        heap.fill(&places).await?;
        calm(&a).await;
        let mut ask = |at: usize| {
            for (n, (_, words)) in QUESTIONS.iter().enumerate().filter(|(_, (place, _))| *place == at) {
                times[n][round] = asked(&places.data(at), words).0;
            }
        };
        ask(0);
        let b = places.start(1, &[]);
        delivered(&places.data(0)).await?;
        calm(&b).await;
        ask(1);
        if round == 0 {
            beside[0] = sends(&places, 0).await;
        } else if round == 2 {
            let mut all = Command::new(env!("CARGO_BIN_EXE_petnet"));
            let all = all.args(["mailbox", "ls", "--all", "--json", "--data-dir"]).arg(places.data(1));
            let mut listing = all.stdout(Stdio::null()).spawn()?;
            beside[1] = sends(&places, 1).await;
            ensure!(listing.try_wait()?.is_none(), "the listing was over before the sends were");
            listing.kill()?;
            listing.wait()?;
        }
    }
    for ((_, words), [few, some, many]) in QUESTIONS.iter().zip(times) {
        let name =
            format!("petnet {}: a page with {} against one with {}", words.join(" "), counts[2], counts[0]);
        let measured = format!("{few:.1}, {some:.1}, {many:.1} ms with {counts:?}");
        table.add(name, measured, (many / few, "x"), Bar::AtMost(2.0));
    }
    let [alone, listed] = beside;
    let measured =
        format!("p99 of {SENDS} sends: {alone:.2} ms alone, {listed:.2} ms beside `mailbox ls --all` of all");
    table.add(
        "sends to a gateway whose mailbox is listed",
        measured,
        (listed / alone, "x"),
        Bar::AtMost(3.0),
    );
    Ok(())
}

/// The p99 in ms of sends to the gateway whose mailbox is full.
async fn sends(places: &Places, round: usize) -> f64 {
    let [_, b] = places.addresses();
    let times = cases::one_to(client(b), PARTIES[0], round * SENDS, SENDS).await;
    percentile_ms(&times, 99)
}

/// Waits until nothing is pending any more.
async fn delivered(data: &Path) -> Result<()> {
    for _ in 0..600 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petnet"));
        let listed =
            command.args(["queue", "ls", "--json", "--limit", "1", "--data-dir"]).arg(data).output()?;
        ensure!(listed.status.success(), "petnet queue ls failed");
        if !String::from_utf8_lossy(&listed.stdout).contains("\"message_id\"") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("not all was delivered in five minutes")
}
