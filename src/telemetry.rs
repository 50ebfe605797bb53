//! Log lines on stderr: how many, and who writes them.
//!
//! Invariant: no line is lost silently. With buffered logging a slow stderr drops lines rather than delay messages;
//! the number of dropped lines is told at the end.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{LogLevel, LogMode, Logging};

/// Lines that may wait for a slow stderr before further ones are dropped.
const BUFFERED_LINES: usize = 64 * 1024;

/// Keeps logging alive: hold it to the end of `main`.
#[must_use = "buffered lines are lost when this is dropped early"]
pub struct Telemetry {
    buffered: Option<(WorkerGuard, ErrorCounter)>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("buffered", &self.buffered.is_some()).finish()
    }
}

/// Starts logging. Without effect when the process logs already.
pub fn start(logging: Logging) -> Telemetry {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(logging.level, std::env::var("RUST_LOG").ok().as_deref()))
        .with_ansi(io::stderr().is_terminal());
    let (result, buffered) = match logging.mode {
        LogMode::Direct => (lines.with_writer(io::stderr).try_init(), None),
        LogMode::Buffered => {
            let (writer, guard) = NonBlockingBuilder::default()
                .lossy(true)
                .buffered_lines_limit(BUFFERED_LINES)
                .finish(io::stderr());
            let dropped = writer.error_counter();
            (lines.with_writer(writer).try_init(), Some((guard, dropped)))
        }
    };
    if let Err(why) = result {
        tracing::warn!(%why, "logging was started before; the new settings of it have no effect");
    }
    Telemetry { buffered }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let Some((guard, dropped)) = self.buffered.take() else { return };
        drop(guard);
        match dropped.dropped_lines() {
            0 => {}
            n => eprintln!("{n} log lines were dropped, because stderr was too slow for buffered logging"),
        }
    }
}

/// `RUST_LOG` as it is when it can be read; else our level, with the noise of the libraries kept out of DEBUG.
fn filter(level: LogLevel, rust_log: Option<&str>) -> EnvFilter {
    let ours = match level {
        LogLevel::Debug => "info,petnet=debug,petnet_storage=debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warn",
        LogLevel::Error => "error",
    };
    rust_log
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_log_overrides_the_level() {
        assert_eq!(filter(LogLevel::Error, Some("trace")).to_string(), "trace");
        assert_eq!(filter(LogLevel::Error, Some("")).to_string(), "error");
        assert_eq!(filter(LogLevel::Warning, None).to_string(), "warn");
    }
}
