//! Arguments, statistics, the facts of the machine, and the table of results. Shared by all benchmarks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Args {
    /// Shorter rounds and less data: for a look, not for a verdict.
    pub(crate) quick: bool,
    cases: Vec<String>,
}

impl Args {
    /// `[--quick] [CASE]...`; everything else that starts with a dash is cargo's own.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Self {
        let (flags, cases): (Vec<_>, Vec<_>) = args.into_iter().partition(|arg| arg.starts_with('-'));
        Self { quick: flags.iter().any(|flag| flag == "--quick"), cases }
    }

    /// True when the case is to run: it was named, or none was.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| name == case)
    }

    /// One of two values.
    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Which side of its bar a figure must be on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// What was measured in a case, in words.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) measured: String,
    pub(crate) figure: String,
    pub(crate) bar: String,
    pub(crate) met: &'static str,
}

/// The table that a run prints at its end.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a row: the case, what was measured in words, the figure, and its bar if it has one.
    pub(crate) fn add(
        &mut self,
        case: impl Into<String>,
        measured: impl Into<String>,
        (figure, unit): (f64, &'static str),
        bar: impl Into<Option<Bar>>,
    ) {
        let bar = bar.into();
        let met = match bar {
            Some(Bar::AtLeast(least)) if figure >= least => "yes",
            Some(Bar::AtMost(most)) if figure <= most => "yes",
            Some(_) => "NO",
            None => "-",
        };
        let bar = match bar {
            Some(Bar::AtLeast(least)) => format!(">= {least} {unit}"),
            Some(Bar::AtMost(most)) => format!("<= {most} {unit}"),
            None => "-".into(),
        };
        let (case, measured, figure) = (case.into(), measured.into(), format!("{figure:.2} {unit}"));
        eprintln!("  {case}: {measured}; {figure} {met}");
        self.0.push(Row { case, measured, figure, bar, met });
    }

    /// What there is so far.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.0
    }

    /// Prints it as Markdown.
    pub(crate) fn print(&self) {
        if self.rows().is_empty() {
            return;
        }
        println!("\n| case | measured | figure | bar | met |\n|---|---|---|---|---|");
        for Row { case, measured, figure, bar, met } in self.rows() {
            println!("| {case} | {measured} | {figure} | {bar} | {met} |");
        }
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `a / b` of each round, and the middle of that.
pub(crate) fn median_ratio(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
}

/// The value in ms below which `percent` of the times lie.
pub(crate) fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    per_mille_ms(times, 10 * percent)
}

/// The value in ms below which so many of a thousand times lie.
pub(crate) fn per_mille_ms(times: &[Duration], per_mille: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = (sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

/// A new folder on a real file system; it goes when dropped. `PETNET_BENCH_DIR` says where else than under target/.
pub(crate) fn folder() -> tempfile::TempDir {
    let base = std::env::var_os("PETNET_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    fs::create_dir_all(&base).unwrap();
    let kind = file_system(&base);
    assert!(kind != "tmpfs", "{} is in memory; name another folder with PETNET_BENCH_DIR", base.display());
    tempfile::Builder::new().prefix("petnet-bench-").tempdir_in(&base).unwrap()
}

/// The type of the file system that holds `path`.
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut best = (0, "unknown");
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(at), Some(kind)) = (words.next(), words.next())
            && path.starts_with(at)
            && at.len() >= best.0
        {
            best = (at.len(), kind);
        }
    }
    best.1.into()
}

/// One line about the machine and its load.
pub(crate) fn machine(folder: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory: u64 = memory.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0);
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores ({}), {} GiB, Linux {}, {}; load {}",
        model.trim_start_matches(['\t', ' ', ':']),
        memory >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        file_system(folder),
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    )
}
