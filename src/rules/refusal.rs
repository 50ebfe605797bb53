//! Why a request was not carried out, explained for the caller.

use crate::rules::access::Denied;
use petnet_storage::{InvalidId, PartyId, StoreError};
use std::sync::Arc;

/// Why a request was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request can never be right, however often it is sent.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The receiver is not in the party file.
    #[error("receiver {id:?} is not in the party file")]
    UnknownReceiver {
        /// The receiver as the client wrote it.
        id: String,
    },
    /// The receiver is our own party.
    #[error("receiver {id:?} is this gateway's own party; messages go to other parties")]
    OwnParty {
        /// Our own party.
        id: PartyId,
    },
    /// The message is larger than `MAX_MESSAGE_BYTES`.
    #[error("the message has {len} bytes; at most {limit} (MAX_MESSAGE_BYTES) are allowed")]
    TooLarge {
        /// Payload bytes.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// The message is larger than `MAX_STREAM_BYTES`.
    #[error("the message has {len} bytes; at most {limit} (MAX_STREAM_BYTES) are allowed")]
    StreamTooLarge {
        /// Payload bytes.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// The message is there, but is longer than one answer may be.
    #[error(
        "the message has {len} bytes, more than the {limit} (MAX_MESSAGE_BYTES) of one answer: fetch it with ReceiveStream"
    )]
    NeedsStream {
        /// Payload bytes.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// As many messages as allowed are already coming in pieces.
    #[error("as many messages come in pieces as may at a time (MAX_UPLOADS); try again later")]
    TooManyUploads,
    /// A peer's large message whose stream broke, or which now comes over another one.
    #[error("interrupted")]
    Interrupted,
    /// There are as many subscriptions as allowed, in total or for one caller.
    #[error(
        "there are as many subscriptions as may be, or this caller has its three quarters of them (MAX_SUBSCRIPTIONS)"
    )]
    TooManySubscriptions,
    /// The sender may not deliver here.
    #[error("access denied: {0}")]
    Denied(#[from] Denied),
    /// It cannot be determined at the moment whether the message is there.
    #[error("the store cannot be read at the moment: {0}; ask again")]
    CannotLook(Arc<str>),
    /// The gateway is shutting down.
    #[error("the gateway is shutting down; try again")]
    Draining,
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<InvalidId> for Refusal {
    fn from(invalid: InvalidId) -> Self {
        Self::Invalid(invalid.to_string())
    }
}
