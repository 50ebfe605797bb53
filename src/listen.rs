//! Accepting connections: at most so many at a time, none that says nothing, and all of them closable.
//!
//! tonic's graceful shutdown waits for every connection, and for one on which nothing was ever said it waits for
//! ever. So each connection is wrapped: one that never said hello ends when shutdown begins or when the handshake time is
//! over, one whose transfers do not move is cut, and all end when the gateway cuts them off. TLS is between the socket
//! and the wrapper.

mod connection;
mod seats;
mod socket;
mod traffic;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::seats::{Seat, Seats};
pub(crate) use self::traffic::{OnConnection, Traffic, Transfer};
use crate::access::Caller;
use crate::limits::Limits;
use crate::tls::counted::takes_as_it_sends;
use crate::trust::Current;

/// Pause after an accept that failed (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections of a gateway share.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    /// Cancelled when shutdown begins: connections that never said hello end.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the grace time is over: all end.
    pub(crate) cut: CancellationToken,
    pub(crate) limits: Limits,
    moved: Arc<AtomicU64>,
    seats: Arc<Seats>,
    /// For TLS, and who callers are.
    trust: Current,
}

impl Connections {
    /// Room for so many connections as `limits` say.
    pub(crate) fn new(limits: Limits, trust: Current, draining: CancellationToken) -> Self {
        let seats = Seats::new(limits.connections, limits.connections_per_address);
        Self { draining, cut: CancellationToken::new(), limits, moved: Arc::default(), seats, trust }
    }

    /// Connections there are.
    pub(crate) fn count(&self) -> usize {
        self.seats.count()
    }

    /// Rises whenever bytes move on any connection.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// The connections of `listener`, one after the other; never ends.
    pub(crate) fn accept(self, listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
        unfold((self, listener), |(connections, listener)| async move {
            loop {
                let (socket, from) = accept(&listener).await;
                if let Some(connection) = connections.seated(socket, from).await {
                    return Some((Ok(connection), (connections, listener)));
                }
            }
        })
    }

    /// Gives a connection a seat. `None`: its address has too many, and it is closed.
    async fn seated(&self, socket: TcpStream, from: SocketAddr) -> Option<Connection> {
        let info = ConnectionInfo::new(from);
        let cut = self.cut.child_token();
        let Limits { connections: max, connections_per_address: per_address, .. } = self.limits;
        let full = || {
            tracing::warn!(
                max,
                per_address,
                "MAX_CONNECTIONS or MAX_CONNECTIONS_PER_ADDRESS reached; a silent or idle connection makes room, or new ones wait"
            );
        };
        let seat = self.seats.take(from.ip(), &info.traffic, &cut, full).await;
        if seat.is_none() {
            tracing::warn!(%from, per_address, "MAX_CONNECTIONS_PER_ADDRESS reached; a connection was closed");
        }
        Some(Connection::new(socket, info, seat?, cut, self))
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                takes_as_it_sends(&socket);
                // Ignored by tonic with a stream of connections, so it is set here. A reset socket fails it.
                match socket.set_nodelay(true) {
                    Ok(()) => return (socket, from),
                    Err(error) => tracing::debug!(%from, %error, "connection ended before it began"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where a connection comes from, and who proved to be at its other end.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    from: SocketAddr,
    /// Set when the handshake is done, so before any call.
    caller: Arc<OnceLock<Caller>>,
    traffic: Arc<Traffic>,
}

impl ConnectionInfo {
    fn new(from: SocketAddr) -> Self {
        Self { from, caller: Arc::default(), traffic: Arc::default() }
    }

    /// Where from.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// Who. One that has proved nothing yet is nobody.
    pub(crate) fn caller(&self) -> Caller {
        self.caller.get().cloned().unwrap_or(Caller::Unnamed)
    }

    /// What happens on it.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    fn set_caller(&self, caller: Caller) {
        // Set once: a connection has one handshake.
        drop(self.caller.set(caller));
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
        let limits = Limits { connections: max, ..Limits::default() };
        Connections::new(limits, trust, CancellationToken::new())
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_room() {
        let (listener, addr) = listener().await;
        let mut accepted = pin!(connections(1).accept(listener));
        let _one = TcpStream::connect(addr).await.unwrap();
        let _two = TcpStream::connect(addr).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        assert!(first.tcp().unwrap().nodelay().unwrap());
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
        speaker.write_all(&[b'x'; 24]).await.unwrap();
        speaking.read_exact(&mut [0; 24]).await.unwrap();

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
        assert!(start.elapsed() >= Limits::default().handshake_timeout);
    }
}
