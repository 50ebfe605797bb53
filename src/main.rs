//! The `petnet` command: it parses the arguments, runs the sub-command they name, and ends with its exit code. `cli` has a
//! file for each sub-command.

use std::process::ExitCode;

use clap::Parser;
use petnet::cli::{self, Arguments};

fn main() -> ExitCode {
    cli::run(Arguments::parse())
}
