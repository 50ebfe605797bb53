//! The gRPC face for clients: it takes calls of `petnet.simple.v1`, applies the rules of the mailbox, and answers with
//! `Response`.
//!
//! One service carries the calls of clients and of peers; those of peers are in [`crate::server::peer_calls`].

use std::sync::Arc;
use std::time::Duration;

use petnet_storage::FromSender;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response as Reply, Status};

use crate::mailbox::Mailbox;
use crate::proto::simple::simple_request_server_server::SimpleRequestServer;
use crate::proto::simple::{
    ClientSimpleRecvRequest, ClientSimpleSendRequest, Response, ServerSimpleSendRequest,
};
use crate::rules::refusal::Refusal;
use crate::server::calls::Call;
use crate::server::peer_calls;
use crate::wire::{metadata, status};

/// How long before the call's own deadline it is answered; a tenth of the time left where that is less.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);

/// The service `petnet.simple.v1.SimpleRequestServer`.
#[derive(Debug, Clone)]
pub(crate) struct SimpleApi {
    /// The rules.
    pub(crate) mailbox: Arc<Mailbox>,
    /// `RECV_WAIT_MS`.
    pub(crate) recv_wait: Duration,
}

impl SimpleApi {
    async fn send(&self, request: ClientSimpleSendRequest) -> Result<Response, Refusal> {
        let ClientSimpleSendRequest { message_id, receiver_id, payload } = request;
        self.mailbox.accept(&receiver_id, &message_id, payload).await?;
        Ok(status::done())
    }

    async fn receive(&self, request: Request<ClientSimpleRecvRequest>) -> Result<Response, Refusal> {
        let bad = |e: metadata::BadMetadata| Refusal::Invalid(e.to_string());
        let (headers, call, ClientSimpleRecvRequest { message_id }) = request.into_parts();
        let call = Call::of(&call);
        // The request was read and is small; the call may wait for a long time.
        drop(call.as_ref().and_then(|call| call.take_asked()));
        let wait = metadata::wait(&headers).map_err(bad)?.unwrap_or(self.recv_wait);
        let from = metadata::sender(&headers).map_err(bad)?.map_or(FromSender::Any, FromSender::Party);
        let wait = within_deadline(wait, &headers);
        let found = self.mailbox.receive(&call, from, &message_id, wait).await?;
        Ok(status::found(found.map(|message| message.payload)))
    }

    fn reply(&self, result: Result<Response, Refusal>) -> Result<Reply<Response>, Status> {
        let refused = |refusal| {
            self.mailbox.record.refused(&refusal);
            status::refused(&refusal)
        };
        result.or_else(refused).map(Reply::new)
    }
}

/// A wait that ends before the call's own deadline.
pub(crate) fn within_deadline(wait: Duration, headers: &MetadataMap) -> Duration {
    match metadata::deadline(headers) {
        Some(left) => wait.min(left.saturating_sub(DEADLINE_MARGIN.min(left / 10))),
        None => wait,
    }
}

#[tonic::async_trait]
impl SimpleRequestServer for SimpleApi {
    async fn client_simple_send(
        &self,
        request: Request<ClientSimpleSendRequest>,
    ) -> Result<Reply<Response>, Status> {
        self.reply(self.send(request.into_inner()).await)
    }

    async fn client_simple_recv(
        &self,
        request: Request<ClientSimpleRecvRequest>,
    ) -> Result<Reply<Response>, Status> {
        self.reply(self.receive(request).await)
    }

    async fn server_simple_send(
        &self,
        request: Request<ServerSimpleSendRequest>,
    ) -> Result<Reply<Response>, Status> {
        self.reply(peer_calls::deliver(&self.mailbox, request).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_before_the_deadline_of_the_call() {
        let wait = |wait_ms, timeout: Option<&str>| {
            let mut headers = MetadataMap::new();
            if let Some(timeout) = timeout {
                headers.insert("grpc-timeout", timeout.parse().unwrap());
            }
            within_deadline(Duration::from_millis(wait_ms), &headers).as_millis()
        };
        assert_eq!(wait(1000, None), 1000);
        assert_eq!(wait(1000, Some("30S")), 1000);
        assert_eq!(wait(60_000, Some("30S")), 29_950);
        assert_eq!(wait(1000, Some("100m")), 90);
        assert_eq!(wait(1000, Some("0m")), 0);
    }
}
