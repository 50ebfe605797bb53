//! Syncs that hang as long as somebody wants.

use super::SimDisk;

/// Lets the syncs go when it is dropped: a failing test must not hang.
pub struct HeldSyncs(SimDisk);

impl SimDisk {
    /// No sync comes back for as long as the guard lives.
    pub fn hold_syncs(&self) -> HeldSyncs {
        self.hold_syncs_of("");
        HeldSyncs(self.clone())
    }
}

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.0.let_syncs_go("");
    }
}
