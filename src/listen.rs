//! Accepting connections: at most so many at a time, none that says nothing, and all of them closable.
//!
//! tonic's graceful shutdown waits for every connection, and for one on which nothing was ever said it waits for
//! ever. So each connection is wrapped: one that never said hello ends when shutdown begins or when the handshake time is
//! over, and all end when the gateway cuts them off. TLS goes between the socket and the wrapper.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Every HTTP/2 client opens with a text of this many bytes.
const HELLO: usize = 24;
/// A connection that has not said that much after this long is closed.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause between lines that say the same.
const TELL_EVERY: Duration = Duration::from_mins(1);

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
    /// When a line about it was last logged.
    told: Arc<Mutex<Option<Instant>>>,
}

impl Connections {
    /// Room for `max` connections.
    pub(crate) fn new(max: usize, draining: CancellationToken) -> Self {
        let room = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self {
            draining,
            cut: CancellationToken::new(),
            moved: Arc::default(),
            room,
            max,
            told: Arc::default(),
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
            let socket = loop {
                match listener.accept().await {
                    Ok((socket, from)) => {
                        // Ignored by tonic with a stream of connections, so it is set here. A reset socket fails it.
                        if let Err(error) = socket.set_nodelay(true) {
                            tracing::debug!(%from, %error, "connection ended before it began");
                            continue;
                        }
                        break socket;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let connection = Connection::new(socket, permit, &connections);
            Some((Ok(connection), (connections, listener)))
        })
    }

    /// At most one line a minute.
    fn is_time_to_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if is_time {
            *told = Some(Instant::now());
        }
        is_time
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.room.available_permits() == 0 && self.is_time_to_tell() {
            tracing::warn!(max = self.max, "MAX_CONNECTIONS reached; new connections wait");
        }
        // The semaphore is never closed.
        self.room.clone().acquire_owned().await.ok()
    }
}

/// An accepted connection.
pub(crate) struct Connection {
    socket: TcpStream,
    cut: CancellationToken,
    cut_off: Waiting,
    /// Until it has said hello: ends a connection that does not.
    silent: Option<Waiting>,
    said: usize,
    ended: bool,
    moved: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Connection {
    fn new(socket: TcpStream, permit: OwnedSemaphorePermit, shared: &Connections) -> Self {
        let draining = shared.draining.clone();
        let silent = async move {
            tokio::select! {
                () = draining.cancelled() => {}
                () = tokio::time::sleep(HANDSHAKE) => {}
            }
        };
        Self {
            socket,
            cut: shared.cut.clone(),
            cut_off: Box::pin(shared.cut.clone().cancelled_owned()),
            silent: Some(Box::pin(silent)),
            said: 0,
            ended: false,
            moved: shared.moved.clone(),
            _permit: permit,
        }
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
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.socket.connect_info()
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
        let done = Pin::new(&mut this.socket).poll_read(cx, buf);
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
        let done = Pin::new(&mut this.socket).poll_write(cx, buf);
        this.count(done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut()?;
        let done = Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        this.count(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
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

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_room() {
        let (listener, addr) = listener().await;
        let mut accepted = pin!(Connections::new(1, CancellationToken::new()).accept(listener));
        let _one = TcpStream::connect(addr).await.unwrap();
        let _two = TcpStream::connect(addr).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        assert!(first.socket.nodelay().unwrap());
        assert!(futures_util::poll!(accepted.next()).is_pending());
        drop(first);
        assert!(accepted.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn silent_connection_ends_when_shutdown_begins_and_a_speaking_one_when_cut() {
        let (listener, addr) = listener().await;
        let connections = Connections::new(10, CancellationToken::new());
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
        let mut accepted = pin!(Connections::new(10, CancellationToken::new()).accept(listener));
        let mut slow = TcpStream::connect(addr).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        slow.write_all(b"PRI").await.unwrap();
        let start = tokio::time::Instant::now();
        connection.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(start.elapsed() >= HANDSHAKE);
    }
}
