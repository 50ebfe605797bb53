//! A line as text: for people, or as one JSON object.
//!
//! Invariant: one line stays one line, and contains nothing that a terminal obeys. Message ids come from clients and errors
//! from peers; the value of a field can create neither a new line nor another field.

use std::fmt::{self, Write};

use time::OffsetDateTime;
use tracing::Level;

use super::line::{FieldValue, LogLine};
use crate::telemetry::options::LogFormat;

/// Keys that every JSON line has; a field with such a name gets another one.
const KEYS: &[&str] = &["timestamp", "level", "party", "target", "message"];

/// How lines look.
#[derive(Debug, Clone)]
pub(super) struct LineStyle {
    pub(super) format: LogFormat,
    /// Whether to use colours, for a terminal.
    pub(super) colours: bool,
    /// Our own party.
    pub(super) party: String,
}

impl LineStyle {
    /// The line as text, including its end.
    pub(super) fn render(&self, line: &LogLine) -> Vec<u8> {
        let mut text = match self.format {
            LogFormat::Text => self.text(line),
            LogFormat::Json => self.json(line),
        };
        text.push('\n');
        text.into_bytes()
    }

    fn text(&self, line: &LogLine) -> String {
        let (dim, colour, end) = match (self.colours, line.level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
            (true, Level::INFO) => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
            (true, _) => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
        };
        let mut text = format!("{dim}{}{end} {colour}{:>5}{end} {dim}", timestamp(line.at), line.level);
        push_harmless(&mut text, &line.target);
        text.push_str(end);
        text.push_str(": ");
        push_harmless(&mut text, &line.message);
        for (name, value) in &line.fields {
            text.push(' ');
            text.push_str(name);
            text.push('=');
            push_value(&mut text, value);
        }
        text
    }

    fn json(&self, line: &LogLine) -> String {
        let mut text = format!("{{\"timestamp\":\"{}\",\"level\":\"{}\"", timestamp(line.at), line.level);
        for (key, value) in
            [("party", self.party.as_str()), ("target", &line.target), ("message", &line.message)]
        {
            push_json_key(&mut text, key);
            push_json_text(&mut text, value);
        }
        for (n, (name, value)) in line.fields.iter().enumerate() {
            let taken = KEYS.contains(name) || line.fields[..n].iter().any(|(other, _)| other == name);
            if taken {
                push_json_key(&mut text, &format!("{name}_{n}"));
            } else {
                push_json_key(&mut text, name);
            }
            match value {
                FieldValue::Text(value) => push_json_text(&mut text, value),
                // JSON has no such numbers.
                FieldValue::Float(value) if !value.is_finite() => {
                    push_json_text(&mut text, &value.to_string());
                }
                number => push_value(&mut text, number),
            }
        }
        text.push('}');
        text
    }
}

/// The time in RFC 3339, UTC, always of the same length.
fn timestamp(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second, micros) = time.as_hms_micro();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Whether a character stands for itself: no control character, and no mark that turns or hides its neighbours.
fn is_harmless(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

fn push_harmless(text: &mut String, from: &str) {
    for c in from.chars() {
        if is_harmless(c) {
            text.push(c);
        } else {
            text.extend(c.escape_debug());
        }
    }
}

/// Appends a value: bare if it can only be read as one value, otherwise quoted with escapes.
fn push_value(text: &mut String, value: &FieldValue) {
    match value {
        FieldValue::Text(value) => {
            let bare =
                |c: char| is_harmless(c) && !c.is_whitespace() && !matches!(c, '"' | '\'' | '\\' | '=');
            if !value.is_empty() && value.chars().all(bare) {
                text.push_str(value);
            } else {
                push(text, format_args!("{value:?}"));
            }
        }
        FieldValue::Unsigned(value) => push(text, format_args!("{value}")),
        FieldValue::Signed(value) => push(text, format_args!("{value}")),
        FieldValue::Float(value) => push(text, format_args!("{value}")),
        FieldValue::Bool(value) => push(text, format_args!("{value}")),
    }
}

fn push(text: &mut String, what: fmt::Arguments<'_>) {
    let pushed = text.write_fmt(what);
    debug_assert!(pushed.is_ok(), "a String takes everything");
}

fn push_json_key(text: &mut String, key: &str) {
    text.push(',');
    push_json_text(text, key);
    text.push(':');
}

fn push_json_text(text: &mut String, from: &str) {
    text.push('"');
    for c in from.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if is_harmless(c) => text.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]).iter() {
                    push(text, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORGED: &str =
        "id\" peer=x\n2026-01-01T00:00:00Z ERROR petnet: all is lost\r\x1b[2J\u{9b}31m\u{202e}\u{e0001}\\";

    fn look(format: LogFormat) -> LineStyle {
        LineStyle { format, colours: false, party: "party_a".into() }
    }

    fn line() -> LogLine {
        let mut line = LogLine::new(Level::WARN, "petnet::hub", "message became a dead letter");
        line.at = OffsetDateTime::from_unix_timestamp(1_767_225_600).unwrap();
        line.with("peer", FieldValue::Text("party_b".into()))
            .with("message_id", FieldValue::Text("round 1".into()))
            .with("bytes", FieldValue::Unsigned(7))
    }

    fn rendered(format: LogFormat, line: &LogLine) -> String {
        String::from_utf8(look(format).render(line)).unwrap()
    }

    #[test]
    fn text_has_the_message_and_then_the_fields() {
        assert_eq!(
            rendered(LogFormat::Text, &line()),
            "2026-01-01T00:00:00.000000Z  WARN petnet::hub: message became a dead letter peer=party_b \
             message_id=\"round 1\" bytes=7\n"
        );
    }

    #[test]
    fn json_has_fields_beside_the_keys_of_every_line() {
        let line =
            line().with("party", FieldValue::Text("other".into())).with("ratio", FieldValue::Float(f64::NAN));
        let read: serde_json::Value = serde_json::from_str(&rendered(LogFormat::Json, &line)).unwrap();
        let wanted = serde_json::json!({
            "timestamp": "2026-01-01T00:00:00.000000Z", "level": "WARN", "party": "party_a", "target": "petnet::hub",
            "message": "message became a dead letter", "peer": "party_b", "message_id": "round 1", "bytes": 7,
            "party_3": "other", "ratio": "NaN",
        });
        assert_eq!(read, wanted);
    }

    #[test]
    fn nobody_can_forge_a_line_or_a_field_or_speak_to_the_terminal() {
        let mut line = line().with("reason", FieldValue::Text(FORGED.into()));
        line.message = FORGED.into();
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = rendered(format, &line);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(text.trim_end().chars().all(is_harmless), "{text:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&rendered(LogFormat::Json, &line)).unwrap();
        assert_eq!((json["reason"].as_str(), json["message"].as_str()), (Some(FORGED), Some(FORGED)));
        let text = rendered(LogFormat::Text, &line);
        assert!(text.contains(r#"reason="id\" peer=x\n2026"#), "{text}");
    }

    #[test]
    fn only_what_is_one_word_goes_without_quotes() {
        for (value, shown) in
            [("b:1235", "b:1235"), ("", "\"\""), ("a b", "\"a b\""), ("a=b", "\"a=b\""), ("é", "é")]
        {
            let mut text = String::new();
            push_value(&mut text, &FieldValue::Text(value.into()));
            assert_eq!(text, shown);
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        let look = LineStyle { colours: true, ..look(LogFormat::Text) };
        assert!(String::from_utf8(look.render(&line())).unwrap().contains("\x1b[33m WARN\x1b[0m"));
    }
}
