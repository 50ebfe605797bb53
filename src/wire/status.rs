//! What callers are told: the only place that makes a gRPC status, and the error codes and texts of `Response`.
//!
//! A `Response` with `success = false` makes old clients give up; the gRPC status UNAVAILABLE makes them try again. So
//! whatever passes by itself (starting, draining, usually a read error) and whatever a restart mends (poisoned) is
//! UNAVAILABLE.

use bytes::Bytes;
use petnet_storage::StoreError;
use tonic::body::Body;
use tonic::codec::{BufferSettings, EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::http;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::{Code, Status};
use tonic_prost::ProstEncoder;

use crate::proto::simple::Response;
use crate::rules::access::Denied;
use crate::rules::refusal::Refusal;

pub use crate::proto::ERROR_CODE;

/// `Response.error_code`: PETNet's own values and ours.
pub mod code {
    /// PETNet's: anything else.
    pub const UNKNOWN: i32 = 10001;
    /// PETNet's: its store failed.
    pub const REDIS: i32 = 10002;
    /// The store failed this call.
    pub const STORAGE: i32 = 10003;
    /// The request can never be right, however often it is sent.
    pub use crate::proto::INVALID_REQUEST;
    /// PETNet's: the server failed.
    pub const SERVER_INTERNAL: i32 = 30001;
    /// There is nobody to deliver to: the receiver is unknown, or is our own party.
    pub const NO_AVAILABLE_CONNECTION: i32 = 30003;
    /// The caller is not among those who may do this.
    pub const ACCESS_DENIED: i32 = 30004;
    /// There is no room for new messages at the moment.
    pub const STORE_FULL: i32 = 30005;
    /// The message is larger than `MAX_MESSAGE_BYTES`.
    pub const MESSAGE_TOO_LARGE: i32 = 30006;
    /// The id is in use with other bytes and `MESSAGE_ID_REUSE=reject`; or it is asked for without a sender, and several
    /// senders have sent a message under it that nobody has read.
    pub const MESSAGE_ID_CONFLICT: i32 = 30007;
}

/// Success, with nothing to hand over.
pub(crate) fn done() -> Response {
    Response { success: true, payload: None, error_code: None, error_msg: None }
}

/// The message, or not there yet. An empty message is a field that is present but empty.
pub(crate) fn found(payload: Option<Bytes>) -> Response {
    Response { payload, ..done() }
}

/// Whether the same call can succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Not by itself.
    No,
    /// The next try may: the message is lost only if it does not match its checksum.
    MayPass,
    /// In a moment, or when the gateway was restarted.
    Restart,
}

/// What is told of a refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// The label of the metric.
    pub(crate) label: &'static str,
    /// As in `Response.error_code` and similar fields.
    pub(crate) number: i32,
    /// In `petnet.mailbox.v1`.
    status: Code,
    again: Again,
}

/// What is told of a refusal: the only place that tells refusals apart.
pub(crate) fn told(refusal: &Refusal) -> Told {
    use {Refusal as R, StoreError as S};
    let (label, number, status, again) = match refusal {
        R::Invalid(_) | R::Store(S::OtherSend { .. } | S::TooOld { .. }) => {
            ("invalid", code::INVALID_REQUEST, Code::InvalidArgument, Again::No)
        }
        R::UnknownReceiver { .. } | R::OwnParty { .. } => {
            ("unknown_receiver", code::NO_AVAILABLE_CONNECTION, Code::NotFound, Again::No)
        }
        R::TooLarge { .. } | R::StreamTooLarge { .. } | R::NeedsStream { .. } => {
            ("too_large", code::MESSAGE_TOO_LARGE, Code::OutOfRange, Again::No)
        }
        R::TooManyUploads | R::TooManySubscriptions => {
            ("too_many", code::UNKNOWN, Code::ResourceExhausted, Again::No)
        }
        R::Interrupted => ("other", code::UNKNOWN, Code::ResourceExhausted, Again::No),
        R::Denied(_) => ("denied", code::ACCESS_DENIED, Code::PermissionDenied, Again::No),
        R::Store(S::Full { .. }) => ("full", code::STORE_FULL, Code::ResourceExhausted, Again::No),
        R::Store(S::Unavailable(_)) => ("unavailable", code::REDIS, Code::Unavailable, Again::No),
        R::Store(S::Conflict { .. }) => {
            ("conflict", code::MESSAGE_ID_CONFLICT, Code::AlreadyExists, Again::No)
        }
        R::Store(S::Ambiguous { .. }) => {
            ("ambiguous", code::MESSAGE_ID_CONFLICT, Code::AlreadyExists, Again::No)
        }
        R::Store(S::Damaged { .. }) => ("damaged", code::STORAGE, Code::DataLoss, Again::No),
        R::Store(S::Gone { .. }) => ("other", code::STORAGE, Code::Aborted, Again::No),
        R::Store(S::Io { .. }) => ("io", code::STORAGE, Code::Unavailable, Again::MayPass),
        R::Draining => ("draining", code::UNKNOWN, Code::Unavailable, Again::Restart),
        R::CannotLook(_) => ("unavailable", code::UNKNOWN, Code::Unavailable, Again::Restart),
        R::Store(S::Poisoned(_)) => ("poisoned", code::UNKNOWN, Code::Unavailable, Again::Restart),
        R::Store(S::Closed) => ("other", code::UNKNOWN, Code::Unavailable, Again::Restart),
        R::Store(S::InDoubt(_)) => ("in_doubt", code::UNKNOWN, Code::Unavailable, Again::Restart),
        R::Store(S::NoSegment { .. }) => ("io", code::UNKNOWN, Code::Unavailable, Again::Restart),
    };
    Told { label, number, status, again }
}

