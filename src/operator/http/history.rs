//! The last hour in samples, for the plots of the page.
//!
//! Invariant: at most [`SAMPLES`] are kept, and one is taken every [`EVERY`]; this is the only timer that the HTTP part of
//! an idle gateway has, and it ends when shutdown begins.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use petnet_storage::Spread;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::StatusSource;
use crate::wire::wall_clock::now_ms;

/// Time between two samples.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// Number of samples in an hour.
pub(super) const SAMPLES: usize = 360;

/// Samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: Mutex<VecDeque<Sample>>,
}

#[derive(Debug, Clone)]
struct Sample {
    at_ms: u64,
    /// Messages per second: accepted, delivered, arrived, received.
    rates: [f64; 4],
    /// The time, in seconds, within which half of the syncs ended, and the time within which 99 of 100 did. `None` if there
    /// was no sync.
    sync: Option<[f64; 2]>,
}

/// Counters at one moment.
#[derive(Debug)]
struct CounterTotals {
    at: Instant,
    messages: [u64; 4],
    sync: Spread,
}

impl CounterTotals {
    fn of(source: &dyn StatusSource) -> Self {
        let meters = source.meters();
        let delivered = meters.peers().iter().map(|(_, peer)| peer.delivered.messages()).sum();
        Self {
            at: Instant::now(),
            messages: [
                meters.accepted.messages(),
                delivered,
                meters.arrived.messages(),
                meters.received.messages(),
            ],
            sync: source.stats().sync_seconds,
        }
    }

    /// The sample of what happened since `before`.
    fn since(&self, before: &Self) -> Sample {
        let seconds = (self.at - before.at).as_secs_f64().max(f64::EPSILON);
        let rate = |at: usize| self.messages[at].saturating_sub(before.messages[at]) as f64 / seconds;
        let sync = self.sync.since(&before.sync);
        Sample {
            at_ms: now_ms(),
            rates: [0, 1, 2, 3].map(rate),
            sync: (sync.count() > 0).then(|| [sync.quantile(0.5), sync.quantile(0.99)]),
        }
    }
}

impl History {
    /// Takes samples until shutdown begins or the server stops.
    pub(super) async fn sample(
        self: Arc<Self>,
        source: Arc<dyn StatusSource>,
        draining: CancellationToken,
        stop: CancellationToken,
    ) {
        let mut before = CounterTotals::of(&*source);
        let mut ticks = interval(EVERY);
        // After the machine was suspended, one sample covers the whole time.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = draining.cancelled() => return,
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let totals = CounterTotals::of(&*source);
            self.keep(totals.since(&before));
            before = totals;
        }
    }

    fn keep(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples as the page takes them.
    pub(super) fn series(&self) -> PlotSeries {
        let samples = self.samples.lock().clone();
        let rates = |at: usize| samples.iter().map(|sample| rounded(sample.rates[at])).collect();
        let syncs = |at: usize| samples.iter().map(|sample| sample.sync.map(|sync| sync[at])).collect();
        PlotSeries {
            every_seconds: EVERY.as_secs(),
            at_ms: samples.iter().map(|sample| sample.at_ms).collect(),
            accepted: rates(0),
            delivered: rates(1),
            arrived: rates(2),
            received: rates(3),
            sync_p50: syncs(0),
            sync_p99: syncs(1),
        }
    }
}

/// Rounds to a thousandth: more is noise, and costs bytes on the wire.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// One list for each line of a plot; all have the same length, oldest first.
#[derive(Debug, Serialize)]
pub(super) struct PlotSeries {
    every_seconds: u64,
    at_ms: Vec<u64>,
    accepted: Vec<f64>,
    delivered: Vec<f64>,
    arrived: Vec<f64>,
    received: Vec<f64>,
    sync_p50: Vec<Option<f64>>,
    sync_p99: Vec<Option<f64>>,
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeSource;
    use super::*;

    /// Lets time pass, and lets the sampler, which the clock has woken, run.
    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_tells_what_happened_since_the_one_before() {
        let (source, history) = (Arc::new(FakeSource::default()), Arc::<History>::default());
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let sampler = tokio::spawn(history.clone().sample(source.clone(), draining.clone(), stop));
        tokio::task::yield_now().await;
        for _ in 0..50 {
            source.meters.accepted.add(1);
        }
        source.syncs.note(0.004);
        pass(EVERY).await;
        pass(EVERY).await;
        let series = history.series();
        assert_eq!(series.accepted, [5.0, 0.0]);
        assert_eq!((series.sync_p50, series.sync_p99), (vec![Some(0.005), None], vec![Some(0.005), None]));

        draining.cancel();
        sampler.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_an_hour_is_kept() {
        let history = Arc::<History>::default();
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(history.clone().sample(Arc::new(FakeSource::default()), draining, stop.clone()));
        for _ in 0..SAMPLES + 5 {
            pass(EVERY).await;
        }
        assert_eq!(history.series().at_ms.len(), SAMPLES);
        stop.cancel();
    }
}
