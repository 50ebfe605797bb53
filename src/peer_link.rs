//! The connection to a peer, and what the peer's answer means: a [`Verdict`].
//!
//! Small messages go over one stream of `petnet.peer.v1` (`stream`), where the peer knows it. Large ones, and those that
//! failed before, go as calls of `ServerSimpleSend`, each of its own: what breaks a stream must not take others along
//! for ever. Connects when first needed and again after a break. Invariants: an attempt ends within its time limit, which
//! grows with the message; a reply is never larger than [`REPLY_LIMIT`]; only a success is `Delivered`; trouble of the
//! stream is never a refusal of a message.

mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use petnet_storage::{Outgoing, PartyId};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use self::stream::LinkStream;
use crate::metadata;
use crate::parties::Connection;
use crate::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use crate::proto::simple::{Response, ServerSimpleSendRequest};
use crate::server::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::status::code;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Python peers answer more frequent pings with `too_many_pings` and hang up.
const KEEPALIVE: Duration = Duration::from_mins(5);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// The kernel notices a peer that went away while nothing is under way.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// A `Response` to a delivery carries an error text at most. Odd, so that its number tells in an error whose limit
/// it was (see [`of_status`]).
const REPLY_LIMIT: usize = (64 << 10) + 1;
/// An attempt may take a second longer for so many payload bytes: 2 Mbit/s.
const BYTES_PER_SECOND: u64 = 256 << 10;
/// Messages below this go over the stream.
const STREAM_BELOW: usize = 256 << 10;
/// A peer that did not know the stream may have been replaced by one that does: asked again after this long.
const ASK_AGAIN: Duration = Duration::from_mins(10);

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer accepted it.
    Delivered,
    /// It can never be delivered; the peer's words.
    RefusedForGood(String),
    /// Try again later.
    TryAgain {
        /// Why, for the operator.
        reason: String,
        /// Whether the trouble concerns every message to this peer.
        whole_peer: bool,
    },
}

/// Something that delivers to one peer.
#[tonic::async_trait]
pub(crate) trait Deliver: Send + Sync + 'static {
    /// One attempt. Ends in bounded time. `suspect`: it failed before, and must not take others along if it is the
    /// reason itself.
    async fn deliver(&self, message: &Outgoing, suspect: bool) -> Verdict;
}

/// A peer's gateway, reached over one of its connections at a time.
#[derive(Debug)]
pub(crate) struct PeerLink {
    ours: PartyId,
    timeout: Duration,
    tasks: TaskTracker,
    routes: Vec<Route>,
    in_use: Mutex<usize>,
}

#[derive(Debug)]
struct Route {
    endpoint: Endpoint,
    channel: Mutex<(u64, Channel)>,
    /// Held while a stream is opened: many need it at once, one opens it.
    link: tokio::sync::Mutex<Link>,
}

/// What is known of a route's stream.
#[derive(Debug)]
enum Link {
    Closed,
    Open(Arc<LinkStream>),
    /// The peer does not know it; asked again from then on.
    NotKnown(Instant),
}

/// What an attempt failed with.
enum Trouble {
    /// The stream: says nothing about the message.
    Stream(Status),
    /// A call of the message's own.
    Call(Status),
}

impl Trouble {
    fn status(&self) -> &Status {
        match self {
            Self::Stream(status) | Self::Call(status) => status,
        }
    }
}

impl PeerLink {
    /// A link over `connections`, used in turn when one fails. Nothing is connected yet. `tasks`: what it runs.
    pub(crate) fn new(
        ours: PartyId,
        connections: &[Connection],
        timeout: Duration,
        tasks: TaskTracker,
    ) -> Self {
        let routes = connections.iter().filter_map(|connection| match endpoint(&connection.url) {
            Ok(endpoint) => {
                let channel = Mutex::new((0, endpoint.connect_lazy()));
                Some(Route { endpoint, channel, link: tokio::sync::Mutex::new(Link::Closed) })
            }
            Err(error) => {
                tracing::error!(url = connection.url, %error, "connection of the party file cannot be used");
                None
            }
        });
        Self { ours, timeout, tasks, routes: routes.collect(), in_use: Mutex::new(0) }
    }

