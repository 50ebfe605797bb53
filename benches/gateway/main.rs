//! Two gateways against the relay floor (see `floor`), in alternating rounds of the same run.
//!
//! `cargo bench --bench gateway -- [--quick] [CASE]...`; the cases are pingpong, sends, large and hostile. Gateways and relays are
//! processes of their own, as they are in use, and all clients are in this one; a ratio is the median of the ratios of
//! the rounds.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails ends")]

mod cases;
mod clients;
mod floor;
mod hostile;
mod pair;
#[path = "../../storage/benches/log/report.rs"]
mod report;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pair::{Pair, RELAY};
use report::{Args, Bar, Table, folder, machine, median, median_ratio, percentile_ms};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(addresses) = std::env::args().find_map(|arg| arg.strip_prefix(RELAY).map(str::to_owned)) {
        return runtime.block_on(floor::run(&addresses));
    }
    if let Some(address) =
        std::env::args().find_map(|arg| arg.strip_prefix(hostile::FLOOD).map(str::to_owned))
    {
        hostile::flood(&address);
    }
    let args = Args::parse(std::env::args().skip(1));
    let mut table = Table::default();
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
    if args.wants("hostile") {
        for (what, settings) in [
            ("by default", &[][..]),
            (
                "all of them kept",
                &[
                    ("MAX_CONNECTIONS", "15000"),
                    ("MAX_CONNECTIONS_PER_ADDRESS", "15000"),
                    ("HANDSHAKE_TIMEOUT", "1h"),
                ],
            ),
        ] {
            runtime.block_on(besieged(&args, &mut table, what, settings));
        }
    }
    table.print();
}

async fn besieged(args: &Args, table: &mut Table, what: &str, settings: &[(&str, &str)]) {
    let folder = folder();
    let certs = folder.path().join("certs");
    hostile::certificates(&certs);
    let gateway = pair::one_gateway(folder.path(), &certs, settings);
    let address = gateway.address();
    let count = args.pick(2000, 500);
    let (mut idle, mut under, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..=args.pick(5, 2) {
        let client = hostile::client(&certs, address).await;
        let first = 2 * round * count;
        let before = on_worker(hostile::sends(client, first, count)).await;
        let flood = tokio::task::spawn_blocking(move || hostile::Flood::start(address)).await.unwrap();
        // It connects when the flood is on.
        let client = hostile::client(&certs, address).await;
        let during = on_worker(hostile::sends(client, first + count, count)).await;
        drop(flood);
        // The first is there to get warm.
        if round > 0 {
            ratios.push(percentile_ms(&during, 99) / percentile_ms(&before, 99));
            idle.extend(before);
            under.extend(during);
        }
    }
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms; before p50 {:.2} ms, p99 {:.2} ms",
        percentile_ms(&under, 50),
        percentile_ms(&under, 99),
        percentile_ms(&idle, 50),
        percentile_ms(&idle, 99),
    );
    let name = format!("10,000 silent connections and half handshakes, {what}, p99");
    table.add(&name, measured, (median(&ratios), "x idle"), Bar::AtMost(5.0));
}

/// Runs as a task: the thread that blocks on the runtime is not one of its workers.
async fn on_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap()
}

fn in_words(appends: u64, syncs: u64) -> String {
    format!("{appends} records, {syncs} syncs")
}

/// Processor time for 10,000 of what was done `times` times.
fn per_10_000(before: Duration, pair: &Pair, times: usize) -> f64 {
    pair.processor_time().saturating_sub(before).as_secs_f64() * 1e4 / times as f64
}

