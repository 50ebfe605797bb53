//! The cases of what `petnet.mailbox.v1` does on streams: many small messages over Exchange, large ones in pieces.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bars::on_worker;
use crate::clients::{Client, PARTIES, client, try_send};
use crate::load::{Load, content};
use crate::mailbox::{Mailbox, arrived, mailbox, receive_stream, release, send_stream};
use crate::pair::Pair;
use crate::report::{Args, Bar, Table, folder, median, median_ratio, percentile_ms};
use crate::ways::Ends;
use crate::{cases, exchange, table};

/// As many senders of 64 B over Exchange as the floor has over simple.
pub(crate) async fn exchanged(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let (relays, pair) = (Pair::relays(), Pair::gateways(folder.path()));
    let floor: Vec<_> = (0..cases::SENDERS).map(|_| client(relays.addresses()[0])).collect();
    let ends = Ends::of(pair.addresses());
    let time = Duration::from_millis(args.pick(2000, 1000));
    let (mut first, mut floors, mut rates, mut delivered) = (0, vec![], vec![], vec![]);
    for round in 0..=args.pick(9, 4) {
        let senders = floor.clone();
        let (floor_rate, counts) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        first += counts.iter().max().unwrap();
        let load = Load { run: format!("x{round}/"), size: 64, senders: cases::SENDERS, time };
        let ends = ends.clone();
        let done = on_worker(async move { exchange::load(&ends, &load).await }).await?;
        // The first is there to get warm.
        if round == 0 {
            continue;
        }
        floors.push(floor_rate);
        rates.push(done.messages as f64 / done.accepted_in.as_secs_f64());
        delivered.push(done.messages as f64 / done.received_in.as_secs_f64());
    }
    let (appends, syncs) = pair.stop();
    let measured = format!(
        "{:.0}/s accepted, floor {:.0}/s over simple; {appends} records, {syncs} syncs",
        median(&rates),
        median(&floors)
    );
    let ratio = median_ratio(&rates, &floors);
    let name = "64 senders of 64 B over Exchange, accepted";
    table.add(name, measured, (ratio, "x floor"), Bar::AtLeast(8.0));
    let measured = format!("{:.0}/s until the last is at the subscriber", median(&delivered));
    let ratio = median_ratio(&delivered, &rates);
    table.add(
        "64 senders of 64 B over Exchange, delivered",
        measured,
        (ratio, "x accepted"),
        Bar::AtLeast(0.6),
    );
    Ok(())
}

/// A large message in pieces against a file of its size.
pub(crate) async fn stream(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let pair = Pair::gateways(folder.path());
    let len: u64 = args.pick(1 << 30, 256 << 20);
    let [mut raws, mut rates, mut delivered] = [vec![], vec![], vec![]];
    for round in 0..=args.pick(5, 2) {
        let file = folder.path().join("plain");
        let raw = tokio::task::spawn_blocking(move || plain_write(&file, len)).await?;
        let clients = pair.addresses().map(mailbox);
        let (accepted, received) = on_worker(moved(clients, format!("stream:{round}"), len)).await?;
        // The first is there to get warm.
        if round == 0 {
            continue;
        }
        let rate = |took: Duration| len as f64 / 1e6 / took.as_secs_f64();
        raws.push(rate(raw));
        rates.push(rate(accepted));
        delivered.push(rate(received));
    }
    let measured = format!(
        "{:.0} MB/s accepted, {:.0} MB/s end to end; a file with one fdatasync {:.0} MB/s; {:.0} MiB of memory at most",
        median(&rates),
        median(&delivered),
        median(&raws),
        pair.peak_memory(),
    );
    let name = format!("{} by SendStream, accepted", table::size(len as f64));
    table.add(name, measured, (median_ratio(&rates, &raws), "x plain write"), Bar::AtLeast(0.7));
    Ok(())
}

