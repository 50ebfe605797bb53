//! After a start the lists of the index on disk are completed: parts may be lost, or written by an earlier version.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::core::shared::Shared;
use crate::face::error::StoreError;
use crate::index::entry::Entry;
use crate::index::on_disk::{IdUnreadableNow, NamesCompletion};
use crate::read::frames::Reader;

/// Mail whose age is listed in one round after a start.
const AGES: usize = 8192;
/// Messages whose names are completed in one round.
const NAMES: usize = 32_768;
/// Time that this may take in a round.
const ROUND: Duration = Duration::from_millis(500);

/// How far the completion has come.
#[derive(Debug)]
pub(crate) struct Completion {
    /// Key in the mailbox at which to continue; `None` once the list of ages is complete.
    ages: Option<u128>,
    /// Where to continue with the list of names; `None` once that is complete.
    names: Option<NamesCompletion>,
}

impl Default for Completion {
    fn default() -> Self {
        Self { ages: Some(0), names: Some(NamesCompletion::default()) }
    }
}

impl Completion {
    /// After a start: makes sure that the list of ages in the index on disk is complete.
    pub(crate) fn ages(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let (Some(from), Some(cold)) = (self.ages, shared.cold_for_removal()) else { return Ok(()) };
        self.ages = None;
        if shared.state.lock().cold_mail > 0 {
            shared.cold_dirty.store(true, Ordering::Relaxed);
            match cold.complete_ages(from, AGES) {
                Ok(next) => self.ages = next,
                Err(error) => return shared.index_failed(&cold, &error),
            }
        }
        Ok(())
    }

    /// After a start: makes sure that the list of names in the index on disk is complete.
    pub(crate) fn names(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let Some(cold) = shared.cold_for_removal() else { return Ok(()) };
        let Some(from) = self.names.take() else { return Ok(()) };
        shared.cold_dirty.store(true, Ordering::Relaxed);
        // What is not reached is done in the next round: expiry, checkpoints and shutdown do not wait for it.
        let started = Instant::now();
        let read = |key, entry: &Entry| {
            if started.elapsed() > ROUND || shared.stopping.load(Ordering::Acquire) {
                return Err(IdUnreadableNow);
            }
            Reader { shared }.id_of(key, entry).map_err(|_| IdUnreadableNow)
        };
        match cold.complete_names(from, NAMES, read) {
            Ok(next) => self.names = next,
            Err(error) => return shared.index_failed(&cold, &error),
        }
        Ok(())
    }
}
