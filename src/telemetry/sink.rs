//! Where lines go: stderr or a file, written by the thread that logs or by a separate one.
//!
//! Invariant: a separate thread never makes anybody wait. What waits for it takes at most [`BUFFERED_BYTES`]; further lines
//! are dropped and counted, and the next line that finds room follows a line that says how many.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::line::{FieldValue, LogLine};
use super::render::LineStyle;

/// Bytes of lines that may wait for a slow stderr, and the same again for a slow disk.
const BUFFERED_BYTES: usize = 8 << 20;
/// How long the end of the process waits for buffered lines to be written.
const LAST_LINES: Duration = Duration::from_secs(5);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Log lines that did not reach stderr or the log file since the process began.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

pub(super) fn dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// Something that takes lines.
pub(super) trait LineTarget: Send + 'static {
    /// Writes the line, or counts it as dropped.
    fn write_line(&mut self, line: &[u8]);
}

/// Standard error.
pub(super) struct Stderr;

impl LineTarget for Stderr {
    fn write_line(&mut self, line: &[u8]) {
        if io::stderr().write_all(line).is_err() {
            dropped(1);
        }
    }
}

/// One way out for lines.
pub(super) enum Sink {
    /// The thread that logs also writes.
    Direct(Mutex<Box<dyn LineTarget>>),
    /// A separate thread writes.
    Buffered(Arc<LineBuffer>),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Direct(_)) { "Direct" } else { "Buffered" })
    }
}

impl Sink {
    pub(super) fn direct(target: impl LineTarget) -> Self {
        Self::Direct(Mutex::new(Box::new(target)))
    }

    /// A buffered sink. Fails if the system has no thread for it.
    pub(super) fn buffered(target: impl LineTarget, look: LineStyle) -> io::Result<Self> {
        LineBuffer::start(target, look, BUFFERED_BYTES).map(Self::Buffered)
    }

    pub(super) fn write_line(&self, line: &[u8]) {
        match self {
            Self::Direct(target) => target.lock().write_line(line),
            Self::Buffered(buffer) => buffer.push(line),
        }
    }

    /// Writes everything that waits; no line is taken after that.
    pub(super) fn end(&self) {
        if let Self::Buffered(buffer) = self {
            buffer.end(LAST_LINES);
        }
    }
}

/// Lines that wait for the thread that writes them.
pub(super) struct LineBuffer {
    waiting: Mutex<WaitingLines>,
    changed: Condvar,
    look: LineStyle,
    limit: usize,
}

#[derive(Default)]
struct WaitingLines {
    /// Whole lines, one after the other.
    lines: Vec<u8>,
    /// Lines dropped since the last one that found room.
    lost: u64,
    /// Lines that the thread has taken and not yet all written.
    writing: u64,
    ended: bool,
}

impl LineBuffer {
    fn start(mut target: impl LineTarget, look: LineStyle, limit: usize) -> io::Result<Arc<Self>> {
        let buffer = Arc::new(Self { waiting: Mutex::default(), changed: Condvar::new(), look, limit });
        let shared = buffer.clone();
        let write = move || {
            while let Some(lines) = shared.take() {
                for line in lines.split_inclusive(|byte| *byte == b'\n') {
                    target.write_line(line);
                }
            }
        };
        std::thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(buffer)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        let note = match waiting.lost {
            0 => Vec::new(),
            lost => self.note(lost),
        };
        if waiting.ended || waiting.lines.len() + note.len() + line.len() > self.limit {
            waiting.lost += 1;
            dropped(1);
            return;
        }
        waiting.lost = 0;
        waiting.lines.extend_from_slice(&note);
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        self.changed.notify_all();
    }

    fn note(&self, lost: u64) -> Vec<u8> {
        let text = "log lines are missing here: what takes them was too slow";
        self.look.render(
            &LogLine::new(Level::WARN, module_path!(), text).with("lines", FieldValue::Unsigned(lost)),
        )
    }