/// Sends a message in pieces, reads it at the other end and gives it back; how long until it was accepted, and read.
async fn moved(clients: [Mailbox; 2], id: String, len: u64) -> Result<(Duration, Duration)> {
    let [mut a, mut b] = clients;
    let start = Instant::now();
    let reading = id.clone();
    let mut reader = b.clone();
    let read = tokio::spawn(async move { receive_stream(&mut reader, &reading).await });
    send_stream(&mut a, PARTIES[1], &id, len).await?;
    let accepted = start.elapsed();
    read.await??;
    let received = start.elapsed();
    release(&mut b, &id).await?;
    Ok((accepted, received))
}

/// Writes a new file from its beginning to its end with one sync; how long that took.
fn plain_write(path: &PathBuf, len: u64) -> Duration {
    let piece = vec![7; 256 << 10];
    let start = Instant::now();
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
    for _ in 0..len / piece.len() as u64 {
        file.write_all(&piece).unwrap();
    }
    file.sync_data().unwrap();
    let took = start.elapsed();
    std::fs::remove_file(path).unwrap();
    took
}

/// Small messages over simple while a large one moves to the same peer, against the same when it does not.
pub(crate) async fn beside(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let len: u64 = args.pick(1 << 30, 256 << 20);
    let count = args.pick(1500, 500);
    let (mut idle, mut under, mut ratios) = (vec![], vec![], vec![]);
    let pair = Pair::gateways(folder.path());
    let small = client(pair.addresses()[0]);
    for round in 0..=args.pick(5, 2) {
        let before = on_worker(paced(small.clone(), format!("idle{round}:"), move |n| n < count)).await?;
        let [mut a, mut b] = pair.addresses().map(mailbox);
        let id = format!("large:{round}");
        let large = tokio::spawn(async move {
            send_stream(&mut a, PARTIES[1], &id, len).await?;
            arrived(&mut b, &id).await?;
            release(&mut b, &id).await
        });
        let moving = large.abort_handle();
        let more = move |_| !moving.is_finished();
        let during = on_worker(paced(small.clone(), format!("beside{round}:"), more)).await?;
        large.await??;
        // The first is there to get warm.
        if round > 0 {
            ratios.push(percentile_ms(&during, 99) / percentile_ms(&before, 99));
            idle.extend(before);
            under.extend(during);
        }
    }
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms; idle p50 {:.2} ms, p99 {:.2} ms",
        percentile_ms(&under, 50),
        percentile_ms(&under, 99),
        percentile_ms(&idle, 50),
        percentile_ms(&idle, 99),
    );
    let name = format!("64 B beside {} by SendStream, p99", table::size(len as f64));
    table.add(name, measured, (median(&ratios), "x idle"), Bar::AtMost(5.0));
    Ok(())
}

/// Sends of 64 B, a millisecond apart, as long as there are to be more: how long each took.
async fn paced(mut client: Client, prefix: String, more: impl Fn(usize) -> bool) -> Result<Vec<Duration>> {
    let (mut times, payload) = (Vec::new(), content(64));
    while more(times.len()) {
        let start = Instant::now();
        try_send(&mut client, PARTIES[1], format!("{prefix}{}", times.len()), payload.clone()).await?;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(times)
}

/// How long a sync takes of 4 KiB written into space that was written before: p50 in ms.
pub(crate) fn sync_ms(dir: &Path) -> f64 {
    use std::os::unix::fs::FileExt;
    const PAGES: u64 = 256;
    let path = dir.join("syncs");
    let page = [7; 4096];
    let file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
    let write = |n: u64| file.write_all_at(&page, n * page.len() as u64).unwrap();
    (0..PAGES).for_each(write);
    file.sync_all().unwrap();
    let one = |n| {
        let start = Instant::now();
        write(n);
        file.sync_data().unwrap();
        start.elapsed()
    };
    let times: Vec<_> = (0..PAGES).map(one).collect();
    std::fs::remove_file(&path).unwrap();
    percentile_ms(&times, 50)
}
