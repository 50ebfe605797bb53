//! The gRPC face for the operator, `petnet.admin.v1`: shows what the gateway holds, and does what the operator decides.
//!
//! Served on a Unix socket that only the gateway's own user (and root) can open, so nobody is asked who he is. Everything
//! that ends a message without delivery is told in the log: it was an operator's decision, and for good.

mod dead;
mod mail;
mod payload;
mod pending;
mod socket;
mod track;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use petnet_storage::{PartyId, StoreError};
use tonic::{Request, Response, Status};

pub(crate) use self::dead::shown;
pub(crate) use self::socket::AdminSocket;
use crate::mailbox::Refusal;
use crate::overview::Overview;
use crate::proto::admin::admin_server::Admin;
use crate::proto::admin::{
    Changed, DeadRequest, DropPendingRequest, ListDeadRequest, ListDeadResponse, ListMailboxRequest,
    ListMailboxResponse, ListPendingRequest, ListPendingResponse, PauseRequest, PayloadPiece, PayloadRequest,
    ReleaseMailboxRequest, RetryPendingRequest, StatusRequest, StatusResponse, TrackRequest, TrackResponse,
};
use crate::status;

/// Messages of one answer, unless fewer are asked for.
const PAGE: usize = 100;
/// Messages of one answer at most.
const LARGEST_PAGE: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct AdminApi {
    pub(crate) overview: Arc<Overview>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminApi {
    type PayloadStream = Pin<Box<dyn Stream<Item = Result<PayloadPiece, Status>> + Send>>;

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        Ok(Response::new(self.overview.status().await))
    }

    async fn list_pending(&self, request: Request<ListPendingRequest>) -> Answer<ListPendingResponse> {
        pending::list(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn retry_pending(&self, request: Request<RetryPendingRequest>) -> Answer<Changed> {
        pending::retry(&self.overview, &request.into_inner().peer).map(Response::new)
    }

    async fn drop_pending(&self, request: Request<DropPendingRequest>) -> Answer<Changed> {
        pending::drop_some(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Answer<Changed> {
        pending::pause(&self.overview, &request.into_inner().peer, true).await.map(Response::new)
    }

    async fn resume(&self, request: Request<PauseRequest>) -> Answer<Changed> {
        pending::pause(&self.overview, &request.into_inner().peer, false).await.map(Response::new)
    }

    async fn list_dead(&self, request: Request<ListDeadRequest>) -> Answer<ListDeadResponse> {
        dead::list(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn retry_dead(&self, request: Request<DeadRequest>) -> Answer<Changed> {
        dead::retry(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn drop_dead(&self, request: Request<DeadRequest>) -> Answer<Changed> {
        dead::drop_some(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn list_mailbox(&self, request: Request<ListMailboxRequest>) -> Answer<ListMailboxResponse> {
        mail::list(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn release_mailbox(&self, request: Request<ReleaseMailboxRequest>) -> Answer<Changed> {
        mail::release(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn payload(&self, request: Request<PayloadRequest>) -> Answer<Self::PayloadStream> {
        payload::open(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn track(&self, request: Request<TrackRequest>) -> Answer<TrackResponse> {
        track::lives(&self.overview, request.into_inner()).await.map(Response::new)
    }
}

/// How a failure of the store is told.
fn failed(error: StoreError) -> Status {
    status::of(Refusal::Store(error))
}

/// A party, as the operator wrote it.
fn party(id: &str) -> Result<PartyId, Status> {
    PartyId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))
}

/// How many messages an answer has.
fn page(limit: u32) -> usize {
    if limit == 0 { PAGE } else { (limit as usize).min(LARGEST_PAGE) }
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".into() } else { format!("{count} messages") }
}
