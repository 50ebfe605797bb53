//! Service time, as this gateway knows it between two heartbeats.
//!
//! Redis keeps the service time that all gateways share; one of them adds to it with every heartbeat. Each knows what it was at
//! the last one, and how long ago that is; so every call carries the time of now, and the later of that and Redis's own counts.
//! No message lives longer than it should by the pause between two heartbeats, whether one is under way or not.

use std::sync::{Arc, Mutex};

use crate::clock::Clock;
use crate::log::lock;

/// See the module.
#[derive(Debug)]
pub(super) struct ServiceClock {
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Seconds of the clock up to which was reported.
    reported: u64,
    /// Service time at a second of the clock.
    time: u64,
    at: u64,
}

impl ServiceClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.elapsed().as_secs();
        Self { clock, known: Mutex::new(Known { reported: now, time: 0, at: now }) }
    }

    /// Service time now; 0 and a little before the first heartbeat.
    pub(super) fn now(&self) -> u64 {
        let known = lock(&self.known);
        known.time + self.clock.elapsed().as_secs().saturating_sub(known.at)
    }

    /// Takes the seconds that were not reported yet, to report them, with the second of the clock up to which they are. Should
    /// that get lost, so do they: nothing expires early.
    pub(super) fn report(&self) -> (u64, u64) {
        let now = self.clock.elapsed().as_secs();
        let mut known = lock(&self.known);
        let seconds = now.saturating_sub(known.reported);
        known.reported = now;
        (seconds, now)
    }

    /// What Redis has, after that report.
    pub(super) fn agreed(&self, time: u64, at: u64) {
        let mut known = lock(&self.known);
        (known.time, known.at) = (time, at);
    }

    /// What was not reported by now was no service: nobody could read.
    pub(super) fn skip(&self) {
        let (seconds, _) = self.report();
        lock(&self.known).at += seconds;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn time_goes_on_while_a_report_is_under_way_and_stands_during_an_outage() {
        let clock = Arc::new(ManualClock::default());
        let service = ServiceClock::new(clock.clone());
        service.agreed(1000, 0);
        clock.advance(Duration::from_secs(5));
        assert_eq!((service.now(), service.report(), service.now()), (1005, (5, 5), 1005));
        clock.advance(Duration::from_secs(1));
        service.agreed(1005, 5);
        assert_eq!(service.now(), 1006);
        service.skip();
        assert_eq!((service.now(), service.report()), (1005, (0, 6)));
        clock.advance(Duration::from_secs(2));
        assert_eq!((service.now(), service.report().0), (1007, 2));
    }
}
