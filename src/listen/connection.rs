//! One accepted connection, from the socket up to the bytes that hyper sees.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::socket::Socket;
use super::{ConnectionInfo, Connections, Seat};

/// Every HTTP/2 client opens with a text of this many bytes.
const HELLO: usize = 24;
/// So few bytes within `STALL_TIMEOUT` are no progress: keepalive alone makes some.
const NO_PROGRESS: u64 = 1024;

/// An accepted connection.
pub(crate) struct Connection {
    socket: Socket,
    info: ConnectionInfo,
    cut: CancellationToken,
    cut_off: Waiting,
    /// Until it has said hello: ends a connection that does not.
    silent: Option<Waiting>,
    stall: Stall,
    said: usize,
    ended: bool,
    moved: Arc<AtomicU64>,
    _seat: Seat,
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Connection {
    pub(super) fn new(
        socket: TcpStream,
        info: ConnectionInfo,
        seat: Seat,
        cut: CancellationToken,
        shared: &Connections,
    ) -> Self {
        let socket = Socket::new(socket, shared.trust.borrow().clone(), &info);
        let limits = &shared.limits;
        let (draining, handshake) = (shared.draining.clone(), limits.handshake_timeout);
        let silent = async move {
            tokio::select! {
                () = draining.cancelled() => {}
                () = tokio::time::sleep(handshake) => {}
            }
        };
        // At half of that age it was told to go.
        let (cut_too, old) = (cut.clone(), 2 * limits.connection_age);
        let cut_off = async move {
            tokio::select! {
                () = cut_too.cancelled() => {}
                () = tokio::time::sleep(old) => {}
            }
        };
        Self {
            socket,
            info,
            cut,
            cut_off: Box::pin(cut_off),
            silent: Some(Box::pin(silent)),
            stall: Stall::new(limits.stall_timeout),
            said: 0,
            ended: false,
            moved: shared.moved.clone(),
            _seat: seat,
        }
    }

    #[cfg(test)]
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        self.socket.tcp()
    }

    /// Until TLS is there, where there is to be any. HTTP/2 writes before it reads, so whoever hangs in a handshake hangs
    /// in a write.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let opened = self.socket.poll_open(cx, &self.info);
        match &opened {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(why)) => {
                tracing::warn!(from = %self.info.from(), %why, "TLS handshake failed");
            }
            Poll::Pending => {
                if self.cut_off.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(self.end(io::ErrorKind::ConnectionAborted)));
                }
                if self.poll_silent(cx).is_ready() {
                    return Poll::Ready(Err(self.end(io::ErrorKind::TimedOut)));
                }
            }
        }
        opened
    }

    /// Ready when it has not said hello in time.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.silent {
            Some(silent) => silent.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Also for writes that wait.
    fn end(&mut self, why: io::ErrorKind) -> io::Error {
        self.ended = true;
        self.cut.cancel();
        why.into()
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.cut.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn count(&self, bytes: usize) {
        self.info.traffic().moved(bytes);
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn wrote(&self, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &done {
            self.count(*bytes);
        }
        done
    }

    /// Nothing came: whether that is how it ends.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_silent(cx).is_ready() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        if self.stall.poll(cx, &self.info).is_ready() {
            tracing::warn!(
                from = %self.info.from(),
                "a connection was cut: a call's message did not move for STALL_TIMEOUT"
            );
            return Poll::Ready(Err(self.end(io::ErrorKind::TimedOut)));
        }
        Poll::Pending
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        // Polled also when there is something to read: it wakes the whole connection, blocked writes included.
        if this.cut.is_cancelled() || this.cut_off.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(this.end(io::ErrorKind::ConnectionAborted)));
        }
        let before = buf.filled().len();
        let done = match this.poll_open(cx) {
            Poll::Ready(Ok(())) => this.socket.poll_read(cx, buf),
            not_open => not_open,
        };
        if done.is_pending() {
            return this.poll_quiet(cx);
        }
        let read = buf.filled().len() - before;
        if this.said < HELLO {
            this.said = this.said.saturating_add(read);
            if this.said >= HELLO {
                this.silent = None;
                this.info.traffic().speaks();
            }
        }
        this.count(read);
        done
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut()?;
        ready!(this.poll_open(cx))?;
        let done = this.socket.poll_write(cx, buf);
        this.wrote(done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut()?;
        ready!(this.poll_open(cx))?;
        let done = this.socket.poll_write_vectored(cx, bufs);
        this.wrote(done)
    }

    fn is_write_vectored(&self) -> bool {
        // Both kinds of socket are.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket.poll_shutdown(cx)
    }
}

/// Watches for transfers that do not move, by one look per `timeout`: when a call begins, nobody polls its connection.
#[derive(Debug)]
struct Stall {
    timeout: Duration,
    look: Pin<Box<Sleep>>,
    bytes: u64,
    transfers: u64,
}

impl Stall {
    fn new(timeout: Duration) -> Self {
        Self { timeout, look: Box::pin(tokio::time::sleep(timeout)), bytes: 0, transfers: 0 }
    }

    /// Ready when the connection is stuck.
    fn poll(&mut self, cx: &mut Context<'_>, info: &ConnectionInfo) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let traffic = info.traffic();
            let (bytes, transfers) = (traffic.bytes(), traffic.transfers_ever());
            // A transfer that has begun since may have begun a moment ago.
            let began = transfers != self.transfers;
            if traffic.has_transfers() && !began && bytes - self.bytes < NO_PROGRESS {
                return Poll::Ready(());
            }
            (self.bytes, self.transfers) = (bytes, transfers);
            self.look.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
