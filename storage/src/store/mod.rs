//! The embedded store: the engine's calls, with what each one finds and queues.

pub(crate) mod choosing;
pub(crate) mod embedded;
pub(crate) mod engine_calls;
pub(crate) mod kept_ends;
pub(crate) mod outgoing;
pub(crate) mod pending_names;
pub(crate) mod plain_receive;
pub(crate) mod retrying;
pub(crate) mod stats;
pub(crate) mod topics;
