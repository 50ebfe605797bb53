//! The gRPC face for the operator, `petnet.admin.v1`: it shows what the gateway holds, and does what the operator decides.
//!
//! Served on a Unix socket that only the gateway's own user (and root) can open, so nobody is asked who he is. Everything
//! that ends a message without delivery is logged: it was an operator's decision, and it is final.

mod dead;
mod mail;
mod none;
mod payload;
mod pending;
mod retried;
mod retry;
mod sift;
mod socket;
mod track;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use petnet_storage::{PartyId, StoreError, StoreState};
use tonic::{Request, Response, Status};

pub(crate) use self::socket::AdminSocket;
use crate::operator::overview::Overview;
use crate::proto::admin::admin_server::Admin;
use crate::proto::admin::{
    Changed, DeadRequest, DropPendingRequest, ListDeadRequest, ListDeadResponse, ListMailboxRequest,
    ListMailboxResponse, ListPendingRequest, ListPendingResponse, PauseRequest, PayloadPiece, PayloadRequest,
    ReleaseMailboxRequest, RetryPendingRequest, StatusRequest, StatusResponse, TrackRequest, TrackResponse,
};
use crate::rules::refusal::Refusal;
use crate::rules::text::many;
use crate::wire::status;

/// Messages in one answer, unless fewer are asked for.
const PAGE: usize = 100;
/// Most messages in one answer.
const LARGEST_PAGE: usize = 1000;

/// The admin service.
#[derive(Debug, Clone)]
pub(crate) struct AdminApi {
    pub(crate) overview: Arc<Overview>,
}

type AdminAnswer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminApi {
    type PayloadStream = Pin<Box<dyn Stream<Item = Result<PayloadPiece, Status>> + Send>>;

    async fn status(&self, _: Request<StatusRequest>) -> AdminAnswer<StatusResponse> {
        Ok(Response::new(self.overview.status().await))
    }

    async fn list_pending(&self, request: Request<ListPendingRequest>) -> AdminAnswer<ListPendingResponse> {
        pending::list(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn retry_pending(&self, request: Request<RetryPendingRequest>) -> AdminAnswer<Changed> {
        retry::retry(&self.overview, &request.into_inner().peer).await.map(Response::new)
    }

    async fn drop_pending(&self, request: Request<DropPendingRequest>) -> AdminAnswer<Changed> {
        pending::drop_some(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn pause(&self, request: Request<PauseRequest>) -> AdminAnswer<Changed> {
        pending::pause(&self.overview, &request.into_inner().peer, true).await.map(Response::new)
    }

    async fn resume(&self, request: Request<PauseRequest>) -> AdminAnswer<Changed> {
        pending::pause(&self.overview, &request.into_inner().peer, false).await.map(Response::new)
    }

    async fn list_dead(&self, request: Request<ListDeadRequest>) -> AdminAnswer<ListDeadResponse> {
        dead::list(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn retry_dead(&self, request: Request<DeadRequest>) -> AdminAnswer<Changed> {
        dead::retry(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn drop_dead(&self, request: Request<DeadRequest>) -> AdminAnswer<Changed> {
        dead::drop_some(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn list_mailbox(&self, request: Request<ListMailboxRequest>) -> AdminAnswer<ListMailboxResponse> {
        mail::list(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn release_mailbox(&self, request: Request<ReleaseMailboxRequest>) -> AdminAnswer<Changed> {
        mail::release(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn payload(&self, request: Request<PayloadRequest>) -> AdminAnswer<Self::PayloadStream> {
        payload::open(&self.overview, request.into_inner()).await.map(Response::new)
    }

    async fn track(&self, request: Request<TrackRequest>) -> AdminAnswer<TrackResponse> {
        track::lives(&self.overview, request.into_inner()).await.map(Response::new)
    }
}

/// The status for a failure of the store.
fn failed(error: StoreError) -> Status {
    status::of(Refusal::Store(error))
}

/// Parses a party that the operator named.
fn party(id: &str) -> Result<PartyId, Status> {
    PartyId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))
}

/// How many messages an answer has at most.
fn page(limit: u32) -> usize {
    if limit == 0 { PAGE } else { (limit as usize).min(LARGEST_PAGE) }
}

fn messages(count: u64) -> String {
    many(count, "message", "messages")
}

/// Added to the answer where messages were ended in a store that was full: its room is freed segment by segment, and sends
/// wait for that.
const WAS_FULL: &str = "; the store was full: sends are taken again when the room is given back, which takes a few seconds (up to ten); \
    `petnet status` says `serving` then";

/// What to add to the answer when this request makes room: [`WAS_FULL`] if the store is full.
fn of_room(overview: &Overview) -> &'static str {
    if matches!(*overview.engine.state().borrow(), StoreState::Full(_)) { WAS_FULL } else { "" }
}
