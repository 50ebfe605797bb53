//! The `petnet` command: arguments, the sub-command they name, its exit code. `cli` has a file for each.

use std::process::ExitCode;

use clap::Parser;
use petnet::cli::{self, Arguments};

fn main() -> ExitCode {
    cli::run(Arguments::parse())
}
