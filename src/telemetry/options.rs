//! How to log: the result of the log settings.

use std::path::PathBuf;

/// Least severe line that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// `DEBUG`
    Debug,
    /// `INFO`
    Info,
    /// `WARNING`
    Warning,
    /// `ERROR` and `CRITICAL`
    Error,
}

/// How lines reach stderr and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// The thread that logs also writes.
    Direct,
    /// Separate threads write; lines are dropped, and counted, when these cannot keep up.
    Buffered,
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where lines go besides stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFiles {
    /// `LOGGING_DIR`
    pub dir: PathBuf,
    /// `LOGGING_FILE_BYTES`
    pub bytes: u64,
    /// `LOGGING_FILES`
    pub count: usize,
}

/// How to log, which must be known before anything else runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// `LOGGING_LEVEL`
    pub level: LogLevel,
    /// `LOGGING_MODE`
    pub mode: LogMode,
    /// `LOGGING_FORMAT`
    pub format: LogFormat,
    /// `None` means stderr only.
    pub files: Option<LogFiles>,
}
