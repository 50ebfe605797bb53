//! What protects the server from callers, good or bad: each limit with its name, its default and its setting.

use std::time::Duration;

/// Flow-control window of one stream, whose throughput is at most its window per round trip.
pub const STREAM_WINDOW: u32 = 8 << 20;
/// Flow-control window of a connection, for all its streams together.
pub const CONNECTION_WINDOW: u32 = 16 << 20;

/// Limits of the server. The defaults are those of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `MAX_CONNECTIONS`: connections served at the same time.
    pub connections: usize,
    /// `MAX_CONNECTIONS_PER_ADDRESS`: how many of them may come from one IP address.
    pub connections_per_address: usize,
    /// `HANDSHAKE_TIMEOUT`: by when a connection must have said, after TLS, that it speaks HTTP/2.
    pub handshake_timeout: Duration,
    /// `STALL_TIMEOUT`: a connection on which a request or an answer is under way is cut when nothing has moved for this
    /// long.
    pub stall_timeout: Duration,
    /// `CONNECTION_AGE`: at this age a connection takes no new calls; at twice this age it is cut.
    pub connection_age: Duration,
    /// `KEEPALIVE_INTERVAL`: how often the other side of a connection is asked whether it is still there.
    pub keepalive_interval: Duration,
    /// `KEEPALIVE_TIMEOUT`: how long its answer may take.
    pub keepalive_timeout: Duration,
    /// `MAX_STREAMS`: calls on one connection at the same time.
    pub streams: u32,
    /// `MAX_HEADER_BYTES`: size of the headers of one call.
    pub header_bytes: u32,
    /// `MAX_CALL_BYTES`: messages of all calls that are in memory at the same time.
    pub call_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_address: 512,
            handshake_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            connection_age: Duration::from_mins(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            streams: 256,
            header_bytes: 16 << 10,
            call_bytes: 512 << 20,
        }
    }
}

/// Room in a gRPC message for everything that is not payload: ids of full length, tags, an error text.
const OVERHEAD: u64 = 4096;

/// Bytes in one unit of the memory of calls. A call costs about that much in addition to its message.
pub(crate) const CALL_UNIT: u64 = 1 << 10;
/// Up to this many bytes, a message counts as small: small messages have room of their own.
pub(crate) const SMALL_MESSAGE: u64 = 64 << 10;
/// One part in this many of the memory of calls is reserved for small messages.
pub(crate) const SMALL_SHARE: u64 = 8;

/// The largest gRPC message for a payload limit.
pub(crate) fn message_limit(max_message_bytes: u64) -> usize {
    usize::try_from(max_message_bytes.saturating_add(OVERHEAD)).unwrap_or(usize::MAX)
}

/// The least memory of calls that suffices for gRPC messages of up to `largest` bytes.
pub(crate) fn least_call_bytes(largest: u64) -> u64 {
    (largest.saturating_mul(SMALL_SHARE) / (SMALL_SHARE - 1)).max(SMALL_MESSAGE * SMALL_SHARE)
        + SMALL_SHARE * CALL_UNIT
}
