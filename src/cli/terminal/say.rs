//! Printing: results on stdout, everything else on stderr.

use std::fmt;
use std::io::{self, Write};

use crate::cli::terminal::table::harmless;

/// Prints for `complain!`.
pub(crate) fn complained(words: fmt::Arguments<'_>) {
    let line = format!("{words}\n");
    // The reader that closed it does not want to read any more; the exit code says the rest.
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

/// Prints to stdout. A user who closed the pipe has read enough; the demonstration goes on.
pub(crate) fn say(text: &str) {
    let text = harmless(text);
    let mut stdout = std::io::stdout().lock();
    drop(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// Prints one document as one line.
pub(crate) fn say_json(value: &serde_json::Value) {
    say(&harmless_json(&value.to_string()));
}

/// Escapes everything in the JSON that a terminal could obey or that is invisible, because ids are chosen by others. The
/// JSON stays equivalent: control characters of ASCII are escaped already, and what is not ASCII occurs only in strings.
pub(crate) fn harmless_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\u{7f}' || !c.is_ascii() && c.escape_debug().len() > 1 {
            shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
}
