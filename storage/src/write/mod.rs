//! The writers of the log: what they append, what that makes visible, and how messages end.

pub(crate) mod dead_letters;
pub(crate) mod lane_writer;
pub(crate) mod notes;
pub(crate) mod publish;
pub(crate) mod settle;