async fn ping_pong(args: &Args, table: &mut Table) {
    let folder = folder();
    let (relays, pair) = (Pair::relays(), Pair::gateways(folder.path()));
    let (floor, gateways) = (relays.addresses(), pair.addresses());
    let rounds = args.pick(500, 200);
    for addresses in [floor, gateways] {
        on_worker(cases::ping_pong(addresses, 0, rounds)).await;
    }
    let before = pair.processor_time();
    let (mut floors, mut times, mut p50s) = (vec![], vec![], [vec![], vec![]]);
    for round in 1..=args.pick(11, 5) {
        let floor_times = on_worker(cases::ping_pong(floor, round * rounds, rounds)).await;
        let gateway_times = on_worker(cases::ping_pong(gateways, round * rounds, rounds)).await;
        p50s[0].push(percentile_ms(&floor_times, 50));
        p50s[1].push(percentile_ms(&gateway_times, 50));
        floors.extend(floor_times);
        times.extend(gateway_times);
    }
    let processor = per_10_000(before, &pair, 2 * times.len());
    let (appends, syncs) = pair.stop();
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms; floor p50 {:.2} ms, p99 {:.2} ms; {}; {processor:.1} s of processor for 10,000",
        percentile_ms(&times, 50),
        percentile_ms(&times, 99),
        percentile_ms(&floors, 50),
        percentile_ms(&floors, 99),
        in_words(appends, syncs),
    );
    let ratio = median_ratio(&p50s[1], &p50s[0]);
    table.add("ping-pong 64 B, p50", measured, (ratio, "x floor"), Bar::AtMost(1.5));
}

async fn sends(args: &Args, table: &mut Table) {
    let folder = folder();
    let (relays, pair) = (Pair::relays(), Pair::gateways(folder.path()));
    let connect =
        |address: SocketAddr| (0..cases::SENDERS).map(|_| clients::client(address)).collect::<Vec<_>>();
    let (floor, gateway) = (connect(relays.addresses()[0]), connect(pair.addresses()[0]));
    let receiver = clients::client(pair.addresses()[1]);
    let time = Duration::from_millis(args.pick(2000, 1000));
    let (mut first, mut floors, mut rates, mut delivered) = (0, vec![], vec![], vec![]);
    let mut all = 0;
    let mut before = Duration::ZERO;
    for round in 0..=args.pick(9, 4) {
        let senders = floor.clone();
        let (floor_rate, _) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        let senders = gateway.clone();
        let start = Instant::now();
        let (rate, counts) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        let mut receiver = receiver.clone();
        let each = counts.clone();
        on_worker(async move { cases::receive_last(&mut receiver, first, &each).await }).await;
        let count: usize = counts.iter().sum();
        first += counts.iter().max().unwrap();
        // The first is there to get warm.
        if round == 0 {
            before = pair.processor_time();
            continue;
        }
        all += count;
        floors.push(floor_rate);
        rates.push(rate);
        delivered.push(count as f64 / start.elapsed().as_secs_f64());
    }
    let processor = per_10_000(before, &pair, all);
    let (appends, syncs) = pair.stop();
    let measured = format!(
        "{:.0}/s accepted, floor {:.0}/s; {}; {processor:.1} s of processor for 10,000",
        median(&rates),
        median(&floors),
        in_words(appends, syncs)
    );
    let ratio = median_ratio(&rates, &floors);
    table.add("64 senders of 64 B, accepted", measured, (ratio, "x floor"), Bar::AtLeast(1.0));
    let measured = format!("{:.0}/s until the last of each is delivered", median(&delivered));
    table.add("the same, delivered", measured, (median_ratio(&delivered, &floors), "x floor"), None);
}

async fn large(args: &Args, table: &mut Table) {
    let folder = folder();
    let (relays, pair) = (Pair::relays(), Pair::gateways(folder.path()));
    let (floor, gateways) = (relays.addresses(), pair.addresses());
    let payload = Bytes::from(vec![7; 16 << 20]);
    let each = args.pick(16, 4);
    let (mut floors, mut rates) = (vec![], vec![]);
    for round in 0..=args.pick(5, 3) {
        let content = payload.clone();
        let floor_rate =
            on_worker(async move { cases::bulk(floor, &content, round * each, each).await }).await;
        let content = payload.clone();
        let rate = on_worker(async move { cases::bulk(gateways, &content, round * each, each).await }).await;
        if round == 0 {
            continue;
        }
        floors.push(floor_rate);
        rates.push(rate);
    }
    let (appends, syncs) = pair.stop();
    let measured = format!(
        "{:.0} MB/s, floor {:.0} MB/s; {}",
        median(&rates),
        median(&floors),
        in_words(appends, syncs)
    );
    let ratio = median_ratio(&rates, &floors);
    table.add("16 MiB, 4 senders, end to end", measured, (ratio, "x floor"), Bar::AtLeast(0.6));
}
