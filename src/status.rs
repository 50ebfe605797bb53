//! What callers are told: the only place that makes a gRPC status, and the error codes and texts of `Response`.
//!
//! A `Response` with `success = false` makes old clients give up; the gRPC status UNAVAILABLE makes them try again.
//! So whatever passes by itself (starting, draining) and whatever a restart mends (poisoned) is UNAVAILABLE.

use bytes::Bytes;
use petnet_storage::StoreError;
use tonic::body::Body;
use tonic::codec::{BufferSettings, EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::http;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::{Code, Status};
use tonic_prost::ProstEncoder;

use crate::access::Denied;
use crate::mailbox::Refusal;
use crate::proto::simple::Response;

/// Metadata of an error of `petnet.mailbox.v1`: its number.
pub const ERROR_CODE: &str = "petnet-error-code";

/// `Response.error_code`: PETNet's own and ours.
pub mod code {
    /// PETNet's: anything else.
    pub const UNKNOWN: i32 = 10001;
    /// PETNet's: its store failed.
    pub const REDIS: i32 = 10002;
    /// The store failed this call.
    pub const STORAGE: i32 = 10003;
    /// The request cannot be right, however often it is sent.
    pub const INVALID_REQUEST: i32 = 20002;
    /// PETNet's: the server failed.
    pub const SERVER_INTERNAL: i32 = 30001;
    /// Nobody to deliver to: unknown receiver, or our own party.
    pub const NO_AVAILABLE_CONNECTION: i32 = 30003;
    /// Not among those who may.
    pub const ACCESS_DENIED: i32 = 30004;
    /// No room for new messages for the time being.
    pub const STORE_FULL: i32 = 30005;
    /// Above `MAX_MESSAGE_BYTES`.
    pub const MESSAGE_TOO_LARGE: i32 = 30006;
    /// The id is in use with other bytes and `MESSAGE_ID_REUSE=reject`.
    pub const MESSAGE_ID_CONFLICT: i32 = 30007;
}

/// Done, nothing to hand over.
pub(crate) fn done() -> Response {
    Response { success: true, payload: None, error_code: None, error_msg: None }
}

/// The message, or not there yet. An empty message is a present, empty field.
pub(crate) fn found(payload: Option<Bytes>) -> Response {
    Response { payload, ..done() }
}

/// The number of a refusal in `Response.error_code` and its like.
pub(crate) fn number(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::Invalid(_) => code::INVALID_REQUEST,
        Refusal::UnknownReceiver { .. } | Refusal::OwnParty { .. } => code::NO_AVAILABLE_CONNECTION,
        Refusal::TooLarge { .. } | Refusal::StreamTooLarge { .. } | Refusal::NeedsStream { .. } => {
            code::MESSAGE_TOO_LARGE
        }
        Refusal::Denied(_) => code::ACCESS_DENIED,
        Refusal::Store(StoreError::Full { .. }) => code::STORE_FULL,
        Refusal::Store(StoreError::Unavailable(_)) => code::REDIS,
        Refusal::Store(StoreError::Conflict { .. }) => code::MESSAGE_ID_CONFLICT,
        Refusal::Store(StoreError::Damaged { .. } | StoreError::Gone { .. } | StoreError::Io { .. }) => {
            code::STORAGE
        }
        Refusal::TooManyUploads
        | Refusal::TooManySubscriptions
        | Refusal::Interrupted
        | Refusal::Draining
        | Refusal::CannotLook(_)
        | Refusal::Store(StoreError::Poisoned(_) | StoreError::Closed | StoreError::InDoubt(_)) => {
            code::UNKNOWN
        }
    }
}

/// How a refusal reaches the caller.
pub(crate) fn refused(refusal: &Refusal) -> Result<Response, Status> {
    if passes_with_a_restart(refusal) {
        return Err(Status::unavailable(refusal.to_string()));
    }
    let error_msg = Some(refusal.to_string());
    Ok(Response { success: false, payload: None, error_code: Some(number(refusal)), error_msg })
}

fn passes_with_a_restart(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Draining
            | Refusal::CannotLook(_)
            | Refusal::Store(StoreError::Poisoned(_) | StoreError::Closed | StoreError::InDoubt(_))
    )
}

/// How a refusal reaches a client of `petnet.mailbox.v1`: as a status, with the number in its metadata.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn of(refusal: Refusal) -> Status {
    let number = number(&refusal);
    let code = match number {
        _ if passes_with_a_restart(&refusal) => Code::Unavailable,
        code::REDIS => Code::Unavailable,
        code::INVALID_REQUEST => Code::InvalidArgument,
        code::NO_AVAILABLE_CONNECTION => Code::NotFound,
        code::ACCESS_DENIED => Code::PermissionDenied,
        code::MESSAGE_TOO_LARGE => Code::OutOfRange,
        code::MESSAGE_ID_CONFLICT => Code::AlreadyExists,
        code::STORAGE if matches!(refusal, Refusal::Store(StoreError::Gone { .. })) => Code::Aborted,
        code::STORAGE => Code::DataLoss,
        // A full store, and as many as may be of something.
        _ => Code::ResourceExhausted,
    };
    let mut status = Status::new(code, refusal.to_string());
    status.metadata_mut().insert(ERROR_CODE, number.into());
    status
}

/// One message of a stream is larger than those may be.
pub(crate) fn large_piece(len: u64, largest: u64) -> Status {
    Status::out_of_range(format!("{len} bytes in one message of a stream; at most {largest} are allowed"))
}

/// An exchange is as old as its connection may get.
pub(crate) fn exchange_aged() -> Status {
    Status::unavailable("the stream is as old as CONNECTION_AGE allows; open another one")
}

/// The client reads more slowly than what it subscribed to comes.
pub(crate) fn too_slow() -> Status {
    Status::resource_exhausted(
        "more messages wait than are kept in mind for one stream; nothing is lost: subscribe again, or receive them",
    )
}

/// A call that its caller has no right to: in a `Response` where the service has them, else as a gRPC status.
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

/// A call that is no peer link of a version known here: the peer is to deliver over `petnet.simple.v1`.
pub(crate) fn bad_link(why: &str) -> Status {
    Status::unimplemented(format!("not a peer link: {why}"))
}

/// Who opened the link may not deliver here, or not now.
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

/// A frame of a peer link that breaks its rules.
pub(crate) fn bad_frame(why: &str) -> Status {
    Status::invalid_argument(format!("a frame of the peer link is wrong: {why}"))
}

/// A peer link is as old as its connection may get.
pub(crate) fn link_aged() -> Status {
    Status::unavailable("the peer link is as old as CONNECTION_AGE allows; open another one")
}

/// The other side ended the peer link without a word.
pub(crate) fn link_ended() -> Status {
    Status::unavailable("the peer link ended")
}

/// The operator asked for something that cannot be right.
pub(crate) fn admin_invalid(why: &str) -> Status {
    Status::invalid_argument(why)
}

/// The operator named something that is not there.
pub(crate) fn admin_not_found(what: &str) -> Status {
    Status::not_found(what)
}

/// What the operator asked for was not done.
pub(crate) fn admin_failed(why: &str) -> Status {
    Status::failed_precondition(why)
}

/// What an attempt to deliver counts as when no answer came in time.
pub(crate) fn no_answer(within: std::time::Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {within:?}"))
}
