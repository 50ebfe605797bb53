//! The case of callers beside housekeeping: messages expire, settle and move to the index on disk, segments are given
//! back and checkpoints written, all the time.

use std::fs::DirEntry;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::bars::on_worker;
use crate::clients::{Client, PARTIES, client, try_send};
use crate::exchange;
use crate::load::{Load, all, content};
use crate::pair::Places;
use crate::report::{Args, Bar, Table, folder, per_mille_ms};
use crate::ways::Ends;

const SENDERS: usize = 16;
/// Streams of the messages that are to expire.
const STREAMS: usize = 8;
/// So short that what arrives during a run expires during it.
const SETTINGS: [(&str, &str); 1] = [("MESSAGE_TTL", "5s")];
/// What comes from the peer meanwhile, so that the log of the large ones moves on, too.
const LARGE: usize = 4 << 20;
const LARGE_EVERY: Duration = Duration::from_millis(200);

/// Senders at a gateway to which many messages have just come, and large ones go on coming.
pub(crate) async fn house(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let places = Places::new(folder.path());
    let [_a, _b] = [0, 1].map(|n| places.start(n, &SETTINGS));
    let time = Duration::from_secs(args.pick(60, 10));
    let [a, b] = places.addresses();
    let expiring = on_worker(arrivals([b, a])).await?;
    let large = tokio::spawn(large(client(b)));
    let sending = on_worker(senders((0..SENDERS).map(|_| client(a)).collect(), time)).await;
    let came = large.is_finished();
    large.abort();
    if came {
        large.await??;
    }
    let times = sending?;
    let (begun, held) = segments(&folder.path().join(PARTIES[0]).join("log"));
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms, at most {:.1} ms, of {} sends; beside {expiring} messages that expire, and 4 MiB every \
         200 ms; of {begun} segments {held} are left",
        per_mille_ms(&times, 500),
        per_mille_ms(&times, 990),
        per_mille_ms(&times, 1000),
        times.len(),
    );
    let name = "16 senders of 64 B beside housekeeping, p99.9";
    table.add(name, measured, (per_mille_ms(&times, 999), "ms"), Bar::AtMost(20.0));
    Ok(())
}

/// Segments that a gateway has begun, by the highest number, and how many of them it still has.
fn segments(data: &Path) -> (u64, usize) {
    let name = |entry: DirEntry| entry.file_name().into_string().ok();
    let number = |name: String| {
        let (lane, number) = name.strip_suffix(".seg")?.split_once('-')?;
        (lane != "free").then(|| number.parse().ok())?
    };
    let numbers: Vec<u64> =
        std::fs::read_dir(data).unwrap().flatten().filter_map(name).filter_map(number).collect();
    (numbers.iter().max().copied().unwrap_or(0), numbers.len())
}

/// Messages that come to the gateway at the second address within some seconds; how many.
async fn arrivals(addresses: [std::net::SocketAddr; 2]) -> Result<usize> {
    let mut ends = Ends::of(addresses);
    ends.parties.reverse();
    let time = Duration::from_secs(4);
    let load = Load { run: "expire/".into(), size: 64, senders: STREAMS, time };
    Ok(exchange::load(&ends, &load).await?.messages)
}

/// A large message from the peer now and then, without an end.
async fn large(mut peer: Client) -> Result<()> {
    let (content, mut every) = (content(LARGE), tokio::time::interval(LARGE_EVERY));
    for n in 0.. {
        every.tick().await;
        try_send(&mut peer, PARTIES[0], format!("large:{n}"), content.clone()).await?;
    }
    Ok(())
}

/// One message after the other from each, as long as the time is; how long each took.
async fn senders(clients: Vec<Client>, time: Duration) -> Result<Vec<Duration>> {
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for (sender, mut client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            let (mut times, payload) = (Vec::new(), content(64));
            while start.elapsed() < time {
                let (id, begun) = (format!("house/{sender}:{}", times.len()), Instant::now());
                try_send(&mut client, PARTIES[1], id, payload.clone()).await?;
                times.push(begun.elapsed());
            }
            Ok(times)
        });
    }
    Ok(all(tasks).await?.concat())
}