    async fn attempt(
        &self,
        message: &Outgoing,
        route: &Route,
        suspect: bool,
        limit: Duration,
    ) -> Result<Verdict, Trouble> {
        let (generation, channel) = route.channel();
        let answer = async {
            if !suspect && message.payload.len() < STREAM_BELOW {
                let link = route.link(channel.clone(), &self.ours, &self.tasks).await;
                if let Some(stream) = link.map_err(Trouble::Stream)? {
                    return stream.deliver(message).await.map_err(Trouble::Stream);
                }
            }
            self.call(message, channel).await.map_err(Trouble::Call)
        };
        if let Ok(answer) = tokio::time::timeout(limit, answer).await {
            return answer;
        }
        // What swallowed this answer may swallow all further ones on the connection until the kernel gives it up, a
        // quarter of an hour later. Other attempts under way keep it alive until they end.
        route.renew(generation);
        Err(Trouble::Call(crate::status::no_answer(limit)))
    }

    async fn call(&self, message: &Outgoing, channel: Channel) -> Result<Verdict, Status> {
        let mut request = Request::new(ServerSimpleSendRequest {
            message_id: message.id.as_str().to_owned(),
            payload: message.payload.clone(),
        });
        metadata::write_delivery(request.metadata_mut(), &self.ours, &message.identity);
        // No limit of ours on what is sent: the message was accepted, so only the peer's limit counts.
        let mut client = SimpleRequestServerClient::new(channel).max_decoding_message_size(REPLY_LIMIT);
        client.server_simple_send(request).await.map(|answer| of_response(answer.into_inner()))
    }

