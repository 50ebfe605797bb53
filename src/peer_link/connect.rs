//! How a peer is reached: at which address, and whether by TLS.

use std::time::Duration;

use petnet_storage::PartyId;
use rustls::pki_types::ServerName;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use crate::identity::host;
use crate::parties::Connection;
use crate::server::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::tls::connector::{CONNECT_TIMEOUT, Connector};
use crate::tls::counted::Moved;
use crate::trust::Trust;

/// A firewall must not forget a connection that carries nothing for a while. A stricter interval makes gRPC servers
/// written in C hang up.
const KEEPALIVE: Duration = Duration::from_mins(5);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// How to reach one address of a peer, once more and again.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    endpoint: Endpoint,
    connector: Connector,
}

impl Dial {
    /// TLS where this gateway has it, unless the url says `http://`. An error: nobody can be reached over it.
    pub(crate) fn new(trust: &Trust, peer: &PartyId, connection: &Connection) -> Result<Self, String> {
        let url = connection.url.as_str();
        let (scheme, address) = url.split_once("://").unwrap_or(("", url));
        let tls = match (&trust.tls, scheme) {
            (Some(tls), "" | "https") => {
                let name = host(url).unwrap_or_default().to_owned();
                let name =
                    ServerName::try_from(name).map_err(|e| format!("{url:?} has no name for TLS: {e}"))?;
                Some((tls.client(peer, connection)?, name))
            }
            (None, "https") => return Err(format!("{url:?} wants TLS, and this gateway has no certificate")),
            _ => None,
        };
        let origin = if tls.is_some() { format!("https://{address}") } else { format!("http://{address}") };
        let endpoint = endpoint(address, &origin).map_err(|e| format!("{url:?} cannot be used: {e}"))?;
        Ok(Self { endpoint, connector: Connector::new(tls) })
    }

    /// A channel that connects when it is first used, and what moves over it.
    pub(super) fn channel(&self) -> (tonic::transport::Channel, Moved) {
        let (connector, moved) = self.connector.counted();
        (self.endpoint.connect_with_connector_lazy(connector), moved)
    }

    /// A channel that is connected.
    pub(crate) async fn connect(&self) -> Result<tonic::transport::Channel, tonic::transport::Error> {
        self.endpoint.connect_with_connector(self.connector.clone()).await
    }

    /// Whether the other side has to prove who it is.
    pub(crate) fn is_tls(&self) -> bool {
        self.connector.is_tls()
    }

    /// For the log.
    pub(super) fn uri(&self) -> &Uri {
        self.endpoint.uri()
    }
}

fn endpoint(address: &str, origin: &str) -> Result<Endpoint, String> {
    let origin: Uri = origin.parse().map_err(|e| format!("{e}"))?;
    // The scheme is the origin's: tonic would want TLS of its own for an https uri.
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| e.to_string())?
        .origin(origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(false))
}
