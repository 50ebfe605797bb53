//! The one table: a row for each way, size and number of senders, and the bars of the cases below it.

use crate::report;
use crate::ways::Way;

/// What a row is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) way: Way,
    pub(crate) size: usize,
    /// None: one message there and back at a time.
    pub(crate) senders: Option<usize>,
}

/// What only the processes of a pair can tell.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    /// For 1,000 messages; relays have none.
    pub(crate) syncs: Option<f64>,
    /// Processor time of both for 10,000 messages, in seconds.
    pub(crate) processor: f64,
    /// MiB of the larger one.
    pub(crate) memory: f64,
}

/// A row of the matrix.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) subject: Subject,
    /// Messages a second.
    pub(crate) accepted: f64,
    /// MB/s from the first send until the last message is read at the other end.
    pub(crate) rate: f64,
    /// Of a send, in ms.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// None for gateways that run elsewhere.
    pub(crate) used: Option<Used>,
}

impl Subject {
    /// The row in a few words.
    pub(crate) fn words(&self) -> String {
        format!("{}, {}, senders: {}", self.way, size(self.size as f64), self.senders_cell())
    }

    fn senders_cell(&self) -> String {
        self.senders.map_or("ping-pong".into(), |count| count.to_string())
    }
}

/// A number of bytes.
pub(crate) fn size(bytes: f64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let of = |power: i32| bytes / 2_f64.powi(power);
    let fits = units.into_iter().find(|(_, power)| of(*power) >= 1.0);
    let (unit, power) = fits.unwrap_or(("B", 0));
    format!("{:.0} {unit}", of(power))
}

/// About three digits.
pub(crate) fn short(number: f64) -> String {
    match number {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        1.0.. => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

const COLUMNS: [&str; 7] = ["way", "size", "senders", "accepted/s", "MB/s", "p50 ms", "p99 ms"];
const USED: [&str; 3] = ["syncs per 1,000", "CPU s per 10,000", "peak MiB"];

/// The table in Markdown, as wide as its cells ask for. `cases` are those with bars.
pub(crate) fn markdown(rows: &[Row], cases: &[report::Row]) -> String {
    let mut head = COLUMNS.to_vec();
    if rows.iter().any(|row| row.used.is_some()) {
        head.extend(USED);
    }
    if !cases.is_empty() {
        head.push("figure and bar");
    }
    let mut lines: Vec<Vec<String>> = rows.iter().map(cells).collect();
    lines.extend(cases.iter().map(|case| verdict(case, head.len())));
    for line in &mut lines {
        line.resize(head.len(), "-".into());
    }
    let width = |n: usize| lines.iter().map(|line| line[n].len()).chain([head[n].len()]).max();
    let widths: Vec<usize> = (0..head.len()).filter_map(width).collect();
    let padded = |line: &[String]| {
        let cell = |(cell, width): (&String, &usize)| format!("| {cell:<width$} ");
        line.iter().zip(&widths).map(cell).collect::<String>() + "|\n"
    };
    let head: Vec<String> = head.into_iter().map(str::to_owned).collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    padded(&head) + "|" + &rule.join("|") + "|\n" + &lines.iter().map(|line| padded(line)).collect::<String>()
}

fn cells(row: &Row) -> Vec<String> {
    let subject = &row.subject;
    let mut cells = vec![subject.way.to_string(), size(subject.size as f64), subject.senders_cell()];
    cells.extend([row.accepted, row.rate, row.p50, row.p99].map(short));
    if let Some(used) = &row.used {
        cells.push(used.syncs.map_or("-".into(), short));
        cells.extend([used.processor, used.memory].map(short));
    }
    cells
}

/// A case with its bar as a line of `width` cells.
fn verdict(case: &report::Row, width: usize) -> Vec<String> {
    let mut cells = vec!["-".to_owned(); width];
    cells[0].clone_from(&case.case);
    cells[width - 1] = match case.met {
        "-" => case.figure.clone(),
        met => format!("{} ({}: {met})", case.figure, case.bar),
    };
    cells
}
