//! Many senders of 64 B: at PETNet's way, at one gateway, at two on one Redis, in alternating rounds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::sites::{self, Site};
use crate::bars::on_worker;
use crate::cases;
use crate::clients::{Client, client};
use crate::pair::processor_time;
use crate::report::{Args, Bar, Table, folder, median, median_ratio};

/// A party, and the other one if that is there.
type Ends<'a> = [Option<&'a Site>; 2];

/// So many senders at the gateways of a party, and what came of it.
struct Load {
    senders: Vec<Client>,
    /// At the other party, if that is there.
    receiver: Option<Client>,
    first: usize,
    rates: Vec<f64>,
    count: usize,
    /// Seconds of gateways, their server, the other party's side, and of this process, which makes the load; until all is
    /// delivered.
    used: [f64; 4],
}

impl Load {
    fn new(count: usize, [site, peer]: Ends) -> Self {
        let addresses = site.iter().flat_map(|site| site.addresses()).collect::<Vec<SocketAddr>>();
        let senders = addresses.iter().cycle().take(count).map(|address| client(*address)).collect();
        let receiver = peer.map(|peer| client(peer.users[0].address()));
        Self { senders, receiver, first: 0, rates: vec![], count: 0, used: [0.0; 4] }
    }

    /// Sends for a while, then waits until all is delivered. The first round is there to get warm.
    async fn round(&mut self, ends: Ends<'_>, time: Duration, is_first: bool) {
        let (before, senders, first) = (used(ends), self.senders.clone(), self.first);
        let (rate, counts) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        let count = counts.iter().sum::<usize>();
        self.first += counts.iter().max().unwrap();
        if let Some(mut receiver) = self.receiver.clone() {
            on_worker(async move { cases::receive_last(&mut receiver, first, &counts).await }).await;
        }
        let after = used(ends);
        if !is_first {
            self.rates.push(rate);
            self.count += count;
            for (n, used) in self.used.iter_mut().enumerate() {
                *used += after[n] - before[n];
            }
        }
    }

    fn words(&self) -> String {
        let [gateways, redis, peer, load] = self.used.map(|seconds| seconds * 1e6 / self.count as f64);
        format!(
            "{:.0}/s (us of processor a message: {gateways:.0} gateway, {redis:.0} Redis, {peer:.0} at the peer, {load:.0} senders)",
            median(&self.rates)
        )
    }
}

/// Processor time so far, in seconds.
fn used([site, peer]: Ends) -> [f64; 4] {
    let [site, peer] = [site, peer].map(|site| site.map(Site::used).unwrap_or_default());
    [site.users, site.redis, peer.users + peer.redis, processor_time(std::process::id()).as_secs_f64()]
}

/// The cases with many senders.
pub(super) async fn run(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let python = sites::python()?;
    let way = sites::petnet_way(folder.path(), &python);
    let [one, one_peer] = sites::parties(&folder.path().join("one"), 1);
    let [two, two_peer] = sites::parties(&folder.path().join("two"), 2);
    let [alone, gone] = sites::parties(&folder.path().join("alone"), 1);
    drop(gone);
    let few = cases::SENDERS;
    let [way, alone] = [[Some(&way), None], [Some(&alone), None]];
    let [one, two] = [[Some(&one), Some(&one_peer)], [Some(&two), Some(&two_peer)]];
    let with = |(ends, senders)| (ends, Load::new(senders, ends));
    let mut loads =
        [(way, few), (alone, few), (one, few), (two, few), (one, 2 * few), (two, 2 * few)].map(with);
    let time = Duration::from_millis(args.pick(2000, 1000));
    for round in 0..=args.pick(9, 4) {
        let mut first = 0;
        for (ends, load) in &mut loads {
            // Ids of a site are not used again.
            load.first = load.first.max(first);
            load.round(*ends, time, round == 0).await;
            first = load.first;
        }
    }
    let [way, alone, one, two, one_more, two_more] = loads.map(|(_, load)| load);
    table.add("Redis: 64 senders of 64 B in PETNet's way", way.words(), (median(&way.rates), "/s"), None);
    let name = "Redis: 64 senders of 64 B, accepted";
    table.add(name, one.words(), (median_ratio(&one.rates, &way.rates), "x PETNet's way"), Bar::AtLeast(2.0));
    let name = "Redis: the same, with a peer that is not there";
    table.add(name, alone.words(), (median_ratio(&alone.rates, &way.rates), "x PETNet's way"), None);
    for (one, two, name) in [
        (&one, &two, "Redis: two gateways with 32 senders each, accepted"),
        (&one_more, &two_more, "Redis: two gateways with 64 senders each, accepted"),
    ] {
        let measured = format!("{}; one: {}", two.words(), one.words());
        table.add(name, measured, (median_ratio(&two.rates, &one.rates), "x one gateway"), Bar::AtLeast(1.0));
    }
    Ok(())
}
