//! How measured values spread: counts by bucket, cheap enough for the hot path, and the snapshots taken of them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets for durations, in seconds.
pub const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Upper bounds of the buckets for counts.
pub const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];
/// One more than the number of bounds in the longest list above, for values above the last bound.
const BUCKETS: usize = 17;
/// Sums are kept in units of one over this: microseconds.
const PART: f64 = 1e6;

/// Counts of values by bucket, since the start.
#[derive(Debug)]
pub struct Spreading {
    bounds: &'static [f64],
    counts: [AtomicU64; BUCKETS],
    parts: AtomicU64,
}

impl Spreading {
    /// Empty counts. `bounds`: [`SECONDS`] or [`COUNTS`].
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.len() < BUCKETS);
        Self { bounds, counts: Default::default(), parts: AtomicU64::new(0) }
    }

    /// Counts a value, which must not be negative.
    #[expect(clippy::cast_sign_loss, reason = "it is not negative")]
    pub fn note(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value).min(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.parts.fetch_add((value * PART) as u64, Ordering::Relaxed);
    }

    /// What was counted up to now.
    pub fn spread(&self) -> Spread {
        let counts = self.counts.iter().take(self.bounds.len() + 1);
        Spread {
            bounds: self.bounds,
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.parts.load(Ordering::Relaxed) as f64 / PART,
        }
    }
}

/// Counts of values by bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    /// Upper bound of each bucket but the last, which has none.
    pub bounds: &'static [f64],
    /// Values in each bucket, not including those of the buckets before it. Empty if nothing is measured.
    pub counts: Vec<u64>,
    /// Sum of all values, each to a millionth.
    pub sum: f64,
}

impl Spread {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The values counted since `before`, an earlier snapshot.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let old = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(old).map(|(new, old)| new.saturating_sub(old)).collect();
        Self { bounds: self.bounds, counts, sum: (self.sum - before.sum).max(0.0) }
    }

    /// The upper bound that a share of all values (0 to 1) does not exceed; for the last bucket, the highest bound there is.
    /// 0 if there are no values.
    #[expect(clippy::cast_sign_loss, reason = "it is at least 1")]
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return self.bounds.get(at).or(self.bounds.last()).copied().unwrap_or_default();
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_where_they_belong() {
        let spreading = Spreading::new(COUNTS);
        for value in [0.0, 1.0, 2.0, 3.0, 4097.0] {
            spreading.note(value);
        }
        let spread = spreading.spread();
        assert_eq!(spread.counts.len(), COUNTS.len() + 1);
        assert_eq!((spread.counts[0], spread.counts[1], spread.counts[2]), (2, 1, 1));
        assert_eq!((spread.counts.last(), spread.count()), (Some(&1), 5));
        assert!((spread.sum - 4103.0).abs() < 1e-6);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let spreading = Spreading::new(SECONDS);
        assert!(spreading.spread().quantile(0.5).abs() < f64::EPSILON);
        for _ in 0..99 {
            spreading.note(0.000_2);
        }
        let before = spreading.spread();
        spreading.note(60.0);
        let quantile = |share: f64| spreading.spread().quantile(share);
        assert!((quantile(0.5) - 0.000_25).abs() < 1e-9 && (quantile(1.0) - 10.0).abs() < 1e-9);
        assert_eq!(spreading.spread().since(&before).count(), 1);
    }
}
