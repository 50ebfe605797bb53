//! Who may do what: what the operator wants at one gateway holds at all of them, and a gateway that delivers to a peer asks
//! whether it still may.

use std::sync::Arc;

use crate::face::error::Result;
use crate::face::message::PartyId;
use crate::redis::calls::store::RedisStore;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::leases::SILENCE;
use crate::redis::shared::RedisShared;

impl RedisShared {
    /// Peers that this gateway is to give up and that have nothing under way: another gateway can take them.
    pub(crate) fn quietly_given_up(&self) -> Vec<PartyId> {
        let mut all = self.leases.lock().given_up();
        all.retain(|peer| !self.observer.0.is_delivering(peer));
        all
    }
}

impl RedisStore {
    /// Asks Redis whether the lease of a peer is ours now.
    pub(crate) async fn holds_lease(&self, peer: &PartyId) -> Result<bool> {
        let inner = &self.inner;
        if !inner.holds(peer) {
            return Ok(false);
        }
        let holds = inner.ask::<u8>(Way::Read, &SCRIPTS.lease, |call| {
            call.arg(&inner.name).arg(peer.as_str()).arg(SILENCE.as_millis() as u64);
        });
        let holds = holds.await? == 1;
        // The answer may have taken a long time.
        Ok(holds && inner.holds(peer))
    }

    /// Pauses or resumes a peer. The other gateways learn of it at once, or with their next heartbeat.
    pub(crate) async fn pause_at_all(&self, peer: &PartyId, paused: bool) -> Result<bool> {
        let changed: u8 = self
            .inner
            .change_for_good(&SCRIPTS.pause, |call| {
                call.arg(peer.as_str()).arg(u8::from(paused));
            })
            .await?;
        self.inner.paused.send_modify(|all| {
            let mut now = (**all).clone();
            if paused {
                now.insert(peer.clone());
            } else {
                now.remove(peer);
            }
            *all = Arc::new(now);
        });
        Ok(changed == 1)
    }

    /// Has the gateways that deliver to these peers try now.
    pub(crate) async fn tell_to_try(&self, peers: &[PartyId]) -> Result<()> {
        let told = self.inner.ask::<u8>(Way::Write, &SCRIPTS.at_once, |call| {
            call.arg(peers.iter().map(PartyId::as_str).collect::<Vec<_>>());
        });
        told.await.map(drop)
    }
}