    /// Takes everything that waits, as soon as there is something; `None` at the end.
    fn take(&self) -> Option<Vec<u8>> {
        let mut waiting = self.waiting.lock();
        waiting.writing = 0;
        self.changed.notify_all();
        let idle = |waiting: &mut WaitingLines| waiting.lines.is_empty() && !waiting.ended;
        self.changed.wait_while(&mut waiting, idle);
        waiting.writing = count(&waiting.lines);
        (waiting.writing > 0).then(|| std::mem::take(&mut waiting.lines))
    }

    fn end(&self, patience: Duration) {
        let mut waiting = self.waiting.lock();
        if waiting.lost > 0 && !waiting.ended {
            let note = self.note(waiting.lost);
            waiting.lines.extend_from_slice(&note);
            waiting.lost = 0;
        }
        waiting.ended = true;
        self.changed.notify_all();
        let deadline = Instant::now() + patience;
        while waiting.writing > 0 || !waiting.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Some of those that the thread took may have been written.
                dropped(waiting.writing + count(&waiting.lines));
                waiting.lines.clear();
                return;
            }
            self.changed.wait_for(&mut waiting, left);
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.split_inclusive(|byte| *byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::telemetry::options::LogFormat;

    /// A target that passes each line on only when allowed to.
    struct SlowTarget {
        begun: Sender<()>,
        may: Receiver<()>,
        written: Sender<String>,
    }

    impl LineTarget for SlowTarget {
        fn write_line(&mut self, line: &[u8]) {
            self.begun.send(()).unwrap_or_default();
            self.may.recv().unwrap_or_default();
            self.written.send(String::from_utf8(line.to_vec()).unwrap()).unwrap_or_default();
        }
    }

    /// A buffer whose thread is about to write the first line, and does so when allowed to.
    fn slow(limit: usize) -> (Arc<LineBuffer>, Sender<()>, Receiver<String>) {
        let ((written, lines), (let_go, may), (begun, begins)) = (channel(), channel(), channel());
        let look = LineStyle { format: LogFormat::Text, colours: false, party: "party_a".into() };
        let buffer = LineBuffer::start(SlowTarget { begun, may, written }, look, limit).unwrap();
        buffer.push(b"first\n");
        begins.recv().unwrap();
        (buffer, let_go, lines)
    }

    #[test]
    fn the_end_writes_what_waits() {
        let (buffer, let_go, lines) = slow(1000);
        for n in 0..9 {
            buffer.push(format!("line {n}\n").as_bytes());
        }
        drop(let_go);
        buffer.end(LAST_LINES);
        let written: Vec<_> = lines.iter().collect();
        assert_eq!((written.len(), written[9].as_str()), (10, "line 8\n"));
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told() {
        let before = dropped_lines();
        let (buffer, let_go, lines) = slow(400);
        for _ in 0..500 {
            buffer.push(b"line\n");
        }
        assert!(dropped_lines() >= before + 420);
        drop(let_go);
        buffer.end(LAST_LINES);
        let written: Vec<_> = lines.iter().collect();
        assert_eq!(written.iter().filter(|line| *line == "line\n").count(), 80);
        assert!(written[81].ends_with("too slow lines=420\n"), "{written:?}");
    }

    #[test]
    fn a_line_that_finds_room_again_comes_behind_the_count_of_those_before() {
        let (buffer, let_go, lines) = slow(400);
        for _ in 0..81 {
            buffer.push(b"line\n");
        }
        let_go.send(()).unwrap();
        assert_eq!(lines.recv().unwrap(), "first\n");
        let_go.send(()).unwrap();
        // The thread took all the other lines before it wrote this one.
        assert_eq!(lines.recv().unwrap(), "line\n");
        buffer.push(b"last\n");
        drop(let_go);
        buffer.end(LAST_LINES);
        let written: Vec<_> = lines.iter().collect();
        let [.., note, last] = &*written else { panic!("{written:?}") };
        assert!(note.ends_with("too slow lines=1\n") && last == "last\n", "{note}{last}");
    }

    #[test]
    fn an_end_that_is_stuck_comes_all_the_same_and_counts() {
        let (buffer, let_go, _lines) = slow(1000);
        let before = dropped_lines();
        buffer.push(b"line\n");
        buffer.end(Duration::from_millis(10));
        assert!(dropped_lines() >= before + 2);
        drop(let_go);
    }
}
