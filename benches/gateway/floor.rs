//! The relay floor: the gateway's gRPC stack and its two hops without what a gateway is for. Payloads are in a hash map,
//! nothing is durable, nobody retries; a sender has its reply after the second relay's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use petnet::proto::simple::simple_request_server_server::{SimpleRequestServer, SimpleRequestServerServer};
use petnet::proto::simple::{
    ClientSimpleRecvRequest, ClientSimpleSendRequest, Response, ServerSimpleSendRequest,
};
use tonic::{Request, Response as Reply, Status};

use crate::clients::{Client, client};

/// One of the two relays.
#[derive(Debug)]
struct Relay {
    peer: Client,
    held: Mutex<HashMap<String, Bytes>>,
}

/// Starts two relays, each the other's peer, on the runtime of the caller.
pub(crate) async fn start() -> [SocketAddr; 2] {
    let bind = || async { tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let listeners = [bind().await, bind().await];
    let addresses = [listeners[0].local_addr().unwrap(), listeners[1].local_addr().unwrap()];
    for (listener, peer) in listeners.into_iter().zip([addresses[1], addresses[0]]) {
        let relay = Relay { peer: client(peer), held: Mutex::default() };
        let service = SimpleRequestServerServer::new(relay)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let router = petnet::server_settings().add_service(service);
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
    }
    addresses
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
