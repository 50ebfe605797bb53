//! Commands that work on a data folder while no gateway runs on it.

pub(crate) mod migrate;
pub(crate) mod repair;
pub(crate) mod verify;
