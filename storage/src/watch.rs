//! Watches the syncs of the log: one that does not come back turns the store's state, so that whoever asks knows before
//! any caller's patience is over. It changes nothing else: callers go on waiting, within their own deadlines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::StoreState;
use crate::log::lock;
use crate::shared::Shared;

/// A sync that runs longer than this is stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(5);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(500);

/// When a lane's running sync began: the clock's ms plus 1; 0 = none runs.
#[derive(Debug, Default)]
pub(crate) struct SyncStart(AtomicU64);

impl SyncStart {
    pub(crate) fn begin(&self, now: Duration) {
        self.0.store(now.as_millis() as u64 + 1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn runs_for(&self, now: Duration) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_millis((now.as_millis() as u64 + 1).saturating_sub(began)),
        }
    }
}

/// Runs until the store stops.
pub(crate) fn run(shared: &Shared) {
    let mut stopping = lock(&shared.watch_stop);
    while !*stopping {
        stopping = shared
            .wake_watch
            .wait_timeout(stopping, LOOK)
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0;
        look(shared);
    }
}

fn look(shared: &Shared) {
    let now = shared.options.clock.elapsed();
    let longest = shared.progress.iter().map(|lane| lane.sync_start.runs_for(now)).max().unwrap_or_default();
    shared.status.send_if_modified(|state| match state {
        StoreState::Serving if longest > STUCK => {
            tracing::error!(for_ = ?longest, "a sync of the disk does not come back; messages are not accepted until it does");
            *state = StoreState::Stalled;
            true
        }
        StoreState::Stalled if longest <= STUCK => {
            tracing::info!("the disk syncs again");
            *state = StoreState::Serving;
            true
        }
        _ => false,
    });
}
