//! What protects the server from callers, good or bad: each limit with its name, its default and its setting.

use std::time::Duration;

/// Limits of the server. The defaults are those of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `MAX_CONNECTIONS`: connections served at a time.
    pub connections: usize,
    /// `MAX_CONNECTIONS_PER_ADDRESS`: of them, from one IP address.
    pub connections_per_address: usize,
    /// `HANDSHAKE_TIMEOUT`: until a connection must have said, after TLS, that it speaks HTTP/2.
    pub handshake_timeout: Duration,
    /// `STALL_TIMEOUT`: a connection on which a request or an answer is under way and nothing moves for so long is cut.
    pub stall_timeout: Duration,
    /// `CONNECTION_AGE`: after it a connection takes no new calls; after twice as long it is cut.
    pub connection_age: Duration,
    /// `KEEPALIVE_INTERVAL`: how often the other side of a connection is asked whether it is still there.
    pub keepalive_interval: Duration,
    /// `KEEPALIVE_TIMEOUT`: how long its answer may take.
    pub keepalive_timeout: Duration,
    /// `MAX_STREAMS`: calls on one connection at a time.
    pub streams: u32,
    /// `MAX_HEADER_BYTES`: headers of one call.
    pub header_bytes: u32,
    /// `MAX_CALL_BYTES`: messages of all calls that are in memory at a time.
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
