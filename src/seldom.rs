//! Lines that many events would write: at most one a minute, with the count of what was not told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pause between lines that say the same.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// One kind of line.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl Seldom {
    /// Calls `line` with the count of events since the last one that was told, or counts.
    pub(crate) fn tell(&self, line: impl FnOnce(u64)) {
        let before = {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if told.at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
                told.since += 1;
                return;
            }
            told.at = Some(Instant::now());
            std::mem::take(&mut told.since)
        };
        line(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_the_next_ones_are_counted() {
        let seldom = Seldom::default();
        let mut told = Vec::new();
        for _ in 0..4 {
            seldom.tell(|before| told.push(before));
        }
        seldom.0.lock().unwrap().at = None;
        seldom.tell(|before| told.push(before));
        assert_eq!(told, [0, 3]);
    }
}
