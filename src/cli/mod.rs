//! The sub-commands, one file each, and what they share: arguments, exit codes, the runtime.
//!
//! Invariant: results go to stdout, everything else to stderr; exit code 0 means that what was asked for happened.

/// Prints one line on stderr. `eprintln!` would panic where nobody reads it.
macro_rules! complain {
    ($($words:tt)*) => { $crate::cli::terminal::say::complained(format_args!($($words)*)) };
}

mod certs;
mod completions;
pub(crate) mod doctor;
pub(crate) mod folder;
mod health;
pub(crate) mod local;
mod man;
pub(crate) mod messages;
pub(crate) mod operate;
mod serve;
pub(crate) mod terminal;

use crate::cli::terminal::exit::{Exit, block_on};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    command: SubCommand,
}

#[derive(Debug, Subcommand)]
enum SubCommand {
    Serve(serve::Serve),
    Send(messages::send::Send),
    Recv(messages::recv::Recv),
    Quickstart(local::quickstart::Quickstart),
    Verify(folder::verify::Verify),
    Repair(folder::repair::Repair),
    Migrate(folder::migrate::Migrate),
    Crashtest(local::crashtest::Crashtest),
    Certs(certs::Certs),
    Doctor(doctor::Doctor),
    Health(health::Health),
    Completions(completions::Completions),
    Man(man::Man),
    Status(operate::status::Status),
    Queue(operate::queue::Queue),
    Dead(operate::dead::Dead),
    Mailbox(operate::mailbox::MailboxArguments),
    Track(operate::track::Track),
}

/// Runs the sub-command and returns the exit code of the process.
pub fn run(arguments: Arguments) -> ExitCode {
    keep_to_ourselves(&arguments.command);
    hush_fenced_panics();
    let exit = match arguments.command {
        SubCommand::Serve(serve) => serve.run(),
        SubCommand::Send(send) => reported(block_on(send.run())),
        SubCommand::Recv(recv) => reported(block_on(recv.run())),
        SubCommand::Quickstart(quickstart) => reported(block_on(quickstart.run())),
        SubCommand::Verify(verify) => reported(block_on(verify.run())),
        SubCommand::Repair(repair) => reported(block_on(repair.run())),
        SubCommand::Migrate(migrate) => reported(block_on(migrate.run())),
        SubCommand::Crashtest(crashtest) => reported(block_on(crashtest.run())),
        SubCommand::Certs(certs) => certs.run(),
        SubCommand::Doctor(doctor) => reported(block_on(doctor.run())),
        SubCommand::Health(health) => reported(block_on(health.run())),
        SubCommand::Completions(completions) => reported(completions.run()),
        SubCommand::Man(man) => reported(man.run()),
        SubCommand::Status(status) => reported(block_on(status.run())),
        SubCommand::Queue(queue) => reported(block_on(queue.run())),
        SubCommand::Dead(dead) => reported(block_on(dead.run())),
        SubCommand::Mailbox(mailbox) => reported(block_on(mailbox.run())),
        SubCommand::Track(track) => reported(block_on(track.run())),
    };
    exit.into()
}

/// Makes what a command writes readable only by its user, whatever the umask, if it may contain messages: they are for the
/// gateway's clients, not for everybody who has an account on the machine.
fn keep_to_ourselves(command: &SubCommand) {
    use rustix::fs::Mode;
    let has_messages = matches!(
        command,
        SubCommand::Serve(_)
            | SubCommand::Verify(_)
            | SubCommand::Repair(_)
            | SubCommand::Migrate(_)
            | SubCommand::Dead(_)
            | SubCommand::Quickstart(_)
            | SubCommand::Crashtest(_)
    );
    if has_messages {
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
    }
}

/// A panic of a library that is answered with an error need not be shown to people.
fn hush_fenced_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !petnet_storage::is_fenced() {
            usual(panic);
        }
    }));
}

fn reported(result: anyhow::Result<Exit>) -> Exit {
    result.unwrap_or_else(|error| {
        complain!("petnet: {}", terminal::table::harmless(&terminal::causes::in_words(&error)));
        if error.is::<operate::admin::NotThere>() { Exit::NotThere } else { Exit::Failed }
    })
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
            "mailbox release m --all",
            "mailbox release --all --prefix m",
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
            "mailbox release --all --sender b",
            "dead retry 1 #2",
            "status --watch --json",
            "status --watch 5",
        ] {
            let words = std::iter::once("petnet").chain(line.split(' '));
            Arguments::try_parse_from(words).unwrap_or_else(|why| panic!("{line}: {why}"));
        }
    }
}
