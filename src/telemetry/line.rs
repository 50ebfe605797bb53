//! One log line before it becomes text: what every sink and the counting of repeated lines see of an event.
//!
//! Invariant: bounded. Clients choose message ids and peers choose the texts of errors; a value in a line is cut after
//! [`LONGEST_VALUE`].

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hash, Hasher};
use std::time::SystemTime;

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Bytes that are kept of the message and of each field.
pub(super) const LONGEST_VALUE: usize = 4 << 10;

/// Fields that name a party; lines about two parties are never counted as the same.
const WHO: &[&str] = &["peer", "sender", "caller", "party"];
/// Fields that differ each time, and do not make the line a different one.
const WHICH: &[&str] = &["message_id", "from", "file"];

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldValue {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
}

/// One log line.
#[derive(Debug, Clone)]
pub(super) struct LogLine {
    pub(super) at: OffsetDateTime,
    pub(super) level: Level,
    pub(super) target: Cow<'static, str>,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, FieldValue)>,
}

impl LogLine {
    /// A line of our own, with the current time.
    pub(super) fn new(level: Level, target: &'static str, message: impl Into<String>) -> Self {
        let at = SystemTime::now().into();
        Self { at, level, target: target.into(), message: cut(message.into()), fields: Vec::new() }
    }

    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut line = Self::new(*metadata.level(), metadata.target(), "");
        event.record(&mut line);
        line
    }

    pub(super) fn with(mut self, name: &'static str, value: FieldValue) -> Self {
        self.put(name, if let FieldValue::Text(text) = value { FieldValue::Text(cut(text)) } else { value });
        self
    }

    fn put(&mut self, name: &'static str, value: FieldValue) {
        match (name, value) {
            ("message", FieldValue::Text(text)) => self.message = text,
            // Lines from libraries that use the `log` crate carry these: their own target, and their place in the code.
            ("log.target", FieldValue::Text(text)) => self.target = text.into(),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name.strip_prefix("r#").unwrap_or(name), value)),
        }
    }

    /// What lines that say the same have in common: the place in the program, the message, whom it is about, and the words
    /// of the other fields. Numbers in them, message ids and addresses make no difference.
    pub(super) fn kind(&self, hashing: &impl BuildHasher, place: impl Hash) -> u64 {
        let mut hasher = hashing.build_hasher();
        place.hash(&mut hasher);
        self.target.hash(&mut hasher);
        self.message.hash(&mut hasher);
        for (name, value) in &self.fields {
            match value {
                FieldValue::Text(text) if WHO.contains(name) => text.hash(&mut hasher),
                FieldValue::Text(text) if !WHICH.contains(name) => words(text, &mut hasher),
                _ => {}
            }
        }
        hasher.finish()
    }

    /// The line without the fields that hold for only one of many lines.
    pub(super) fn without_which(mut self) -> Self {
        self.fields.retain(|(name, value)| {
            !WHICH.contains(name) && (WHO.contains(name) || matches!(value, FieldValue::Text(_)))
        });
        self
    }

    /// The line without anything it says about a particular party.
    pub(super) fn without_fields(mut self) -> Self {
        self.fields.clear();
        self
    }
}

/// Hashes the text with each run of digits treated as the same.
fn words(text: &str, hasher: &mut impl Hasher) {
    for part in text.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()) {
        part.hash(hasher);
    }
    text.len().min(1).hash(hasher);
}

fn cut(text: String) -> String {
    if text.len() <= LONGEST_VALUE {
        return text;
    }
    let end = text.floor_char_boundary(LONGEST_VALUE);
    format!("{}... ({} bytes more)", &text[..end], text.len() - end)
}

/// Keeps the beginning of what is written, and the number of bytes of the rest: a value may be of any length.
#[derive(Default)]
struct TextBeginning {
    text: String,
    more: usize,
}

impl Write for TextBeginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.more == 0 { LONGEST_VALUE - self.text.len() } else { 0 };
        let end = text.floor_char_boundary(room);
        self.text.push_str(&text[..end]);
        self.more += text.len() - end;
        Ok(())
    }
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut beginning = TextBeginning::default();
        let failed = write!(beginning, "{value:?}").is_err();
        let TextBeginning { mut text, more } = beginning;
        if more > 0 || failed {
            text = [text, format!("... ({more} bytes more)")].concat();
        }
        self.put(field.name(), FieldValue::Text(text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), FieldValue::Unsigned(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), FieldValue::Signed(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), FieldValue::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), FieldValue::Bool(value));
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    fn failed(peer: &str, error: &str, id: &str, n: u64) -> LogLine {
        let text = |text: &str| FieldValue::Text(text.into());
        LogLine::new(Level::WARN, "petnet", "delivery failed")
            .with("peer", text(peer))
            .with("error", text(error))
            .with("message_id", text(id))
            .with("failures", FieldValue::Unsigned(n))
    }

    #[test]
    fn numbers_addresses_and_message_ids_make_no_other_kind_of_line() {
        let hashing = RandomState::new();
        let kind = |line: &LogLine| line.kind(&hashing, 1);
        let one = failed("party_1", "10.0.0.1:4711 refused", "a", 1);
        assert_eq!(kind(&one), kind(&failed("party_1", "10.0.0.22:1 refused", "b", 2)));
        assert_ne!(kind(&one), kind(&failed("party_2", "10.0.0.1:4711 refused", "a", 1)), "another peer");
        assert_ne!(kind(&one), kind(&failed("party_1", "10.0.0.1:4711 reset", "a", 1)), "another reason");
        assert_ne!(kind(&one), one.kind(&hashing, 2), "another place in the program");
    }

    #[test]
    fn a_line_about_many_names_none_of_them() {
        let names: Vec<_> =
            failed("b", "no", "a", 1).without_which().fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["peer", "error"]);
    }

    #[test]
    fn a_value_is_cut_where_it_gets_too_long() {
        let mut beginning = TextBeginning::default();
        write!(beginning, "{}", "ü".repeat(LONGEST_VALUE)).unwrap();
        write!(beginning, "rest").unwrap();
        assert_eq!((beginning.text.len(), beginning.more), (LONGEST_VALUE, LONGEST_VALUE + 4));
        assert!(cut("x".repeat(LONGEST_VALUE + 3)).ends_with("... (3 bytes more)"));
    }
}
