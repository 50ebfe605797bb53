//! The housekeeping thread and its parts.

pub(crate) mod checkpoints;
pub(crate) mod compact;
pub(crate) mod completion;
pub(crate) mod expiry;
pub(crate) mod index_care;
pub(crate) mod keeper;
pub(crate) mod leaving;
pub(crate) mod spill;
pub(crate) mod sync_watch;
