//! The cases of what waits for a peer that is not there: a million messages, a kill, and what they cost in memory.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bars::on_worker;
use crate::exchange;
use crate::load::Load;
use crate::pair::{Member, Pair, Places};
use crate::report::{Args, Bar, Table, folder, median};
use crate::ways::Ends;

/// Streams that fill the gateway with small messages: as many as in the case `exchange`.
pub(crate) const SENDERS: usize = 64;
/// Those that fill it with larger ones; few, so that what they have under way (4 MiB each) is not what is measured.
const FEW: usize = 8;
/// The peer is asked often, so that the pause before it takes messages again is no part of what is measured.
pub(crate) const OFTEN: [(&str, &str); 1] = [("RETRY_CAP", "1s")];

/// So many messages of a size from each sender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heap {
    size: usize,
    senders: usize,
    each: usize,
}

impl Heap {
    pub(crate) fn of(count: usize, size: usize, senders: usize) -> Self {
        Self { size, senders, each: count / senders }
    }

    pub(crate) fn count(self) -> usize {
        self.each * self.senders
    }

    fn load(self) -> Load {
        Load { run: "heap/".into(), size: self.size, senders: self.senders, time: Duration::ZERO }
    }

    /// Has them accepted at the first gateway; how long that took.
    pub(crate) async fn fill(self, places: &Places) -> Result<Duration> {
        let ends = Ends::of(places.addresses());
        let start = Instant::now();
        on_worker(async move { exchange::fill(&ends, &self.load(), self.each).await }).await?;
        Ok(start.elapsed())
    }
}

/// A million messages wait; the gateway is killed and started again, and then its peer comes.
pub(crate) async fn restart(args: &Args, table: &mut Table) -> Result<()> {
    let steady = steady(args).await?;
    let folder = folder();
    let places = Places::new(folder.path());
    let heap = Heap::of(args.pick(1_000_000, 100_000), 64, SENDERS);
    let killed = places.start(0, &OFTEN);
    let filled = heap.fill(&places).await?;
    // SIGKILL.
    drop(killed);
    let start = Instant::now();
    let a = places.start(0, &OFTEN);
    let serves = start.elapsed().as_secs_f64();
    let name = format!("{} pending of 64 B, killed: until it serves", heap.count());
    let measured = format!(
        "filled in {:.1} s; {:.0} MiB of memory at most; it found {}",
        filled.as_secs_f64(),
        a.peak_memory(),
        a.found()
    );
    table.add(&name, measured, (serves, "s"), Bar::AtMost(1.0));
    let b = places.start(1, &[]);
    let ends = Ends::of(places.addresses());
    let (start, count) = (Instant::now(), heap.count());
    on_worker(async move { exchange::drain(&ends, &heap.load(), count).await }).await?;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let measured = format!(
        "{rate:.0}/s from the moment at which the peer serves, steadily {steady:.0}/s; memory at most {:.0} and {:.0} MiB",
        a.peak_memory(),
        b.peak_memory(),
    );
    let name = format!("{count} pending of 64 B, delivered when the peer comes");
    table.add(&name, measured, (rate / steady, "x steady"), Bar::AtLeast(0.5));
    Ok(())
}

/// What the case `exchange` calls delivered: messages a second until the last is at the subscriber.
async fn steady(args: &Args) -> Result<f64> {
    let folder = folder();
    let pair = Pair::gateways(folder.path());
    let time = Duration::from_millis(args.pick(2000, 1000));
    let mut rates = vec![];
    for round in 0..=args.pick(5, 3) {
        let (load, ends) = (
            Load { run: format!("x{round}/"), size: 64, senders: SENDERS, time },
            Ends::of(pair.addresses()),
        );
        let done = on_worker(async move { exchange::load(&ends, &load).await }).await?;
        // The first is there to get warm.
        if round > 0 {
            rates.push(done.messages as f64 / done.received_in.as_secs_f64());
        }
    }
    Ok(median(&rates))
}

/// A million messages of 10 KiB wait.
pub(crate) async fn memory(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let places = Places::new(folder.path());
    let heap = Heap::of(args.pick(1 << 20, 100 << 10), 10 << 10, FEW);
    let a = places.start(0, &OFTEN);
    let filled = heap.fill(&places).await?;
    let full = a.memory();
    let calm = calm(&a).await;
    let name = format!("{} pending of 10 KiB, resident memory", heap.count());
    let measured = format!(
        "{} MiB accepted in {:.1} s; resident {full:.0} MiB then, {calm:.0} MiB when nothing changed any more, {:.0} MiB at \
         most",
        (heap.count() * heap.size) >> 20,
        filled.as_secs_f64(),
        a.peak_memory(),
    );
    table.add(&name, measured, (calm, "MiB"), Bar::AtMost(256.0));
    Ok(())
}

/// The memory of a gateway once it has stayed the same for some seconds, or after a minute.
pub(crate) async fn calm(member: &Member) -> f64 {
    const QUIET: usize = 8;
    let (mut last, mut quiet) = (member.memory(), 0);
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = member.memory();
        quiet = if (now - last).abs() < 1.0 { quiet + 1 } else { 0 };
        last = now;
        if quiet >= QUIET {
            break;
        }
    }
    last
}
