//! PETNet: a data-proxy gateway for privacy computing that loses nothing it accepted.

mod access;
mod admin;
mod admin_socket;
mod backoff;
mod calls;
mod certs;
pub mod cli;
mod client_api;
pub mod config;
mod doctor;
mod forwarder;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
mod guard;
mod health;
mod http;
mod hub;
mod identity;
mod journal;
pub mod limits;
mod link_api;
mod listen;
mod mailbox;
mod mailbox_api;
mod metadata;
mod meters;
mod overview;
pub mod parties;
mod paused;
mod peer_api;
mod peer_link;
mod peers;
mod process;
mod reach;
mod record;
mod reload;
mod retry_queue;
mod server;
pub mod status;
mod store;
mod subscriptions;
pub mod telemetry;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
mod trust;
mod waiting;

pub use server::{CONNECTION_WINDOW, STREAM_WINDOW, server_settings};

/// Generated from `protos/`.
#[allow(missing_docs, clippy::pedantic, reason = "generated code")]
pub mod proto {
    /// `petnet.simple.v1`
    pub mod simple {
        tonic::include_proto!("petnet.simple.v1");
    }
    /// `petnet.mailbox.v1`
    pub mod mailbox {
        tonic::include_proto!("petnet.mailbox.v1");
    }
    /// `petnet.peer.v1`
    pub mod peer {
        tonic::include_proto!("petnet.peer.v1");
    }
    /// `petnet.admin.v1`
    pub mod admin {
        tonic::include_proto!("petnet.admin.v1");
    }
    /// `petnet.health.v1`
    pub mod health {
        tonic::include_proto!("petnet.health.v1");
    }
}
