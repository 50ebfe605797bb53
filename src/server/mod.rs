//! What answers callers: connections, calls and their memory, and the services. Nothing is decided here.

pub(crate) mod callers;
pub(crate) mod calls;
pub(crate) mod connections;
pub(crate) mod grpc;
pub(crate) mod guard;
pub(crate) mod health_service;
pub(crate) mod link_service;
pub(crate) mod mailbox_service;
pub(crate) mod peer_calls;
pub(crate) mod simple_service;
