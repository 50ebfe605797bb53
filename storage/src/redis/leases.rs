//! Which peers this gateway delivers to: as agreed at its last heartbeat, and no longer than the others wait for the next.
//!
//! Pure: the caller reads the clock, which continues while the process stands still and while the machine sleeps. Invariants: a
//! gateway counts itself out before the others count it out; it gives up a peer that it is to give up once nothing is under way
//! to that peer.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::face::message::PartyId;

/// Pause between heartbeats.
pub(crate) const BEAT: Duration = Duration::from_secs(2);
/// A gateway that has been silent for this long is gone as far as the others are concerned.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);
/// A gateway that could not send its heartbeat for this long stops delivering.
const OUT: Duration = Duration::from_secs(5);

/// Instead of an owner: the gateway that asks is to begin nothing more for the peer, so that another one can take it.
const GIVE_UP: &str = "give up";

/// Time since the machine was started, including the time that it slept.
pub(crate) fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The peers that this gateway delivers to, and until when.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    mine: HashSet<PartyId>,
    /// Peers for which nothing more is begun.
    given_up: HashSet<PartyId>,
    /// Peers that have an owner, whichever gateway that is.
    owned: HashSet<PartyId>,
    until: Option<Duration>,
}

impl Leases {
    /// Whether this gateway delivers to the peer.
    pub(crate) fn has(&self, peer: &PartyId, now: Duration) -> bool {
        self.mine.contains(peer) && self.until.is_some_and(|until| now < until)
    }

    /// Whether no other gateway delivers to the peer: this is true even while the last deliveries end before it is given up.
    pub(crate) fn holds(&self, peer: &PartyId, now: Duration) -> bool {
        let is_held = self.mine.contains(peer) || self.given_up.contains(peer);
        is_held && self.until.is_some_and(|until| now < until)
    }

    /// Whether any gateway is known to deliver to the peer.
    pub(crate) fn is_owned(&self, peer: &PartyId) -> bool {
        self.owned.contains(peer)
    }

    /// Takes the result of a heartbeat that began at `asked` and was answered `now`: the owner of each peer. Returns the peers
    /// that are new to us.
    pub(crate) fn agreed(
        &mut self,
        asked: Duration,
        now: Duration,
        me: &str,
        owners: &HashMap<PartyId, String>,
    ) -> Vec<PartyId> {
        let had = std::mem::take(&mut self.mine);
        // At the time of the answer, not of the request: a caller that asked in between was answered that we do not deliver.
        let was_in = self.until.is_some_and(|until| now < until);
        self.until = Some(asked + OUT);
        let named = |word: fn(&str, &str) -> bool| {
            let all = owners.iter().filter(move |(_, owner)| word(owner, me));
            all.map(|(peer, _)| peer.clone()).collect::<HashSet<_>>()
        };
        self.owned = named(|owner, _| !owner.is_empty());
        self.given_up = named(|owner, _| owner == GIVE_UP);
        self.mine = named(|owner, me| owner == me);
        self.mine.iter().filter(|peer| !was_in || !had.contains(*peer)).cloned().collect()
    }

    /// The peers that this gateway delivers to.
    pub(crate) fn mine(&self) -> Vec<PartyId> {
        self.mine.iter().cloned().collect()
    }

    /// The peers for which this gateway begins nothing more.
    pub(crate) fn given_up(&self) -> Vec<PartyId> {
        self.given_up.iter().cloned().collect()
    }

    /// Forgets everything that was agreed on.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(all: &[(&str, &str)]) -> HashMap<PartyId, String> {
        all.iter().map(|(peer, owner)| (PartyId::new(peer).unwrap(), (*owner).to_owned())).collect()
    }

    const START: Duration = Duration::from_hours(1);
    const MOMENT: Duration = Duration::from_millis(10);

    #[test]
    fn a_gateway_that_cannot_be_heard_stops_before_the_others_take_over() {
        let (b, c) = (PartyId::new("b").unwrap(), PartyId::new("c").unwrap());
        let mut leases = Leases::default();
        assert!(!leases.has(&b, START));
        let new = leases.agreed(START, START, "me", &owners(&[("b", "me"), ("c", "other"), ("d", "")]));
        assert_eq!(new, std::slice::from_ref(&b));
        assert!(leases.has(&b, START) && !leases.has(&c, START) && leases.is_owned(&c));
        assert!(!leases.is_owned(&PartyId::new("d").unwrap()));
        assert!(leases.agreed(START, START, "me", &owners(&[("b", "me")])).is_empty(), "it had it before");
        let over = START + OUT;
        assert!(!leases.has(&b, over) && leases.has(&b, over.saturating_sub(MOMENT)) && OUT < SILENCE);
        assert_eq!(leases.agreed(over, over, "me", &owners(&[("b", "me")])), std::slice::from_ref(&b));
        // It asked in time, but the answer came late: it did not deliver in the meantime, and must look again, too.
        let (asked, answered) = (over + OUT / 2, over + OUT);
        assert!(!leases.has(&b, answered));
        assert_eq!(
            leases.agreed(asked, answered, "me", &owners(&[("b", "me")])),
            [b],
            "it has to look again"
        );
    }

    /// A failover took nearly as long as a lease: the lease had expired when the answer to the earlier heartbeat came, and a
    /// delivery that had just been turned away was never looked at again.
    #[test]
    fn a_lease_that_was_over_when_the_answer_came_is_a_new_one() {
        let b = PartyId::new("b").unwrap();
        let mut leases = Leases::default();
        leases.agreed(START, START, "me", &owners(&[("b", "me")]));
        let (asked, answered) = ((START + OUT).saturating_sub(MOMENT), START + OUT + MOMENT);
        assert!(!leases.has(&b, answered), "turned away");
        assert_eq!(
            leases.agreed(asked, answered, "me", &owners(&[("b", "me")])),
            [b],
            "it has to look again"
        );
    }

    #[test]
    fn what_is_given_up_is_nobody_elses_yet_and_new_when_it_comes_back() {
        let b = PartyId::new("b").unwrap();
        let mut leases = Leases::default();
        leases.agreed(START, START, "me", &owners(&[("b", "me")]));
        assert!(leases.agreed(START, START, "me", &owners(&[("b", GIVE_UP)])).is_empty());
        assert!(leases.holds(&b, START) && !leases.holds(&b, START + OUT), "what is under way may end");
        assert!(!leases.has(&b, START) && leases.is_owned(&b) && leases.given_up() == [b.clone()]);
        assert_eq!(leases.agreed(START, START, "me", &owners(&[("b", "me")])), [b]);
        assert!(leases.given_up().is_empty());
    }

    #[test]
    fn the_clock_of_leases_goes_on() {
        let before = since_boot();
        std::thread::sleep(MOMENT);
        assert!(since_boot() >= before + MOMENT && before > Duration::ZERO);
    }
}
