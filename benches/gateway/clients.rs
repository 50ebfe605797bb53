//! Clients as old programs are: unmodified `petnet.simple.v1`, one connection each, receives in a tight loop.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bytes::Bytes;
use petnet::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use petnet::proto::simple::{ClientSimpleRecvRequest, ClientSimpleSendRequest};
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = SimpleRequestServerClient<Channel>;

/// The parties behind the two addresses of a pair.
pub(crate) const PARTIES: [&str; 2] = ["party_a", "party_b"];

/// A connection of its own, opened with the first call.
pub(crate) fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .tcp_nodelay(true)
        .initial_stream_window_size(petnet::STREAM_WINDOW)
        .initial_connection_window_size(petnet::CONNECTION_WINDOW)
        .connect_lazy()
}

/// A client with a connection of its own.
pub(crate) fn client(address: SocketAddr) -> Client {
    SimpleRequestServerClient::new(channel(address))
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// Sends a message; returns when it is accepted.
pub(crate) async fn try_send(client: &mut Client, to: &str, id: String, payload: Bytes) -> Result<()> {
    let request = ClientSimpleSendRequest { message_id: id, receiver_id: to.into(), payload };
    let response = client.client_simple_send(request).await?.into_inner();
    ensure!(response.success, "{response:?}");
    Ok(())
}

/// Asks until the message is there.
pub(crate) async fn try_receive(client: &mut Client, id: &str) -> Result<Bytes> {
    loop {
        let request = ClientSimpleRecvRequest { message_id: id.into() };
        let response = client.client_simple_recv(request).await?.into_inner();
        ensure!(response.success, "{response:?}");
        if let Some(payload) = response.payload {
            return Ok(payload);
        }
    }
}

/// [`try_send`] where a failure ends the benchmark.
pub(crate) async fn send(client: &mut Client, to: &str, id: String, payload: Bytes) {
    try_send(client, to, id, payload).await.unwrap();
}

/// [`try_receive`] where a failure ends the benchmark.
pub(crate) async fn receive(client: &mut Client, id: &str) -> Bytes {
    try_receive(client, id).await.unwrap()
}
