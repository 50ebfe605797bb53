//! The connection to a peer, and what the peer's answer means: a [`Verdict`].
//!
//! Messages go over one stream of `petnet.peer.v1` (`stream`), if the peer knows it; large ones go in parts (`large`).
//! Messages that failed before each get a stream of their own: a message that breaks a stream must not keep taking others
//! down with it. A peer that does not know the stream gets calls of `ServerSimpleSend`. Connects when first needed and
//! after a break. Invariants: an attempt is given up when nothing moved for `LINK_STALL`, and never while something moves
//! (`moving`); a reply is at most [`REPLY_LIMIT`]; only a success is `Delivered`; trouble of the stream is no refusal.

mod answer;
mod connect;
mod fence;
mod large;
mod moving;
mod probe;
mod route;
mod stream;
mod words;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use petnet_storage::{Outgoing, PartyId, Payload, StoreError};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

pub(crate) use self::connect::Dial;
pub(crate) use self::fence::Fence;
use self::large::PartsFailure;
use self::moving::while_moving;
use self::route::Route;
use self::stream::LinkStream;
use self::words::in_words;
use crate::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use crate::proto::simple::{Response, ServerSimpleSendRequest};
use crate::tls::trust::{CurrentTrust, Trust};
use crate::wire::metadata;
use crate::wire::status::{self, code};

/// A `Response` to a delivery carries at most an error text. Deliberately odd: the number appears in the error text and
/// tells our limit from the peer's (see [`of_status`]).
const REPLY_LIMIT: usize = (64 << 10) + 1;
/// Messages of this size and above go in parts.
const IN_PARTS: u64 = 256 << 10;
/// Messages with more bytes than this go one at a time where they have to be in memory whole.
const LARGE_CALL: u64 = 4 << 20;
/// A call ends after this long even if other things move on its connection: its answer may have been lost.
const LONGEST_CALL: Duration = Duration::from_hours(6);
/// The result of an attempt.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The peer accepted it.
    Delivered,
    /// It can never be delivered; the reason, from the peer or our own.
    RefusedForGood(String),
    /// Try again later.
    TryAgain {
        /// Why, for the operator.
        reason: String,
        /// Whether the trouble affects every message to this peer.
        whole_peer: bool,
    },
    /// Our own store cannot read the message.
    Unreadable(StoreError),
}

/// Limits of the link to a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkLimits {
    /// `LINK_STALL`: an attempt ends when nothing has moved for this long.
    pub(crate) stall: Duration,
    /// `LINK_WINDOW`: bytes of large messages sent and not known to be durable at the peer, per stream.
    pub(crate) window: u64,
    /// `MAX_MESSAGE_BYTES`: limit of a message that has to go as a call.
    pub(crate) call_bytes: u64,
}

/// Something that delivers to one peer.
#[tonic::async_trait]
pub(crate) trait Deliver: Send + Sync + 'static {
    /// Makes one attempt, in bounded time. `suspect`: the message failed before, and must not take others down with it.
    async fn deliver(&self, message: &Outgoing, suspect: bool) -> Verdict;

    /// Asks, without a message, whether the peer answers and lets us deliver; the error says why not. Ends in bounded time.
    async fn probe(&self) -> Result<(), String>;

    /// Makes one attempt at each of many messages that did not fail before.
    async fn deliver_many(&self, messages: &[Outgoing]) -> Vec<Verdict> {
        join_all(messages.iter().map(|message| self.deliver(message, false))).await
    }
}

/// A peer's gateway, reached over one of its connections at a time.
#[derive(Debug)]
pub(crate) struct PeerLink {
    fence: Fence,
    trust: CurrentTrust,
    limits: LinkLimits,
    /// Limits calls of large messages.
    large_calls: Semaphore,
    tasks: TaskTracker,
    /// The routes for the newest party file and certificates that a delivery has seen.
    routes: Mutex<Arc<Routes>>,
}

/// The ways to a peer under one version of the party file and the certificates.
#[derive(Debug)]
struct Routes {
    version: u64,
    ours: PartyId,
    all: Vec<Route>,
    in_use: Mutex<usize>,
    /// Why there is no route, if there is none.
    problem: String,
}

/// What made an attempt fail.
enum Trouble {
    /// The stream failed, which says nothing about the message.
    Stream(Status),
    /// A call for this message alone failed.
    Call(Status),
    /// The result of the attempt, which was decided without the peer.
    Ours(Verdict),
}

impl Trouble {
    fn is_break(&self) -> bool {
        matches!(self, Self::Stream(status) | Self::Call(status) if status.code() == Code::Unavailable)
    }
}

