//! Commands that start gateways of their own on this machine.

pub(crate) mod crashtest;
pub(crate) mod quickstart;
pub(crate) mod world;
