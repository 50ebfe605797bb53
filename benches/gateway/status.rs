//! The case of the operator who asks: `petnet status`, as a process of its own, while a million messages wait.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Result;

use crate::pair::Places;
use crate::pending::{Heap, OFTEN, SENDERS, calm};
use crate::report::{Args, Bar, Table, folder, median};

/// How often each question is asked.
const ASKED: usize = 21;

/// A question takes at most 100 ms: while the index of what waits is in memory yet, and when it is on disk.
pub(crate) async fn status(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let places = Places::new(folder.path());
    let heap = Heap::of(args.pick(1_000_000, 100_000), 64, SENDERS);
    let a = places.start(0, &OFTEN);
    heap.fill(&places).await?;
    let data = places.data(0);
    let name = |what: &str, when: &str| format!("{what}, {} pending, {when}", heap.count());
    let (took, measured) = asked(&data, &["status"]);
    table.add(name("petnet status", "just accepted"), measured, (took, "ms"), Bar::AtMost(100.0));
    calm(&a).await;
    for words in [&["status"][..], &["status", "--json"], &["queue", "ls"]] {
        let (took, measured) = asked(&data, words);
        let what = format!("petnet {}", words.join(" "));
        table.add(name(&what, "at rest"), measured, (took, "ms"), Bar::AtMost(100.0));
    }
    Ok(())
}

/// The median of a command's whole life in ms, and the range.
pub(crate) fn asked(data: &Path, words: &[&str]) -> (f64, String) {
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let start = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_petnet"));
        command.args(words).arg("--data-dir").arg(data).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "petnet {} failed", words.join(" "));
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let measured =
        format!("{ASKED} processes: {:.1} to {:.1} ms", times[0], times.last().copied().unwrap_or_default());
    (median(&times), measured)
}
