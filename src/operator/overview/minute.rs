//! Rates over the last minute, from what was counted at a few moments of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use petnet_storage::{PartyId, Spread, StoreStats};
use tokio::time::Instant;

use crate::proto::admin::Rates;
use crate::record::meters::Meters;

/// Time between two moments.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Number of moments that are kept: a minute.
const MOMENTS: usize = 6;

#[derive(Debug)]
struct Moment {
    at: Instant,
    accepted: u64,
    delivered: BTreeMap<PartyId, u64>,
    arrived: u64,
    received: u64,
    syncs: Spread,
}

/// The moments of the last minute, and the rates between them.
#[derive(Debug, Default)]
pub(crate) struct Minute(Mutex<VecDeque<Moment>>);

impl Minute {
    /// Notes what is counted now. To be called every [`EVERY`], and once at the start.
    pub(crate) fn note(&self, meters: &Meters, stats: StoreStats) {
        let moment = Moment {
            at: Instant::now(),
            accepted: meters.accepted.messages(),
            delivered: meters.peers().into_iter().map(|(peer, m)| (peer, m.delivered.messages())).collect(),
            arrived: meters.arrived.messages(),
            received: meters.received.messages(),
            syncs: stats.sync_seconds,
        };
        let mut moments = self.lock();
        if moments.len() >= MOMENTS {
            moments.pop_front();
        }
        moments.push_back(moment);
    }

    /// Rates in messages per second.
    pub(crate) fn rates(&self, meters: &Meters) -> Rates {
        let delivered: u64 = meters.peers().iter().map(|(_, m)| m.delivered.messages()).sum();
        let moments = self.lock();
        let Some(first) = moments.front() else { return Rates::default() };
        let rate = |now: u64, then: u64| per_second(now, then, first.at);
        Rates {
            accepted: rate(meters.accepted.messages(), first.accepted),
            delivered: rate(delivered, first.delivered.values().sum()),
            arrived: rate(meters.arrived.messages(), first.arrived),
            received: rate(meters.received.messages(), first.received),
        }
    }

    /// Deliveries per second to a peer that has had `delivered` in all.
    pub(crate) fn delivered_rate(&self, peer: &PartyId, delivered: u64) -> f64 {
        let moments = self.lock();
        moments.front().map_or(0.0, |first| {
            per_second(delivered, first.delivered.get(peer).copied().unwrap_or_default(), first.at)
        })
    }

    /// How long the syncs of the last minute took.
    pub(crate) fn syncs(&self, stats: &StoreStats) -> Spread {
        match self.lock().front() {
            Some(first) => stats.sync_seconds.since(&first.syncs),
            None => Spread::default(),
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, VecDeque<Moment>> {
        self.0.lock()
    }
}

/// Rate per second. Less than a second counts as one, because a burst right after the start is no rate.
fn per_second(now: u64, then: u64, since: Instant) -> f64 {
    now.saturating_sub(then) as f64 / since.elapsed().as_secs_f64().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::party;

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_of_the_last_minute() {
        let (meters, minute) = (Meters::default(), Minute::default());
        assert!(minute.rates(&meters).accepted.abs() < 1e-9, "nothing is known yet");
        for round in 0..20 {
            minute.note(&meters, StoreStats::default());
            // Many at first, then ten per second.
            for _ in 0..if round < 10 { 1000 } else { 100 } {
                meters.accepted.add(1);
                meters.peer(&party("b")).delivered.add(1);
            }
            tokio::time::sleep(EVERY).await;
        }
        let rate = minute.rates(&meters).accepted;
        assert!((rate - 10.0).abs() < 1e-6, "{rate}");
        let rate = minute.delivered_rate(&party("b"), meters.peer(&party("b")).delivered.messages());
        assert!((rate - 10.0).abs() < 1e-6, "{rate}");
    }
}
