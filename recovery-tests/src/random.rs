//! Reproducible random numbers: a run prints its seed, `PETNET_SEED` replays it.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// From `PETNET_SEED`, or from a seed of its own.
    pub fn new() -> Self {
        Self::from_seed(crate::setting("PETNET_SEED", RandomState::new().hash_one(0) >> 16))
    }

    /// From a seed.
    pub fn from_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// What replays it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number: Steele and others' `SplitMix64`.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// A time below `limit`, to the microsecond.
    pub fn moment(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as u64))
    }

    /// Another stream that this one determines.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.number())
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
