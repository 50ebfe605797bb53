//! The time of day, for people; nothing is decided by it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch, for people.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
