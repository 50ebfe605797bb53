//! What an answered release costs: it waits for a sync that all releases of that moment share. Measured against sends of
//! the same messages by as many callers, which wait for such a sync, too.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::bars::on_worker;
use crate::clients::PARTIES;
use crate::load::all;
use crate::mailbox::{self, Mailbox};
use crate::pair::Pair;
use crate::report::{Args, Table, folder, median, median_ratio, percentile_ms};

/// How many release at once, and how many messages each has in a round.
const RELEASERS: [(usize, usize); 2] = [(1, 500), (64, 100)];

/// Releases one after the other, and by many callers at once.
pub(crate) async fn releases(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let pair = Pair::gateways(folder.path());
    for (callers, each) in RELEASERS {
        let connect =
            |n: usize| (0..callers).map(|_| mailbox::mailbox(pair.addresses()[n])).collect::<Vec<_>>();
        let [senders, releasers] = [connect(0), connect(1)];
        let (mut sent, mut released, mut rates) = (vec![], vec![], [vec![], vec![]]);
        for round in 0..=args.pick(9, 3) {
            let ids =
                move |caller: usize, n: usize| format!("release/{callers}/{caller}:{}", round * each + n);
            let (times, rate) = timed(&senders, each, move |mut client, caller, n| async move {
                mailbox::send(&mut client, PARTIES[1], ids(caller, n), Bytes::from_static(&[7; 64])).await
            })
            .await?;
            for (caller, client) in releasers.iter().enumerate() {
                let mut client = client.clone();
                on_worker(async move { mailbox::arrived(&mut client, &ids(caller, each - 1)).await }).await?;
            }
            let (release_times, release_rate) =
                timed(&releasers, each, move |mut client, caller, n| async move {
                    mailbox::release(&mut client, &ids(caller, n)).await
                })
                .await?;
            // The first is there to get warm.
            if round > 0 {
                sent.extend(times);
                released.extend(release_times);
                rates[0].push(rate);
                rates[1].push(release_rate);
            }
        }
        let measured = format!(
            "p50 {:.2} ms, p99 {:.2} ms, {:.0}/s; sends p50 {:.2} ms, p99 {:.2} ms, {:.0}/s",
            percentile_ms(&released, 50),
            percentile_ms(&released, 99),
            median(&rates[1]),
            percentile_ms(&sent, 50),
            percentile_ms(&sent, 99),
            median(&rates[0]),
        );
        let name = format!("releases by {callers}, each answered when it is durable");
        table.add(&name, measured, (median_ratio(&rates[1], &rates[0]), "x sends"), None);
    }
    Ok(())
}

/// `each` calls of each client, one after the other: how long each took, and calls a second of all.
async fn timed<C>(
    clients: &[Mailbox],
    each: usize,
    call: impl Fn(Mailbox, usize, usize) -> C + Clone + Send + 'static,
) -> Result<(Vec<Duration>, f64)>
where
    C: Future<Output = Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (caller, client) in clients.iter().cloned().enumerate() {
        let call = call.clone();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(each);
            for n in 0..each {
                let begun = Instant::now();
                call(client.clone(), caller, n).await?;
                times.push(begun.elapsed());
            }
            Ok(times)
        });
    }
    let times = all(tasks).await?;
    Ok((times.concat(), (clients.len() * each) as f64 / start.elapsed().as_secs_f64()))
}
