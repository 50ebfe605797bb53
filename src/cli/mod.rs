//! The sub-commands, a file each, and what they share: arguments, exit codes, the runtime.
//!
//! Invariant: results go to stdout, everything else to stderr; an exit code of 0 means that what was asked for
//! happened.

mod admin;
mod certs;
mod client;
mod completions;
mod crashtest;
mod dead;
mod doctor;
#[cfg(test)]
mod fake;
mod health;
mod local;
mod mailbox;
mod man;
mod migrate;
mod progress;
mod queue;
mod quickstart;
mod recv;
mod repair;
mod send;
mod serve;
mod signals;
mod status;
mod streams;
mod table;
mod track;
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
  1  it failed; verify: damage found; migrate: not everything moved; certs show: not valid; doctor: something is broken; status, health: not serving; crashtest: something was lost, or nothing was proved
  2  the arguments or settings are wrong; nothing was started
  3  serve, verify, repair, migrate: could not start (port or data folder in use, disk error)
  4  serve: a write to the disk failed and the store took no more; start it again to read back from disk
  5  recv: no such message in time; queue, dead, mailbox, track: nothing there by that name

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
    Status(status::Status),
    Queue(queue::Queue),
    Dead(dead::Dead),
    Mailbox(mailbox::Mailbox),
    Track(track::Track),
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
        Sub::Status(status) => reported(block_on(status.run())),
        Sub::Queue(queue) => reported(block_on(queue.run())),
        Sub::Dead(dead) => reported(block_on(dead.run())),
        Sub::Mailbox(mailbox) => reported(block_on(mailbox.run())),
        Sub::Track(track) => reported(block_on(track.run())),
    };
    exit.into()
}

fn reported(result: anyhow::Result<Exit>) -> Exit {
    result.unwrap_or_else(|error| {
        eprintln!("petnet: {error:#}");
        if error.is::<admin::NotThere>() { Exit::NotThere } else { Exit::Failed }
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
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_sub_command_shows_an_example_and_exit_codes() {
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        looked_through(&mut command, "petnet");
    }

    fn looked_through(command: &mut clap::Command, path: &str) {
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            let help = sub.render_long_help().to_string();
            for part in ["Example", &format!("  {path}"), "Exit code"] {
                assert!(help.contains(part), "{path} has no {part:?}:\n{help}");
            }
            looked_through(sub, &path);
        }
    }

    #[test]
    fn a_wrong_word_gets_a_suggestion_at_every_depth() {
        for (words, suggested) in [
            (["petnet", "queu", "ls"], "'queue'"),
            (["petnet", "queue", "lst"], "'ls'"),
            (["petnet", "dead", "exprot"], "'export'"),
            (["petnet", "mailbox", "relaese"], "'release'"),
            (["petnet", "status", "--wacth"], "'--watch'"),
        ] {
            let why = Arguments::try_parse_from(words).map(|_| ()).unwrap_err().to_string();
            assert!(why.contains(suggested), "{words:?}: {why}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "queue drop b",
            "queue drop b m --all",
            "queue drop b m --sequence 1",
            "queue ls --after 7",
            "queue ls b --all --limit 7",
            "queue ls --limit 1001",
            "dead drop",
            "dead drop 1 --all",
            "dead retry 1 --peer b",
            "mailbox release",
            "mailbox release m --prefix m",
            "mailbox release --prefix=",
            "queue show b m --json --payload",
        ] {
            let words = std::iter::once("petnet").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
        for line in [
            "queue drop b m n",
            "queue drop b --sequence 1 2",
            "queue drop b --all",
            "queue ls",
            "queue ls b --after 7 --limit 1000",
            "dead drop --all --peer b",
            "dead retry 1 #2",
            "status --watch --json",
            "status --watch 5",
        ] {
            let words = std::iter::once("petnet").chain(line.split(' '));
            Arguments::try_parse_from(words).unwrap_or_else(|why| panic!("{line}: {why}"));
        }
    }
}
