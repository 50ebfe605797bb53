//! The gRPC server: its settings in one place, the count of running calls, and an end that nobody can hold up.
//!
//! Invariant: [`Server::stop`] returns within the grace time, whatever clients do; and it does not return before
//! every call that got an answer in that time had the answer's bytes taken by the network.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};

use crate::client_api::SimpleApi;
use crate::guard::Guard;
use crate::health::HealthApi;
use crate::link_api::{LinkApi, MAX_FRAME_BYTES};
use crate::listen::Connections;
use crate::proto::health::health_server::HealthServer;
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
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Calls on one connection at a time. Named because tonic passes none on, which lifts hyper's own limit.
const STREAMS: u32 = 256;
/// After the last call: a connection on which no byte moves for this long is not finishing anything.
const QUIET: Duration = Duration::from_millis(250);

/// Transport settings of the gateway's server, for others that want to be like it.
pub fn server_settings() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
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
        link: LinkApi,
        health: HealthApi,
    ) -> Self {
        let limit = message_limit(simple.mailbox.max_message_bytes);
        let simple = SimpleRequestServerServer::new(simple)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let calls = Calls::default();
        let router = server_settings()
            .layer(CountCalls(calls.clone()))
            .layer(Guard::default())
            .add_service(simple)
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

/// Calls from the arrival of their headers to the last byte of their answer.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<CallsInner>);

#[derive(Debug, Default)]
struct CallsInner {
    running: AtomicUsize,
    ended: Notify,
}

impl Calls {
    fn begin(&self) -> Call {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        Call(self.0.clone())
    }

    fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    async fn none(&self) {
        while self.running() > 0 {
            // One waiter only (`stop`), and the permit of `notify_one` is kept: no wake is lost.
            self.0.ended.notified().await;
        }
    }
}

#[derive(Debug)]
struct Call(Arc<CallsInner>);

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_one();
        }
    }
}

#[derive(Debug, Clone)]
struct CountCalls(Calls);

#[derive(Debug, Clone)]
struct Counted<S> {
    calls: Calls,
    inner: S,
}

impl<S> tower::Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.calls.begin();
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(CountedBody { body, _call: call }))) })
    }
}

/// An answer's body, which keeps its call counted until it is sent or dropped.
struct CountedBody {
    body: Body,
    _call: Call,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
