//! How long to pause between attempts: exponential with equal jitter.
//!
//! Pure: the caller supplies the random bits. Half of every pause is fixed, so that a dead peer is never hammered; the
//! other half is random, so that many senders that lost one peer at the same moment do not come back together. Invariant:
//! no pause is longer than the cap, and none is shorter than half the base.

use std::time::Duration;

/// First pause, before jitter.
pub(crate) const BASE: Duration = Duration::from_millis(100);

/// The pause after `failures` failures in a row (counted from 1).
pub(crate) fn pause(failures: u32, cap: Duration, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    let full = BASE.saturating_mul(1 << doublings).min(cap.max(BASE));
    jittered(full, random)
}

/// The longest pause there is, for failures that only the operator can mend.
pub(crate) fn longest(cap: Duration, random: u64) -> Duration {
    jittered(cap.max(BASE), random)
}

/// Random bits for a pause. Without entropy, every pause simply has its full length.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

fn jittered(full: Duration, random: u64) -> Duration {
    let half = full / 2;
    let drawn = (half.as_nanos() * u128::from(random)) >> 64;
    half + Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX)).min(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const CAP: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_up_to_the_cap() {
        assert_eq!(pause(1, CAP, 0), BASE / 2);
        assert_eq!(pause(2, CAP, 0), BASE);
        assert_eq!(pause(3, CAP, 0), BASE * 2);
        assert_eq!(pause(40, CAP, 0), CAP / 2);
        assert_eq!(pause(u32::MAX, CAP, 0), CAP / 2);
    }

    #[test]
    fn every_pause_lies_between_half_and_the_whole() {
        let mut random = Random::new();
        for _ in 0..10_000 {
            let failures = random.below(64) as u32;
            let cap = Duration::from_millis(random.below(100_000));
            let full = BASE.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(cap.max(BASE));
            let paused = pause(failures, cap, random.next());
            assert!(paused >= full / 2 && paused <= full, "{random:?}: {failures} {cap:?} {paused:?}");
        }
    }

    #[test]
    fn longest_pause_stays_within_the_cap() {
        assert_eq!(longest(CAP, 0), CAP / 2);
        assert!(longest(CAP, u64::MAX) <= CAP);
    }
}
