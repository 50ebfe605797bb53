//! `petnet completions`: prints what a shell needs to complete our command line.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::Arguments;
use crate::cli::terminal::exit::Exit;

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet completions bash > /etc/bash_completion.d/petnet
  petnet completions zsh > ~/.zfunc/_petnet
  petnet completions fish > ~/.config/fish/completions/petnet.fish

Exit codes: 0 written, 1 failed, 2 wrong arguments")]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        // Into memory first: the generator panics where it cannot write, for example on a closed pipe.
        let mut text = Vec::new();
        generate(self.shell, &mut Arguments::command(), "petnet", &mut text);
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(&text).and_then(|()| stdout.flush()) {
            // The reader of the pipe has enough.
            Err(why) if why.kind() == ErrorKind::BrokenPipe => {}
            written => written.context("cannot write to stdout")?,
        }
        Ok(Exit::Ok)
    }
}
