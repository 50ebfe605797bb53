//! `petnet man`: the help of every sub-command as a page for `man`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Arguments;
use crate::cli::terminal::exit::Exit;

/// Write the manual pages, one for each sub-command.
///
/// Makes the folder if only its last part is missing; pages that are there are replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet man ./man1; man ./man1/petnet-serve.1

Exit codes: 0 written, 1 failed, 2 wrong arguments")]
pub(crate) struct Man {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let folder = &self.folder;
        if !folder.is_dir() {
            fs::create_dir(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let mut command = Arguments::command().disable_help_subcommand(true);
        command.build();
        write_pages(&command, folder)
            .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
        Ok(Exit::Ok)
    }
}

/// Writes the page of a command and those of its sub-commands.
fn write_pages(command: &clap::Command, folder: &Path) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_pages(sub, folder)?;
    }
    let page = clap_mangen::Man::new(command.clone())
        .source(concat!("petnet ", env!("CARGO_PKG_VERSION")))
        .manual("PETNet gateway");
    page.generate_to(folder).map(drop)
}
