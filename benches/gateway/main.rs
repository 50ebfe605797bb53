//! Two gateways against the relay floor (see `floor`), in alternating rounds of the same run.
//!
//! `cargo bench --bench gateway -- [--quick] [CASE]...`; the cases are pingpong, sends and large. Clients, relays and
//! gateways all run in this process on one runtime, for both alike; a ratio is the median of the ratios of the rounds.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails ends")]

mod cases;
mod clients;
mod floor;
mod pair;
#[path = "../../storage/benches/log/report.rs"]
mod report;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pair::Pair;
use report::{Args, Bar, Table, folder, machine, median, median_ratio, percentile_ms};

fn main() {
    let args = Args::parse(std::env::args().skip(1));
    let mut table = Table::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("gateway: {}", machine(folder().path()));
    if args.wants("pingpong") {
        runtime.block_on(ping_pong(&args, &mut table));
    }
    if args.wants("sends") {
        runtime.block_on(sends(&args, &mut table));
    }
    if args.wants("large") {
        runtime.block_on(large(&args, &mut table));
    }
    table.print();
}

/// Runs as a task: the thread that blocks on the runtime is not one of its workers.
async fn on_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap()
}

fn in_words(appends: u64, syncs: u64) -> String {
    format!("{appends} records, {syncs} syncs")
}

async fn ping_pong(args: &Args, table: &mut Table) {
    let folder = folder();
    let pair = Pair::start(folder.path()).await;
    let (floor, gateways) = (floor::start().await, pair.addresses());
    let rounds = args.pick(500, 200);
    for addresses in [floor, gateways] {
        on_worker(cases::ping_pong(addresses, 0, rounds)).await;
    }
    let before = pair.appends_and_syncs();
    let (mut floors, mut times, mut p50s) = (vec![], vec![], [vec![], vec![]]);
    for round in 1..=args.pick(11, 5) {
        let floor_times = on_worker(cases::ping_pong(floor, round * rounds, rounds)).await;
        let gateway_times = on_worker(cases::ping_pong(gateways, round * rounds, rounds)).await;
        p50s[0].push(percentile_ms(&floor_times, 50));
        p50s[1].push(percentile_ms(&gateway_times, 50));
        floors.extend(floor_times);
        times.extend(gateway_times);
    }
    let after = pair.appends_and_syncs();
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms; floor p50 {:.2} ms, p99 {:.2} ms; {} in {} rounds",
        percentile_ms(&times, 50),
        percentile_ms(&times, 99),
        percentile_ms(&floors, 50),
        percentile_ms(&floors, 99),
        in_words(after.0 - before.0, after.1 - before.1),
        times.len(),
    );
    let ratio = median_ratio(&p50s[1], &p50s[0]);
    table.add("ping-pong 64 B, p50", measured, (ratio, "x floor"), Bar::AtMost(1.5));
    pair.shutdown().await;
}

async fn sends(args: &Args, table: &mut Table) {
    let folder = folder();
    let pair = Pair::start(folder.path()).await;
    let connect = |address: SocketAddr| (0..64).map(|_| clients::client(address)).collect::<Vec<_>>();
    let floor = connect(floor::start().await[0]);
    let gateway = connect(pair.addresses()[0]);
    let time = Duration::from_millis(args.pick(2000, 1000));
    let (mut first, mut floors, mut rates, mut delivered) = (0, vec![], vec![], vec![]);
    let mut before = (0, 0);
    for round in 0..=args.pick(9, 4) {
        let senders = floor.clone();
        let (floor_rate, _) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        let senders = gateway.clone();
        let start = Instant::now();
        let (rate, count) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        while pair.pending() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        first += count;
        // The first is there to get warm.
        if round == 0 {
            before = pair.appends_and_syncs();
            continue;
        }
        floors.push(floor_rate);
        rates.push(rate);
        delivered.push(count as f64 / start.elapsed().as_secs_f64());
    }
    let after = pair.appends_and_syncs();
    let measured = format!(
        "{:.0}/s accepted, floor {:.0}/s; {}",
        median(&rates),
        median(&floors),
        in_words(after.0 - before.0, after.1 - before.1)
    );
    let ratio = median_ratio(&rates, &floors);
    table.add("64 senders of 64 B, accepted", measured, (ratio, "x floor"), Bar::AtLeast(1.0));
    let measured = format!("{:.0}/s until the last is delivered", median(&delivered));
    table.add("the same, delivered", measured, (median_ratio(&delivered, &floors), "x floor"), None);
    pair.shutdown().await;
}

async fn large(args: &Args, table: &mut Table) {
    let folder = folder();
    let pair = Pair::start(folder.path()).await;
    let (floor, gateways) = (floor::start().await, pair.addresses());
    let payload = Bytes::from(vec![7; 16 << 20]);
    let each = args.pick(16, 4);
    let (mut floors, mut rates) = (vec![], vec![]);
    let mut before = (0, 0);
    for round in 0..=args.pick(5, 3) {
        let content = payload.clone();
        let floor_rate =
            on_worker(async move { cases::bulk(floor, &content, round * each, each).await }).await;
        let content = payload.clone();
        let rate = on_worker(async move { cases::bulk(gateways, &content, round * each, each).await }).await;
        if round == 0 {
            before = pair.appends_and_syncs();
            continue;
        }
        floors.push(floor_rate);
        rates.push(rate);
    }
    let after = pair.appends_and_syncs();
    let measured = format!(
        "{:.0} MB/s, floor {:.0} MB/s; {}",
        median(&rates),
        median(&floors),
        in_words(after.0 - before.0, after.1 - before.1)
    );
    let ratio = median_ratio(&rates, &floors);
    table.add("16 MiB, 4 senders, end to end", measured, (ratio, "x floor"), Bar::AtLeast(0.6));
    pair.shutdown().await;
}
