//! Metrics, probes and the status page, on `HTTP_LISTEN_ADDR`.
//!
//! A small server of its own beside the gRPC server, so that it still answers when that one is full, and so that it can be
//! restricted to the machine while that one faces the network. Invariant: it only reads. No request changes anything in the
//! gateway, and no client can make it hold more connections, or hold them for longer, than [`server::HttpBounds`]
//! allows, not even at shutdown.

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

use crate::proto::admin::{DeadLetter, StatusResponse};
use crate::record::meters::Meters;

pub(crate) use self::server::Http;

/// The gateway whose numbers and state are shown.
#[async_trait]
pub(crate) trait StatusSource: Debug + Send + Sync + 'static {
    /// The state of the gateway. Must be cheap: it is asked for at every scrape, and every few seconds by each open page.
    async fn status(&self) -> StatusResponse;
    /// The newest dead letters, newest first, at most `limit`.
    async fn dead_letters(&self, limit: usize) -> Vec<DeadLetter>;
    /// Counters and gauges of the store, from memory.
    fn stats(&self) -> StoreStats;
    /// Counts of what happened since the start.
    fn meters(&self) -> &Meters;
    /// Whether messages are accepted, as far as that depends on the store.
    fn is_serving(&self) -> bool;
    /// `SEND_TTL`; `None` means for ever.
    fn send_ttl(&self) -> Option<Duration>;
    /// Lines of the log that were dropped because stderr was slow.
    fn dropped_lines(&self) -> u64;
}

/// Serves on `listener` until [stopped](Http::stop). `draining`: shutdown has begun; from then on `/readyz` says so and no
/// more samples are taken, while everything is still answered.
pub(crate) fn start(
    listener: TcpListener,
    source: Arc<dyn StatusSource>,
    draining: CancellationToken,
) -> Http {
    Http::start(listener, source, draining, server::HttpBounds::default())
}
