//! Time as the store sees it: service time, seconds during which the gateway was up. Wall-clock time decides nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A process that did not read the clock for longer than this stood still: SIGSTOP, `docker pause`, a machine that was put
/// to sleep. The store reads the clock at least twice a second, and so does every call, so a running process never comes
/// near this limit.
pub(crate) const STOOD_STILL: Duration = Duration::from_secs(2);

/// Whether a lifetime that began at `since` has ended at `now`, all in whole seconds of service time. Such times are rounded
/// down, so that `ttl` of them may fall short by part of a second: one second is added, so that nothing ends early.
pub(crate) fn is_over(since: u32, ttl: u32, now: u32) -> bool {
    since.saturating_add(ttl) < now
}

/// The latest beginning of a lifetime that has ended at `now`; `None` if none can have.
pub(crate) fn latest_over(ttl: u32, now: u32) -> Option<u32> {
    now.checked_sub(ttl)?.checked_sub(1)
}

/// A lifetime in whole seconds, rounded up, at least one.
pub(crate) fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1)
}

/// A lifetime in whole seconds, in the type that the log uses for times.
pub(crate) fn lifetime(ttl: Duration) -> u32 {
    u32::try_from(whole_seconds(ttl)).unwrap_or(u32::MAX)
}

/// Service time of a process whose clock says `elapsed`: it was `base`, the total of the processes before, when the clock
/// said `at`.
pub(crate) fn service_seconds((base, at): (u64, Duration), elapsed: Duration) -> u64 {
    base.saturating_add(elapsed.saturating_sub(at).as_secs())
}

/// A clock that never goes back.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since some fixed moment of this process.
    fn elapsed(&self) -> Duration;
}

/// The operating system's monotonic clock, less the time in which the process stood still, when nobody could read messages.
/// At most `STOOD_STILL` of a pause between two readings counts.
#[derive(Debug)]
pub struct MonotonicClock {
    started: Instant,
    counted: Mutex<CountedTime>,
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self { started: Instant::now(), counted: Mutex::default() }
    }
}

impl Clock for MonotonicClock {
    fn elapsed(&self) -> Duration {
        let mut counted = self.counted.lock();
        // Read under the lock, so that the readings come in order.
        counted.read(self.started.elapsed())
    }
}

/// The part of a clock's time that counts. Pure: the caller reads the clock.
#[derive(Debug, Default)]
struct CountedTime {
    last_reading: Duration,
    time: Duration,
}

impl CountedTime {
    fn read(&mut self, reading: Duration) -> Duration {
        self.time += reading.saturating_sub(self.last_reading).min(STOOD_STILL);
        self.last_reading = self.last_reading.max(reading);
        self.time
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_cut_off_a_lifetime_is_as_long_as_it_says() {
        for (began_ms, ttl) in [(0, 1), (999, 1), (10_400, 100), (10_999, 3600)] {
            let began = (began_ms / 1000) as u32;
            for now_ms in (began_ms..began_ms + u64::from(ttl) * 1000 + 3000).step_by(7) {
                let now = (now_ms / 1000) as u32;
                let lived = Duration::from_millis(now_ms - began_ms);
                let over = is_over(began, ttl, now);
                assert_eq!(over, latest_over(ttl, now).is_some_and(|latest| began <= latest));
                let ttl = Duration::from_secs(ttl.into());
                assert!(!over || lived >= ttl, "{began_ms} to {now_ms}");
                assert!(over || lived < ttl + Duration::from_secs(1), "{began_ms} to {now_ms}");
            }
        }
        assert!(!is_over(1, u32::MAX, u32::MAX));
        let rounded = [0, 1, 1000, 1001].map(|ms| lifetime(Duration::from_millis(ms)));
        assert_eq!(rounded, [1, 1, 1, 2]);
        assert_eq!(lifetime(Duration::MAX), u32::MAX);
    }

    /// A start that took 0.9 s counted its first second after 0.1 s.
    #[test]
    fn the_time_that_a_start_takes_is_no_service() {
        let start = (50, Duration::from_millis(900));
        let at = |ms| service_seconds(start, Duration::from_millis(ms));
        assert_eq!([900, 1000, 1899, 1900, 2900].map(at), [50, 50, 50, 51, 52]);
    }

    #[test]
    fn of_the_time_in_which_nobody_read_the_clock_two_seconds_count() {
        let mut counted = CountedTime::default();
        let mut at = Duration::ZERO;
        for _ in 0..100 {
            at += Duration::from_millis(500);
            assert_eq!(counted.read(at), at, "a process that runs loses nothing");
        }
        let before = at;
        at += Duration::from_hours(24);
        assert_eq!(counted.read(at), before + STOOD_STILL);
        assert_eq!(counted.read(at), before + STOOD_STILL, "nothing goes by at one moment");
        assert_eq!(counted.read(before), before + STOOD_STILL, "it never goes back");
        at += Duration::from_secs(1);
        assert_eq!(counted.read(at), before + STOOD_STILL + Duration::from_secs(1));
    }
}