/// How a refusal reaches the caller.
pub(crate) fn refused(refusal: &Refusal) -> Result<Response, Status> {
    match told(refusal).again {
        Again::No => Ok(response(refusal)),
        Again::MayPass | Again::Restart => Err(Status::unavailable(refusal.to_string())),
    }
}

/// How the refusal of a delivery reaches a peer over a link. An error ends the link. What may pass is sent as an answer
/// instead: the peer can then try that delivery again, and the link goes on for the others.
pub(crate) fn refused_delivery(refusal: &Refusal) -> Result<Response, Status> {
    if told(refusal).again == Again::MayPass { Ok(response(refusal)) } else { refused(refusal) }
}

fn response(refusal: &Refusal) -> Response {
    let (error_code, error_msg) = (Some(told(refusal).number), Some(refusal.to_string()));
    Response { success: false, payload: None, error_code, error_msg }
}

/// How a refusal reaches a client of `petnet.mailbox.v1`: as a status, with the number in its metadata.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn of(refusal: Refusal) -> Status {
    let told = told(&refusal);
    let mut status = Status::new(told.status, refusal.to_string());
    status.metadata_mut().insert(ERROR_CODE, told.number.into());
    status
}

/// Whether we could not read an answer. No status that came over the wire means that.
pub(crate) fn is_garbage(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(<dyn std::error::Error>::is::<prost::DecodeError>)
}

/// A message in a stream is larger than it may be.
pub(crate) fn large_piece(len: u64, largest: u64) -> Status {
    Status::out_of_range(format!("{len} bytes in one message of a stream; at most {largest} are allowed"))
}

/// A message for which its caller's share is too small, while others wait for the memory.
pub(crate) fn comes_too_slowly() -> Status {
    Status::resource_exhausted(
        "the message came too slowly while others wait for the memory that it takes (MAX_CALL_BYTES); send it again, or in \
         pieces (SendStream)",
    )
}

/// A message from a caller without a certificate is larger than all that such callers may have in memory.
pub(crate) fn large_for_unnamed(len: u64, most: u64) -> Status {
    Status::resource_exhausted(format!(
        "{len} bytes in one message; callers without a certificate may send {most} (their share of MAX_CALL_BYTES)"
    ))
}

/// An exchange has reached the age limit of its connection.
pub(crate) fn exchange_aged() -> Status {
    Status::unavailable("the stream is as old as CONNECTION_AGE allows; open another one")
}

/// The client reads more slowly than messages come for its subscriptions.
pub(crate) fn too_slow() -> Status {
    Status::resource_exhausted(
        "more messages wait than are kept in mind for one stream; nothing is lost: subscribe again, or receive them",
    )
}

/// A call that its caller has no right to make: answered with a `Response` if the service has them, otherwise with a gRPC
/// status.
pub(crate) fn denied(path: &str, why: Denied) -> http::Response<Body> {
    let refusal = Refusal::Denied(why);
    let response = match refused(&refusal) {
        Ok(response) if path.starts_with("/petnet.simple.v1.") => response,
        _ => return Status::permission_denied(refusal.to_string()).into_http(),
    };
    let once = futures_util::stream::iter([Ok(response)]);
    let encoder = ProstEncoder::new(BufferSettings::default());
    let plain = SingleMessageCompressionOverride::default();
    let mut answer = http::Response::new(Body::new(EncodeBody::new_server(encoder, once, None, plain, None)));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    answer
}

/// A method that is not served here.
pub(crate) fn not_served(path: &str) -> http::Response<Body> {
    Status::unimplemented(format!("{path} is not served here")).into_http()
}

/// A health check for a service that is not served here.
pub(crate) fn unknown_service(name: &str) -> Status {
    Status::not_found(format!("no service {name:?} is served here"))
}

/// A call that is not a peer link of a version known here: the peer is to deliver over `petnet.simple.v1` instead.
pub(crate) fn bad_link(why: &str) -> Status {
    Status::unimplemented(format!("not a peer link: {why}"))
}

/// The party that opened the link may not deliver here, or not now.
pub(crate) fn link_refused(refusal: &Refusal) -> Status {
    match refused(refusal) {
        Ok(response) => Status::permission_denied(response.error_msg.unwrap_or_default()),
        Err(status) => status,
    }
}

/// Shutdown ends a peer link.
pub(crate) fn link_draining() -> Status {
    Status::unavailable(Refusal::Draining.to_string())
}

/// A frame of a peer link breaks the rules.
pub(crate) fn bad_frame(why: &str) -> Status {
    Status::invalid_argument(format!("a frame of the peer link is wrong: {why}"))
}

/// A peer link has reached the age limit of its connection.
pub(crate) fn link_aged() -> Status {
    Status::unavailable("the peer link is as old as CONNECTION_AGE allows; open another one")
}

/// The other side ended the peer link without giving a reason.
pub(crate) fn link_ended() -> Status {
    Status::unavailable("the peer link ended")
}

/// The operator asked for something that can never be right.
pub(crate) fn admin_invalid(why: &str) -> Status {
    Status::invalid_argument(why)
}

/// The operator named something that does not exist.
pub(crate) fn admin_not_found(what: &str) -> Status {
    Status::not_found(what)
}

/// Something that the operator asked for was not done.
pub(crate) fn admin_failed(why: &str) -> Status {
    Status::failed_precondition(why)
}

/// The status of an attempt to deliver that got no answer in time.
pub(crate) fn no_answer(within: std::time::Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {within:?}"))
}
