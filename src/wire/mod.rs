//! What goes over the network in addition to the services: headers, error codes, sizes of frames, the operator's socket.
//! Knows the rules, but decides nothing.

pub(crate) mod admin_socket;
pub(crate) mod link_limits;
pub(crate) mod metadata;
pub mod status;
pub(crate) mod wall_clock;
