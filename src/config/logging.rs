//! The settings of the log.

use std::path::PathBuf;

use super::{Checker, check_folder, values};

/// Below it, one long line would fill a file.
const SMALLEST_FILE: u64 = 64 << 10;
const LARGEST_FILE: u64 = 1 << 40;
const MOST_FILES: usize = 1000;

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
    /// The thread that logs writes.
    Direct,
    /// Threads of their own write; lines are dropped, and counted, when they cannot keep up.
    Buffered,
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
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

/// How to log; needed before anything else runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// `LOGGING_LEVEL`
    pub level: LogLevel,
    /// `LOGGING_MODE`
    pub mode: LogMode,
    /// `LOGGING_FORMAT`
    pub format: LogFormat,
    /// `None`: stderr only.
    pub files: Option<LogFiles>,
}

impl Checker<'_> {
    pub(super) fn logging(&mut self) -> Logging {
        let levels = [
            ("DEBUG", LogLevel::Debug),
            ("INFO", LogLevel::Info),
            ("WARNING", LogLevel::Warning),
            ("ERROR", LogLevel::Error),
            ("CRITICAL", LogLevel::Error),
        ];
        let modes = [("default", LogMode::Direct), ("async", LogMode::Buffered)];
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let bytes = self.value("LOGGING_FILE_BYTES", SMALLEST_FILE, |text| {
            values::size_within(text, SMALLEST_FILE, LARGEST_FILE)
        });
        let count = self.value("LOGGING_FILES", 1, |text| values::count(text, MOST_FILES));
        let dir = self.value("LOGGING_DIR", None, |text| {
            let dir = PathBuf::from(text);
            check_folder(&dir).map(|()| Some(dir))
        });
        Logging {
            level: self.value("LOGGING_LEVEL", LogLevel::Info, |text| values::choice(text, &levels)),
            mode: self.value("LOGGING_MODE", LogMode::Direct, |text| values::choice(text, &modes)),
            format: self.value("LOGGING_FORMAT", LogFormat::Text, |text| values::choice(text, &formats)),
            files: dir.map(|dir| LogFiles { dir, bytes, count }),
        }
    }
}
