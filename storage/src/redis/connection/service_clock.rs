//! Service time, as this gateway knows it between two heartbeats.
//!
//! Redis keeps the service time that all gateways share; one of them adds to it with every heartbeat. Each gateway knows what it
//! was at the last heartbeat, and how long ago that was; so every call carries the current time, and the later of that and
//! Redis's own counts. No message lives longer than it should by the pause between two heartbeats, whether or not one is under
//! way.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::face::clock::Clock;

/// The service time of this gateway.
#[derive(Debug)]
pub(crate) struct ServiceClock {
    clock: Arc<dyn Clock>,
    known: Mutex<KnownTime>,
}

#[derive(Debug)]
struct KnownTime {
    /// Clock time up to which service time was reported.
    reported: Duration,
    /// Service time at the clock time `at`.
    time: u64,
    at: Duration,
}

impl ServiceClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.elapsed();
        Self { clock, known: Mutex::new(KnownTime { reported: now, time: 0, at: now }) }
    }

    /// Current service time; close to 0 before the first heartbeat.
    pub(crate) fn now(&self) -> u64 {
        let known = self.known.lock();
        known.time + self.clock.elapsed().saturating_sub(known.at).as_secs()
    }

    /// Takes the whole seconds that have not been reported yet, for a report, with the clock time up to which they count. If the
    /// report is lost, so are they: nothing expires early.
    pub(crate) fn report(&self) -> (u64, Duration) {
        let now = self.clock.elapsed();
        let mut known = self.known.lock();
        let seconds = now.saturating_sub(known.reported).as_secs();
        known.reported += Duration::from_secs(seconds);
        (seconds, known.reported)
    }

    /// What Redis has after that report.
    pub(crate) fn agreed(&self, time: u64, at: Duration) {
        let mut known = self.known.lock();
        (known.time, known.at) = (time, at);
    }

    /// Time that has not been reported by now was no service: nobody could read.
    pub(crate) fn skip(&self) {
        let now = self.clock.elapsed();
        let mut known = self.known.lock();
        let missed = now.saturating_sub(known.reported);
        known.at += missed;
        known.reported = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::clock::ManualClock;

    #[test]
    fn time_goes_on_while_a_report_is_under_way_and_stands_during_an_outage() {
        let clock = Arc::new(ManualClock::default());
        let service = ServiceClock::new(clock.clone());
        let secs = Duration::from_secs;
        service.agreed(1000, Duration::ZERO);
        clock.advance(secs(5));
        assert_eq!((service.now(), service.report(), service.now()), (1005, (5, secs(5)), 1005));
        clock.advance(secs(1));
        service.agreed(1005, secs(5));
        assert_eq!(service.now(), 1006);
        service.skip();
        assert_eq!((service.now(), service.report()), (1005, (0, secs(6))));
        clock.advance(secs(2));
        assert_eq!((service.now(), service.report().0), (1007, 2));
    }

    /// Each outage used to add the rest of its last second: after ten of them, messages ended seconds too early.
    #[test]
    fn however_many_outages_there_are_no_part_of_a_second_counts_for_a_whole_one() {
        let clock = Arc::new(ManualClock::default());
        let service = ServiceClock::new(clock.clone());
        let (mut time, mut served) = (0, 0);
        for outage_ms in [950, 300, 1990, 10, 700, 650] {
            clock.advance(Duration::from_millis(outage_ms));
            service.skip();
            for _ in 0..5 {
                clock.advance(Duration::from_millis(450));
                served += 450;
                assert!(service.now() * 1000 <= served, "{} after {served} ms", service.now());
                let (seconds, at) = service.report();
                time += seconds;
                service.agreed(time, at);
                assert!(service.now() * 1000 <= served, "{} after {served} ms", service.now());
            }
        }
        assert!(time >= served / 1000 - 6, "each outage loses less than a second: {time}");
    }
}
