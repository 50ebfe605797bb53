//! How a peer is reached: at which address, and whether over TLS.

use std::time::Duration;

use petnet_storage::PartyId;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use crate::rules::limits::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::rules::parties::Connection;
use crate::tls::connector::{CONNECT_TIMEOUT, Connector};
use crate::tls::counted::{BytesMoved, WriteGate};
use crate::tls::server_name;
use crate::tls::trust::Trust;

/// A firewall must not forget a connection that carries nothing for a while. A shorter interval makes gRPC servers written
/// in C hang up.
const KEEPALIVE: Duration = Duration::from_mins(5);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// How to reach one address of a peer, any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    endpoint: Endpoint,
    connector: Connector,
}

impl Dial {
    /// Uses TLS if this gateway has it. On an error, nobody can be reached over this connection.
    pub(crate) fn new(trust: &Trust, peer: &PartyId, connection: &Connection) -> Result<Self, String> {
        let url = connection.url.as_str();
        let tls = match &trust.tls {
            Some(tls) => Some((tls.client(peer, connection)?, server_name(url)?)),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = endpoint(url, &format!("{scheme}://{url}"))
            .ok_or_else(|| format!("{url:?} cannot be connected to"))?;
        Ok(Self { endpoint, connector: Connector::new(tls) })
    }

    /// A channel that connects when it is first used, and the count of what moves over it.
    pub(super) fn channel(&self, gate: WriteGate) -> (tonic::transport::Channel, BytesMoved) {
        let (connector, moved) = self.connector.counted(gate);
        (self.endpoint.connect_with_connector_lazy(connector), moved)
    }

    /// Connects, and returns the connected channel.
    pub(crate) async fn connect(&self) -> Result<tonic::transport::Channel, tonic::transport::Error> {
        self.endpoint.connect_with_connector(self.connector.clone()).await
    }

    /// Whether the other side has to prove who it is.
    pub(crate) fn is_tls(&self) -> bool {
        self.connector.is_tls()
    }

    /// The address, for the log.
    pub(super) fn uri(&self) -> &Uri {
        self.endpoint.uri()
    }
}

/// The endpoint for an address; `None` if the text is not an address.
fn endpoint(address: &str, origin: &str) -> Option<Endpoint> {
    let origin: Uri = origin.parse().ok()?;
    // The scheme of the origin is used: for an https uri, tonic would insist on its own TLS.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(
        endpoint
            .origin(origin)
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .keep_alive_while_idle(false),
    )
}
