//! What a run leaves behind in `docs/benchmarks/`: the page with the table and the machine, and the plots.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::matrix::FOOT;
use crate::plots;
use crate::report::{Args, Table, machine};
use crate::table::{Row, markdown};

/// Where it goes.
fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks")
}

/// Writes page and plots; says where. `machine` is what [`facts`] found before the run.
pub(crate) fn write(args: &Args, machine: &str, rows: &[Row], table: &Table) -> Result<()> {
    let folder = place();
    std::fs::create_dir_all(&folder)?;
    let plots = plots::write(&folder, rows)?;
    std::fs::write(folder.join("README.md"), page(args, machine, rows, table, &plots)?)?;
    eprintln!("written: {}", folder.display());
    Ok(())
}

/// The machine, its disk and its load.
pub(crate) fn facts(folder: &Path) -> String {
    format!(
        "{}; fdatasync of 4 KiB in written space: {:.3} ms (p50)",
        machine(folder),
        crate::streams::sync_ms(folder)
    )
}

fn page(args: &Args, machine: &str, rows: &[Row], table: &Table, plots: &[(&str, &str)]) -> Result<String> {
    let mut page = String::new();
    writeln!(page, "# Benchmarks\n")?;
    writeln!(page, "Written by `scripts/bench`, {}.\n", time::OffsetDateTime::now_utc().date())?;
    if args.quick {
        writeln!(page, "With `--quick`: short rounds, for a look and not for a verdict.\n")?;
    }
    writeln!(page, "Machine: {machine}.\n")?;
    for (title, file) in plots {
        writeln!(page, "![{title}]({file})\n")?;
    }
    writeln!(page, "{}\n{FOOT}", markdown(rows, table.rows()))?;
    if !table.rows().is_empty() {
        writeln!(
            page,
            "\n## The cases with bars\n\nRounds of both sides alternate; a ratio is the median of the rounds.\n"
        )?;
    }
    for case in table.rows() {
        writeln!(page, "* {}: {}; **{}**", case.case, case.measured, case.figure)?;
    }
    Ok(page)
}
