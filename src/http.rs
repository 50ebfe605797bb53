//! Metrics, probes and the status page, on `HTTP_LISTEN_ADDR`.
//!
//! A small server of its own beside gRPC's, so that it answers also when that one is full, and so that it can be kept to
//! the machine while that one faces the network. Invariant: it only reads. No request changes anything in the gateway,
//! and no client can make it hold more than so many connections for so long ([`server::Bounds`]), also not at shutdown.

mod answers;
#[cfg(test)]
mod fake;
mod history;
mod host;
mod metrics;
mod page;
mod server;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use petnet_storage::StoreStats;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::meters::Meters;
use crate::proto::admin::{DeadLetter, StatusResponse};

pub(crate) use self::server::Http;

/// Where the numbers come from.
#[async_trait]
pub(crate) trait Source: Debug + Send + Sync + 'static {
    /// How the gateway is. Must be cheap: it is asked at every scrape and every few seconds by each open page.
    async fn status(&self) -> StatusResponse;
    /// The newest dead letters, newest first, at most `limit`.
    async fn dead_letters(&self, limit: usize) -> Vec<DeadLetter>;
    /// Counters and gauges of the store; from memory.
    fn stats(&self) -> StoreStats;
    /// What happened since the start.
    fn meters(&self) -> &Meters;
    /// Whether messages are accepted, as far as the store goes.
    fn is_serving(&self) -> bool;
    /// `SEND_TTL`; `None`: for ever.
    fn send_ttl(&self) -> Option<Duration>;
    /// Lines of the log that a slow stderr cost.
    fn dropped_lines(&self) -> u64;
}

/// Serves on `listener` until [stopped](Http::stop). `draining`: shutdown has begun; then `/readyz` says so, and no more
/// samples are taken, while everything is still answered.
pub(crate) fn start(listener: TcpListener, source: Arc<dyn Source>, draining: CancellationToken) -> Http {
    Http::start(listener, source, draining, server::Bounds::default())
}
