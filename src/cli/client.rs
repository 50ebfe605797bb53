//! A connection from the command line to a running gateway.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::identity::host;
use crate::metadata;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_client::HealthClient;
use crate::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use crate::proto::simple::{ClientSimpleRecvRequest, ClientSimpleSendRequest, Response};
use crate::server::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::tls;
use crate::tls::connector::Connector;

/// A gateway that does not answer a connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call waits at the gateway; a wait is made of several, so that a restarted gateway is noticed.
pub(super) const WAIT_PER_CALL: Duration = Duration::from_secs(20);
/// Time for the message itself once the gateway has it.
const TRANSFER_TIME: Duration = Duration::from_mins(10);
/// Pause before the next call to a gateway that answered too early or is restarting.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Which gateway.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GatewayAddress {
    /// Address of the gateway
    #[arg(long, env = "PETNET_ADDR", value_name = "HOST:PORT", default_value = "localhost:1235")]
    pub(crate) gateway: String,
    /// Folder with ca.crt, client.crt and client.key: speak TLS, as that client
    #[arg(long, env = "PETNET_CERTS", value_name = "DIR")]
    pub(crate) certs: Option<PathBuf>,
}

pub(crate) type Client = SimpleRequestServerClient<Channel>;

/// The endpoint of a gateway, not connected yet.
pub(crate) fn endpoint(gateway: &str) -> anyhow::Result<Endpoint> {
    if gateway.contains("://") || !gateway.contains(':') {
        bail!("{gateway:?} is not an address of a gateway; expected host:port");
    }
    Ok(Endpoint::from_shared(format!("http://{gateway}"))
        .with_context(|| format!("{gateway:?} is not an address of a gateway; expected host:port"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// A client on a channel. The gateway's own limit is the one that counts, so there is none here.
pub(crate) fn client(channel: Channel) -> Client {
    SimpleRequestServerClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// A channel on which the gateway answers.
pub(crate) async fn connect(address: &GatewayAddress) -> anyhow::Result<Channel> {
    let channel = channel(address).await?;
    is_understood(channel.clone(), address).await?;
    Ok(channel)
}

/// One call: connecting alone does not tell that the other side speaks TLS and we do not, or that it refused our
/// certificate.
async fn is_understood(channel: Channel, address: &GatewayAddress) -> anyhow::Result<()> {
    let mut health = HealthClient::new(channel);
    match timeout(CONNECT_TIMEOUT, health.check(HealthCheckRequest::default())).await {
        Ok(Ok(_)) => Ok(()),
        // It answers, if not to this.
        Ok(Err(status))
            if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied | Code::NotFound) =>
        {
            Ok(())
        }
        failed => {
            let gateway = &address.gateway;
            let why = failed.map_or_else(
                |_| "no answer".into(),
                |answer| answer.map_or_else(|s| failure(&s), |_| String::new()),
            );
            bail!("cannot speak with the gateway at {gateway}: {why}. {}", hint(address))
        }
    }
}

fn hint(address: &GatewayAddress) -> &'static str {
    match address.certs {
        Some(_) => {
            "Does it speak TLS, and does its party file have the authority of these certificates (--certs)?"
        }
        None => "Does it speak TLS? Then give certificates with --certs or PETNET_CERTS",
    }
}

/// A connection to a gateway.
pub(crate) async fn channel(address: &GatewayAddress) -> anyhow::Result<Channel> {
    let gateway = &address.gateway;
    let endpoint = endpoint(gateway)?;
    let connected = match &address.certs {
        None => endpoint.connect().await,
        Some(folder) => return secured(gateway, config(folder)?).await.with_context(|| unreachable(address)),
    };
    connected.with_context(|| unreachable(address))
}

/// A connection to a gateway by TLS.
pub(super) async fn secured(gateway: &str, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let connector = Connector::new(Some((tls, name(gateway)?)));
    let origin = format!("https://{gateway}").parse().context("the address is not one")?;
    Ok(endpoint(gateway)?.origin(origin).connect_with_connector(connector).await?)
}

fn unreachable(address: &GatewayAddress) -> String {
    format!(
        "cannot reach a gateway at {}; is it running? Give its address with --gateway or PETNET_ADDR. {}",
        address.gateway,
        hint(address)
    )
}

fn name(gateway: &str) -> anyhow::Result<ServerName<'static>> {
    let host = host(gateway).unwrap_or_default().to_owned();
    ServerName::try_from(host).with_context(|| format!("{gateway:?} has no name for TLS"))
}

/// How a program of a party speaks TLS.
fn config(folder: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let read = |name: &str| {
        let file = folder.join(name);
        std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let (roots, certificate, key) = (read("ca.crt")?, read("client.crt")?, read("client.key")?);
    tls::program(&String::from_utf8_lossy(&roots), (&certificate, &key))
        .map_err(|why| anyhow!("the certificates in {} cannot be used: {why}", folder.display()))
}

/// Sends a message; returns when it is accepted.
pub(crate) async fn send(
    client: &mut Client,
    to: &PartyId,
    id: &MessageId,
    payload: Bytes,
    limit: Duration,
) -> anyhow::Result<()> {
    let (message_id, receiver_id) = (id.as_str().into(), to.as_str().into());
    let call = client.client_simple_send(ClientSimpleSendRequest { message_id, receiver_id, payload });
    let response = match timeout(limit, call).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => bail!("cannot send {id:?} to {to}: the gateway answered {}", failure(&status)),
        Err(_) => bail!(
            "no answer from the gateway within {limit:?}; {id:?} may or may not be accepted: sending it again \
             with the same id is safe"
        ),
    };
    if !response.success {
        bail!("{id:?} for {to} was not accepted: {}", refusal(&response));
    }
    Ok(())
}

/// Waits for a message, also across restarts of the gateway. `None` when it did not come within `wait`.
pub(crate) async fn receive(
    client: &mut Client,
    id: &MessageId,
    from: Option<&PartyId>,
    wait: Duration,
) -> anyhow::Result<Option<Bytes>> {
    let deadline = Instant::now() + wait;
    loop {
        let asked = Instant::now();
        let wait = deadline.saturating_duration_since(asked).min(WAIT_PER_CALL);
        let call = client.client_simple_recv(recv_request(id, from, wait));
        match timeout_at(asked + wait + TRANSFER_TIME, call).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                if !response.success {
                    bail!("cannot receive {id:?}: {}", refusal(&response));
                }
                if response.payload.is_some() {
                    return Ok(response.payload);
                }
            }
            // It was there when we connected: it is restarting, and what we wait for survives that.
            Ok(Err(status)) if status.code() == Code::Unavailable && Instant::now() < deadline => {}
            Ok(Err(status)) => bail!("cannot receive {id:?}: the gateway answered {}", failure(&status)),
            Err(_) => bail!("no answer from the gateway within {:?}", wait + TRANSFER_TIME),
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        // A gateway that does not know waits answers at once; do not hammer it.
        if now.duration_since(asked) < wait / 2 {
            sleep(PAUSE.min(deadline - now)).await;
        }
    }
}

fn recv_request(id: &MessageId, from: Option<&PartyId>, wait: Duration) -> Request<ClientSimpleRecvRequest> {
    let mut request = Request::new(ClientSimpleRecvRequest { message_id: id.as_str().into() });
    metadata::write_receive(request.metadata_mut(), from, wait);
    request
}

/// The words of a `success=false` answer.
fn refusal(response: &Response) -> String {
    format!(
        "error {}: {}",
        response.error_code.unwrap_or_default(),
        response.error_msg.as_deref().unwrap_or("no reason given")
    )
}

/// The words of a failed call.
pub(super) fn failure(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
