//! Accepting connections: at most so many at a time, none that says nothing, and all of them closable.
//!
//! tonic's graceful shutdown waits for every connection, and for one on which nothing was ever said it waits for
//! ever. So each connection is wrapped: one that never said hello ends when shutdown begins or when the handshake time is
//! over, and all end when the gateway cuts them off. TLS is between the socket and the wrapper.

mod socket;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use self::socket::Socket;
use crate::access::Caller;
use crate::seldom::Seldom;
use crate::trust::Current;

/// Every HTTP/2 client opens with a text of this many bytes.
const HELLO: usize = 24;
/// A connection that has not said that much after this long is closed.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections of a gateway share.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    /// Cancelled when shutdown begins: connections that never said hello end.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the grace time is over: all end.
    pub(crate) cut: CancellationToken,
    moved: Arc<AtomicU64>,
    room: Arc<Semaphore>,
    max: usize,
    /// For TLS, and who callers are.
    trust: Current,
    full: Arc<Seldom>,
    refusals: Arc<Seldom>,
}

impl Connections {
    /// Room for `max` connections.
    pub(crate) fn new(max: usize, trust: Current, draining: CancellationToken) -> Self {
        let room = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self {
            draining,
            cut: CancellationToken::new(),
            moved: Arc::default(),
            room,
            max,
            trust,
            full: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// Rises whenever bytes move on any connection.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// The connections of `listener`, one after the other; never ends.
    pub(crate) fn accept(self, listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
        unfold((self, listener), |(connections, listener)| async move {
            let permit = connections.permit().await?;
            let (socket, from) = loop {
                match listener.accept().await {
                    Ok((socket, from)) => {
                        // Ignored by tonic with a stream of connections, so it is set here. A reset socket fails it.
                        if let Err(error) = socket.set_nodelay(true) {
                            tracing::debug!(%from, %error, "connection ended before it began");
                            continue;
                        }
                        break (socket, from);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let connection = Connection::new(socket, from, permit, &connections);
            Some((Ok(connection), (connections, listener)))
        })
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.room.available_permits() == 0 {
            let max = self.max;
            self.full.tell(|_| tracing::warn!(max, "MAX_CONNECTIONS reached; new connections wait"));
        }
        // The semaphore is never closed.
        self.room.clone().acquire_owned().await.ok()
    }
}

/// Where a connection comes from, and who proved to be at its other end.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    from: SocketAddr,
    /// Set when the handshake is done, so before any call.
    caller: Arc<OnceLock<Caller>>,
}

impl ConnectionInfo {
    fn new(from: SocketAddr) -> Self {
        Self { from, caller: Arc::default() }
    }

    /// Where from.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// Who. One that has proved nothing yet is nobody.
    pub(crate) fn caller(&self) -> Caller {
        self.caller.get().cloned().unwrap_or(Caller::Unnamed)
    }

    fn set_caller(&self, caller: Caller) {
        // Set once: a connection has one handshake.
        drop(self.caller.set(caller));
    }
}

/// An accepted connection.
pub(crate) struct Connection {
    socket: Socket,
    info: ConnectionInfo,
    cut: CancellationToken,
    cut_off: Waiting,
    /// Until it has said hello: ends a connection that does not.
    silent: Option<Waiting>,
    said: usize,
    ended: bool,
    moved: Arc<AtomicU64>,
    refusals: Arc<Seldom>,
    _permit: OwnedSemaphorePermit,
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Connection {
    fn new(socket: TcpStream, from: SocketAddr, permit: OwnedSemaphorePermit, shared: &Connections) -> Self {
        let info = ConnectionInfo::new(from);
        let socket = Socket::new(socket, shared.trust.borrow().clone(), &info);
        let draining = shared.draining.clone();
        let silent = async move {
            tokio::select! {
                () = draining.cancelled() => {}
                () = tokio::time::sleep(HANDSHAKE) => {}
            }
        };
        Self {
            socket,
            info,
            cut: shared.cut.clone(),
            cut_off: Box::pin(shared.cut.clone().cancelled_owned()),
            silent: Some(Box::pin(silent)),
            said: 0,
            ended: false,
            moved: shared.moved.clone(),
            refusals: shared.refusals.clone(),
            _permit: permit,
        }
    }

    /// Until TLS is there, where there is to be any.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let opened = self.socket.poll_open(cx, &self.info);
        if let Poll::Ready(Err(why)) = &opened {
            self.refusals.tell(|before| {
                tracing::warn!(from = %self.info.from(), %why, more = before, "TLS handshake failed");
            });
        }
        opened
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.cut.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn count<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(done, Poll::Ready(Ok(_))) {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        done
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
            this.ended = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        let done = match this.poll_open(cx) {
            Poll::Ready(Ok(())) => this.socket.poll_read(cx, buf),
            not_open => not_open,
        };
        this.said = this.said.saturating_add(buf.filled().len() - before);
        if this.said >= HELLO {
            this.silent = None;
        }
        if done.is_pending()
            && let Some(silent) = &mut this.silent
            && silent.as_mut().poll(cx).is_ready()
        {
            this.ended = true;
            return Poll::Ready(Ok(()));
        }
        this.count(done)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut()?;
        ready!(this.poll_open(cx))?;
        let done = this.socket.poll_write(cx, buf);
        this.count(done)
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
        this.count(done)
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::pin;

    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    fn connections(max: usize) -> Connections {
        let trust = crate::trust::fixed("a", crate::parties::Parties::default());
        Connections::new(max, trust, CancellationToken::new())
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_room() {
        let (listener, addr) = listener().await;
        let mut accepted = pin!(connections(1).accept(listener));
        let _one = TcpStream::connect(addr).await.unwrap();
        let _two = TcpStream::connect(addr).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        assert!(first.socket.tcp().unwrap().nodelay().unwrap());
        assert!(futures_util::poll!(accepted.next()).is_pending());
        drop(first);
        assert!(accepted.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn silent_connection_ends_when_shutdown_begins_and_a_speaking_one_when_cut() {
        let (listener, addr) = listener().await;
        let connections = connections(10);
        let mut accepted = pin!(connections.clone().accept(listener));
        let _silent = TcpStream::connect(addr).await.unwrap();
        let mut silent = accepted.next().await.unwrap().unwrap();
        let mut speaker = TcpStream::connect(addr).await.unwrap();
        let mut speaking = accepted.next().await.unwrap().unwrap();
        speaker.write_all(&[b'x'; HELLO]).await.unwrap();
        speaking.read_exact(&mut [0; HELLO]).await.unwrap();

        connections.draining.cancel();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        let mut buf = [0];
        let mut more = pin!(speaking.read(&mut buf));
        assert!(futures_util::poll!(&mut more).is_pending());
        connections.cut.cancel();
        assert_eq!(more.await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_does_not_say_hello_in_time_is_closed() {
        let (listener, addr) = listener().await;
        let mut accepted = pin!(connections(10).accept(listener));
        let mut slow = TcpStream::connect(addr).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        slow.write_all(b"PRI").await.unwrap();
        let start = tokio::time::Instant::now();
        connection.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(start.elapsed() >= HANDSHAKE);
    }
}
