//! The settings that [`Limits`] is made of.

use std::time::Duration;

use super::{Checker, DAY, HOUR, LARGEST_MESSAGE, Settings, values};
use crate::rules::limits::{Limits, least_call_bytes, message_limit};

/// Least value that `MAX_CALL_BYTES=0` stands for, unless half of the process's memory is less.
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
                // Room for an id of full length, in base64, and for headers that clients add themselves.
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
            // A mistake in it is reported elsewhere.
            .and_then(|given| values::size_within(&given.value, 1, LARGEST_MESSAGE).ok())
            .unwrap_or(1);
        let least = least_call_bytes(message_limit(largest) as u64);
        let memory = self.memory;
        self.value("MAX_CALL_BYTES", 0, |text| match values::size(text)? {
            0 => Ok(call_bytes(largest, least, memory)),
            some if some < least => Err(format!(
                "must be at least {least} bytes, so that a message of MAX_MESSAGE_BYTES fits; or 0"
            )),
            some => Ok(some),
        })
    }

    /// Adds a notice if the settings allow more memory than the process may take.
    pub(super) fn memory(&mut self, settings: &Settings, peers: usize) {
        let Some(memory) = self.memory else { return };
        let (calls, in_flight) = (settings.limits.call_bytes, settings.max_in_flight_bytes);
        let need = BASE.saturating_add(calls).saturating_add(in_flight.saturating_mul(peers as u64));
        if need > memory {
            self.notices.push(format!(
                "this process is killed beyond {} of memory (the limit of its cgroup), and its settings can take {}: {} of calls \
                 (MAX_CALL_BYTES), {} of deliveries to each of {peers} peers (MAX_IN_FLIGHT_BYTES), and its own; lower them and \
                 MAX_MESSAGE_BYTES, or give it more",
                mib(memory),
                mib(need),
                mib(calls),
                mib(in_flight)
            ));
        }
    }
}

/// What a gateway takes with few connections and nothing to do, estimated generously: code, the index in memory, threads.
const BASE: u64 = 128 << 20;

/// The value that `MAX_CALL_BYTES=0` stands for: twice the largest message, and at most half of the memory that the process
/// may take, provided that is enough for one message.
fn call_bytes(largest: u64, least: u64, memory: Option<u64>) -> u64 {
    let wanted = (2 * largest).max(CALL_BYTES);
    memory.map_or(wanted, |memory| wanted.min(memory / 2)).max(least)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_for_calls_stays_below_what_the_process_may_take() {
        let (largest, least) = (256 << 20, 300 << 20);
        assert_eq!(call_bytes(largest, least, None), 512 << 20);
        assert_eq!(call_bytes(largest, least, Some(8 << 30)), 512 << 20);
        assert_eq!(call_bytes(largest, least, Some(800 << 20)), 400 << 20);
        assert_eq!(call_bytes(largest, least, Some(256 << 20)), least, "one message must fit");
        assert_eq!(call_bytes(1 << 20, 2 << 20, Some(64 << 20)), 32 << 20);
    }
}
