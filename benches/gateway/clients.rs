//! Clients as old programs are: unmodified `petnet.simple.v1`, one connection each, receives in a tight loop.

use std::net::SocketAddr;

use bytes::Bytes;
use petnet::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use petnet::proto::simple::{ClientSimpleRecvRequest, ClientSimpleSendRequest};
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = SimpleRequestServerClient<Channel>;

/// The parties behind the two addresses of a pair.
pub(crate) const PARTIES: [&str; 2] = ["party_a", "party_b"];

/// A client with a connection of its own.
pub(crate) fn client(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .tcp_nodelay(true)
        .initial_stream_window_size(petnet::STREAM_WINDOW)
        .initial_connection_window_size(petnet::CONNECTION_WINDOW);
    SimpleRequestServerClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// Sends a message; returns when it is accepted.
pub(crate) async fn send(client: &mut Client, to: &str, id: String, payload: Bytes) {
    let request = ClientSimpleSendRequest { message_id: id, receiver_id: to.into(), payload };
    let response = client.client_simple_send(request).await.unwrap().into_inner();
    assert!(response.success, "{response:?}");
}

/// Asks until the message is there.
pub(crate) async fn receive(client: &mut Client, id: &str) -> Bytes {
    loop {
        let request = ClientSimpleRecvRequest { message_id: id.into() };
        let response = client.client_simple_recv(request).await.unwrap().into_inner();
        assert!(response.success, "{response:?}");
        if let Some(payload) = response.payload {
            return payload;
        }
    }
}
