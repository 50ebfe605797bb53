//! `petnet.log` in `LOGGING_DIR`: written line by line, renamed to `petnet.log.1` when it is full, with the oldest file
//! removed.
//!
//! Invariant: the files together never take more than `LOGGING_FILES` times `LOGGING_FILE_BYTES` (apart from a single
//! longer line), and trouble with them never stops the gateway: lines that cannot be written are counted and dropped, which
//! is reported once on stderr, and in the file itself when it can be written again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::Level;

use super::line::{FieldValue, LogLine};
use super::render::LineStyle;
use super::sink::{LineTarget, dropped};
use crate::telemetry::options::LogFiles;

/// The file that is currently written.
const NAME: &str = "petnet.log";
/// After a line could not be written, further ones are dropped for this long before the file is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The log file, its numbered predecessors, and the trouble with them.
pub(super) struct LogFile {
    files: LogFiles,
    look: LineStyle,
    open: Option<OpenFile>,
    /// Lines dropped since the trouble began; the trouble ends when a line is written.
    lost: u64,
    trouble: Option<Instant>,
}

struct OpenFile {
    file: File,
    len: u64,
    /// When it was last seen that this is still the file of that name.
    seen: Instant,
}

impl LogFile {
    /// Starts without opening anything.
    pub(super) fn new(files: LogFiles, look: LineStyle) -> Self {
        Self { files, look: LineStyle { colours: false, ..look }, open: None, lost: 0, trouble: None }
    }

    fn path(&self, number: usize) -> PathBuf {
        match number {
            0 => self.files.dir.join(NAME),
            n => self.files.dir.join(format!("{NAME}.{n}")),
        }
    }

    /// Writes one line, or counts it as dropped.
    fn write_at(&mut self, line: &[u8], now: Instant) {
        if self.trouble.is_some_and(|since| now.saturating_duration_since(since) < PAUSE) {
            self.drop_line();
            return;
        }
        self.look_for_it(now);
        match self.note_and_line(line) {
            Ok(()) => self.trouble = None,
            Err(why) => {
                if self.trouble.is_none() {
                    self.tell(&why);
                }
                self.trouble = Some(now);
                self.drop_line();
            }
        }
    }

    /// Lets go of a file that somebody removed or renamed, because nobody would find the lines in it. Checks this now and
    /// then.
    fn look_for_it(&mut self, now: Instant) {
        let path = self.path(0);
        let Some(open) = self.open.as_mut().filter(|open| now.saturating_duration_since(open.seen) >= PAUSE)
        else {
            return;
        };
        open.seen = now;
        let which = |found: fs::Metadata| (found.dev(), found.ino());
        let ours = open.file.metadata().map(which).ok();
        let is_it = ours.is_some() && ours == fs::metadata(path).map(which).ok();
        if !is_it {
            self.open = None;
        }
    }

    fn drop_line(&mut self) {
        self.lost += 1;
        dropped(1);
    }

    /// Reports trouble on stderr, since the file is what does not work.
    fn tell(&self, why: &io::Error) {
        let text = "the log file cannot be written; lines are dropped from it until it can";
        let line = LogLine::new(Level::WARN, module_path!(), text)
            .with("path", FieldValue::Text(self.path(0).display().to_string()))
            .with("error", FieldValue::Text(why.to_string()));
        // Without stderr there is nowhere to report it.
        drop(io::stderr().write_all(&self.look.render(&line)));
    }