impl From<PartsFailure> for Trouble {
    fn from(failed: PartsFailure) -> Self {
        match failed {
            PartsFailure::Stream(status) => Self::Stream(status),
            PartsFailure::Store(error) => Self::Ours(Verdict::Unreadable(error)),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Ours(Verdict::Unreadable(error))
    }
}

impl PeerLink {
    /// A link to the peer of `fence` over the connections that the party file has for it; when one fails, the next is used.
    /// Nothing is connected yet. `tasks` tracks the tasks that the link starts.
    pub(crate) fn new(fence: Fence, trust: CurrentTrust, limits: LinkLimits, tasks: TaskTracker) -> Self {
        let routes = Routes::new(&trust.borrow(), &fence);
        let large_calls = Semaphore::new(1);
        Self { fence, trust, limits, large_calls, tasks, routes: Mutex::new(Arc::new(routes)) }
    }

    /// The routes of the version in force. Attempts under way keep the routes they began with.
    fn routes(&self) -> Arc<Routes> {
        let trust = self.trust.borrow().clone();
        let mut routes = self.routes.lock();
        if routes.version != trust.version {
            *routes = Arc::new(Routes::new(&trust, &self.fence));
        }
        routes.clone()
    }

    async fn attempt(
        &self,
        message: &Outgoing,
        routes: &Routes,
        at: usize,
        suspect: bool,
    ) -> Result<Verdict, Trouble> {
        let route = &routes.all[at];
        let over = route.channel();
        let answer = async {
            let channel = over.channel.clone();
            match self.stream(route, &channel, routes, suspect).await.map_err(Trouble::Stream)? {
                Some(stream) => over_stream(&stream, message).await,
                None => self.call(message, &routes.ours, channel).await,
            }
        };
        if let Some(answer) = while_moving(&over.moved, self.limits.stall, answer).await {
            return answer;
        }
        // Whatever swallowed this answer may swallow all further ones on the connection until the kernel gives the
        // connection up, a quarter of an hour later. Other attempts under way keep it alive until they end.
        route.renew(over.generation);
        Err(Trouble::Call(crate::wire::status::no_answer(self.limits.stall)))
    }

    /// Delivers small messages together; `None` if that is not possible or the stream broke.
    async fn attempt_many(&self, messages: &[Outgoing]) -> Option<Vec<Option<Verdict>>> {
        let routes = self.routes();
        let route = routes.all.get(routes.route_in_use())?;
        let mut ready = Vec::with_capacity(messages.len());
        for message in messages {
            let Payload::Whole(payload) = &message.payload else { return None };
            if message.payload.len() >= IN_PARTS {
                return None;
            }
            ready.push((message, payload.clone()));
        }
        let over = route.channel();
        let answers = async {
            let stream = self.stream(route, &over.channel, &routes, false).await.ok()??;
            stream.deliver_many(&ready).await.ok()
        };
        let answers = while_moving(&over.moved, self.limits.stall, answers).await;
        if answers.is_none() {
            route.renew(over.generation);
        }
        answers.flatten()
    }

    /// The stream for a message; `None` if the peer does not know it.
    async fn stream(
        &self,
        route: &Route,
        channel: &Channel,
        routes: &Routes,
        suspect: bool,
    ) -> Result<Option<Arc<LinkStream>>, Status> {
        let window = self.limits.window;
        let stream = route.link(channel.clone(), &routes.ours, window, &self.tasks).await?;
        if !suspect || stream.is_none() {
            return Ok(stream);
        }
        let own = LinkStream::open(channel.clone(), &routes.ours, window, &self.tasks).await?;
        Ok(Some(Arc::new(own)))
    }