    fn route_in_use(&self) -> usize {
        *self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns to the connection after `failed`, unless another attempt did so already.
    fn turn_from(&self, failed: usize) -> usize {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if *in_use == failed {
            *in_use = (failed + 1) % self.routes.len();
        }
        *in_use
    }
}

#[tonic::async_trait]
impl Deliver for PeerLink {
    async fn deliver(&self, message: &Outgoing, suspect: bool) -> Verdict {
        let mut at = self.route_in_use();
        let Some(route) = self.routes.get(at) else {
            let reason = "the party file has no usable connection for this party".to_owned();
            return Verdict::TryAgain { reason, whole_peer: true };
        };
        let limit = self.timeout + Duration::from_secs(message.payload.len() as u64 / BYTES_PER_SECOND);
        let mut answer = self.attempt(message, route, suspect, limit).await;
        if answer.as_ref().is_err_and(|trouble| trouble.status().code() == Code::Unavailable) {
            // The first attempt after a break only finds the break, so once more at once, over the next connection
            // where there are several.
            at = self.turn_from(at);
            answer = self.attempt(message, &self.routes[at], suspect, limit).await;
        }
        let verdict = match answer {
            Ok(verdict) => verdict,
            Err(Trouble::Call(status)) => of_status(&status),
            Err(Trouble::Stream(status)) => Verdict::TryAgain { reason: in_words(&status), whole_peer: true },
        };
        if matches!(verdict, Verdict::TryAgain { whole_peer: true, .. }) {
            self.turn_from(at);
        }
        verdict
    }
}

impl Route {
    fn channel(&self) -> (u64, Channel) {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn renew(&self, generation: u64) {
        {
            let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
            if channel.0 != generation {
                return;
            }
            *channel = (generation + 1, self.endpoint.connect_lazy());
        }
        // Whoever holds it is opening a stream over the old connection, in vain.
        if let Ok(mut link) = self.link.try_lock()
            && let Link::Open(stream) = &*link
        {
            stream.give_up(crate::status::link_ended());
            *link = Link::Closed;
        }
    }

    /// The open stream, opened if need be. `None`: the peer does not know it.
    async fn link(
        &self,
        channel: Channel,
        ours: &PartyId,
        tasks: &TaskTracker,
    ) -> Result<Option<Arc<LinkStream>>, Status> {
        let mut link = self.link.lock().await;
        match &*link {
            Link::Open(stream) if !stream.is_over() => return Ok(Some(stream.clone())),
            Link::NotKnown(ask_at) if Instant::now() < *ask_at => return Ok(None),
            _ => {}
        }
        match LinkStream::open(channel, ours, tasks).await {
            Ok(stream) => {
                let stream = Arc::new(stream);
                *link = Link::Open(stream.clone());
                Ok(Some(stream))
            }
            Err(status) if status.code() == Code::Unimplemented => {
                if !matches!(*link, Link::NotKnown(_)) {
                    let url = self.endpoint.uri();
                    tracing::info!(%url, "the peer does not know the peer link; delivering over ServerSimpleSend");
                }
                *link = Link::NotKnown(Instant::now() + ASK_AGAIN);
                Ok(None)
            }
            Err(status) => {
                *link = Link::Closed;
                Err(status)
            }
        }
    }
}

fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    Ok(Endpoint::from_shared(url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(false))
}

fn of_response(response: Response) -> Verdict {
    if response.success {
        return Verdict::Delivered;
    }
    of_refusal(response.error_code.unwrap_or_default(), &response.error_msg.unwrap_or_default())
}

fn of_refusal(number: i32, words: &str) -> Verdict {
    let reason = format!("error {number}: {words}");
    match number {
        code::INVALID_REQUEST | code::MESSAGE_TOO_LARGE | code::MESSAGE_ID_CONFLICT => {
            Verdict::RefusedForGood(reason)
        }
        // Who may deliver and whether there is room does not depend on the message: asking with one is enough.
        code::ACCESS_DENIED | code::STORE_FULL => Verdict::TryAgain { reason, whole_peer: true },
        _ => Verdict::TryAgain { reason, whole_peer: false },
    }
}

fn in_words(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn of_status(status: &Status) -> Verdict {
    let reason = in_words(status);
    let words = status.message();
    let too_large = words.contains("too large") || words.contains("larger than");
    let reply_too_large = words.ends_with(&format!("the limit is: {REPLY_LIMIT} bytes"));
    let whole_peer = match status.code() {
        Code::OutOfRange if !reply_too_large => return Verdict::RefusedForGood(reason),
        Code::ResourceExhausted if too_large => return Verdict::RefusedForGood(reason),
        Code::InvalidArgument => return Verdict::RefusedForGood(reason),
        // A proxy's limit on the body: other messages may well pass.
        Code::Unknown => !words.contains("HTTP status code 413"),
        Code::Unimplemented
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated => true,
        // Garbage for an answer, or trouble in the peer with this message.
        _ => false,
    };
    Verdict::TryAgain { reason, whole_peer }
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
        }
    }

    #[test]
    fn only_what_no_repetition_mends_is_refused_for_good() {
        for number in [20002, 30006, 30007] {
            assert_eq!(kind(&response(number)), "refused", "{number}");
        }
        for number in [10001, 10002, 10003, 30001, 0, 77] {
            assert_eq!(kind(&response(number)), "message", "{number}");
        }
        for number in [30004, 30005] {
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
    }

    #[test]
    fn connections_are_used_in_turn() {
        let connection = |port: u16| Connection {
            kind: crate::parties::ConnectionType::Direct,
            url: format!("localhost:{port}"),
            certificates: String::new(),
            whitelist: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in_runtime = runtime.enter();
        let connections = [connection(1), connection(2)];
        let link = PeerLink::new(
            PartyId::new("a").unwrap(),
            &connections,
            Duration::from_secs(1),
            TaskTracker::new(),
        );
        assert_eq!(link.turn_from(0), 1);
        assert_eq!(link.turn_from(0), 1, "many attempts fail together, but it turns once");
        assert_eq!(link.turn_from(1), 0);
    }
}
