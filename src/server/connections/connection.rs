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
use crate::tls::words::of_handshake;

/// Every HTTP/2 client opens with a text of this many bytes.
const HELLO: usize = 24;
/// Fewer bytes than this within `STALL_TIMEOUT` are no progress: keepalive alone moves some.
const NO_PROGRESS: u64 = 1024;

/// Texts with which HTTP/2 ends (GOAWAY, RFC 9113, 6.8) when it cuts a connection because of a flood: of calls that are
/// given up, or of frames for calls that have ended. They are defined by the h2 crate.
const FLOODS: [&[u8]; 2] = [b"too_many_resets", b"too_many_internal_resets"];
/// Length of the longest of them.
const LAST: usize = 24;

/// An accepted connection.
pub(crate) struct ServedConnection {
    socket: Socket,
    info: ConnectionInfo,
    cut: CancellationToken,
    cut_off: EndFuture,
    /// Set until the client has said hello; ends a connection that does not.
    silent: Option<EndFuture>,
    stall: StallWatch,
    said: usize,
    ended: bool,
    last: LastBytes,
    moved: Arc<AtomicU64>,
    _seat: Seat,
}

type EndFuture = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl ServedConnection {
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
        // At half of that age the client was told to go.
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
            stall: StallWatch::new(limits.stall_timeout),
            said: 0,
            ended: false,
            last: LastBytes::default(),
            moved: shared.moved.clone(),
            _seat: seat,
        }
    }

    #[cfg(test)]
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        self.socket.tcp()
    }

    /// Ready when TLS is established, where there is to be any. HTTP/2 writes before it reads, so a connection that hangs
    /// in its handshake hangs in a write.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let opened = self.socket.poll_open(cx, &self.info);
        match &opened {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(why)) => {
                let why = of_handshake(why);
                tracing::warn!(from = %self.info.from(), why, "TLS handshake failed");
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

    /// Ready when the client has not said hello in time.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.silent {
            Some(silent) => silent.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Ends the connection, also for writes that wait.
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

    /// Called when nothing came: decides whether the connection ends for that reason.
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

impl Drop for ServedConnection {
    fn drop(&mut self) {
        if self.last.is_of_a_flood() {
            tracing::warn!(
                from = %self.info.from(), caller = %self.info.caller(),
                "a connection was cut: more calls were given up on it at once than a program does (MAX_STREAMS); if it was one, \
                 let it use several connections"
            );
        }
    }
}

impl Connected for ServedConnection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for ServedConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        // Polled also when there is something to read, since it wakes the whole connection, including blocked writes.
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

impl AsyncWrite for ServedConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut()?;
        ready!(this.poll_open(cx))?;
        let done = this.socket.poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &done {
            this.last.add(&buf[..*bytes]);
        }
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
        if let Poll::Ready(Ok(bytes)) = &done {
            this.last.add_of(bufs, *bytes);
        }
        this.wrote(done)
    }

    fn is_write_vectored(&self) -> bool {
        // Both kinds of socket support it.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket.poll_shutdown(cx)
    }
}

/// The last bytes that were written.
#[derive(Debug, Default)]
struct LastBytes([u8; LAST]);

impl LastBytes {
    fn add(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(LAST)..];
        self.0.copy_within(new.len().., 0);
        self.0[LAST - new.len()..].copy_from_slice(new);
    }

    /// Adds the first `written` bytes of all buffers.
    fn add_of(&mut self, bufs: &[io::IoSlice<'_>], mut written: usize) {
        for buf in bufs {
            let of_it = buf.len().min(written);
            self.add(&buf[..of_it]);
            written -= of_it;
        }
    }

    fn is_of_a_flood(&self) -> bool {
        FLOODS.iter().any(|words| self.0.ends_with(words))
    }
}

/// Watches for transfers that do not move by looking once per `timeout`: when a call begins, nobody polls its connection.
#[derive(Debug)]
struct StallWatch {
    timeout: Duration,
    look: Pin<Box<Sleep>>,
    bytes: u64,
    transfers: u64,
}

impl StallWatch {
    fn new(timeout: Duration) -> Self {
        Self { timeout, look: Box::pin(tokio::time::sleep(timeout)), bytes: 0, transfers: 0 }
    }

    /// Ready when the connection is stuck.
    fn poll(&mut self, cx: &mut Context<'_>, info: &ConnectionInfo) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let traffic = info.traffic();
            let (bytes, transfers) = (traffic.bytes(), traffic.transfers_ever());
            // A transfer that began since the last look may have begun a moment ago.
            let began = transfers != self.transfers;
            if traffic.has_transfers() && !began && bytes - self.bytes < NO_PROGRESS {
                return Poll::Ready(());
            }
            (self.bytes, self.transfers) = (bytes, transfers);
            self.look.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
