//! Errors of the index on disk: which are passing, and which are not.

use crate::log::codec::Short;

/// sled's error text when another process has the index open.
pub(crate) const LOCKED: &str = "could not acquire lock";

/// Reported if the clock is before 1970, because sled would panic.
pub(super) const CLOCK: &str = "the clock of this machine is before 1970";

/// An error of the index on disk. The store continues without it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("index on disk: {0}")]
pub(crate) struct ColdError(pub(crate) String);

impl ColdError {
    /// Whether the trouble is the machine's and not the index's: no room (the disk, a quota, a limit on file size), too many
    /// open files, or its clock.
    pub(crate) fn is_passing(&self) -> bool {
        let passing = [
            "(os error 28)",
            "(os error 122)",
            "(os error 27)",
            "(os error 24)",
            "(os error 23)",
            "(os error 12)",
            CLOCK,
        ];
        passing.iter().any(|e| self.0.contains(e))
    }

    /// Whether another process has it open.
    pub(crate) fn is_locked(&self) -> bool {
        self.0.contains(LOCKED)
    }
}

impl From<Short> for ColdError {
    fn from(_: Short) -> Self {
        Self("an entry does not decode".into())
    }
}

/// Result of a call into the index.
pub(crate) type Result<T> = std::result::Result<T, ColdError>;
