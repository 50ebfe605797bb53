//! The gRPC face for programs that speak `petnet.mailbox.v1`: the rules of the mailbox, with payloads of any size and many
//! messages on a stream.

mod exchange;
mod pieces;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use petnet_storage::{FromSender, MessageId, PartyId, Tracked};
use tonic::{Request, Response, Status, Streaming};

use self::exchange::Exchange;
use crate::mailbox::Mailbox;
use crate::mailbox::subscriptions::Subscriptions;
use crate::proto::mailbox::mailbox_server::Mailbox as MailboxService;
use crate::proto::mailbox::release_request::Which;
use crate::proto::mailbox::track_response::State;
use crate::proto::mailbox::{
    Accepted, ExchangeRequest, ExchangeResponse, ReceivePiece, ReceiveRequest, ReceiveResponse, Received,
    ReleaseRequest, ReleaseResponse, SendPiece, SendRequest, TrackRequest, TrackResponse,
};
use crate::rules::refusal::Refusal;
use crate::server::calls::Call;
use crate::server::simple_service::within_deadline;
use crate::wire::status;

/// Payload bytes of one piece of a stream.
const PIECE_BYTES: usize = 1 << 20;

/// The service `petnet.mailbox.v1.Mailbox`.
#[derive(Debug, Clone)]
pub(crate) struct MailboxApi {
    /// The rules.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The clients that are waiting to be handed what arrives.
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// `CONNECTION_AGE`: an exchange of this age ends, because its connection is to end.
    pub(crate) max_age: Duration,
}

type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl MailboxApi {
    /// Counts a refusal and turns it into a status.
    fn refuse(&self) -> impl Fn(Refusal) -> Status + '_ {
        refuse(&self.mailbox)
    }
}

#[tonic::async_trait]
impl MailboxService for MailboxApi {
    type ReceiveStreamStream = AnswerStream<ReceivePiece>;
    type ExchangeStream = AnswerStream<ExchangeResponse>;

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<Accepted>, Status> {
        let SendRequest { message_id, receiver_id, payload, key } = request.into_inner();
        let accepted = self.mailbox.accept_called(&receiver_id, &message_id, payload, &key).await;
        let accepted = accepted.map_err(self.refuse())?;
        Ok(Response::new(Accepted { sequence: accepted.0 }))
    }

    async fn receive(&self, request: Request<ReceiveRequest>) -> Result<Response<ReceiveResponse>, Status> {
        let (headers, call, request) = request.into_parts();
        let call = Call::of(&call);
        // The request was read and is small; the call may wait for a long time.
        drop(call.as_ref().and_then(|call| call.take_asked()));
        let wait = within_deadline(Duration::from_millis(request.wait_ms.into()), &headers);
        let from = sender(&request.sender_id).map_err(self.refuse())?;
        let found = self.mailbox.receive(&call, from, &request.message_id, wait);
        let message = found.await.map_err(self.refuse())?.map(|message| Received {
            message_id: message.id.as_str().to_owned(),
            sender_id: name(message.sender.as_ref()),
            sequence: message.sequence.0,
            len: message.payload.len() as u64,
            payload: message.payload,
        });
        Ok(Response::new(ReceiveResponse { message }))
    }

    async fn send_stream(
        &self,
        request: Request<Streaming<SendPiece>>,
    ) -> Result<Response<Accepted>, Status> {
        let call = Call::of(request.extensions());
        let accepted = pieces::send(&self.mailbox, request.into_inner(), call.as_deref()).await?;
        Ok(Response::new(Accepted { sequence: accepted.0 }))
    }

    async fn receive_stream(
        &self,
        request: Request<ReceiveRequest>,
    ) -> Result<Response<Self::ReceiveStreamStream>, Status> {
        let (headers, call, request) = request.into_parts();
        let call = Call::of(&call);
        drop(call.as_ref().and_then(|call| call.take_asked()));
        let wait = within_deadline(Duration::from_millis(request.wait_ms.into()), &headers);
        let from = sender(&request.sender_id).map_err(self.refuse())?;
        let id = MessageId::new(request.message_id).map_err(|e| self.refuse()(e.into()))?;
        let caller = call.as_ref().map_or(0, |call| call.caller());
        let found = self.mailbox.find(caller, &from, &id, wait).await.map_err(self.refuse())?;
        if let Some(found) = &found
            && let Some(call) = call
        {
            call.room_for_answer(pieces::in_memory(found)).await;
        }
        Ok(Response::new(pieces::receive(&self.mailbox, &from, found)))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let released = release(&self.mailbox, request.into_inner()).await.map_err(self.refuse())?;
        Ok(Response::new(ReleaseResponse { released }))
    }

