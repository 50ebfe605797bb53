//! Housekeeping, in one low-priority thread: moves older entries to the index on disk, takes checkpoints, expires pending
//! messages, frees space. None of it delays an append.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::core::shared::Shared;
use crate::face::error::StoreError;
use crate::log::disk::passes;
use crate::upkeep::checkpoints::Checkpoints;
use crate::upkeep::compact::compact;
use crate::upkeep::completion::Completion;
use crate::upkeep::expiry::{Expiry, expire_pending};
use crate::upkeep::index_care::{IndexCare, make_room_for_the_log};
use crate::upkeep::leaving::leave_what_is_empty;
use crate::upkeep::spill::Spill;
use crate::write::{dead_letters, notes};

/// When the processors are busy, callers come first: what housekeeping moves to disk fits in memory for a while (see `CROWDED`),
/// and it catches up later.
const NICENESS: i32 = 10;

/// The housekeeping thread.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
    checkpoints: Checkpoints,
    spill: Spill,
    expiry: Expiry,
    completion: Completion,
    index_care: IndexCare,
    /// What failed in the last round, if anything.
    trouble: Option<String>,
}

impl Housekeeper {
    /// The housekeeping of a store that has just been opened.
    pub(crate) fn new(shared: Arc<Shared>, checkpoints: Checkpoints) -> Self {
        Self {
            shared,
            checkpoints,
            spill: Spill::default(),
            expiry: Expiry::default(),
            completion: Completion::default(),
            index_care: IndexCare::default(),
            trouble: None,
        }
    }

    /// Runs until the store stops; a last checkpoint makes the next start quick.
    pub(crate) fn run(mut self) {
        // The priority is that of this thread, on Linux. Without it everything works the same, except that callers wait a little
        // longer.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "housekeeping keeps its priority");
        }
        loop {
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            if self.shared.state_error().is_some_and(|e| matches!(e, StoreError::Poisoned(_))) {
                return;
            }
            if let Err(error) = self.round(stopping) {
                if !passes(&error) {
                    self.shared.poison(&self.final_trouble(&error));
                    return;
                }
                // Log once per trouble, not four times a second.
                let why = error.to_string();
                if self.trouble.as_ref() != Some(&why) {
                    tracing::warn!(%error, "housekeeping failed; it is tried again");
                    self.trouble = Some(why);
                }
            } else {
                self.trouble = None;
            }
            if stopping {
                return;
            }
            let mut guard = self.shared.keeper_lock.lock();
            if !self.shared.stopping.load(Ordering::Acquire) {
                let pause = self.shared.options.housekeeping_every;
                self.shared.wake_keeper.wait_for(&mut guard, pause);
            }
        }
    }

    fn final_trouble(&self, error: &io::Error) -> String {
        let folder = self.shared.options.data_dir.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                format!("a file of the store is gone ({error}): was {folder} removed?")
            }
            _ => format!("housekeeping of the log failed: {error}"),
        }
    }

    fn round(&mut self, stopping: bool) -> io::Result<()> {
        let shared = &self.shared;
        shared.refresh_space()?;
        notes::write_some(shared).map_err(io::Error::other)?;
        if !stopping {
            expire_pending(shared);
            self.expiry.unread(shared);
            if let Err(error) = dead_letters::keep_within_bound(shared) {
                tracing::warn!(%error, "cannot drop old dead letters; it is tried again");
            }
            make_room_for_the_log(shared).map_err(io::Error::other)?;
            self.index_care.reopen(shared);
            self.expiry.read(shared).map_err(io::Error::other)?;
            self.completion.ages(shared).map_err(io::Error::other)?;
            self.completion.names(shared).map_err(io::Error::other)?;
            self.spill.run(shared).map_err(io::Error::other)?;
            compact(shared);
            leave_what_is_empty(shared);
        }
        if self.checkpoints.is_due(shared, self.spill.moved, stopping) {
            if self.checkpoints.take(shared)? {
                self.spill.moved = 0;
            }
            self.index_care.renew(shared);
            shared.refresh_space()?;
        }
        Ok(())
    }
}
