//! The gRPC server: its settings in one place, and a shutdown that nobody can hold up.
//!
//! Invariant: [`Server::stop`] returns within the grace time, whatever clients do; and before it returns, the network has
//! taken the answer's bytes of every call that was answered within that time.

use crate::rules::limits::{CONNECTION_WINDOW, Limits, STREAM_WINDOW, message_limit};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::proto::health::health_server::HealthServer;
use crate::proto::mailbox::mailbox_server::MailboxServer;
use crate::proto::peer::peer_link_server::PeerLinkServer;
use crate::proto::simple::simple_request_server_server::SimpleRequestServerServer;
use crate::server::calls::{Calls, CountCalls};
use crate::server::connections::Connections;
use crate::server::guard::Guard;
use crate::server::health_service::HealthApi;
use crate::server::link_service::LinkApi;
use crate::server::mailbox_service::MailboxApi;
use crate::server::simple_service::SimpleApi;
use crate::wire::link_limits::MAX_FRAME_BYTES;

/// HTTP/2 frames larger than the usual 16 KiB: measured, a quarter more throughput at 1 MiB.
const FRAME: u32 = 64 << 10;
/// The usual largest HTTP/2 frame (RFC 9113, 4.2), to which clients fill their frames.
const USUAL_FRAME: u32 = 16 << 10;
/// How long no byte may move after the last call: after that, a connection is not finishing anything.
const QUIET: Duration = Duration::from_millis(250);

/// Transport settings of the gateway's server, for other servers that should behave like it.
pub fn server_settings(limits: &Limits) -> tonic::transport::Server {
    // Calls that were given up before anybody saw them: a program may give up all the calls it has, and do so again at
    // once. A flood of them (CVE-2023-44487) is far more.
    let given_up = 2 * limits.streams as usize;
    // Frames for calls that were answered before their request had ended, such as those of an upload that is refused: what
    // was already on its way is no fault of the caller.
    let late = limits.streams as usize * (STREAM_WINDOW / USUAL_FRAME) as usize;
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // Set explicitly because tonic otherwise passes `None` on, which lifts hyper's own limit.
        .max_concurrent_streams(limits.streams)
        .http2_max_pending_accept_reset_streams(Some(given_up))
        .http2_max_local_error_reset_streams(Some(late))
        .http2_max_header_list_size(limits.header_bytes)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        // At that age it takes no new calls. tonic's own grace time for running calls would replace that instead of
        // following it.
        .max_connection_age(limits.connection_age)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    connections: Connections,
    calls: Calls,
    task: JoinHandle<()>,
    /// Ends the connections of parties that are removed from the party file.
    following: JoinHandle<()>,
}

impl Server {
    /// Serves on `listener` until it is stopped.
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
        let following = tokio::spawn(connections.clone().follow());
        let incoming = connections.clone().accept(listener);
        let stopped = connections.draining.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        });
        Self { connections, calls, task, following }
    }

    /// Number of calls that are running.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> usize {
        self.calls.running()
    }

    /// For each caller, what it has of the memory of calls and the most it may have.
    #[cfg(test)]
    pub(crate) fn shares(&self) -> Vec<(u64, u64)> {
        self.calls.memory().shares()
    }

    /// Lets running calls finish, at the latest by `deadline`, then ends every connection. Shutdown must have begun
    /// (the token that [`Connections`] got is cancelled).
    pub(crate) async fn stop(self, deadline: Instant) {
        let Self { connections, calls, mut task, following } = self;
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
            _ = &mut task => return following.abort(),
            () = finished => {}
            () = tokio::time::sleep_until(deadline) => {
                tracing::warn!(calls = calls.running(), "SHUTDOWN_GRACE is over; ending the calls that still run");
            }
        }
        // This also ends `following`.
        connections.cut.cancel();
        // The cut has woken each connection, which fails at that poll; the time limit is only for a bug in that.
        if tokio::time::timeout(QUIET, &mut task).await.is_err() {
            task.abort();
        }
    }
}