    async fn track(&self, request: Request<TrackRequest>) -> Result<Response<TrackResponse>, Status> {
        let tracked = track(&self.mailbox, request.into_inner()).await.map_err(self.refuse())?;
        Ok(Response::new(told(tracked)))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        self.mailbox.open().map_err(self.refuse())?;
        let call = Call::of(request.extensions());
        let (mailbox, subscriptions) = (self.mailbox.clone(), self.subscriptions.clone());
        let exchange = Exchange::new(mailbox, subscriptions, call, request.into_inner(), self.max_age);
        Ok(Response::new(exchange.answers()))
    }
}

/// Counts a refusal and turns it into a status.
fn refuse(mailbox: &Mailbox) -> impl Fn(Refusal) -> Status + '_ {
    |refusal| {
        mailbox.record.refused(&refusal);
        status::of(refusal)
    }
}

/// The sender whose messages are meant; any sender if `id` is empty.
fn sender(id: &str) -> Result<FromSender, Refusal> {
    Ok(if id.is_empty() { FromSender::Any } else { FromSender::Party(PartyId::new(id)?) })
}

fn name(sender: Option<&PartyId>) -> String {
    sender.map(|party| party.as_str().to_owned()).unwrap_or_default()
}

/// Error text: a field that was forgotten must not end all messages.
const EVERYTHING: &str =
    "a release of an empty topic would end every message; if that is meant, say all instead of a topic";

/// Ends the messages that a client no longer needs; returns how many there were.
async fn release(mailbox: &Mailbox, request: ReleaseRequest) -> Result<u64, Refusal> {
    mailbox.open()?;
    let from = sender(&request.sender_id)?;
    match request.which {
        Some(Which::MessageId(id)) => mailbox.release(&from, &MessageId::new(id)?).await,
        Some(Which::Topic(topic)) if topic.is_empty() => Err(Refusal::Invalid(EVERYTHING.into())),
        Some(Which::Topic(topic)) => release_topic(mailbox, &from, &topic).await,
        Some(Which::All(true)) => release_topic(mailbox, &from, "").await,
        Some(Which::All(false)) | None => {
            Err(Refusal::Invalid("a release names a message_id or a topic, or says all".into()))
        }
    }
}

async fn release_topic(mailbox: &Mailbox, from: &FromSender, topic: &str) -> Result<u64, Refusal> {
    let released = mailbox.engine.release_topic(from, topic).await?;
    mailbox.record.released_topic(released);
    Ok(released)
}

async fn track(mailbox: &Mailbox, request: TrackRequest) -> Result<Tracked, Refusal> {
    let id = MessageId::new(request.message_id)?;
    if request.receiver_id.is_empty() {
        let from = sender(&request.sender_id)?;
        return Ok(mailbox.engine.track_received(&from, &id).await?);
    }
    Ok(mailbox.engine.track_sent(&PartyId::new(request.receiver_id)?, &id).await?)
}

fn told(tracked: Tracked) -> TrackResponse {
    let (state, sequence) = match &tracked {
        Tracked::Unknown => (State::Unknown, 0),
        Tracked::Pending { sequence, .. } => (State::Pending, sequence.0),
        Tracked::Delivered { sequence } => (State::Delivered, sequence.0),
        Tracked::Dead { sequence, .. } => (State::Dead, sequence.0),
        Tracked::Dropped { sequence } => (State::Ended, sequence.0),
        Tracked::Held { sequence, .. } => (State::Held, sequence.0),
        Tracked::Released { sequence } => (State::Released, sequence.0),
        Tracked::Expired { sequence } => (State::Expired, sequence.0),
    };
    let mut told = TrackResponse { state: state.into(), sequence, ..TrackResponse::default() };
    match tracked {
        Tracked::Pending { len, .. } => told.len = len,
        Tracked::Dead { len, reason, dead_for, .. } => {
            (told.len, told.reason, told.dead_seconds) = (len, reason.to_string(), dead_for);
        }
        Tracked::Held { sender, len, .. } => (told.len, told.sender_id) = (len, name(sender.as_ref())),
        _ => {}
    }
    told
}
