//! Watches the syncs of the log: one that does not return changes the store's state, so that a caller that asks knows before any
//! caller's patience ends. It changes nothing else: callers go on waiting, within their own deadlines.

use std::time::Duration;

use crate::core::shared::Shared;
use crate::face::engine::StoreState;

/// A sync that runs longer than this is stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(5);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until the store stops.
pub(crate) fn run(shared: &Shared) {
    let mut stopping = shared.watch_stop.lock();
    while !*stopping {
        shared.wake_watch.wait_for(&mut stopping, LOOK);
        look(shared);
    }
}

fn look(shared: &Shared) {
    let now = shared.options.clock.elapsed();
    let longest = shared.progress.iter().map(|lane| lane.sync_start.runs_for(now)).max().unwrap_or_default();
    shared.status.send_if_modified(|state| match state {
        StoreState::Serving | StoreState::Full(_) if longest > STUCK => {
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
