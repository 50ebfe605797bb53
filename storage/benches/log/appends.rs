//! Appends against the raw disk, in alternating rounds.

use std::path::Path;
use std::time::Duration;

use crate::load::{open, payload, produce};
use crate::raw::Raw;
use crate::report::{Args, Bar, Table, median, median_ratio, percentile_ms};

const PAGE: usize = 4096;
/// The raw file of the small writes: the size of a segment.
const RAW_SMALL: u64 = 64 << 20;
const RAW_BULK: u64 = 512 << 20;
/// Sequential raw writes are of this size: the largest batch the store writes.
const RAW_BULK_WRITE: usize = 16 << 20;
/// Ids that a producer of small messages goes round.
const IDS: usize = 64;

/// `producers` of 64 B against one page and one sync a time.
pub(crate) async fn small(dir: &Path, args: &Args, table: &mut Table, producers: usize, bar: f64) {
    let mut raw = Raw::new(dir, RAW_SMALL);
    let store = dir.join("store");
    std::fs::create_dir(&store).unwrap();
    let engine = open(&store);
    let content = payload(64);
    let time = Duration::from_millis(args.pick(500, 200));
    produce(&engine, producers, &content, IDS, time * 2).await;
    let (mut raws, mut rates, mut per_sync, mut times) = (vec![], vec![], vec![], vec![]);
    for _ in 0..args.pick(15, 5) {
        raws.push(raw.rate(&[7; PAGE], time));
        let round = produce(&engine, producers, &content, IDS, time).await;
        rates.push(round.rate);
        per_sync.push(round.per_sync);
        times.extend(round.times);
    }
    engine.close().await.unwrap();
    let measured = format!(
        "{:.0}/s, raw {:.0}/s; p50 {:.2} ms, p99 {:.2} ms; {:.3} syncs per append",
        median(&rates),
        median(&raws),
        percentile_ms(&times, 50),
        percentile_ms(&times, 99),
        1.0 / median(&per_sync)
    );
    table.add(
        format!("64 B, producers: {producers}"),
        measured,
        (median_ratio(&rates, &raws), "x raw"),
        Bar::AtLeast(bar),
    );
}

/// 16 producers of 1 MiB against sequential writes.
pub(crate) async fn bulk(dir: &Path, args: &Args, table: &mut Table) {
    let mut raw = Raw::new(dir, RAW_BULK);
    let store = dir.join("store");
    std::fs::create_dir(&store).unwrap();
    let engine = open(&store);
    let content = payload(1 << 20);
    let blocks = payload(RAW_BULK_WRITE);
    let time = Duration::from_millis(args.pick(2000, 500));
    produce(&engine, 16, &content, 4, time * 2).await;
    let (mut raws, mut rates, mut times) = (vec![], vec![], vec![]);
    for _ in 0..args.pick(9, 3) {
        raws.push(raw.rate(&blocks, time) * RAW_BULK_WRITE as f64 / 1e6);
        let round = produce(&engine, 16, &content, 4, time).await;
        rates.push(round.rate * f64::from(1 << 20) / 1e6);
        times.extend(round.times);
    }
    engine.close().await.unwrap();
    let measured = format!(
        "{:.0} MB/s, raw (16 MiB writes) {:.0} MB/s; p50 {:.1} ms, p99 {:.1} ms",
        median(&rates),
        median(&raws),
        percentile_ms(&times, 50),
        percentile_ms(&times, 99),
    );
    table.add("1 MiB, producers: 16", measured, (median_ratio(&rates, &raws), "x raw"), Bar::AtLeast(0.75));
}

/// One producer of 64 B, alone and beside two of 16 MiB.
pub(crate) async fn beside(dir: &Path, args: &Args, table: &mut Table) {
    let store = dir.join("store");
    std::fs::create_dir(&store).unwrap();
    let engine = open(&store);
    let (small, large) = (payload(64), payload(16 << 20));
    let time = Duration::from_millis(args.pick(3000, 1000));
    produce(&engine, 2, &large, 2, time).await;
    let (mut alone, mut beside, mut rates) = (vec![], vec![], vec![]);
    for _ in 0..args.pick(7, 3) {
        alone.push(produce(&engine, 1, &small, IDS, time).await.times);
        let (round, bulk) =
            tokio::join!(produce(&engine, 1, &small, IDS, time), produce(&engine, 2, &large, 2, time));
        beside.push(round.times);
        rates.push(bulk.rate * f64::from(16 << 20) / 1e6);
    }
    engine.close().await.unwrap();
    let p99 = |rounds: &[Vec<Duration>]| -> Vec<f64> {
        rounds.iter().map(|times| percentile_ms(times, 99)).collect()
    };
    let (p99_alone, p99_beside) = (p99(&alone), p99(&beside));
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms beside {:.0} MB/s; alone p50 {:.2} ms, p99 {:.2} ms",
        percentile_ms(&beside.concat(), 50),
        median(&p99_beside),
        median(&rates),
        percentile_ms(&alone.concat(), 50),
        median(&p99_alone),
    );
    table.add(
        "64 B beside two writers of 16 MiB",
        measured,
        (median_ratio(&p99_beside, &p99_alone), "x its p99 alone"),
        Bar::AtMost(5.0),
    );
}
