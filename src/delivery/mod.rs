//! Delivering to other parties: what is tried when, and the link that carries it.

pub(crate) mod backoff;
pub(crate) mod forwarder;
pub(crate) mod forwarders;
pub(crate) mod hints;
pub(crate) mod paused;
pub(crate) mod peer_link;
pub(crate) mod peer_reach;
pub(crate) mod retry_queue;