    /// Delivers the message as a call of its own, with the whole message in memory.
    async fn call(&self, message: &Outgoing, ours: &PartyId, channel: Channel) -> Result<Verdict, Trouble> {
        let (len, limit) = (message.payload.len(), self.limits.call_bytes);
        if len > limit {
            let why = format!(
                "the peer does not know the peer link, and {len} bytes are more than one call may have ({limit}, MAX_MESSAGE_BYTES)"
            );
            return Ok(Verdict::RefusedForGood(why));
        }
        let alone = async { if len > LARGE_CALL { self.large_calls.acquire().await.ok() } else { None } };
        let _alone = alone.await;
        let payload = message.payload.whole().await?;
        // The peer knows no identities: an older message must not arrive after one that another gateway delivers.
        self.fence.may_send().await?;
        let calling = tokio::time::timeout(LONGEST_CALL, call(message, payload, ours, channel));
        let answer = tokio::select! {
            answer = calling => answer,
            elsewhere = self.fence.closed() => return Err(elsewhere.into()),
        };
        let answer = answer.unwrap_or_else(|_| Err(crate::wire::status::no_answer(LONGEST_CALL)));
        answer.map_err(Trouble::Call)
    }
}

async fn over_stream(stream: &LinkStream, message: &Outgoing) -> Result<Verdict, Trouble> {
    if message.payload.len() >= IN_PARTS {
        return Ok(large::deliver(stream, message).await?);
    }
    let payload = message.payload.whole().await?;
    stream.deliver(message, payload).await.map_err(Trouble::Stream)
}

impl Routes {
    fn new(trust: &Trust, fence: &Fence) -> Self {
        let peer = fence.peer();
        let (mut routes, mut problem) = (Vec::new(), None);
        for connection in trust.connections(peer) {
            match Route::new(trust, connection, fence) {
                Ok(route) => routes.push(route),
                Err(why) => {
                    tracing::error!(%peer, why, "a connection of the party file cannot be used");
                    problem.get_or_insert(why);
                }
            }
        }
        let none = || format!("the party file has no connection for {peer} that {} may use", trust.own);
        Self {
            version: trust.version,
            ours: trust.own.clone(),
            all: routes,
            in_use: Mutex::new(0),
            problem: problem.unwrap_or_else(none),
        }
    }

    fn route_in_use(&self) -> usize {
        *self.in_use.lock()
    }

    /// Switches to the connection after `failed`, unless another attempt has already done so.
    fn turn_from(&self, failed: usize) -> usize {
        let mut in_use = self.in_use.lock();
        if *in_use == failed {
            *in_use = (failed + 1) % self.all.len();
        }
        *in_use
    }
}

async fn call(
    message: &Outgoing,
    payload: Bytes,
    ours: &PartyId,
    channel: Channel,
) -> Result<Verdict, Status> {
    let message_id = message.id.as_str().to_owned();
    let mut request = Request::new(ServerSimpleSendRequest { message_id, payload });
    metadata::write_delivery(request.metadata_mut(), ours, &message.identity);
    // We set no limit on what is sent: the message was accepted, so only the peer's limit counts.
    let mut client = SimpleRequestServerClient::new(channel).max_decoding_message_size(REPLY_LIMIT);
    client.server_simple_send(request).await.map(|answer| of_response(answer.into_inner()))
}

#[tonic::async_trait]
impl Deliver for PeerLink {
    async fn probe(&self) -> Result<(), String> {
        self.ask().await
    }

    async fn deliver(&self, message: &Outgoing, suspect: bool) -> Verdict {
        let routes = self.routes();
        if routes.all.is_empty() {
            return Verdict::TryAgain { reason: routes.problem.clone(), whole_peer: true };
        }
        let mut at = routes.route_in_use();
        let mut answer = self.attempt(message, &routes, at, suspect).await;
        if answer.as_ref().is_err_and(Trouble::is_break) {
            // The first attempt after a break only discovers the break, so try once more at once, over the next connection
            // if there are several.
            at = routes.turn_from(at);
            answer = self.attempt(message, &routes, at, suspect).await;
        }
        let verdict = match answer {
            Ok(verdict) | Err(Trouble::Ours(verdict)) => verdict,
            Err(Trouble::Call(status)) => of_status(&status),
            Err(Trouble::Stream(status)) => Verdict::TryAgain { reason: in_words(&status), whole_peer: true },
        };
        if matches!(verdict, Verdict::TryAgain { whole_peer: true, .. }) {
            routes.turn_from(at);
        }
        verdict
    }

