//! The time by which certificates are checked.
//!
//! The library's own clock panics if the machine's clock stands before 1970, as on a machine whose battery is empty. Here
//! the check fails instead, with an error that says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

#[derive(Debug)]
struct SystemClock;

impl TimeProvider for SystemClock {
    fn current_time(&self) -> Option<UnixTime> {
        unix_time(SystemTime::now())
    }
}

fn unix_time(at: SystemTime) -> Option<UnixTime> {
    at.duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
}

/// The machine's clock.
pub(super) fn system() -> Arc<dyn TimeProvider> {
    Arc::new(SystemClock)
}

/// What to report at start if the clock cannot be right.
pub(crate) fn complaint() -> Option<String> {
    let before: Duration = UNIX_EPOCH.duration_since(SystemTime::now()).ok().filter(|by| !by.is_zero())?;
    Some(format!(
        "the clock of this machine stands {} before 1970: no certificate can be checked, so no TLS connection is made; set it",
        crate::rules::text::many(before.as_secs() / 86_400, "day", "days")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_no_time_and_no_panic() {
        assert_eq!(unix_time(UNIX_EPOCH - Duration::from_secs(1)), None);
        let second = unix_time(UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(second, Some(UnixTime::since_unix_epoch(Duration::from_secs(1))));
        assert_eq!(complaint(), None);
    }
}
