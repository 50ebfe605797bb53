//! What is shared by the commands that ask a running gateway through the socket in its data folder: which folder, the calls
//! and their deadlines, confirmation, and output.
//!
//! Invariant: what ends messages for good happens only after a confirmation, typed on a terminal or given as `--yes`.

use crate::cli::terminal::say::harmless_json;
use std::future::Future;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use petnet_storage::PartyId;
use serde::Serialize;
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::table::{self, escape};
use crate::config::SETTINGS;
use crate::proto::admin::{Changed, PayloadPiece, PayloadRequest, StatusRequest};
use crate::wire::admin_socket::{self, AdminSocketClient, ConnectError};

/// Time limit for a question. A healthy gateway answers within milliseconds.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for a change, which may affect millions of messages.
const CHANGE_TIMEOUT: Duration = Duration::from_mins(10);
/// Time limit for the next piece of a message; a large one is read from a disk that has other things to do.
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);
/// How many items are asked for at a time when everything is wanted: the protocol's limit.
pub(crate) const PAGE: u32 = 1000;

/// Which gateway is asked: the data folder that it runs on.
#[derive(Debug, Clone)]
pub(crate) struct GatewayFolder {
    pub(crate) data_dir: PathBuf,
    /// Whether it was given as a flag, not by the environment or by default.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "decides between a gateway and Redis"))]
    pub(crate) is_flag: bool,
}

