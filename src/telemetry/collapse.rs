//! Warnings and errors that repeat: the first few go out, the others are counted, and one line says how many.
//!
//! A peer that is away, a full disk or a scanner at the port says the same thing a million times; the reader of the log
//! needs the reason and the number. Pure: the caller supplies the time.
//!
//! Invariant: bounded. At most [`TOLD`] lines of a kind and one count go out per [`WINDOW`], and at most [`KINDS`] kinds
//! are distinguished; beyond them, all lines from one place in the program are one kind.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use super::line::{FieldValue, LogLine};

/// Lines of a kind that go out before further ones are counted.
const TOLD: u32 = 5;
/// How long lines are counted before the count is reported. If they go on, the next window counts from its first line.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Kinds of lines that are distinguished at the same time.
const KINDS: usize = 256;

/// The lines that repeat, by kind.
#[derive(Debug)]
pub(super) struct Collapse {
    window: Duration,
    hashing: RandomState,
    kinds: HashMap<u64, RepeatingLine>,
}

#[derive(Debug)]
struct RepeatingLine {
    /// When the window began.
    since: Instant,
    /// Lines that may still go out in this window.
    left: u32,
    counted: u64,
    /// The line that the count is about.
    line: LogLine,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineOutcome {
    Tell,
    /// The line is counted. `first` means that from now on a count is due to be reported.
    Counted {
        first: bool,
    },
}

impl Collapse {
    /// Counts are reported after `window`, which is [`WINDOW`] except in tests.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, hashing: RandomState::new(), kinds: HashMap::new() }
    }

    /// Decides what becomes of a line from `place` in the program.
    pub(super) fn see(&mut self, line: &LogLine, place: impl Hash, now: Instant) -> LineOutcome {
        let (mut kind, mut about) =
            (line.kind(&self.hashing, &place), LogLine::without_which as fn(LogLine) -> LogLine);
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= KINDS {
            self.kinds.retain(|_, repeats| repeats.counted > 0 || !repeats.is_over(now, self.window));
            if self.kinds.len() >= KINDS {
                // The program has only a limited number of places.
                (kind, about) = (self.hashing.hash_one(place), LogLine::without_fields);
            }
        }
        let new = || RepeatingLine { since: now, left: TOLD, counted: 0, line: about(line.clone()) };
        let repeats = self.kinds.entry(kind).or_insert_with(new);
        if repeats.counted == 0 && repeats.is_over(now, self.window) {
            *repeats = new();
        }
        if let Some(left) = repeats.left.checked_sub(1) {
            repeats.left = left;
            return LineOutcome::Tell;
        }
        repeats.counted += 1;
        LineOutcome::Counted { first: repeats.counted == 1 }
    }

    /// When the next count is to be reported; `None` while nothing is counted.
    pub(super) fn next(&self) -> Option<Instant> {
        self.kinds
            .values()
            .filter(|repeats| repeats.counted > 0)
            .map(|repeats| repeats.since + self.window)
            .min()
    }

    /// The counts whose window has ended.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LogLine> {
        let mut lines = Vec::new();
        self.kinds.retain(|_, repeats| {
            if !repeats.is_over(now, self.window) {
                return true;
            }
            lines.extend(repeats.take(now));
            // It has just reported a count: in the window that begins now, nothing else goes out.
            repeats.since == now
        });
        lines
    }

    /// All remaining counts, at the end.
    pub(super) fn drain(&mut self, now: Instant) -> Vec<LogLine> {
        self.kinds.drain().filter_map(|(_, mut repeats)| repeats.take(now)).collect()
    }
}

impl RepeatingLine {
    fn is_over(&self, now: Instant, window: Duration) -> bool {
        now.saturating_duration_since(self.since) >= window
    }

