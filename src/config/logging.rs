//! The settings of the log.

use std::path::PathBuf;

use super::{Checker, check_folder, values};
use crate::telemetry::options::{LogFiles, LogFormat, LogLevel, LogMode, Logging};

/// With a smaller file, one long line would fill it.
const SMALLEST_FILE: u64 = 64 << 10;
const LARGEST_FILE: u64 = 1 << 40;
const MOST_FILES: usize = 1000;

impl Checker<'_> {
    pub(super) fn logging(&mut self) -> Logging {
        let modes = [("default", LogMode::Direct), ("async", LogMode::Buffered)];
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let bytes = self.value("LOGGING_FILE_BYTES", SMALLEST_FILE, |text| {
            values::size_within(text, SMALLEST_FILE, LARGEST_FILE)
        });
        let count = self.value("LOGGING_FILES", 1, |text| values::count(text, MOST_FILES));
        let dir = self.found("LOGGING_DIR", None, |text| {
            let dir = PathBuf::from(text);
            check_folder(&dir).map(|()| Some(dir))
        });
        Logging {
            level: self.value("LOGGING_LEVEL", LogLevel::Info, level),
            mode: self.value("LOGGING_MODE", LogMode::Direct, |text| values::choice(text, &modes)),
            format: self.value("LOGGING_FORMAT", LogFormat::Text, |text| values::choice(text, &formats)),
            files: dir.map(|dir| LogFiles { dir, bytes, count }),
        }
    }
}

/// Reads a level as Python's logging does, to which PETNet passes it: a name or a number. Nothing is logged above ERROR
/// here, so a level that would exclude even ERROR still shows it.
fn level(text: &str) -> Result<LogLevel, String> {
    let levels = [
        ("DEBUG", LogLevel::Debug),
        ("INFO", LogLevel::Info),
        ("WARNING", LogLevel::Warning),
        ("ERROR", LogLevel::Error),
        ("CRITICAL", LogLevel::Error),
        ("WARN", LogLevel::Warning),
        ("FATAL", LogLevel::Error),
        ("NOTSET", LogLevel::Debug),
    ];
    match text.trim().parse::<u32>() {
        Ok(0..=10) => Ok(LogLevel::Debug),
        Ok(11..=20) => Ok(LogLevel::Info),
        Ok(21..=30) => Ok(LogLevel::Warning),
        Ok(_) => Ok(LogLevel::Error),
        Err(_) => {
            values::choice(text.trim(), &levels).map_err(|why| format!("{why}; or a number, as in Python"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_python_by_name_in_any_case_and_by_number() {
        for (texts, expected) in [
            (&["DEBUG", "debug", "NOTSET", "0", "10"][..], LogLevel::Debug),
            (&["INFO", "info", "Info", "11", "20"][..], LogLevel::Info),
            (&["WARNING", "WARN", "warn", "30", "25"][..], LogLevel::Warning),
            (&["ERROR", "CRITICAL", "FATAL", "fatal", "40", "50", "99"][..], LogLevel::Error),
        ] {
            for text in texts {
                assert_eq!(level(text), Ok(expected), "{text}");
            }
        }
        for wrong in ["chatty", "-1", "1.5", "TRACE"] {
            assert!(level(wrong).is_err_and(|why| why.contains("WARN") && why.contains("number")), "{wrong}");
        }
    }
}
