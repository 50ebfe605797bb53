//! The HTTP server: few connections, each for one request and for a short time.
//!
//! Connections that say nothing make room for new ones. Invariant: a connection ends within
//! [`HttpBounds::connection_time`] of its beginning whatever its client does, and all of them end within
//! [`HttpBounds::stop_time`] of [`Http::stop`]. There is no keep-alive: a scrape or a refresh every
//! few seconds gains nothing by it, and without it there are no idle connections to look after.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::history::History;
use super::{StatusSource, answers};

/// Pause after an accept that failed (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most bytes of a request's head; larger ones are answered with 431.
const HEAD_BYTES: usize = 16 << 10;

/// How much clients may use of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpBounds {
    /// Most connections at a time. For a further one, the oldest that has not said what it wants is ended; if there is
    /// none, the new one waits.
    pub(super) connections: usize,
    /// Time until the head of the request is there.
    pub(super) head_time: Duration,
    /// Time until the answer is made; a store in Redis may be slow to report its state.
    pub(super) answer_time: Duration,
    /// Time from accepting a connection to the last byte of the answer. A page of 60 KB gets through at 2 KB/s.
    pub(super) connection_time: Duration,
    /// Time for answers that are under way when the server stops.
    pub(super) stop_time: Duration,
}

impl Default for HttpBounds {
    fn default() -> Self {
        Self {
            connections: 64,
            head_time: Duration::from_secs(5),
            answer_time: Duration::from_secs(10),
            connection_time: Duration::from_secs(30),
            stop_time: Duration::from_millis(500),
        }
    }
}

/// A running server. If it is dropped, it ends at once.
#[derive(Debug)]
pub(crate) struct Http {
    stop: DropGuard,
    task: JoinHandle<()>,
    sampler: JoinHandle<()>,
}

impl Http {
    pub(super) fn start(
        listener: TcpListener,
        source: Arc<dyn StatusSource>,
        draining: CancellationToken,
        bounds: HttpBounds,
    ) -> Self {
        let stop = CancellationToken::new();
        let history = Arc::<History>::default();
        let sampler = tokio::spawn(history.clone().sample(source.clone(), draining.clone(), stop.clone()));
        let loopback = is_loopback(&listener);
        let router = answers::router(source, history, draining, loopback, bounds.answer_time);
        let task = tokio::spawn(serve(listener, router, bounds, stop.clone()));
        Self { stop: stop.drop_guard(), task, sampler }
    }

    /// Closes the listener, gives answers that are under way a moment, and ends every connection.
    pub(crate) async fn stop(self) {
        let Self { stop, task, sampler } = self;
        drop(stop);
        for task in [task, sampler] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the HTTP server failed");
            }
        }
    }
}

fn is_loopback(listener: &TcpListener) -> bool {
    // Without a known address, be as strict as possible.
    let Ok(addr) = listener.local_addr() else { return true };
    let loopback = addr.ip().to_canonical().is_loopback();
    if !loopback {
        tracing::warn!(%addr, "HTTP_LISTEN_ADDR is not on the loopback: who reaches it can read status and metrics");
    }
    loopback
}

async fn serve(listener: TcpListener, router: Router, bounds: HttpBounds, stop: CancellationToken) {
    let seats = Arc::new(Semaphore::new(bounds.connections));
    let mut running = JoinSet::new();
    let accepting = async {
        let mut silent = SilentConnections::default();
        loop {
            let socket = accept(&listener).await;
            while running.try_join_next().is_some() {}
            if seats.available_permits() == 0 {
                silent.end_one();
            }
            // The semaphore is never closed.
            let Ok(seat) = seats.clone().acquire_owned().await else { break };
            let (spoke, give_up) = silent.add();
            let answering = answer(socket, router.clone(), bounds, spoke, stop.clone());
            running.spawn(async move {
                give_up.run_until_cancelled(answering).await;
                drop(seat);
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
    drop(listener);
    let finished = async { while running.join_next().await.is_some() {} };
    // Finished or not, what still runs is ended.
    drop(tokio::time::timeout(bounds.stop_time, finished).await);
    running.shutdown().await;
}

/// Connections that have not said yet what they want, oldest first.
#[derive(Debug, Default)]
struct SilentConnections(VecDeque<(Arc<AtomicBool>, CancellationToken)>);

impl SilentConnections {
    /// Adds a connection: the flag is to be set when it speaks, and it ends when the token is cancelled.
    fn add(&mut self) -> (Arc<AtomicBool>, CancellationToken) {
        // Connections that have ended have dropped their flag.
        self.0.retain(|(spoke, _)| Arc::strong_count(spoke) > 1 && !spoke.load(Ordering::Relaxed));
        let new = (Arc::<AtomicBool>::default(), CancellationToken::new());
        self.0.push_back(new.clone());
        new
    }

    fn end_one(&mut self) {
        while let Some((spoke, give_up)) = self.0.pop_front() {
            if Arc::strong_count(&spoke) > 1 && !spoke.load(Ordering::Relaxed) {
                return give_up.cancel();
            }
        }
    }
}

/// One connection and its one request. Errors are the client's, and concern nobody else.
async fn answer(
    socket: TcpStream,
    router: Router,
    bounds: HttpBounds,
    spoke: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        spoke.store(true, Ordering::Relaxed);
        service.call(request)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_time)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), service)
    );
    let whole = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    match tokio::time::timeout(bounds.connection_time, whole).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended early"),
        Err(_) => tracing::debug!("an HTTP connection was cut: its client was too slow"),
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
