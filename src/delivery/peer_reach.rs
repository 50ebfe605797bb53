//! Whether a peer can be reached: the way is open, or the peer is down, with a pause and then one probe at a time.
//!
//! Pure: the caller supplies time and random bits. Invariants: while the peer is down at most one probe is under way and
//! none starts before the pause has ended; any answer from the peer opens the way again and clears all failures.

use std::time::{Duration, Instant};

use petnet_storage::Sequence;

use crate::delivery::backoff;

/// Stands for a message in a probe that carries none.
pub(crate) const NO_MESSAGE: Sequence = Sequence(0);

/// How far the way to a peer is open.
#[derive(Debug)]
pub(crate) struct PeerReach {
    cap: Duration,
    down: Option<PeerDown>,
}

#[derive(Debug)]
struct PeerDown {
    since: Instant,
    until: Instant,
    failures: u32,
    probe: Option<Sequence>,
}

/// What may be started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayStart {
    /// As many messages as the window holds.
    Window,
    /// One message.
    Probe,
    /// Nothing.
    Nothing,
}

/// A time without answers that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outage {
    /// Failed attempts, including the first one and the probes.
    pub(crate) failures: u32,
    /// How long it lasted.
    pub(crate) lasted: Duration,
}

impl PeerReach {
    /// The way is open until something fails. `cap` is the longest pause.
    pub(crate) fn new(cap: Duration) -> Self {
        Self { cap, down: None }
    }

    /// What may be started now.
    pub(crate) fn room(&self, now: Instant) -> MayStart {
        match &self.down {
            None => MayStart::Window,
            Some(PeerDown { until, probe: None, .. }) if *until <= now => MayStart::Probe,
            Some(_) => MayStart::Nothing,
        }
    }

    /// Since when the peer has been down, if it is.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.down.as_ref().map(|down| down.since)
    }

    /// Ends the pause now.
    pub(crate) fn open_now(&mut self, now: Instant) {
        if let Some(down) = &mut self.down {
            down.until = down.until.min(now);
        }
    }

    /// Number of failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.down.as_ref().map_or(0, |down| down.failures)
    }

    /// Notes the message that was started under [`MayStart::Probe`].
    pub(crate) fn probing(&mut self, sequence: Sequence) {
        if let Some(down) = &mut self.down {
            down.probe = Some(sequence);
        }
    }

    /// Notes that an attempt ended without learning anything about the peer.
    pub(crate) fn nothing_learnt(&mut self, sequence: Sequence) {
        if let Some(down) = &mut self.down
            && down.probe == Some(sequence)
        {
            down.probe = None;
        }
    }

    /// Notes that the peer answered, whatever it said. Returns the outage, if this ended one.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Outage> {
        let down = self.down.take()?;
        Some(Outage { failures: down.failures, lasted: now.saturating_duration_since(down.since) })
    }

    /// Notes that an attempt failed in a way that affects every message. True if the peer was not down before.
    pub(crate) fn failed(&mut self, sequence: Sequence, now: Instant, random: u64) -> bool {
        match &mut self.down {
            None => {
                let until = now + backoff::pause(1, self.cap, random);
                self.down = Some(PeerDown { since: now, until, failures: 1, probe: None });
                true
            }
            Some(down) if down.probe == Some(sequence) => {
                down.failures = down.failures.saturating_add(1);
                down.until = now + backoff::pause(down.failures, self.cap, random);
                down.probe = None;
                false
            }
            // It was under way when the first one failed, so it belongs to the same outage.
            Some(_) => false,
        }
    }

    /// When a probe may start, if the way is closed until then.
    pub(crate) fn opens_at(&self) -> Option<Instant> {
        self.down.as_ref().filter(|down| down.probe.is_none()).map(|down| down.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_secs(30);

    #[test]
    fn many_failures_at_once_are_one_outage() {
        let mut reach = PeerReach::new(CAP);
        let now = Instant::now();
        assert!(reach.failed(Sequence(1), now, 0));
        for sequence in 2..100 {
            assert!(!reach.failed(Sequence(sequence), now, 0));
        }
        assert_eq!(reach.failures(), 1);
        assert_eq!(reach.room(now), MayStart::Nothing);
        assert_eq!(reach.room(now + backoff::BASE), MayStart::Probe);
    }

    #[test]
    fn one_probe_at_a_time_and_pauses_grow_until_an_answer() {
        let mut reach = PeerReach::new(CAP);
        let mut now = Instant::now();
        let start = now;
        reach.failed(Sequence(1), now, u64::MAX);
        let mut last = Duration::ZERO;
        for n in 2..20 {
            let until = reach.opens_at().unwrap();
            assert!(until - now >= last && until - now <= CAP);
            last = until - now;
            now = until;
            assert_eq!(reach.room(now), MayStart::Probe);
            reach.probing(Sequence(n));
            assert_eq!((reach.room(now), reach.opens_at()), (MayStart::Nothing, None));
            assert!(!reach.failed(Sequence(n), now, u64::MAX));
        }
        assert!(last > CAP.saturating_sub(Duration::from_millis(1)), "{last:?}");
        assert_eq!(reach.answered(now), Some(Outage { failures: 19, lasted: now - start }));
        assert_eq!(reach.room(now), MayStart::Window);
        assert!(reach.failed(Sequence(50), now, 0));
        assert_eq!(reach.opens_at(), Some(now + backoff::BASE / 2), "reset after success");
    }

    #[test]
    fn probe_that_teaches_nothing_makes_room_for_the_next() {
        let mut reach = PeerReach::new(CAP);
        let now = Instant::now();
        reach.failed(Sequence(1), now, 0);
        reach.probing(Sequence(2));
        reach.nothing_learnt(Sequence(2));
        assert_eq!(reach.room(now + backoff::BASE), MayStart::Probe);
    }
}
