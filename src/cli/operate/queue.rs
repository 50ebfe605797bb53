//! `petnet queue`: the messages that wait for peers, and what can be done about them.

mod show;

pub(crate) use show::{ContentOptions, MessageChoice, which};

use petnet_storage::{MessageId, PartyId};

use crate::cli::operate::admin::{self, GatewayFolder, PAGE};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::{Align, Table, count, many, or_dash, seconds};
use crate::proto::admin::{
    DropPendingRequest, ListPendingRequest, ListPendingResponse, PauseRequest, PendingMessage,
    RetryPendingRequest, StatusRequest,
};
use crate::wire::admin_socket::AdminSocketClient;

/// List, show, retry, drop and pause what waits for peers.
///
/// Asks the gateway that runs on the data folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet queue ls party_b --data-dir /var/lib/petnet
  petnet queue retry party_b
  petnet queue pause party_b

Exit codes: 0 done, 1 failed or no gateway runs there, 2 wrong arguments, 5 nothing there by that name")]
pub(crate) struct Queue {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    Ls(QueueList),
    Show(show::QueueShow),
    Retry(QueueRetry),
    Drop(QueueDrop),
    Pause(QueuePause),
    Resume(QueueResume),
}

/// List pending messages, in the order of acceptance.
///
/// The columns: the message's sequence number, which names it for good; bytes; age, and time until it becomes a dead
/// letter, both counted while the gateway is up; attempts that failed since the gateway's start.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet queue ls
  petnet queue ls party_b --prefix model/ --limit 20
  petnet queue ls party_b --all --json

JSON: one document {\"messages\": [...], \"next\": SEQUENCE or null}; with --all one message a line.

Exit codes: 0 listed, 1 failed or no gateway runs there, 2 wrong arguments, 5 there is no such peer")]
struct QueueList {
    /// Only of this peer; without it of all, one after the other
    #[arg(value_name = "PEER")]
    peer: Option<PartyId>,
    #[command(flatten)]
    list: Listing,
    /// Only after this sequence number, where the page before ended
    #[arg(long, value_name = "SEQUENCE", requires = "peer", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// Only ids that begin with this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    folder: GatewayFolder,
}

/// How much is listed, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE)))]
    pub(crate) limit: u32,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Print JSON instead of text, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// How many more are to be asked for; `None` if there are enough.
pub(crate) fn left(limit: u32, found: usize) -> Option<u32> {
    u32::try_from(found).ok().and_then(|found| limit.checked_sub(found)).filter(|left| *left > 0)
}

impl Listing {
    pub(crate) fn page(&self) -> u32 {
        if self.all { PAGE } else { self.limit }
    }
}

/// Try deliveries at once instead of after the pause, and report the result.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet queue retry party_b
  petnet queue retry

Exit codes: 0 each answers and takes what waits, 1 one does not or is paused, or no gateway runs there, 2 wrong arguments,
5 there is no such peer")]
struct QueueRetry {
    /// Only for this peer; without it for all
    #[arg(value_name = "PEER")]
    peer: Option<PartyId>,
    #[command(flatten)]
    rest: ChangeOptions,
}

/// Drop pending messages: they are lost for good.
///
/// They are not delivered and do not become dead letters. One that is on its way may still arrive.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "petnet queue drop [OPTIONS] <PEER> <ID>...|--sequence <N>...|--all",
    after_help = "\
Examples:
  petnet queue drop party_b model/7 model/8
  petnet queue drop party_b --sequence 17 --yes
  petnet queue drop party_b --all

Exit codes: 0 dropped, 1 failed, not confirmed, some of them not there, or no gateway runs there, 2 wrong arguments,
5 nothing there by that name"
)]
struct QueueDrop {
    /// The peer that they wait for
    #[arg(value_name = "PEER")]
    peer: PartyId,
    #[command(flatten)]
    which: ChosenMessages,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    rest: ChangeOptions,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ChosenMessages {
    /// The messages' ids
    #[arg(value_name = "ID")]
    ids: Vec<MessageId>,
    /// The messages' sequence numbers
    #[arg(long, value_name = "N", num_args = 1..)]
    sequence: Vec<u64>,
    /// All of this peer
    #[arg(long)]
    all: bool,
}

/// Begin no deliveries to a peer, also after a restart, until it is resumed.
///
/// Messages for it are accepted meanwhile; what is on its way may still arrive. One that is not in the party file (any more) can be
/// paused while messages wait for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet queue pause party_b

Exit codes: 0 paused, 1 failed or no gateway runs there, 2 wrong arguments, 5 there is no such peer")]
struct QueuePause {
    /// The peer
    #[arg(value_name = "PEER")]
    peer: PartyId,
    #[command(flatten)]
    rest: ChangeOptions,
}

/// Deliver to a paused peer again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet queue resume party_b

Exit codes: 0 resumed, 1 failed or no gateway runs there, 2 wrong arguments, 5 there is no such peer")]
struct QueueResume {
    /// The peer
    #[arg(value_name = "PEER")]
    peer: PartyId,
    #[command(flatten)]
    rest: ChangeOptions,
}

/// What every change takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeOptions {
    /// Print JSON instead of text, for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) folder: GatewayFolder,
}

