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
use tracing_subscriber::filter::Targets;
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

/// What our lines' targets begin with.
const OUR_TARGETS: [&str; 2] = ["petnet", "petnet_storage"];

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
    let wanted = std::env::var_os("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
    let (filter, mistake) = filter(logging.level, wanted.as_deref());
    match tracing_subscriber::registry().with(filter).with(LogLayer(output.clone())).try_init() {
        Ok(()) => {
            log_panics(output.clone());
            if let Some(why) = mistake {
                tracing::warn!(%why, "RUST_LOG has no effect: it takes TARGET=LEVEL, LEVEL, and several of them with commas");
            }
        }
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

/// `RUST_LOG` as it is if it can be parsed; otherwise our level, with the noise of the libraries kept out of DEBUG, and why
/// it cannot be parsed.
fn filter(level: LogLevel, rust_log: Option<&str>) -> (Targets, Option<String>) {
    let ours = match level {
        LogLevel::Debug => Targets::new()
            .with_default(Level::INFO)
            .with_targets(OUR_TARGETS.map(|target| (target, Level::DEBUG))),
        LogLevel::Info => Targets::new().with_default(Level::INFO),
        LogLevel::Warning => Targets::new().with_default(Level::WARN),
        LogLevel::Error => Targets::new().with_default(Level::ERROR),
    };
    match rust_log.map(str::trim).filter(|text| !text.is_empty()).map(str::parse::<Targets>) {
        None => (ours, None),
        Some(Ok(wanted)) => (wanted, None),
        Some(Err(why)) => (ours, Some(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_log_overrides_the_level() {
        let text = |level, rust_log| filter(level, rust_log).0.to_string();
        assert_eq!(text(LogLevel::Error, Some("trace")), "trace");
        assert_eq!(text(LogLevel::Error, Some("petnet=debug,warn")), "petnet=debug,warn");
        assert_eq!(text(LogLevel::Error, Some(" ")), "error");
        assert_eq!(text(LogLevel::Warning, None), "warn");
    }

    #[test]
    fn at_debug_the_libraries_stay_at_info() {
        let (targets, _) = filter(LogLevel::Debug, None);
        assert!(targets.would_enable("petnet::delivery", &Level::DEBUG));
        assert!(targets.would_enable("petnet_storage::write", &Level::DEBUG));
        assert!(targets.would_enable("h2", &Level::INFO) && !targets.would_enable("h2", &Level::DEBUG));
    }

    #[test]
    fn a_rust_log_that_is_not_understood_is_told_and_the_level_counts() {
        let (targets, mistake) = filter(LogLevel::Warning, Some("petnet[span]=debug=x"));
        assert_eq!(targets.to_string(), "warn");
        assert!(mistake.is_some());
    }
}
