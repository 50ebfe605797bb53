//! The settings that make [`Limits`].

use std::time::Duration;

use super::{Checker, DAY, HOUR, LARGEST_MESSAGE, values};
use crate::calls::Memory;
use crate::limits::Limits;
use crate::server::message_limit;

/// `MAX_CALL_BYTES=0` is at least so much.
const CALL_BYTES: u64 = 64 << 20;
const SECOND: Duration = Duration::from_secs(1);

impl Checker<'_> {
    pub(super) fn limits(&mut self) -> Limits {
        let default = Limits::default();
        Limits {
            connections: self.value("MAX_CONNECTIONS", 1, |text| values::count(text, 1 << 20)),
            connections_per_address: self
                .value("MAX_CONNECTIONS_PER_ADDRESS", 1, |text| values::count(text, 1 << 20)),
            handshake_timeout: self.time("HANDSHAKE_TIMEOUT", HOUR),
            stall_timeout: self.time("STALL_TIMEOUT", HOUR),
            connection_age: self.time("CONNECTION_AGE", DAY),
            keepalive_interval: self.time("KEEPALIVE_INTERVAL", DAY),
            keepalive_timeout: self.time("KEEPALIVE_TIMEOUT", HOUR),
            streams: self
                .value("MAX_STREAMS", default.streams, |text| values::count(text, 1 << 16).map(|n| n as u32)),
            header_bytes: self.value("MAX_HEADER_BYTES", default.header_bytes, |text| {
                // An id of full length, in base64, and what clients add of their own.
                values::size_within(text, 4 << 10, 16 << 20).map(|n| n as u32)
            }),
            call_bytes: self.call_bytes(),
        }
    }

    fn time(&mut self, name: &str, longest: Duration) -> Duration {
        self.value(name, SECOND, |text| values::duration_within(text, SECOND, longest))
    }

    fn call_bytes(&mut self) -> u64 {
        let largest = self
            .raw
            .get("MAX_MESSAGE_BYTES")
            // A mistake in it is told elsewhere.
            .and_then(|given| values::size_within(&given.value, 1, LARGEST_MESSAGE).ok())
            .unwrap_or(1);
        let least = Memory::least(message_limit(largest) as u64);
        self.value("MAX_CALL_BYTES", 0, |text| match values::size(text)? {
            0 => Ok((2 * largest).max(CALL_BYTES).max(least)),
            some if some < least => Err(format!(
                "must be at least {least} bytes, so that a message of MAX_MESSAGE_BYTES fits; or 0"
            )),
            some => Ok(some),
        })
    }
}
