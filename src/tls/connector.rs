//! Connecting: TCP, and TLS over it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use super::counted::{BytesMoved, CountedConnection, WriteGate, takes_as_it_sends};
use super::words;

/// A gateway that has not answered a connection by then is not there.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// With this, the kernel notices a peer that went away while nothing is under way.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp
}

/// Connects to a given address.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    moved: BytesMoved,
    gate: WriteGate,
}

impl Connector {
    /// `tls`, if given, says how, and the name that the other side's certificate must have.
    pub(crate) fn new(tls: Option<(Arc<ClientConfig>, ServerName<'static>)>) -> Self {
        Self { tcp: tcp(), tls, moved: BytesMoved::default(), gate: WriteGate::default() }
    }

    /// This connector with a gate and a count of its own, for a single connection at a time; also returns the count of what
    /// moves over it. Bytes are written only while the gate lets them pass.
    pub(crate) fn counted(&self, gate: WriteGate) -> (Self, BytesMoved) {
        let moved = BytesMoved::default();
        (Self { moved: moved.clone(), gate, ..self.clone() }, moved)
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// The two sides did not agree on TLS.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed: {words}")]
pub(crate) struct HandshakeFailed {
    words: String,
    /// Whether a rule of TLS was the reason, and not the connection.
    pub(crate) is_refusal: bool,
}

impl HandshakeFailed {
    fn new(why: &std::io::Error) -> Self {
        let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        // A side that speaks no TLS has not refused anything: what it is remains to be found out.
        let is_refusal = inner.is_some_and(|inner| !matches!(inner, rustls::Error::InvalidMessage(_)));
        Self { words: words::of_handshake(why), is_refusal }
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<OpenConnection>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::poll_ready(&mut self.tcp, cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = Service::call(&mut self.tcp, uri);
        let (tls, moved, gate) = (self.tls.clone(), self.moved.clone(), self.gate.clone());
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            takes_as_it_sends(&socket);
            let socket = CountedConnection::new(socket, moved, gate);
            let Some((config, name)) = tls else { return Ok(TokioIo::new(OpenConnection::Left(socket))) };
            let stream = TlsConnector::from(config)
                .connect(name, socket)
                .await
                .map_err(|why| HandshakeFailed::new(&why))?;
            Ok(TokioIo::new(OpenConnection::Right(stream)))
        })
    }
}

/// An open connection, with or without TLS.
pub(crate) type OpenConnection =
    Either<CountedConnection<TcpStream>, TlsStream<CountedConnection<TcpStream>>>;
