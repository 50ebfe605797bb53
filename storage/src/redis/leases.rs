//! Which peers this gateway delivers to: as agreed at its last heartbeat, and no longer than the others wait for the next.
//!
//! Pure but for the clock. Invariant: a gateway counts itself out before the others count it out.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::PartyId;

/// Pause between heartbeats.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// A gateway that was silent for so long is gone for the others.
pub(super) const SILENCE: Duration = Duration::from_secs(6);
/// A gateway that could not send its heartbeat for so long stops delivering.
const OUT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leases {
    mine: HashSet<PartyId>,
    /// Peers that have an owner, whoever that is.
    owned: HashSet<PartyId>,
    until: Option<Instant>,
}

impl Leases {
    /// Whether this gateway delivers to the peer.
    pub(super) fn has(&self, peer: &PartyId) -> bool {
        self.mine.contains(peer) && self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether somebody is known to.
    pub(super) fn is_owned(&self, peer: &PartyId) -> bool {
        self.owned.contains(peer)
    }

    /// What a heartbeat that began at `asked` gave: the owner of each peer. Gives the peers that are new to us.
    pub(super) fn agreed(
        &mut self,
        asked: Instant,
        me: &str,
        owners: HashMap<PartyId, String>,
    ) -> Vec<PartyId> {
        let had = std::mem::take(&mut self.mine);
        // Now and not when it was asked: whoever asked in between was told that we do not deliver.
        let was_in = self.until.is_some_and(|until| Instant::now() < until);
        self.until = Some(asked + OUT);
        self.owned =
            owners.iter().filter(|(_, owner)| !owner.is_empty()).map(|(peer, _)| peer.clone()).collect();
        self.mine = owners.into_iter().filter(|(_, owner)| owner == me).map(|(peer, _)| peer).collect();
        self.mine.iter().filter(|peer| !was_in || !had.contains(*peer)).cloned().collect()
    }

    /// The peers that this gateway delivers to.
    pub(super) fn mine(&self) -> Vec<PartyId> {
        self.mine.iter().cloned().collect()
    }

    /// Nothing is agreed on any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(all: &[(&str, &str)]) -> HashMap<PartyId, String> {
        all.iter().map(|(peer, owner)| (PartyId::new(peer).unwrap(), (*owner).to_owned())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_cannot_be_heard_stops_before_the_others_take_over() {
        let (b, c) = (PartyId::new("b").unwrap(), PartyId::new("c").unwrap());
        let mut leases = Leases::default();
        assert!(!leases.has(&b));
        let new = leases.agreed(Instant::now(), "me", owners(&[("b", "me"), ("c", "other"), ("d", "")]));
        assert_eq!(new, std::slice::from_ref(&b));
        assert!(leases.has(&b) && !leases.has(&c) && leases.is_owned(&c));
        assert!(!leases.is_owned(&PartyId::new("d").unwrap()));
        assert!(leases.agreed(Instant::now(), "me", owners(&[("b", "me")])).is_empty(), "it had it before");
        tokio::time::advance(OUT).await;
        assert!(!leases.has(&b) && OUT < SILENCE);
        assert_eq!(leases.agreed(Instant::now(), "me", owners(&[("b", "me")])), std::slice::from_ref(&b));
        // It asked in time, and the answer came late: meanwhile it did not deliver, and must look again, too.
        tokio::time::advance(OUT / 2).await;
        let asked = Instant::now();
        tokio::time::advance(OUT / 2).await;
        assert!(!leases.has(&b));
        assert_eq!(leases.agreed(asked, "me", owners(&[("b", "me")])), [b], "it has to look again");
    }

    /// A failover took nearly as long as a lease: it was over when the answer came to what was asked before, and a delivery
    /// that had just been turned away was never looked at again.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_over_when_the_answer_came_is_a_new_one() {
        let b = PartyId::new("b").unwrap();
        let mut leases = Leases::default();
        leases.agreed(Instant::now(), "me", owners(&[("b", "me")]));
        tokio::time::advance(OUT.saturating_sub(Duration::from_millis(10))).await;
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(!leases.has(&b), "turned away");
        assert_eq!(leases.agreed(asked, "me", owners(&[("b", "me")])), [b], "it has to look again");
    }
}
