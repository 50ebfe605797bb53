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

use super::counted::{Counted, Moved, takes_as_it_sends};

/// A gateway that does not answer a connection by then is not there.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel notices a peer that went away while nothing is under way.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp
}

/// Connects to what it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    moved: Moved,
}

impl Connector {
    /// With TLS: how, and the name that the other side's certificate must have.
    pub(crate) fn new(tls: Option<(Arc<ClientConfig>, ServerName<'static>)>) -> Self {
        Self { tcp: tcp(), tls, moved: Moved::default() }
    }

    /// The same, for a connection of its own; what moves over those of it, of which there is one at a time.
    pub(crate) fn counted(&self) -> (Self, Moved) {
        let moved = Moved::default();
        (Self { moved: moved.clone(), ..self.clone() }, moved)
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::poll_ready(&mut self.tcp, cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = Service::call(&mut self.tcp, uri);
        let (tls, moved) = (self.tls.clone(), self.moved.clone());
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            takes_as_it_sends(&socket);
            let socket = Counted::new(socket, moved);
            let Some((config, name)) = tls else { return Ok(TokioIo::new(Link::Left(socket))) };
            let stream = TlsConnector::from(config)
                .connect(name, socket)
                .await
                .map_err(|why| format!("TLS handshake failed: {why}"))?;
            Ok(TokioIo::new(Link::Right(stream)))
        })
    }
}

/// The connection.
pub(crate) type Link = Either<Counted<TcpStream>, TlsStream<Counted<TcpStream>>>;