    /// Returns the count as a line, and begins the next window.
    fn take(&mut self, now: Instant) -> Option<LogLine> {
        if self.counted == 0 {
            return None;
        }
        let repeated = std::mem::take(&mut self.counted);
        let seconds = now.saturating_duration_since(self.since).as_secs().max(1);
        self.since = now;
        let times = if repeated == 1 { "time" } else { "times" };
        let LogLine { level, message, fields, target, .. } = &self.line;
        let mut line =
            LogLine::new(*level, "", format!("{message} (repeated {repeated} {times} in {seconds} s)"));
        line.target.clone_from(target);
        line.fields.clone_from(fields);
        Some(line.with("repeated", FieldValue::Unsigned(repeated)))
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn about(peer: &str, id: u64) -> LogLine {
        LogLine::new(Level::WARN, "petnet::forwarder", "delivery failed")
            .with("peer", FieldValue::Text(peer.into()))
            .with("message_id", FieldValue::Text(id.to_string()))
    }

    /// How many of `n` simultaneous lines go out.
    fn told(collapse: &mut Collapse, peer: &str, n: u64, now: Instant) -> usize {
        (0..n).filter(|id| collapse.see(&about(peer, *id), 1, now) == LineOutcome::Tell).count()
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn the_first_few_go_out_and_then_a_count() {
        let (mut collapse, start) = (Collapse::new(WINDOW), Instant::now());
        assert_eq!(told(&mut collapse, "party_b", 5, start), 5);
        assert_eq!(collapse.next(), None, "nothing is counted, so nothing need be waited for");
        assert_eq!(collapse.see(&about("party_b", 6), 1, start), LineOutcome::Counted { first: true });
        assert_eq!(told(&mut collapse, "party_b", 999_999, start), 0);
        assert_eq!(collapse.next(), Some(start + WINDOW));
        assert!(collapse.due(start + WINDOW.saturating_sub(SECOND)).is_empty());
        let lines = collapse.due(start + WINDOW);
        assert_eq!(texts(&lines), ["delivery failed (repeated 1000000 times in 60 s)"]);
        assert_eq!((lines[0].level, &*lines[0].target), (Level::WARN, "petnet::forwarder"));
        let fields =
            [("peer", FieldValue::Text("party_b".into())), ("repeated", FieldValue::Unsigned(1_000_000))];
        assert_eq!(lines[0].fields, fields);
    }

    #[test]
    fn what_goes_on_is_one_line_in_each_window_until_it_pauses() {
        let (mut collapse, start) = (Collapse::new(WINDOW), Instant::now());
        told(&mut collapse, "party_b", 6, start);
        for n in 1..5 {
            assert_eq!(collapse.due(start + n * WINDOW).len(), 1);
            assert_eq!(told(&mut collapse, "party_b", 7, start + n * WINDOW + SECOND), 0);
        }
        collapse.due(start + 5 * WINDOW);
        assert!(collapse.due(start + 6 * WINDOW).is_empty() && collapse.kinds.is_empty());
        assert_eq!(told(&mut collapse, "party_b", 7, start + 7 * WINDOW), 5, "it begins anew");
    }

    #[test]
    fn now_and_then_is_no_repetition() {
        let (mut collapse, start) = (Collapse::new(WINDOW), Instant::now());
        for n in 0..100 {
            assert_eq!(told(&mut collapse, "party_b", 5, start + n * WINDOW), 5);
        }
    }

    #[test]
    fn each_peer_has_its_own_count_and_the_end_tells_them_all() {
        let (mut collapse, start) = (Collapse::new(WINDOW), Instant::now());
        assert_eq!(told(&mut collapse, "party_b", 8, start), 5);
        assert_eq!(told(&mut collapse, "party_c", 9, start), 5);
        told(&mut collapse, "party_d", 5, start);
        let lines = collapse.drain(start + 2 * SECOND);
        let mut texts = texts(&lines);
        texts.sort_unstable();
        assert_eq!(
            texts,
            ["delivery failed (repeated 3 times in 2 s)", "delivery failed (repeated 4 times in 2 s)"]
        );
        assert_eq!(collapse.next(), None);
    }

    #[test]
    fn names_without_end_are_one_kind_in_the_end() {
        let (mut collapse, start) = (Collapse::new(WINDOW), Instant::now());
        let letters = |n: u32| {
            format!("{n:x}").replace(|c: char| c.is_ascii_digit(), "g") + &"h".repeat(n as usize % 97)
        };
        let out: usize = (0..10_000).map(|n| told(&mut collapse, &letters(n), 1, start)).sum();
        assert!(out <= KINDS * TOLD as usize + TOLD as usize, "{out} lines went out");
        assert!(collapse.kinds.len() <= KINDS + 1);
        // Kinds from long ago make room.
        assert_eq!(told(&mut collapse, "another", 1, start + WINDOW), 1);
    }
}
