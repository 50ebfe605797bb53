//! What people read on a terminal: aligned tables, units, times, colours.
//!
//! Ids, names and reasons come from outside and may contain anything: escape sequences of terminals, line breaks, marks
//! that change the direction of text. Invariant: every text that goes into a table or through `escape` comes out as
//! printable characters in one line. `--json` gives the exact bytes.

use std::io::IsTerminal;

use time::OffsetDateTime;
use unicode_width::UnicodeWidthStr;

pub(crate) use crate::rules::text::{count, many};

/// The space between two columns.
const GAP: &str = "  ";

/// The colour of a cell, where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Colour {
    #[default]
    None,
    Good,
    Notice,
    Bad,
}

impl Colour {
    /// The colour for a word of a `state` or `reason` field.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "serving" | "idle" | "delivering" | "delivered" | "released" => Self::Good,
            "down" | "poisoned" | "unavailable" | "dead" | "damaged" | "refused" | "dropped" | "closed" => {
                Self::Bad
            }
            "paused" | "full" | "stalled" | "refusing" | "draining" | "unknown" | "expired" => Self::Notice,
            _ => Self::None,
        }
    }

    /// The text in this colour, if there are colours.
    pub(crate) fn paint(self, text: &str, colours: bool) -> String {
        let code = match self {
            _ if !colours => return text.into(),
            Self::None => return text.into(),
            Self::Good => 32,
            Self::Notice => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether stdout shows colours: it is a terminal, and its user did not ask for none (<https://no-color.org>).
pub(crate) fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    std::io::stdout().is_terminal() && !unwanted && !dumb
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a heading, with aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<(String, Colour)>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let heading = columns.iter().map(|(name, _)| ((*name).to_owned(), Colour::None)).collect();
        Self { columns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heading] }
    }

    /// Adds a row; a word in the column `coloured` gets its colour.
    pub(crate) fn row<const N: usize>(&mut self, cells: &[String; N], coloured: Option<usize>) {
        let cell = |(n, text): (usize, &String)| {
            let colour = if coloured == Some(n) { Colour::of(first_word(text)) } else { Colour::None };
            (escape(text), colour)
        };
        self.rows.push(cells.iter().enumerate().map(cell).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines, without a last line break.
    pub(crate) fn render(&self, colours: bool) -> String {
        let width = |n: usize| self.rows.iter().map(|row| row[n].0.width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<(String, Colour)>| {
            let mut line = String::new();
            for (n, (text, colour)) in row.iter().enumerate() {
                let space = " ".repeat(widths[n] - text.width());
                let painted = colour.paint(text, colours);
                if n > 0 {
                    line.push_str(GAP);
                }
                match self.columns[n] {
                    Align::Left => line.extend([painted, space]),
                    Align::Right => line.extend([space, painted]),
                }
            }
            line.trim_end_matches(' ').to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// The text as printable characters in one line: what a terminal could take for a command, or what is invisible, is shown
/// by its number. A backslash is doubled, so that two different texts never look the same.
pub(crate) fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// A text of several lines, in which what a terminal could obey, or what is invisible, is shown by its number. For text
/// that was not escaped piece by piece, such as errors that quote others.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\\' | '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// `1 byte`, `12,582,912 bytes`
pub(crate) fn bytes_in_full(n: u64) -> String {
    many(n, "byte", "bytes")
}

/// `45 s`, `2 min 05 s`, `2 h 05 min`, `3 d 04 h`
pub(crate) fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3600 % 24),
    }
}

/// A time given in milliseconds; below ten seconds, these are shown.
pub(crate) fn milliseconds(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{}.{:03} s", ms / 1000, ms % 1000),
        _ => seconds(ms / 1000),
    }
}

/// `12.3/s`; a dash if nothing happens.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r <= 0.0 || !r.is_finite() => "-".into(),
        r if r < 10.0 => format!("{r:.2}/s"),
        r if r < 1000.0 => format!("{r:.1}/s"),
        r => format!("{r:.0}/s"),
    }
}

/// Milliseconds since the Unix epoch as a time in UTC, in the format of RFC 3339.
pub(crate) fn time(ms: u64) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000) else {
        return format!("{ms} ms after 1970");
    };
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}

/// The value, or a dash if there is none.
pub(crate) fn or_dash(value: Option<String>) -> String {
    value.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_end_without_spaces() {
        let mut table =
            Table::new(&[("peer", Align::Left), ("pending", Align::Right), ("error", Align::Left)]);
        assert!(table.is_empty());
        table.row(&["b".into(), count(1_234_567), String::new()], None);
        table.row(&["party_c".into(), count(5), "no answer".into()], None);
        let expected = "peer       pending  error\nb        1,234,567\nparty_c          5  no answer";
        assert_eq!(table.render(true), expected);
    }

    #[test]
    fn columns_are_aligned_where_characters_are_two_columns_wide() {
        let mut table = Table::new(&[("id", Align::Left), ("size", Align::Right)]);
        table.row(&["模型/7".into(), "5".into()], None);
        table.row(&["model/7".into(), "12".into()], None);
        assert_eq!(table.render(false), "id       size\n模型/7      5\nmodel/7    12");
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        let evil = "a\u{1b}[2J\r\nb\t\u{202e}\u{200f}\u{2066}\u{2028}\u{feff}\u{9b}31m\u{7f}\\\"é漢";
        let mut table = Table::new(&[("state", Align::Left), ("id", Align::Left)]);
        table.row(&["down 2 s".into(), evil.into()], Some(0));
        for text in [escape(evil), table.render(false)] {
            let unsafe_ones =
                |c: &char| c.is_control() && *c != '\n' || ('\u{200b}'..='\u{206f}').contains(c);
            assert_eq!(text.chars().find(unsafe_ones), None, "{text:?}");
            assert!(text.contains(r"a\u{1b}[2J\r\nb\t\u{202e}") && text.ends_with("\\\\\"é漢"), "{text}");
        }
        assert_eq!(table.render(false).lines().count(), 2);
        assert!(table.render(true).contains("\x1b[31mdown 2 s\x1b[0m  a\\u"), "{:?}", table.render(true));
    }

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!([count(0), count(999), count(1_000_000)], ["0", "999", "1,000,000"]);
        assert_eq!(
            [many(1, "message", "messages"), many(0, "message", "messages")],
            ["1 message", "0 messages"]
        );
        assert_eq!([59, 125, 7500, 273_600].map(seconds), ["59 s", "2 min 05 s", "2 h 05 min", "3 d 04 h"]);
        assert_eq!([7, 2050, 65_000].map(milliseconds), ["7 ms", "2.050 s", "1 min 05 s"]);
        assert_eq!([0.0, f64::NAN, 0.5, 12.34, 5000.0].map(rate), ["-", "-", "0.50/s", "12.3/s", "5000/s"]);
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(u64::MAX), "18446744073709551615 ms after 1970");
    }
}
