//! The calls of the engine on Redis.

pub(crate) mod engine;
pub(crate) mod letters;
pub(crate) mod mailbox;
pub(crate) mod operator;
pub(crate) mod outbox;
pub(crate) mod sends;
pub(crate) mod store;
pub(crate) mod upload;
pub(crate) mod write_lane;
