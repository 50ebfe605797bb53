//! The gRPC server: its settings in one place, and an end that nobody can hold up.
//!
//! Invariant: [`Server::stop`] returns within the grace time, whatever clients do; and it does not return before
//! every call that got an answer in that time had the answer's bytes taken by the network.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::calls::{Calls, CountCalls};
use crate::client_api::SimpleApi;
use crate::guard::Guard;
use crate::health::HealthApi;
use crate::limits::Limits;
use crate::link_api::{LinkApi, MAX_FRAME_BYTES};
use crate::listen::Connections;
use crate::mailbox_api::MailboxApi;
use crate::proto::health::health_server::HealthServer;
use crate::proto::mailbox::mailbox_server::MailboxServer;
use crate::proto::peer::peer_link_server::PeerLinkServer;
use crate::proto::simple::simple_request_server_server::SimpleRequestServerServer;

/// Room in a gRPC message for everything that is not payload: ids of full length, tags, an error text.
const OVERHEAD: u64 = 4096;
/// Throughput of a stream is at most its window per round trip.
pub const STREAM_WINDOW: u32 = 8 << 20;
/// The same for all streams of a connection.
pub const CONNECTION_WINDOW: u32 = 16 << 20;
/// Larger HTTP/2 frames than the usual 16 KiB: a quarter more throughput at 1 MiB, measured.
const FRAME: u32 = 64 << 10;
/// After the last call: a connection on which no byte moves for this long is not finishing anything.
const QUIET: Duration = Duration::from_millis(250);

/// Transport settings of the gateway's server, for others that want to be like it.
pub fn server_settings(limits: &Limits) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // Named because tonic passes none on, which lifts hyper's own limit.
        .max_concurrent_streams(limits.streams)
        .http2_max_header_list_size(limits.header_bytes)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        // Then it takes no new calls. tonic's own grace for running ones would replace that, not follow it.
        .max_connection_age(limits.connection_age)
}

/// The largest gRPC message for a payload limit.
pub(crate) fn message_limit(max_message_bytes: u64) -> usize {
    usize::try_from(max_message_bytes.saturating_add(OVERHEAD)).unwrap_or(usize::MAX)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    connections: Connections,
    calls: Calls,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves on `listener` until stopped.
    pub(crate) fn start(
        listener: TcpListener,
        connections: Connections,
        simple: SimpleApi,
        mailbox: MailboxApi,
        link: LinkApi,
        health: HealthApi,
    ) -> Self {
        let limit = message_limit(simple.mailbox.max_message_bytes);
        let record = simple.mailbox.record.clone();
        let simple = SimpleRequestServerServer::new(simple)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let limits = &connections.limits;
        let calls = Calls::new(limits.call_bytes, limit.max(MAX_FRAME_BYTES) as u64);
        let router = server_settings(limits)
            .layer(CountCalls(calls.clone()))
            .layer(Guard::new(record))
            .add_service(simple)
            .add_service(
                MailboxServer::new(mailbox).max_decoding_message_size(limit).max_encoding_message_size(limit),
            )
            .add_service(PeerLinkServer::new(link).max_decoding_message_size(MAX_FRAME_BYTES))
            .add_service(HealthServer::new(health.clone()))
            .add_service(tonic_health::pb::health_server::HealthServer::new(health));
        let incoming = connections.clone().accept(listener);
        let stopped = connections.draining.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        });
        Self { connections, calls, task }
    }

    /// Calls that run.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> usize {
        self.calls.running()
    }

    /// Lets running calls finish, at the latest by `deadline`, then ends every connection. Shutdown must have begun
    /// (the token that [`Connections`] got is cancelled).
    pub(crate) async fn stop(self, deadline: Instant) {
        let Self { connections, calls, mut task } = self;
        let finished = async {
            calls.none().await;
            loop {
                let before = connections.moved();
                tokio::time::sleep(QUIET).await;
                if connections.moved() == before {
                    break;
                }
            }
        };
        tokio::select! {
            // All connections ended by themselves.
            _ = &mut task => return,
            () = finished => {}
            () = tokio::time::sleep_until(deadline) => {
                tracing::warn!(calls = calls.running(), "SHUTDOWN_GRACE is over; ending the calls that still run");
            }
        }
        connections.cut.cancel();
        // Each connection now fails at its next poll, which the cut has caused; this is only for a bug in that.
        if tokio::time::timeout(QUIET, &mut task).await.is_err() {
            task.abort();
        }
    }
}
