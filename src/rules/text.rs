//! Texts that people write and read: files with a byte order mark, and other parties' strings on a terminal.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use crate::rules::regular;

/// The byte order mark that editors on Windows put in front of a text in UTF-8.
const MARK: &str = "\u{feff}";

/// Reads a text file that a person may have made: a leading byte order mark is skipped, and UTF-16 is reported as such.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let bytes = regular::read(path)?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(wrong("it is UTF-16; save it as UTF-8"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8; save it as UTF-8"))?;
    if text.starts_with(MARK) {
        text.drain(..MARK.len());
    }
    Ok(text)
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The bytes without any byte order mark: files that were joined have one in the middle, too.
pub(crate) fn without_marks(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_mark = |rest: &[u8]| rest.starts_with(MARK.as_bytes());
    if !bytes.windows(MARK.len()).any(is_mark) {
        return Cow::Borrowed(bytes);
    }
    let (mut kept, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some(first) = rest.first() {
        if is_mark(rest) {
            rest = &rest[MARK.len()..];
        } else {
            kept.push(*first);
            rest = &rest[1..];
        }
    }
    Cow::Owned(kept)
}

/// `1,234,567`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 message`, `2,000 messages`
pub(crate) fn many(n: u64, one: &str, more: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {more}", count(n)) }
}

/// `1 day`, `300 days`
pub(crate) fn days(n: i64) -> String {
    many(n.unsigned_abs(), "day", "days")
}

/// Text from others as one line for people: characters that a terminal could obey, or that are invisible, are shown by
/// their number.
pub(crate) fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            '\\' | '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// How many characters must be inserted, removed or replaced to turn one text into the other.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (n, c) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for m in 0..other.len() {
            let replaced = diagonal + usize::from(c != other[m]);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(
            [0, 1, 2000].map(|n| many(n, "letter", "letters")),
            ["0 letters", "1 letter", "2,000 letters"]
        );
        assert_eq!([1, 30].map(days), ["1 day", "30 days"]);
    }

    #[test]
    fn what_others_say_is_a_line_without_the_escapes_of_a_program() {
        assert_eq!(one_line("no \"url\"\nin C:\\x\u{1b}[2J"), "no \"url\" in C:\\x\\u{1b}[2J");
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_utf_16_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bytes, expected) in [
            (&b"\xef\xbb\xbf{}"[..], Ok("{}")),
            (b"{}", Ok("{}")),
            (b"", Ok("")),
            (b"\xff\xfe{\0}\0", Err("UTF-16")),
            (b"\xfe\xff\0{", Err("UTF-16")),
            (b"\x80", Err("not UTF-8")),
        ] {
            std::fs::write(file.path(), bytes).unwrap();
            let found = read(file.path()).map_err(|why| why.to_string());
            match expected {
                Ok(text) => assert_eq!(found.as_deref(), Ok(text)),
                Err(part) => assert!(found.unwrap_err().contains(part)),
            }
        }
        assert_eq!(*without_marks("\u{feff}a\u{feff}\u{feff}b".as_bytes()), *b"ab");
        assert_eq!(*without_marks(b"ab\xef\xbb"), *b"ab\xef\xbb");
    }
}
