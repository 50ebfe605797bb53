//! How much service time has passed since it was last reported to Redis.
//!
//! Redis keeps the service time that all gateways share; one of them adds to it with every heartbeat. What that has not told
//! yet goes along with every call, so that no message lives longer than it should by the pause between two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;

/// See the module.
#[derive(Debug)]
pub(super) struct ServiceClock {
    clock: Arc<dyn Clock>,
    /// Seconds of the clock that were reported.
    reported: AtomicU64,
}

impl ServiceClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let reported = AtomicU64::new(clock.elapsed().as_secs());
        Self { clock, reported }
    }

    /// Seconds that were not reported yet.
    pub(super) fn unreported(&self) -> u64 {
        self.clock.elapsed().as_secs().saturating_sub(self.reported.load(Ordering::Relaxed))
    }

    /// Takes them, to report them. Should that get lost, so do they: nothing expires early.
    pub(super) fn report(&self) -> u64 {
        let now = self.clock.elapsed().as_secs();
        now.saturating_sub(self.reported.swap(now, Ordering::Relaxed))
    }
}
