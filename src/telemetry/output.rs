//! From an event to its sinks: turned into a line, counted if it repeats, written.
//!
//! Invariant: whatever is counted is reported, by a timer that runs only while something is counted, or at the end.

use std::cell::Cell;
use std::hash::Hash;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::DEAD_LETTERS;
use super::collapse::{Collapse, LineOutcome};
use super::line::LogLine;
use super::render::LineStyle;
use super::sink::Sink;

thread_local! {
    /// Whether this thread holds a lock of the output: another line from it would wait for itself.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// All sinks, and the lines that repeat.
#[derive(Debug)]
pub(super) struct Output {
    sinks: Vec<(LineStyle, Sink)>,
    repeats: Mutex<Repeats>,
    counted: Condvar,
}

#[derive(Debug)]
struct Repeats {
    collapse: Collapse,
    ended: bool,
}

impl Output {
    /// Starts the output. Counts of repeated lines are reported after `window`.
    pub(super) fn start(sinks: Vec<(LineStyle, Sink)>, window: Duration) -> io::Result<Arc<Self>> {
        let repeats = Mutex::new(Repeats { collapse: Collapse::new(window), ended: false });
        let output = Arc::new(Self { sinks, repeats, counted: Condvar::new() });
        let timed = output.clone();
        std::thread::Builder::new().name("log counts".into()).spawn(move || timed.tell_counts())?;
        Ok(output)
    }

    /// Reports counts when they are due, until the end.
    fn tell_counts(&self) {
        let mut repeats = self.repeats.lock();
        while !repeats.ended {
            match repeats.collapse.next() {
                None => self.counted.wait(&mut repeats),
                Some(due) => {
                    self.counted.wait_until(&mut repeats, due);
                }
            }
            let lines = repeats.collapse.due(Instant::now());
            if !lines.is_empty() {
                drop(repeats);
                self.write_all(&lines);
                repeats = self.repeats.lock();
            }
        }
    }

    /// Writes the line, or counts it.
    fn take(&self, line: &LogLine, place: impl Hash) {
        let may_repeat = line.level <= Level::WARN && line.target != DEAD_LETTERS;
        if may_repeat {
            let verdict = self.repeats.lock().collapse.see(line, place, Instant::now());
            if let LineOutcome::Counted { first } = verdict {
                if first {
                    self.counted.notify_all();
                }
                return;
            }
        }
        self.write(line);
    }

    /// Writes the line.
    pub(super) fn write(&self, line: &LogLine) {
        WRITING.set(true);
        for (look, sink) in &self.sinks {
            sink.write_line(&look.render(line));
        }
        WRITING.set(false);
    }

    fn write_all(&self, lines: &[LogLine]) {
        for line in lines {
            self.write(line);
        }
    }

    /// Whether this thread is inside [`Output::write`].
    pub(super) fn is_writing() -> bool {
        WRITING.get()
    }

    /// Writes the last counts, and everything that waits.
    pub(super) fn end(&self) {
        let lines = {
            let mut repeats = self.repeats.lock();
            repeats.ended = true;
            repeats.collapse.drain(Instant::now())
        };
        self.counted.notify_all();
        self.write_all(&lines);
        for (_, sink) in &self.sinks {
            sink.end();
        }
    }
}

/// The layer to which `tracing` hands events.
pub(super) struct LogLayer(pub(super) Arc<Output>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.take(&LogLine::of(event), event.metadata().callsite());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::collapse::WINDOW;
    use crate::telemetry::options::LogFormat;
    use crate::telemetry::sink::LineTarget;

    struct KeptLines(Sender<String>);

    impl LineTarget for KeptLines {
        fn write_line(&mut self, line: &[u8]) {
            drop(self.0.send(String::from_utf8(line.to_vec()).unwrap()));
        }
    }

    fn output(window: Duration) -> (Arc<Output>, Receiver<String>) {
        let (kept, lines) = channel();
        let look = LineStyle { format: LogFormat::Json, colours: false, party: "party_a".into() };
        (Output::start(vec![(look, Sink::direct(KeptLines(kept)))], window).unwrap(), lines)
    }

    /// What `logs` logs, as JSON values.
    fn logged(logs: impl FnOnce()) -> Vec<serde_json::Value> {
        let (output, lines) = output(WINDOW);
        let subscriber = tracing_subscriber::registry().with(LogLayer(output.clone()));
        tracing::subscriber::with_default(subscriber, logs);
        output.end();
        lines.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    #[test]
    fn fields_keep_their_kind_and_their_name() {
        let lines = logged(|| {
            let sender: Option<&str> = None;
            tracing::info!(peer = %"b", sender, bytes = 7_u64, less = -1, is = true, part = 0.5, "came {}", "in");
        });
        let line = &lines[0];
        let wanted = serde_json::json!({
            "timestamp": line["timestamp"], "level": "INFO", "party": "party_a", "target": module_path!(),
            "message": "came in", "peer": "b", "bytes": 7, "less": -1, "is": true, "part": 0.5,
        });
        assert_eq!(lines, [wanted]);
    }

    #[test]
    fn repeated_errors_are_counted_and_dead_letters_are_not() {
        let lines = logged(|| {
            for n in 0..100 {
                tracing::warn!(peer = "party_b", message_id = n, "no room");
                tracing::warn!(target: DEAD_LETTERS, message_id = n, "message became a dead letter");
                tracing::info!("nothing wrong");
            }
        });
        let with =
            |text: &str| lines.iter().filter(|l| l["message"].as_str().unwrap().contains(text)).count();
        assert_eq!([with("dead letter"), with("nothing wrong"), with("no room")], [100, 100, 6]);
        let last = lines.last().unwrap();
        assert_eq!((last["repeated"].as_u64(), last["peer"].as_str()), (Some(95), Some("party_b")));
        assert_eq!(last["message_id"], serde_json::Value::Null);
    }

    #[test]
    fn a_count_is_told_when_its_time_is_over_and_nothing_else_happens() {
        let (output, lines) = output(Duration::from_millis(20));
        let line = LogLine::new(Level::ERROR, "petnet", "no room");
        // On a busy machine windows may end meanwhile: whatever happens, every line is accounted for.
        (0..1000).for_each(|_| output.take(&line, 1));
        let mut told = 0;
        while told < 1000 {
            let line = lines.recv_timeout(Duration::from_secs(30)).unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            told += line["repeated"].as_u64().unwrap_or(1);
        }
        assert_eq!(told, 1000);
        output.end();
        assert!(lines.try_recv().is_err(), "a count was told twice");
    }
}
