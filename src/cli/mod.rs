//! The sub-commands, a file each, and what they share: arguments, exit codes, the runtime.
//!
//! Invariant: results go to stdout, everything else to stderr; an exit code of 0 means that what was asked for
//! happened.

mod certs;
mod client;
mod completions;
mod crashtest;
mod doctor;
mod health;
mod local;
mod man;
mod migrate;
mod progress;
mod quickstart;
mod recv;
mod repair;
mod send;
mod serve;
mod signals;
#[cfg(feature = "redis")]
mod status;
mod streams;
mod verify;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// How long background work may take to end once a command has its result.
const RUNTIME_GRACE: Duration = Duration::from_secs(2);

const EXIT_CODES: &str = "\
Exit codes:
  0  what was asked for happened
  1  it failed; verify: damage found; migrate: not everything moved; certs show: not valid; doctor: something is broken; health: not serving; crashtest: something was lost, or nothing was proved
  2  the arguments or settings are wrong; nothing was started
  3  serve, verify, repair, migrate: could not start (port or data folder in use, disk error)
  4  serve: a write to the disk failed and the store took no more; start it again to read back from disk
  5  recv: no such message in time

Try `petnet quickstart` first.";

/// A data-proxy gateway for privacy computing that loses nothing it accepted.
#[derive(Debug, Parser)]
#[command(name = "petnet", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Serve(serve::Serve),
    Send(send::Send),
    Recv(recv::Recv),
    Quickstart(quickstart::Quickstart),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Migrate(migrate::Migrate),
    Crashtest(crashtest::Crashtest),
    Certs(certs::Certs),
    Doctor(doctor::Doctor),
    Health(health::Health),
    Completions(completions::Completions),
    Man(man::Man),
    #[cfg(feature = "redis")]
    Status(status::Status),
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Ok,
    /// 1
    Failed,
    /// 2
    WrongSettings,
    /// 3
    CouldNotStart,
    /// 4
    Poisoned,
    /// 5
    NotThere,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::WrongSettings => 2,
            Exit::CouldNotStart => 3,
            Exit::Poisoned => 4,
            Exit::NotThere => 5,
        })
    }
}

/// Runs the sub-command and gives the exit code of the process.
pub fn run(arguments: Arguments) -> ExitCode {
    let exit = match arguments.command {
        Sub::Serve(serve) => serve.run(),
        Sub::Send(send) => reported(block_on(send.run())),
        Sub::Recv(recv) => reported(block_on(recv.run())),
        Sub::Quickstart(quickstart) => reported(block_on(quickstart.run())),
        Sub::Verify(verify) => reported(block_on(verify.run())),
        Sub::Repair(repair) => reported(block_on(repair.run())),
        Sub::Migrate(migrate) => reported(block_on(migrate.run())),
        Sub::Crashtest(crashtest) => reported(block_on(crashtest.run())),
        Sub::Certs(certs) => certs.run(),
        Sub::Doctor(doctor) => reported(block_on(doctor.run())),
        Sub::Health(health) => reported(block_on(health.run())),
        Sub::Completions(completions) => reported(completions.run()),
        Sub::Man(man) => reported(man.run()),
        #[cfg(feature = "redis")]
        Sub::Status(status) => reported(block_on(status.run())),
    };
    exit.into()
}

fn reported(result: anyhow::Result<Exit>) -> Exit {
    result.unwrap_or_else(|error| {
        eprintln!("petnet: {error:#}");
        Exit::Failed
    })
}

/// Runs a command to its end. What it left running in the background does not hold the process.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_sub_command_shows_an_example() {
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        all_show_an_example("petnet", &mut command);
    }

    /// Those of sub-commands, too.
    fn all_show_an_example(above: &str, command: &mut clap::Command) {
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let name = format!("{above} {}", sub.get_name());
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Example") && help.contains(&format!("  {name}")), "{name}:\n{help}");
            all_show_an_example(&name, sub);
        }
    }
}