/// Implemented by hand, because a derive does not tell where a value came from.
impl clap::Args for GatewayFolder {
    fn augment_args(command: Command) -> Command {
        let default = SETTINGS.iter().find(|setting| setting.name == "DATA_DIR").and_then(|s| s.default);
        command.arg(
            Arg::new("data_dir")
                .long("data-dir")
                .env("DATA_DIR")
                .value_name("DIR")
                .value_parser(clap::value_parser!(PathBuf))
                .default_value(default.unwrap_or("."))
                .help("The data folder of the gateway to ask"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for GatewayFolder {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            data_dir: matches.get_one::<PathBuf>("data_dir").cloned().unwrap_or_default(),
            is_flag: matches.value_source("data_dir") == Some(ValueSource::CommandLine),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl GatewayFolder {
    pub(crate) async fn connect(&self) -> Result<AdminSocketClient, ConnectError> {
        admin_socket::connect(&self.data_dir).await
    }
}

/// Nothing with that name exists; this has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotThere(pub(crate) String);

/// The gateway answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("{what}: the gateway answered {code:?}: {said}")]
struct ErrorAnswer {
    what: String,
    code: Code,
    said: String,
}

/// Whether other messages may succeed: the gateway is there and objects only to this one.
pub(crate) fn is_about_one_message(why: &anyhow::Error) -> bool {
    let gone = |code: Code| {
        matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
    };
    why.is::<NotThere>() || why.downcast_ref::<ErrorAnswer>().is_some_and(|refused| !gone(refused.code))
}

/// Awaits the answer to a question.
pub(crate) async fn ask<T>(
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> anyhow::Result<T> {
    match timeout(QUESTION_TIMEOUT, call).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| refused(what, &status)),
        Err(_) => {
            bail!("{what}: no answer from the gateway within {QUESTION_TIMEOUT:?}; its log may say why")
        }
    }
}

/// Awaits a change and reports what was changed.
pub(crate) async fn change(
    what: &str,
    json: bool,
    call: impl Future<Output = Result<Response<Changed>, Status>>,
) -> anyhow::Result<Exit> {
    told(&changed(what, call).await?, json)
}

/// Awaits a change.
pub(crate) async fn changed(
    what: &str,
    call: impl Future<Output = Result<Response<Changed>, Status>>,
) -> anyhow::Result<Changed> {
    match timeout(CHANGE_TIMEOUT, call).await {
        Ok(Ok(changed)) => Ok(changed.into_inner()),
        Ok(Err(status)) => Err(refused(what, &status)),
        Err(_) => bail!(
            "{what}: no answer from the gateway within {CHANGE_TIMEOUT:?}; it may or may not have happened: list before \
             you try again"
        ),
    }
}

/// Reports what was changed. What was asked for and not done is a failure; if nothing of it was there, nothing happened.
pub(crate) fn told_of_some(changed: &Changed, json: bool) -> anyhow::Result<Exit> {
    if changed.messages == 0 {
        return Err(NotThere(changed.text.clone()).into());
    }
    told(changed, json)
}

/// Fails for a name that is not a peer's: a typing error must not look like an empty list.
pub(crate) async fn known(client: &mut AdminSocketClient, peer: &PartyId) -> anyhow::Result<()> {
    unknown(client, Some(peer)).await?.map_or(Ok(()), |why| Err(why.into()))
}

/// The error for a name that is not a peer's; `None` if it is one's, or if none was given.
pub(crate) async fn unknown(
    client: &mut AdminSocketClient,
    peer: Option<&PartyId>,
) -> anyhow::Result<Option<NotThere>> {
    let Some(peer) = peer else { return Ok(None) };
    let peers = ask("cannot list", client.status(StatusRequest {})).await?.peers;
    if peers.iter().any(|known| known.party == peer.as_str()) {
        return Ok(None);
    }
    let all: Vec<String> = peers.iter().map(|known| escape(&known.party)).collect();
    let all = if all.is_empty() { "none".into() } else { all.join(", ") };
    Ok(Some(NotThere(format!("there is no peer {peer}; there are: {all}"))))
}

/// Reports what was changed. What was asked for and not done is a failure.
pub(crate) fn told(changed: &Changed, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(changed)?;
    } else {
        print(&table::harmless(&changed.text))?;
    }
    Ok(if changed.failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// The error for a call that failed.
pub(crate) fn refused(what: &str, status: &Status) -> anyhow::Error {
    let said = escape(status.message());
    match status.code() {
        Code::NotFound => NotThere(format!("{what}: {said}")).into(),
        Code::Unimplemented => anyhow::anyhow!(
            "{what}: the gateway does not know this call; it is of another version than this program (see `petnet status`)"
        ),
        code => ErrorAnswer { what: what.into(), code, said }.into(),
    }
}

/// Hands every piece of a message to `write`. Fails unless the message came whole.
pub(crate) async fn payload(
    client: &mut AdminSocketClient,
    request: PayloadRequest,
    mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> anyhow::Result<u64> {
    const WHAT: &str = "cannot read the message";
    let mut pieces = ask(WHAT, client.payload(request)).await?;
    let (mut announced, mut len) = (None, 0);
    loop {
        let piece = match timeout(PIECE_TIMEOUT, pieces.message()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => break,
            Ok(Err(status)) => return Err(refused(WHAT, &status)),
            Err(_) => bail!("{WHAT}: no more of it came within {PIECE_TIMEOUT:?}"),
        };
        let PayloadPiece { len: whole, payload, .. } = piece;
        announced.get_or_insert(whole);
        len += payload.len() as u64;
        write(&payload)?;
    }
    match announced {
        Some(whole) if whole == len => Ok(len),
        Some(whole) => bail!("{WHAT}: {len} bytes of {whole} came"),
        None => bail!("{WHAT}: nothing came"),
    }
}

/// Whether an action may be carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    Yes,
    No,
    /// Nobody can be asked, and `--yes` was not given.
    NobodyToAsk,
}

/// Asks on the terminal, unless `yes` was given. `what` says what is lost for good. Without a confirmation, returns how the
/// command ends.
pub(crate) fn confirmed(what: &str, yes: bool) -> Result<(), Exit> {
    // A test must not wait for the person who runs it.
    let terminal = !cfg!(test) && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let read = || {
        drop(write!(std::io::stderr(), "{what} Type yes to go on: "));
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    };
    match consent(yes, terminal, read) {
        Consent::Yes => Ok(()),
        Consent::No => {
            complain!("Nothing was changed.");
            Err(Exit::Failed)
        }
        Consent::NobodyToAsk => {
            // Not exit code 2: the same command is right where there is a terminal.
            complain!(
                "petnet: {what} There is no terminal to ask for confirmation on; give --yes. Nothing was changed."
            );
            Err(Exit::Failed)
        }
    }
}

fn consent(yes: bool, terminal: bool, read: impl FnOnce() -> std::io::Result<String>) -> Consent {
    if yes {
        return Consent::Yes;
    }
    if !terminal {
        return Consent::NobodyToAsk;
    }
    if read().is_ok_and(|line| line.trim() == "yes") { Consent::Yes } else { Consent::No }
}

/// Prints to stdout; false if its reader has enough.
pub(crate) fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(why) => Err(anyhow::Error::new(why).context("cannot write to stdout")),
    }
}

/// Prints one document as one line.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<bool> {
    print(&harmless_json(&serde_json::to_string(value)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn nothing_is_lost_without_a_yes() {
        let answer = |text: &str| Ok(text.to_owned());
        let never = || panic!("asked");
        assert_eq!(consent(true, false, never), Consent::Yes);
        assert_eq!(consent(false, false, never), Consent::NobodyToAsk);
        assert_eq!(consent(false, true, || answer("yes\n")), Consent::Yes);
        for no in ["", "\n", "y\n", "no\n", "yes please\n"] {
            assert_eq!(consent(false, true, || answer(no)), Consent::No, "{no:?}");
        }
        assert_eq!(consent(false, true, || Err(ErrorKind::InvalidData.into())), Consent::No);
    }

    #[test]
    fn json_speaks_to_no_terminal_and_says_the_same() {
        let id = "\u{9b}31m\u{202e}\u{7f}\u{e0001}\u{1b}é\"\\";
        let json = harmless_json(&serde_json::to_string(id).unwrap());
        assert_eq!(json, r#""\u009b31m\u202e\u007f\udb40\udc01\u001bé\"\\""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), id);
    }

    #[test]
    fn what_the_gateway_says_is_shown_without_its_escape_sequences() {
        let why = refused("cannot", &Status::invalid_argument("\u{1b}[2Jno"));
        assert_eq!(why.to_string(), r"cannot: the gateway answered InvalidArgument: \u{1b}[2Jno");
        assert!(refused("cannot", &Status::not_found("x")).is::<NotThere>());
        assert!(is_about_one_message(&refused("cannot", &Status::data_loss("damaged"))));
        assert!(!is_about_one_message(&refused("cannot", &Status::unavailable("gone"))));
    }
}