    fn note_and_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.lost > 0 {
            let text = "log lines are missing here: the file could not be written";
            let note = LogLine::new(Level::WARN, module_path!(), text)
                .with("lines", FieldValue::Unsigned(self.lost));
            self.try_write(&self.look.render(&note))?;
            self.lost = 0;
        }
        self.try_write(line)
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if open.len > 0 && open.len + line.len() as u64 > self.files.bytes {
            self.rotate()?;
            // The old file is closed, and with it its lock released, before the new one is locked.
            open = self.open()?;
        }
        if let Err(why) = open.file.write_all(line) {
            // Leaves no half line. If this fails, too, the next line still begins on a line of its own.
            drop(open.file.set_len(open.len));
            return Err(why);
        }
        open.len += line.len() as u64;
        self.open = Some(open);
        Ok(())
    }

    /// Opens the file, to continue at the end of what is there.
    fn open(&self) -> io::Result<OpenFile> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.path(0))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let text = "another process writes to it; each gateway needs a LOGGING_DIR of its own";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            // A file system without locks is no reason to go without a log.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut len = file.metadata()?.len();
        if len > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(len - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // The process or the disk failed within a line.
                file.write_all(b"\n")?;
                len += 1;
            }
        }
        Ok(OpenFile { file, len, seen: Instant::now() })
    }

    /// Moves every file on by one number. A crash in between leaves a gap in the numbers, which the next rotation closes.
    fn rotate(&self) -> io::Result<()> {
        self.remove_beyond()?;
        if self.files.count == 1 {
            return fs::remove_file(self.path(0));
        }
        for number in (0..self.files.count - 1).rev() {
            match fs::rename(self.path(number), self.path(number + 1)) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes files from a time when `LOGGING_FILES` was larger.
    fn remove_beyond(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.files.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(NAME)?.strip_prefix('.')?.parse::<usize>().ok());
            if number.is_some_and(|number| number >= self.files.count) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl LineTarget for LogFile {
    fn write_line(&mut self, line: &[u8]) {
        self.write_at(line, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::options::LogFormat;

    fn log(dir: &tempfile::TempDir, bytes: u64, count: usize) -> LogFile {
        let look = LineStyle { format: LogFormat::Text, colours: false, party: "party_a".into() };
        LogFile::new(LogFiles { dir: dir.path().join("log"), bytes, count }, look)
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        dir
    }

    fn read(log: &LogFile, number: usize) -> String {
        fs::read_to_string(log.path(number)).unwrap()
    }

    fn names(log: &LogFile) -> Vec<String> {
        let entries = fs::read_dir(&log.files.dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_was_removed_or_renamed_is_made_anew() {
        let dir = folder();
        let mut log = log(&dir, 1000, 3);
        let mut now = Instant::now();
        log.write_at(b"one\n", now);
        fs::remove_file(log.path(0)).unwrap();
        now += 2 * PAUSE;
        log.write_at(b"two\n", now);
        assert_eq!(read(&log, 0), "two\n");
        fs::rename(log.path(0), log.files.dir.join("mine")).unwrap();
        now += 2 * PAUSE;
        log.write_at(b"three\n", now);
        assert_eq!(read(&log, 0), "three\n");
        // The folder disappears, too: what is lost meanwhile is counted.
        fs::rename(&log.files.dir, dir.path().join("gone")).unwrap();
        now += 2 * PAUSE;
        log.write_at(b"four\n", now);
        fs::create_dir(&log.files.dir).unwrap();
        now += 2 * PAUSE;
        log.write_at(b"five\n", now);
        let text = read(&log, 0);
        assert!(text.contains("lines=1") && text.ends_with("five\n"), "{text}");
    }

    #[test]
    fn a_full_file_moves_on_and_the_oldest_goes() {
        let dir = folder();
        let mut log = log(&dir, 12, 3);
        for n in 0..9 {
            log.write_line(format!("line {n}\n").as_bytes());
            assert!(names(&log).len() <= 3);
        }
        assert_eq!([read(&log, 0), read(&log, 1), read(&log, 2)], ["line 8\n", "line 7\n", "line 6\n"]);
        log.write_line(b"a line that is longer than a file\n");
        assert_eq!([read(&log, 0).len(), read(&log, 1).len()], [34, 7]);
    }

    #[test]
    fn one_file_begins_anew_when_it_is_full() {
        let dir = folder();
        let mut log = log(&dir, 14, 1);
        for n in 0..5 {
            log.write_line(format!("line {n}\n").as_bytes());
        }
        assert_eq!((read(&log, 0).as_str(), names(&log).len()), ("line 4\n", 1));
    }

    #[test]
    fn a_restart_goes_on_behind_what_is_there() {
        let dir = folder();
        fs::write(dir.path().join("log/petnet.log"), "first\nhalf a li").unwrap();
        for number in [1, 2, 7] {
            fs::write(dir.path().join(format!("log/petnet.log.{number}")), "old\n").unwrap();
        }
        fs::write(dir.path().join("log/petnet.log.txt"), "not ours\n").unwrap();
        let mut log = log(&dir, 30, 2);
        log.write_line(b"after\n");
        assert_eq!(read(&log, 0), "first\nhalf a li\nafter\n");
        log.write_line(b"begins a new file\n");
        assert_eq!((read(&log, 0).as_str(), read(&log, 1).lines().count()), ("begins a new file\n", 3));
        assert_eq!(names(&log), ["petnet.log", "petnet.log.1", "petnet.log.txt"], "what is too many stayed");
    }

    #[test]
    fn a_folder_that_is_gone_loses_lines_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, 1000, 3);
        let start = Instant::now();
        for ms in [0, 10, 20] {
            log.write_at(b"lost\n", start + Duration::from_millis(ms));
        }
        fs::create_dir(dir.path().join("log")).unwrap();
        log.write_at(b"in the pause\n", start + Duration::from_millis(999));
        log.write_at(b"here\n", start + PAUSE);
        let text = read(&log, 0);
        assert!(
            text.contains("missing here") && text.contains("lines=4\n") && text.ends_with("\nhere\n"),
            "{text}"
        );
        log.write_at(b"there\n", start + PAUSE);
        assert!(read(&log, 0).ends_with("\nhere\nthere\n"));
    }

    #[test]
    fn a_full_disk_loses_lines_only() {
        let full = std::path::Path::new("/dev/full");
        assert!(full.exists(), "this system has no /dev/full");
        let dir = folder();
        std::os::unix::fs::symlink(full, dir.path().join("log/petnet.log")).unwrap();
        let mut log = log(&dir, 1000, 3);
        let start = Instant::now();
        log.write_at(b"lost\n", start);
        fs::remove_file(log.path(0)).unwrap();
        log.write_at(b"here\n", start + PAUSE);
        let text = read(&log, 0);
        assert!(text.contains("lines=1\n") && text.ends_with("\nhere\n"), "{text}");
    }

    #[test]
    fn two_gateways_do_not_write_into_one_file() {
        let dir = folder();
        let (mut one, mut other) = (log(&dir, 1000, 3), log(&dir, 1000, 3));
        let start = Instant::now();
        one.write_at(b"one\n", start);
        other.write_at(b"other\n", start);
        assert_eq!(read(&one, 0), "one\n");
        drop(one);
        other.write_at(b"again\n", start + PAUSE);
        assert!(read(&other, 0).ends_with("\nagain\n"), "the file is free");
    }
}
