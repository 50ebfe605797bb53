//! A connection from the command line to a running gateway.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use hyper::Uri;
use petnet_storage::{MessageId, PartyId};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::cli::messages::patience::{
    self, AttemptFailure, Patience, PortProtocol, is_passing, is_tls_refusal,
};
use crate::cli::terminal::causes::in_words;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_client::HealthClient;
use crate::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use crate::proto::simple::{ClientSimpleRecvRequest, ClientSimpleSendRequest, Response};
use crate::rules::identity::host;
use crate::rules::limits::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::rules::regular;
use crate::tls;
use crate::tls::connector::Connector;
use crate::wire::metadata;
use crate::wire::status::code::MESSAGE_ID_CONFLICT;

/// How long a gateway has to answer a connection before it counts as not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call waits at the gateway; a wait is made of several calls, so that a restarted gateway is noticed.
pub(crate) const WAIT_PER_CALL: Duration = Duration::from_secs(20);
/// Time for the transfer of the message itself once the gateway has it.
const TRANSFER_TIME: Duration = Duration::from_mins(10);
/// Pause before the next call to a gateway that answered too early or is restarting.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// Which gateway.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GatewayAddress {
    /// Address of the gateway
    #[arg(long, env = "PETNET_ADDR", value_name = "HOST:PORT", default_value = "localhost:1235", value_parser = gateway)]
    pub(crate) gateway: String,
    /// Folder with ca.crt, client.crt and client.key: speak TLS, as that client
    #[arg(long, env = "PETNET_CERTS", value_name = "DIR")]
    pub(crate) certs: Option<PathBuf>,
}

pub(crate) type Client = SimpleRequestServerClient<Channel>;

/// Parses the address of a gateway as a person gives it: `host:port`, nothing else.
fn gateway(text: &str) -> Result<String, String> {
    let uri = format!("http://{text}").parse::<Uri>().ok();
    let is_one = |uri: Uri| {
        let host = uri.host().is_some_and(|host| !host.is_empty());
        host && uri.port_u16().is_some()
            && uri.authority().is_some_and(|authority| authority.as_str() == text)
    };
    if uri.is_some_and(is_one) && !text.contains('@') {
        return Ok(text.to_owned());
    }
    Err("not an address of a gateway; expected host:port (the port is that of LISTEN_ADDR, usually 1235)"
        .into())
}

