//! Shows progress when something takes longer than a second.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// What takes less time than this needs no progress.
const FIRST: Duration = Duration::from_secs(1);

/// Awaits `work`; after a second and every second from then on, shows `what()` on stderr if that is a terminal.
pub(crate) async fn shown<T>(what: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    let terminal = std::io::stderr().is_terminal();
    let started = Instant::now();
    let mut ticks = interval_at(started + FIRST, FIRST);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = false;
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => {
                if shown {
                    line("\r\x1b[K");
                }
                return result;
            }
            _ = ticks.tick(), if terminal => {
                shown = true;
                line(format_args!("\r\x1b[K{} ({} s)", what(), started.elapsed().as_secs()));
            }
        }
    }
}

/// A failing terminal must not fail the work.
fn line(text: impl Display) {
    let mut stderr = std::io::stderr().lock();
    drop(write!(stderr, "{text}").and_then(|()| stderr.flush()));
}

/// A size for people to read: `5.0 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(64 << 10), "64.0 KiB");
        assert_eq!(bytes(5 << 20), "5.0 MiB");
    }
}
