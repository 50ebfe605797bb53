//! Commands that ask a running gateway over its admin socket.

pub(crate) mod admin;
pub(crate) mod dead;
pub(crate) mod mailbox;
pub(crate) mod queue;
pub(crate) mod status;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod track;