/// The endpoint of a gateway, not yet connected.
pub(crate) fn endpoint(address: &str) -> anyhow::Result<Endpoint> {
    let address = gateway(address).map_err(|why| anyhow!("{address:?}: {why}"))?;
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not an address of a gateway"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// A client on a channel. It has no limit of its own, because the gateway's limit is the one that counts.
pub(crate) fn client(channel: Channel) -> Client {
    SimpleRequestServerClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// A channel on which the gateway has answered.
pub(crate) async fn connect(address: &GatewayAddress) -> anyhow::Result<Channel> {
    try_connect(address).await.map_err(AttemptFailure::into_error)
}

/// Like [`connect`], but waits until the time has expired for a gateway that is not there.
pub(crate) async fn connect_within(
    address: &GatewayAddress,
    patience: &mut Patience,
) -> anyhow::Result<Channel> {
    // A mistake in the address does not go away.
    endpoint(&address.gateway)?;
    if let Some(folder) = &address.certs {
        config(folder)?;
    }
    patience.with(async || try_connect(address).await).await
}

async fn try_connect(address: &GatewayAddress) -> Result<Channel, AttemptFailure> {
    let channel = match channel(address).await {
        Ok(channel) => channel,
        Err(why) => return Err(judged(address, why, false).await),
    };
    match is_understood(channel.clone(), address).await {
        Ok(()) => Ok(channel),
        // The handshake succeeded.
        Err(why) => Err(judged(address, why, address.certs.is_some()).await),
    }
}

/// Whether a connection that failed may succeed later. What listens there may be the reason why it cannot. `is_tls`: it
/// uses TLS, as we do; then there is nothing to find out, and a look would cause another failed handshake there.
async fn judged(address: &GatewayAddress, why: anyhow::Error, is_tls: bool) -> AttemptFailure {
    let gateway = &address.gateway;
    let is_refused = why.chain().any(is_tls_refusal);
    let why = anyhow!(in_words(&why));
    if is_refused && address.certs.is_some() {
        return AttemptFailure::Final(why);
    }
    if is_tls {
        return AttemptFailure::Passing(why);
    }
    match (patience::look_at(gateway).await, &address.certs) {
        (PortProtocol::Page, _) => AttemptFailure::Final(is_a_page(gateway)),
        (PortProtocol::Tls, None) => AttemptFailure::Final(why),
        (PortProtocol::Plain, Some(_)) => AttemptFailure::Final(anyhow!(
            "the gateway at {gateway} speaks no TLS: leave out --certs and PETNET_CERTS, if that is meant to be so"
        )),
        _ if is_refused => AttemptFailure::Final(why),
        _ => AttemptFailure::Passing(why),
    }
}

/// The error for a port that answers HTTP/1.
pub(crate) fn is_a_page(gateway: &str) -> anyhow::Error {
    anyhow!(
        "{gateway} is not a gateway's port for messages: it speaks HTTP/1, as the status page of one does \
         (HTTP_LISTEN_ADDR). Messages go to the port of LISTEN_ADDR, usually 1235"
    )
}

/// Makes one call: connecting alone does not show that the other side uses TLS and we do not, or that it refused our
/// certificate.
async fn is_understood(channel: Channel, address: &GatewayAddress) -> anyhow::Result<()> {
    let mut health = HealthClient::new(channel);
    let gateway = &address.gateway;
    let cannot =
        |why: String| format!("cannot speak with the gateway at {gateway}: {why}. {}", hint(address));
    match timeout(CONNECT_TIMEOUT, health.check(HealthCheckRequest::default())).await {
        Ok(Ok(_)) => Ok(()),
        // It answers, although not to this question.
        Ok(Err(status))
            if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied | Code::NotFound) =>
        {
            Ok(())
        }
        Ok(Err(status)) => {
            let why = failure(&status);
            Err(anyhow::Error::new(status).context(cannot(why)))
        }
        Err(_) => Err(anyhow!(cannot("no answer".into()))),
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

/// A TLS connection to a gateway.
pub(crate) async fn secured(gateway: &str, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
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

/// The TLS settings of a program of a party.
fn config(folder: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let read = |name: &str| {
        let file = folder.join(name);
        regular::read(&file).with_context(|| format!("cannot read {}", file.display()))
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
    try_send(client, to, id, payload, limit).await.map_err(AttemptFailure::into_error)
}

/// One attempt to [`send`].
pub(crate) async fn try_send(
    client: &mut Client,
    to: &PartyId,
    id: &MessageId,
    payload: Bytes,
    limit: Duration,
) -> Result<(), AttemptFailure> {
    let (message_id, receiver_id) = (id.as_str().into(), to.as_str().into());
    let call = client.client_simple_send(ClientSimpleSendRequest { message_id, receiver_id, payload });
    let response = match timeout(limit, call).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            let failed = if is_passing(&status) { AttemptFailure::Passing } else { AttemptFailure::Final };
            return Err(failed(anyhow!(
                "cannot send {id:?} to {to}: the gateway answered {}",
                failure(&status)
            )));
        }
        Err(_) => {
            return Err(AttemptFailure::Final(anyhow!(
                "no answer from the gateway within {limit:?}; {id:?} may or may not be accepted: sending it again \
                 with the same id is safe"
            )));
        }
    };
    if !response.success {
        return Err(AttemptFailure::Final(anyhow!(
            "{id:?} for {to} was not accepted: {}",
            refusal(&response)
        )));
    }
    Ok(())
}

/// Waits for a message, even across restarts of the gateway. `None` if it did not come within `wait`.
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
                    let hint = hint_of_senders(response.error_code == Some(MESSAGE_ID_CONFLICT), from);
                    bail!("cannot receive {id:?}: {}{hint}", refusal(&response));
                }
                if response.payload.is_some() {
                    return Ok(response.payload);
                }
            }
            // The gateway was there when we connected: it is restarting, and what we wait for survives that.
            Ok(Err(status)) if is_passing(&status) && Instant::now() < deadline => {}
            Ok(Err(status)) => bail!("cannot receive {id:?}: the gateway answered {}", failure(&status)),
            Err(_) => bail!("no answer from the gateway within {:?}", wait + TRANSFER_TIME),
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        // A gateway that does not know waits answers at once; do not flood it with calls.
        if now.duration_since(asked) < wait / 2 {
            sleep(PAUSE.min(deadline - now)).await;
        }
    }
}

/// The hint for a receive that is refused because several senders have a message under the id.
pub(crate) fn hint_of_senders(is_conflict: bool, from: Option<&PartyId>) -> &'static str {
    if is_conflict && from.is_none() { "; here that is --from PARTY" } else { "" }
}

fn recv_request(id: &MessageId, from: Option<&PartyId>, wait: Duration) -> Request<ClientSimpleRecvRequest> {
    let mut request = Request::new(ClientSimpleRecvRequest { message_id: id.as_str().into() });
    metadata::write_receive(request.metadata_mut(), from, wait);
    request
}

/// The text of a `success=false` answer.
fn refusal(response: &Response) -> String {
    format!(
        "error {}: {}",
        response.error_code.unwrap_or_default(),
        response.error_msg.as_deref().unwrap_or("no reason given")
    )
}

/// The text for a failed call.
pub(crate) fn failure(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port_and_nothing_else() {
        for good in ["localhost:1235", "127.0.0.1:1", "[::1]:1235", "gateway.a.example:65535"] {
            assert_eq!(gateway(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "localhost",
            "localhost:",
            ":1235",
            "::1",
            "[::1]",
            "localhost:x",
            "localhost:70000",
            "http://localhost:1235",
            "localhost:1235/",
            "u@localhost:1235",
            "a b:1",
        ] {
            assert!(gateway(bad).is_err_and(|why| why.contains("host:port")), "{bad}");
        }
    }

    #[test]
    fn each_cause_is_told_once_and_no_status_of_a_library() {
        let why = anyhow::Error::new(Status::unknown("x")).context("cannot speak");
        assert_eq!(in_words(&why), "cannot speak");
        let why = anyhow!("refused").context("cannot reach it: refused").context("failed");
        assert_eq!(in_words(&why), "failed: cannot reach it: refused");
    }
}