    /// Delivers the messages together over the stream; those without an answer then go one by one.
    async fn deliver_many(&self, messages: &[Outgoing]) -> Vec<Verdict> {
        let verdicts = self.attempt_many(messages).await.unwrap_or_else(|| vec![None; messages.len()]);
        let one = |(message, verdict): (_, Option<Verdict>)| async move {
            match verdict {
                Some(verdict) => verdict,
                None => self.deliver(message, false).await,
            }
        };
        join_all(messages.iter().zip(verdicts).map(one)).await
    }
}

fn of_response(response: Response) -> Verdict {
    if response.success {
        return Verdict::Delivered;
    }
    of_refusal(response.error_code.unwrap_or_default(), &response.error_msg.unwrap_or_default())
}

pub(crate) fn of_refusal(number: i32, words: &str) -> Verdict {
    let reason = format!("error {number}: {words}");
    match number {
        code::INVALID_REQUEST | code::MESSAGE_TOO_LARGE | code::MESSAGE_ID_CONFLICT => {
            Verdict::RefusedForGood(reason)
        }
        // Whether we may deliver, whether there is room and whether the peer's Redis works does not depend on the message:
        // one message is enough to find out.
        code::ACCESS_DENIED | code::STORE_FULL | code::REDIS => {
            Verdict::TryAgain { reason, whole_peer: true }
        }
        _ => Verdict::TryAgain { reason, whole_peer: false },
    }
}

fn of_status(status: &Status) -> Verdict {
    let reason = in_words(status);
    let words = status.message();
    let too_large = words.contains("too large") || words.contains("larger than");
    let reply_too_large = words.ends_with(&format!("the limit is: {REPLY_LIMIT} bytes"));
    let whole_peer = match status.code() {
        Code::OutOfRange if !reply_too_large => return Verdict::RefusedForGood(reason),
        Code::ResourceExhausted if too_large => return Verdict::RefusedForGood(reason),
        // What is wrong is the answer, not the message.
        _ if status::is_garbage(status) => false,
        Code::InvalidArgument => return Verdict::RefusedForGood(reason),
        // The limit of a proxy on the body: other messages may well pass.
        Code::Unknown => !words.contains("HTTP status code 413"),
        Code::Unimplemented
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated => true,
        // An unreadable answer, or trouble that the peer has with this message.
        _ => false,
    };
    Verdict::TryAgain { reason, whole_peer }
}

#[cfg(test)]
impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(number: i32) -> Verdict {
        let error_msg = Some("why".into());
        of_response(Response { success: false, payload: None, error_code: Some(number), error_msg })
    }

    fn kind(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Delivered => "delivered",
            Verdict::RefusedForGood(_) => "refused",
            Verdict::TryAgain { whole_peer: true, .. } => "peer",
            Verdict::TryAgain { whole_peer: false, .. } => "message",
            Verdict::Unreadable(_) => "unreadable",
        }
    }

    #[test]
    fn only_what_no_repetition_mends_is_refused_for_good() {
        for number in [20002, 30006, 30007] {
            assert_eq!(kind(&response(number)), "refused", "{number}");
        }
        for number in [10001, 10003, 30001, 0, 77] {
            assert_eq!(kind(&response(number)), "message", "{number}");
        }
        for number in [10002, 30004, 30005] {
            assert_eq!(kind(&response(number)), "peer", "{number}");
        }
        let empty = Response { success: false, payload: None, error_code: None, error_msg: None };
        assert_eq!(kind(&of_response(empty)), "message");
        assert!(matches!(response(20002), Verdict::RefusedForGood(text) if text.contains("20002: why")));
    }

    #[test]
    fn status_of_the_peer_maps_to_its_verdict() {
        for (code, words, expected) in [
            (
                Code::OutOfRange,
                "decoded message length too large: found 9 bytes, the limit is: 8 bytes",
                "refused",
            ),
            (Code::OutOfRange, "length too large: found 99999 bytes, the limit is: 65537 bytes", "message"),
            (Code::ResourceExhausted, "Received message larger than max (9 vs. 8)", "refused"),
            (Code::ResourceExhausted, "too many requests", "peer"),
            (Code::InvalidArgument, "", "refused"),
            (Code::Unimplemented, "", "peer"),
            (Code::Unavailable, "", "peer"),
            (Code::DeadlineExceeded, "", "peer"),
            (Code::Cancelled, "", "peer"),
            (Code::Unknown, "", "peer"),
            (Code::Unknown, "grpc-status header missing, mapped from HTTP status code 413", "message"),
            (Code::Internal, "failed to decode Protobuf message", "message"),
        ] {
            assert_eq!(kind(&of_status(&Status::new(code, words))), expected, "{code:?} {words}");
        }
        let garbage =
            crate::proto::codec::undecodable(<Response as prost::Message>::decode(&b"\xff"[..]).unwrap_err());
        assert_eq!(kind(&of_status(&garbage)), "message", "for such an answer nobody refused anything");
    }

    #[test]
    fn connections_are_used_in_turn() {
        let connection = |port: u16| crate::rules::parties::Connection {
            kind: crate::rules::parties::ConnectionType::Direct,
            url: format!("localhost:{port}"),
            certificates: String::new(),
            whitelist: vec!["*".into()],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in_runtime = runtime.enter();
        let peer = PartyId::new("b").unwrap();
        let parties = crate::rules::parties::Parties {
            parties: [(peer.clone(), vec![connection(1), connection(2)])].into(),
        };
        let trust = crate::tls::trust::fixed("a", parties);
        let link = Routes::new(&trust.borrow(), &Fence::open(peer));
        assert_eq!(link.turn_from(0), 1);
        assert_eq!(link.turn_from(0), 1, "many attempts fail together, but it turns once");
        assert_eq!(link.turn_from(1), 0);
    }
}
