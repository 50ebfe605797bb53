//! Asking a peer whether it answers, without a message: while it is down and nothing is pending for it, with the same
//! pauses as between attempts; and when the operator asks.
//!
//! Without this, a peer would stay "down" until the next message for it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Forwarder, Lane};
use crate::delivery::backoff;
use crate::delivery::peer_link::Deliver;
use crate::delivery::peer_reach::{MayStart, NO_MESSAGE};

impl<L: Deliver> Forwarder<L> {
    /// Begins to ask, if there is a reason to.
    pub(super) fn probe_if_due(&mut self) {
        if !self.probing.is_empty() {
            return;
        }
        // The small lane asks for both lanes.
        self.asked |= self.lane == Lane::Small && self.course.take_asked();
        let now = Instant::now().into_std();
        let nothing_else = self.read_all && self.fresh.is_empty() && self.retries.is_empty();
        let is_due = self.reach.room(now) == MayStart::Probe && nothing_else && self.in_flight.len() == 0;
        if !is_due && !self.asked {
            return;
        }
        if is_due {
            self.reach.probing(NO_MESSAGE);
        }
        let link = self.link.clone();
        self.probing.spawn(async move { link.probe().await });
    }

    /// Handles the result of a probe: the peer answered, or did not.
    pub(super) fn probed(&mut self, answer: Result<(), String>) {
        let now = Instant::now().into_std();
        if answer.is_ok() {
            self.answered();
        } else if let Err(why) = &answer {
            self.course.failed(self.lane, why);
            if self.reach.failed(NO_MESSAGE, now, backoff::random()) {
                tracing::warn!(peer = %self.peer, lane = self.lane.name(), reason = why, "peer does not answer; going on trying");
            }
        }
        // Before the answer is reported: the caller that asked looks at the state next.
        self.tell();
        if std::mem::take(&mut self.asked) {
            self.course.answered(answer.map_err(Arc::from));
        }
    }

    /// Clears the lane's error once the way is open and nothing that failed is left.
    pub(super) fn forget_errors(&self) {
        let failed = || self.works.values().flatten().any(|work| work.failures > 0);
        if self.course.has_failed(self.lane)
            && self.reach.down_since().is_none()
            && self.retries.is_empty()
            && !self.forgotten
            && !failed()
        {
            self.course.recovered(self.lane);
        }
    }
}
