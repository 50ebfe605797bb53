//! The cases over `petnet.simple.v1`: two gateways against two relays, or against themselves when idle, in alternating
//! rounds. A figure is the median of the ratios of the rounds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::load::content;
use crate::pair::{self, Pair};
use crate::report::{Args, Bar, Table, folder, median, median_ratio, percentile_ms};
use crate::{cases, clients, hostile};

/// A client beside a flood, with the settings by default and with those that let the whole flood in.
pub(crate) async fn hostile(args: &Args, table: &mut Table) {
    let kept =
        [("MAX_CONNECTIONS", "15000"), ("MAX_CONNECTIONS_PER_ADDRESS", "15000"), ("HANDSHAKE_TIMEOUT", "1h")];
    let flood = async |address: SocketAddr| {
        tokio::task::spawn_blocking(move || hostile::Flood::start(address)).await.unwrap()
    };
    let (name, bar) = ("10,000 silent connections and half handshakes", Bar::AtMost(5.0));
    besieged(args, table, &format!("{name}, by default, p99"), &[], bar, flood).await;
    let bar = Bar::AtMost(5.0);
    besieged(args, table, &format!("{name}, all of them kept, p99"), &kept, bar, flood).await;
    let name = "a caller with all the memory that it may have, p99";
    let open = [("TLS_CLIENT_AUTH", "optional")];
    besieged(args, table, name, &open, Bar::AtMost(3.0), hostile::hold).await;
}

/// A client alone, and beside what `start` begins and its result ends.
async fn besieged<T>(
    args: &Args,
    table: &mut Table,
    name: &str,
    settings: &[(&str, &str)],
    bar: Bar,
    start: impl AsyncFn(SocketAddr) -> T,
) {
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
        let flood = start(address).await;
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
    table.add(name, measured, (median(&ratios), "x idle"), bar);
}

/// Runs as a task: the thread that blocks on the runtime is not one of its workers.
pub(crate) async fn on_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap()
}

fn in_words(appends: u64, syncs: u64) -> String {
    format!("{appends} records, {syncs} syncs")
}

/// Processor time for 10,000 of what was done `times` times.
fn per_10_000(before: Duration, pair: &Pair, times: usize) -> f64 {
    pair.processor_time().saturating_sub(before).as_secs_f64() * 1e4 / times as f64
}

/// Messages there and back, one at a time.
pub(crate) async fn ping_pong(args: &Args, table: &mut Table) {
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
    table.add("ping-pong 64 B, p50", measured, (ratio, "x floor"), Bar::AtMost(1.0));
}

/// Many senders at once.
pub(crate) async fn sends(args: &Args, table: &mut Table) {
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
    table.add("64 senders of 64 B, accepted", measured, (ratio, "x floor"), Bar::AtLeast(2.0));
    let measured = format!("{:.0}/s until the last of each is delivered", median(&delivered));
    table.add(
        "64 senders of 64 B, delivered",
        measured,
        (median_ratio(&delivered, &floors), "x floor"),
        None,
    );
}

/// One sender.
pub(crate) async fn one(args: &Args, table: &mut Table) {
    let folder = folder();
    let (relays, pair) = (Pair::relays(), Pair::gateways(folder.path()));
    let [floor, gateway] = [&relays, &pair].map(|pair| clients::client(pair.addresses()[0]));
    let count = args.pick(1000, 300);
    let (mut p50s, mut all) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..=args.pick(11, 5) {
        for (n, client) in [&floor, &gateway].into_iter().enumerate() {
            let times = on_worker(cases::one(client.clone(), round * count, count)).await;
            // The first is there to get warm.
            if round > 0 {
                p50s[n].push(percentile_ms(&times, 50));
                all[n].extend(times);
            }
        }
    }
    let (appends, syncs) = pair.stop();
    let [floors, times] = all;
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms; floor p50 {:.2} ms, p99 {:.2} ms; {}",
        percentile_ms(&times, 50),
        percentile_ms(&times, 99),
        percentile_ms(&floors, 50),
        percentile_ms(&floors, 99),
        in_words(appends, syncs),
    );
    let ratio = median_ratio(&p50s[1], &p50s[0]);
    table.add("one sender of 64 B, p50", measured, (ratio, "x floor"), Bar::AtMost(1.0));
}

/// Messages of 16 MiB.
pub(crate) async fn large(args: &Args, table: &mut Table) {
    let work = cases::Bulk { payload: content(16 << 20), senders: 4, each: args.pick(16, 4) };
    bulk(args, table, "16 MiB, 4 senders, end to end", work, 0.6).await;
}

/// Messages of 1 MiB.
pub(crate) async fn mib(args: &Args, table: &mut Table) {
    let work = cases::Bulk { payload: content(1 << 20), senders: 8, each: args.pick(64, 16) };
    bulk(args, table, "1 MiB, 8 senders, end to end", work, 1.0).await;
}

async fn bulk(args: &Args, table: &mut Table, name: &str, work: cases::Bulk, least: f64) {
    let folder = folder();
    let (relays, pair) = (Pair::relays(), Pair::gateways(folder.path()));
    let (floor, gateways) = (relays.addresses(), pair.addresses());
    let (mut floors, mut rates) = (vec![], vec![]);
    for round in 0..=args.pick(5, 3) {
        let first = round * work.each;
        let floor_rate = on_worker(cases::bulk(floor, first, work.clone())).await;
        let rate = on_worker(cases::bulk(gateways, first, work.clone())).await;
        // The first is there to get warm.
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
    table.add(name, measured, (median_ratio(&rates, &floors), "x floor"), Bar::AtLeast(least));
}

/// A receive that waits, and how long after its message was sent it is answered. Counted from the moment the send
/// begins: when a message arrives at the other gateway no client can see, and a send is accepted at a moment of its own,
/// often after the receive was answered. So the figure has the way of the message in it, and is above what is asked.
pub(crate) async fn wake(args: &Args, table: &mut Table) {
    const WARM: usize = 50;
    let folder = folder();
    let pair = Pair::gateways(folder.path());
    let clients = pair.addresses().map(clients::client);
    let times = on_worker(cases::wakes(clients, WARM + args.pick(2000, 500))).await;
    let (accepted, answered): (Vec<_>, Vec<_>) = times.into_iter().skip(WARM).unzip();
    let measured = format!(
        "p50 {:.2} ms after the send began; the send itself p50 {:.2} ms, p99 {:.2} ms",
        percentile_ms(&answered, 50),
        percentile_ms(&accepted, 50),
        percentile_ms(&accepted, 99),
    );
    let name = "a waiting receive of 64 B, from the beginning of the send, p99";
    table.add(name, measured, (percentile_ms(&answered, 99), "ms"), Bar::AtMost(2.0));
}
