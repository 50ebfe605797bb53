//! Accepts connections: within the limits, dropping silent ones, and able to close all of them at shutdown.
//!
//! tonic's graceful shutdown waits for every connection, and it waits for ever for one on which nothing was ever said. So
//! each connection is wrapped: one that never said hello ends when shutdown begins or when the handshake time has expired,
//! one whose transfers do not move is cut, and all end when the gateway cuts them off. TLS is between the socket and the
//! wrapper.

mod connection;
mod seats;
mod socket;
mod traffic;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::Extensions;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use self::connection::ServedConnection;
use self::seats::{Seat, Seats};
pub(crate) use self::traffic::{OnConnection, Traffic, Transfer};
use crate::rules::access::Caller;
use crate::rules::limits::Limits;
use crate::server::callers::{CallerConnection, Callers, ShareHolder, TooMany};
use crate::tls::counted::takes_as_it_sends;
use crate::tls::trust::CurrentTrust;

/// Pause after an accept that failed (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections of a gateway share.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    /// Cancelled when shutdown begins: connections that never said hello then end.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the grace time has expired: all connections then end.
    pub(crate) cut: CancellationToken,
    pub(crate) limits: Limits,
    moved: Arc<AtomicU64>,
    seats: Arc<Seats>,
    callers: Arc<Callers>,
    /// Settings for TLS, and who the callers are.
    trust: CurrentTrust,
}

impl Connections {
    /// With room for as many connections as `limits` allow.
    pub(crate) fn new(limits: Limits, trust: CurrentTrust, draining: CancellationToken) -> Self {
        let seats = Seats::new(limits.connections, limits.connections_per_address);
        let callers = Callers::new(limits.connections, limits.connections_per_address);
        let cut = CancellationToken::new();
        Self { draining, cut, limits, moved: Arc::default(), seats, callers, trust }
    }

    /// Number of connections.
    pub(crate) fn count(&self) -> usize {
        self.seats.count()
    }

    /// Rises whenever bytes move on any connection.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Runs until all are cut: ends the connections of parties that are removed from the party file, and with them all that
    /// they hold.
    pub(crate) async fn follow(self) {
        let mut trust = self.trust.clone();
        while let Some(Ok(())) = self.cut.run_until_cancelled(trust.changed()).await {
            let parties = trust.borrow_and_update().parties.clone();
            let ended = self.seats.end(|party| !parties.contains(party));
            if ended > 0 {
                tracing::info!(ended, "connections of parties that left the party file were ended");
            }
        }
    }

    /// The connections of `listener`, one after the other; the stream never ends.
    pub(crate) fn accept(self, listener: TcpListener) -> impl Stream<Item = io::Result<ServedConnection>> {
        unfold((self, listener), |(connections, listener)| async move {
            loop {
                let (socket, from) = accept(&listener).await;
                if let Some(connection) = connections.seated(socket, from).await {
                    return Some((Ok(connection), (connections, listener)));
                }
            }
        })
    }

    /// Gives a connection a seat. `None` if its address has too many; the connection is then closed.
    async fn seated(&self, socket: TcpStream, from: SocketAddr) -> Option<ServedConnection> {
        let info = ConnectionInfo::new(from, self.callers.clone());
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
        Some(ServedConnection::new(socket, info, seat?, cut, self))
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                takes_as_it_sends(&socket);
                // tonic ignores this setting when it is given a stream of connections, so it is set here. It fails on a
                // socket that was reset.
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

/// Where a connection comes from, and who is proved to be at its other end.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    from: SocketAddr,
    callers: Arc<Callers>,
    /// Set when the handshake is done, and so before any call.
    caller: Arc<OnceLock<(Caller, CallerConnection)>>,
    traffic: Arc<Traffic>,
}

impl ConnectionInfo {
    /// Who makes a call. Without a connection of ours (in tests) nothing is proved.
    pub(crate) fn caller_of(call: &Extensions) -> Caller {
        call.get::<Self>().map_or(Caller::Anyone, Self::caller)
    }

    fn new(from: SocketAddr, callers: Arc<Callers>) -> Self {
        Self { from, callers, caller: Arc::default(), traffic: Arc::default() }
    }

    /// The address it comes from.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// Who is at the other end. As long as nothing is proved, that is an unnamed caller.
    pub(crate) fn caller(&self) -> Caller {
        self.caller.get().map_or(Caller::Unnamed, |(caller, _)| caller.clone())
    }

    /// The holder whose share its calls use.
    pub(crate) fn holder(&self) -> Option<&Arc<ShareHolder>> {
        self.caller.get().map(|(_, connected)| connected.holder())
    }

    /// What happens on it.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Sets who is at the other end. Fails if this caller already has as many connections as it may.
    fn set_caller(&self, caller: Caller) -> Result<(), TooMany> {
        // Set once: a connection has one handshake.
        let connected = self.callers.connect(&caller, self.from.ip())?;
        if let Caller::Peer(party) = &caller {
            self.traffic.proves(party.clone());
        }
        drop(self.caller.set((caller, connected)));
        Ok(())
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
        let trust = crate::tls::trust::fixed("a", crate::rules::parties::Parties::default());
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
