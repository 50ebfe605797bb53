//! The relay floor: the gateway's gRPC stack and its two hops without what a gateway is for. Payloads are in a hash map,
//! nothing is durable, nobody retries; a sender has its reply after the second relay's.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use petnet::proto::simple::simple_request_server_server::{SimpleRequestServer, SimpleRequestServerServer};
use petnet::proto::simple::{
    ClientSimpleRecvRequest, ClientSimpleSendRequest, Response, ServerSimpleSendRequest,
};
use tonic::{Request, Response as Reply, Status};

use crate::clients::{Client, client};

/// One relay, a process.
#[derive(Debug)]
struct Relay {
    peer: Client,
    held: Mutex<HashMap<String, Bytes>>,
}

/// Relays until stdin ends. `addresses` is where it listens and where its peer does.
pub(crate) async fn run(addresses: &str) {
    let (address, peer) = addresses.split_once(',').unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let relay = Relay { peer: client(peer.parse().unwrap()), held: Mutex::default() };
    let service = SimpleRequestServerServer::new(relay)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let router = petnet::server_settings(&petnet::rules::limits::Limits::default()).add_service(service);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let serve = tokio::spawn(router.serve_with_incoming(incoming));
    let stdin_ends = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(stdin_ends).await.unwrap().unwrap();
    serve.abort();
}

fn done(payload: Option<Bytes>) -> Reply<Response> {
    Reply::new(Response { success: true, payload, error_code: None, error_msg: None })
}

#[tonic::async_trait]
impl SimpleRequestServer for Relay {
    async fn client_simple_send(
        &self,
        request: Request<ClientSimpleSendRequest>,
    ) -> Result<Reply<Response>, Status> {
        let ClientSimpleSendRequest { message_id, payload, .. } = request.into_inner();
        self.peer.clone().server_simple_send(ServerSimpleSendRequest { message_id, payload }).await
    }

    async fn client_simple_recv(
        &self,
        request: Request<ClientSimpleRecvRequest>,
    ) -> Result<Reply<Response>, Status> {
        // Removed, so that the memory of a long run stays bounded.
        let payload = self.held.lock().unwrap().remove(&request.into_inner().message_id);
        Ok(done(payload))
    }

    async fn server_simple_send(
        &self,
        request: Request<ServerSimpleSendRequest>,
    ) -> Result<Reply<Response>, Status> {
        let ServerSimpleSendRequest { message_id, payload } = request.into_inner();
        self.held.lock().unwrap().insert(message_id, payload);
        Ok(done(None))
    }
}
