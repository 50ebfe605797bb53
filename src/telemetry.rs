//! Log lines: how many, how they look, and where they go.
//!
//! An event of `tracing` becomes a `line`, is counted instead of written if it repeats (`collapse`), becomes text or JSON
//! (`render`), and goes out to stderr and `petnet.log` (`file`), directly or through a buffer (`sink`).
//!
//! Invariants: no line is lost silently: lines lost to a slow reader or a full disk are counted ([`dropped_lines`]) and
//! reported. Everything is bounded: lines, what waits, what is counted, files.

mod collapse;
mod file;
mod line;
pub mod options;
mod output;
mod render;
mod sink;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use petnet_storage::PartyId;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::telemetry::options::{LogLevel, LogMode, Logging};
use file::LogFile;
use line::{FieldValue, LogLine};
use output::{LogLayer, Output};
use render::LineStyle;
pub use sink::dropped_lines;
use sink::{Sink, Stderr};

/// Target of the lines about messages that became dead letters, and about dead letters that were dropped. Each line is a
/// fact about one message, and one line for each is promised, so they are never collapsed. The store uses the same target.
pub(crate) const DEAD_LETTERS: &str = "petnet::dead_letters";

/// Keeps logging alive: hold it to the end of `main`.
#[derive(Debug)]
#[must_use = "buffered lines and counts are lost when this is dropped early"]
pub struct Telemetry {
    output: Arc<Output>,
}

/// Starts logging for the gateway of `party`, including panics. Has no effect if the process already logs. Fails only if
/// the system has no thread for it.
pub fn start(logging: &Logging, party: &PartyId) -> io::Result<Telemetry> {
    let plain = LineStyle { format: logging.format, colours: false, party: party.to_string() };
    let coloured = LineStyle { colours: io::stderr().is_terminal(), ..plain.clone() };
    let mut sinks = vec![match logging.mode {
        LogMode::Direct => (coloured, Sink::direct(Stderr)),
        LogMode::Buffered => (coloured.clone(), Sink::buffered(Stderr, coloured)?),
    }];
    if let Some(files) = &logging.files {
        let file = LogFile::new(files.clone(), plain.clone());
        sinks.push(match logging.mode {
            LogMode::Direct => (plain, Sink::direct(file)),
            LogMode::Buffered => (plain.clone(), Sink::buffered(file, plain)?),
        });
    }
    let output = Output::start(sinks, collapse::WINDOW)?;
    let filter = filter(logging.level, std::env::var("RUST_LOG").ok().as_deref());
    match tracing_subscriber::registry().with(filter).with(LogLayer(output.clone())).try_init() {
        Ok(()) => log_panics(output.clone()),
        Err(why) => {
            tracing::warn!(%why, "logging was started before; the new settings of it have no effect");
        }
    }
    Ok(Telemetry { output })
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.output.end();
        let lines = dropped_lines();
        if lines > 0 {
            let told = writeln!(
                io::stderr(),
                "{lines} log lines were dropped, because stderr was too slow for buffered logging or the log file could not \
                 be written"
            );
            // Nobody is left to read it.
            drop(told);
        }
    }
}

/// Logs a panic as a line like any other, also in the file; `RUST_BACKTRACE=1` adds where it came from.
fn log_panics(output: Arc<Output>) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A panic of a library that is turned into an error does not concern people.
        if petnet_storage::is_fenced() {
            return;
        }
        if Output::is_writing() {
            return usual(panic);
        }
        let why = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
        let mut line = LogLine::new(Level::ERROR, "petnet::panic", format!("panicked at {place}: {why}"))
            .with("thread", FieldValue::Text(thread));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            line = line.with("backtrace", FieldValue::Text(backtrace.to_string()));
        }
        output.write(&line);
    }));
}

/// `RUST_LOG` as it is if it can be parsed; otherwise our level, with the noise of the libraries kept out of DEBUG.
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
