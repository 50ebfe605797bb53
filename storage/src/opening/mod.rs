//! A start: what an ended process left is read back, and the index is held against it.

pub(crate) mod catch_up;
pub(crate) mod index_check;
pub(crate) mod lane_ends;
pub(crate) mod leftovers;
pub(crate) mod move_mark;
pub(crate) mod no_checkpoint;
pub(crate) mod recovery;
pub(crate) mod replay;
