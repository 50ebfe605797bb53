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

/// So many senders at the gateways of a party, and what came of it.
struct Load {
    senders: Vec<Client>,
    /// At the other party, if that is there.
    receiver: Option<Client>,
    first: usize,
    rates: Vec<f64>,
    count: usize,
    /// Seconds of gateways, their server, and of this process, which makes the load.
    used: [f64; 3],
}

impl Load {
    fn new(count: usize, addresses: &[SocketAddr], receiver: Option<SocketAddr>) -> Self {
        let senders = addresses.iter().cycle().take(count).map(|address| client(*address)).collect();
        let receiver = receiver.map(client);
        Self { senders, receiver, first: 0, rates: vec![], count: 0, used: [0.0; 3] }
    }

    /// Sends for a while, then waits until all is delivered. The first round is there to get warm.
    async fn round(&mut self, site: &Site, time: Duration, is_first: bool) {
        let (before, senders, first) = (used(site), self.senders.clone(), self.first);
        let (rate, counts) = on_worker(async move { cases::sends(&senders, first, time).await }).await;
        let (after, count) = (used(site), counts.iter().sum::<usize>());
        self.first += counts.iter().max().unwrap();
        if let Some(mut receiver) = self.receiver.clone() {
            on_worker(async move { cases::receive_last(&mut receiver, first, &counts).await }).await;
        }
        if !is_first {
            self.rates.push(rate);
            self.count += count;
            for (n, used) in self.used.iter_mut().enumerate() {
                *used += after[n] - before[n];
            }
        }
    }

    fn words(&self) -> String {
        let [gateways, redis, load] = self.used.map(|seconds| seconds * 1e6 / self.count as f64);
        format!(
            "{:.0}/s (us of processor a message: {gateways:.0} gateway, {redis:.0} Redis, {load:.0} senders)",
            median(&self.rates)
        )
    }
}

fn used(site: &Site) -> [f64; 3] {
    let of_site = site.used();
    [of_site.users, of_site.redis, processor_time(std::process::id()).as_secs_f64()]
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
    let [one_end, two_end] = [&one_peer, &two_peer].map(|peer| Some(peer.users[0].address()));
    let mut loads = [
        (&way, Load::new(few, &way.addresses(), None)),
        (&alone, Load::new(few, &alone.addresses(), None)),
        (&one, Load::new(few, &one.addresses(), one_end)),
        (&two, Load::new(few, &two.addresses(), two_end)),
        (&one, Load::new(2 * few, &one.addresses(), one_end)),
        (&two, Load::new(2 * few, &two.addresses(), two_end)),
    ];
    let time = Duration::from_millis(args.pick(2000, 1000));
    for round in 0..=args.pick(9, 4) {
        let mut first = 0;
        for (site, load) in &mut loads {
            // Ids of a site are not used again.
            load.first = load.first.max(first);
            load.round(site, time, round == 0).await;
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
