//! Finding messages and reading them.

pub(crate) mod arrivals;
pub(crate) mod content;
pub(crate) mod find;
pub(crate) mod frames;
pub(crate) mod track;