impl Queue {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            QueueCommand::Ls(ls) => ls.run().await,
            QueueCommand::Show(show) => show.run().await,
            QueueCommand::Retry(QueueRetry { peer, rest }) => {
                let mut client = rest.folder.connect().await?;
                let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
                let call = client.retry_pending(RetryPendingRequest { peer });
                admin::change("cannot retry", rest.json, call).await
            }
            QueueCommand::Drop(drop) => drop.run().await,
            QueueCommand::Pause(QueuePause { peer, rest }) => {
                let mut client = rest.folder.connect().await?;
                let call = client.pause(PauseRequest { peer: peer.to_string() });
                admin::change("cannot pause", rest.json, call).await
            }
            QueueCommand::Resume(QueueResume { peer, rest }) => {
                let mut client = rest.folder.connect().await?;
                let call = client.resume(PauseRequest { peer: peer.to_string() });
                admin::change("cannot resume", rest.json, call).await
            }
        }
    }
}

impl QueueList {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let one = self.peer.as_ref().map(ToString::to_string);
        if !self.list.all {
            let found = self.first(&mut client, one.unwrap_or_default()).await?;
            if let Some(peer) = self.peer.as_ref().filter(|_| found.messages.is_empty()) {
                admin::known(&mut client, peer).await?;
            }
            if self.list.json {
                admin::print_json(&found)?;
            } else {
                admin::print(&text(&found.messages))?;
                if let Some(next) = found.next {
                    complain!("There are more: --all, or PEER and --after {next}");
                }
            }
            return Ok(Exit::Ok);
        }
        let peers: Vec<String> = if let Some(one) = &self.peer {
            admin::known(&mut client, one).await?;
            vec![one.to_string()]
        } else {
            let status = admin::ask("cannot list", client.status(StatusRequest {})).await?;
            status.peers.into_iter().filter(|p| p.pending > 0).map(|p| p.party).collect()
        };
        if peers.is_empty() && !self.list.json {
            admin::print(&text(&[]))?;
        }
        for peer in peers {
            let mut after = self.after;
            loop {
                let found = self.page(&mut client, peer.clone(), after, self.list.page()).await?;
                if !self.show(&found.messages)? {
                    return Ok(Exit::Ok);
                }
                match found.next {
                    // A gateway that makes no progress must not hold us for ever.
                    Some(next) if next > after => after = next,
                    _ => break,
                }
            }
        }
        Ok(Exit::Ok)
    }

    /// Prints messages; false if nobody reads on.
    fn show(&self, messages: &[PendingMessage]) -> anyhow::Result<bool> {
        if !self.list.json {
            return admin::print(&text(messages));
        }
        for message in messages {
            if !admin::print_json(message)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches as many as are wanted, however many answers that takes: an answer holds only what was found among a limited
    /// number of messages.
    async fn first(
        &self,
        client: &mut AdminSocketClient,
        peer: String,
    ) -> anyhow::Result<ListPendingResponse> {
        let limit = self.list.page();
        let mut all = self.page(client, peer.clone(), self.after, limit).await?;
        let mut after = self.after;
        while let Some(next) = all.next.filter(|next| *next > after)
            && let Some(left) = left(limit, all.messages.len())
        {
            after = next;
            let more = self.page(client, peer.clone(), after, left).await?;
            all.messages.extend(more.messages);
            all.next = more.next;
        }
        Ok(all)
    }

    async fn page(
        &self,
        client: &mut AdminSocketClient,
        peer: String,
        after: u64,
        limit: u32,
    ) -> anyhow::Result<ListPendingResponse> {
        let prefix = self.prefix.clone();
        let request = ListPendingRequest { peer, prefix, after, limit };
        admin::ask("cannot list pending messages", client.list_pending(request)).await
    }
}

fn text(messages: &[PendingMessage]) -> String {
    let mut table = Table::new(&[
        ("peer", Align::Left),
        ("sequence", Align::Right),
        ("size", Align::Right),
        ("age", Align::Right),
        ("expires in", Align::Right),
        ("failed", Align::Right),
        ("id", Align::Left),
        ("last error", Align::Left),
    ]);
    for m in messages {
        let error = if m.in_flight { "(on its way)".into() } else { m.last_error.clone() };
        table.row(
            &[
                m.peer.clone(),
                m.sequence.to_string(),
                progress::bytes(m.len),
                seconds(m.age_seconds),
                or_dash(m.expires_seconds.map(seconds)),
                count(m.failed_attempts),
                m.message_id.clone(),
                error,
            ],
            None,
        );
    }
    if table.is_empty() {
        return "Nothing is pending.".into();
    }
    table.render(false)
}

impl QueueDrop {
    async fn run(self) -> anyhow::Result<Exit> {
        let ChosenMessages { ids, sequence, all } = self.which;
        let what = if all {
            format!("every message that is pending for {}", self.peer)
        } else {
            many((ids.len() + sequence.len()) as u64, "pending message", "pending messages")
        };
        let mut client = self.rest.folder.connect().await?;
        let warning = format!("This ends {what}; {} will not get it. It is lost for good.", self.peer);
        if let Err(exit) = admin::confirmed(&warning, self.yes) {
            return Ok(exit);
        }
        let request = DropPendingRequest {
            peer: self.peer.to_string(),
            sequences: sequence,
            message_ids: ids.iter().map(ToString::to_string).collect(),
            all,
        };
        let changed = admin::changed("cannot drop", client.drop_pending(request)).await?;
        admin::told_of_some(&changed, self.rest.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_messages_are_a_table() {
        assert_eq!(text(&[]), "Nothing is pending.");
        let message = |id: &str, sequence, error: &str| PendingMessage {
            peer: "party_b".into(),
            message_id: id.into(),
            sequence,
            len: 5 << 20,
            age_seconds: 65,
            expires_seconds: Some(604_735),
            failed_attempts: 3,
            last_error: error.into(),
            in_flight: false,
        };
        let shown = text(&[message("m", 7, "no\nanswer"), message("\u{1b}[2J", 12, "")]);
        let expected = "\
peer     sequence     size         age  expires in  failed  id         last error
party_b         7  5.0 MiB  1 min 05 s    6 d 23 h       3  m          no\\nanswer
party_b        12  5.0 MiB  1 min 05 s    6 d 23 h       3  \\u{1b}[2J";
        assert_eq!(shown, expected);
    }
}
