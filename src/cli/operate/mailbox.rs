//! `petnet mailbox`: the messages that have arrived and wait to be read, and their release.

use anyhow::anyhow;
use petnet_storage::{MessageId, PartyId};

use crate::cli::operate::admin::{self, GatewayFolder, NotThere, PAGE};
use crate::cli::operate::queue::{ChangeOptions, ContentOptions, Listing, MessageChoice, which};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::{Align, Table, bytes_in_full, escape, or_dash, seconds, time};
use crate::proto::admin::payload_request::Which as Payload;
use crate::proto::admin::release_mailbox_request::Which;
use crate::proto::admin::{HeldMessage, ListMailboxRequest, ListMailboxResponse, ReleaseMailboxRequest};
use crate::wire::admin_socket::AdminSocketClient;

/// List, show and release the messages that arrived.
///
/// Asks the gateway that runs on the data folder. Looking does not count as reading.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox ls --data-dir /var/lib/petnet
  petnet mailbox show model/7 -o weights.bin
  petnet mailbox release --prefix model/

Exit codes: 0 done, 1 failed or no gateway runs there, 2 wrong arguments, 5 no such message")]
pub(crate) struct MailboxArguments {
    #[command(subcommand)]
    command: MailboxCommand,
}

#[derive(Debug, clap::Subcommand)]
enum MailboxCommand {
    Ls(MailboxList),
    Show(MailboxShow),
    Release(MailboxRelease),
}

/// List messages in the mailbox, in the order of arrival.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox ls
  petnet mailbox ls --sender party_b --prefix model/ --all --json

JSON: one document {\"messages\": [...], \"next\": SEQUENCE or null}; with --all one message a line.

Exit codes: 0 listed, 1 failed or no gateway runs there, 2 wrong arguments, 5 there is no such peer, nor a message of it")]
struct MailboxList {
    /// Only what this party sent
    #[arg(long, value_name = "PARTY")]
    sender: Option<PartyId>,
    /// Only ids that begin with this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    list: Listing,
    /// Only after this sequence number, where the page before ended
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0, hide_default_value = true)]
    after: u64,
    #[command(flatten)]
    folder: GatewayFolder,
}

/// Show one message of the mailbox, or its content.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox show model/7
  petnet mailbox show model/7 --sender party_b -o weights.bin
  petnet mailbox show '#17'

Exit codes: 0 shown, 1 failed or no gateway runs there, 2 wrong arguments, 5 no such message")]
struct MailboxShow {
    /// Its id, or its sequence number after a # (in quotes: a shell takes # for a comment)
    #[arg(value_name = "ID|#SEQUENCE", value_parser = which)]
    which: MessageChoice,
    /// Only what this party sent; without it the newest under the id
    #[arg(long, value_name = "PARTY")]
    sender: Option<PartyId>,
    #[command(flatten)]
    content: ContentOptions,
    /// Print JSON instead of text, for programs
    #[arg(long, conflicts_with = "payload")]
    json: bool,
    #[command(flatten)]
    folder: GatewayFolder,
}

/// Release messages of the mailbox, read or not: nobody gets them any more.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox release model/7
  petnet mailbox release --prefix model/ --sender party_b --yes
  petnet mailbox release --all --sender party_b

Exit codes: 0 released, 1 failed, not confirmed, or no gateway runs there, 2 wrong arguments, 5 no such message")]
struct MailboxRelease {
    /// The message's id
    #[arg(value_name = "ID", required_unless_present_any = ["prefix", "all"], conflicts_with_all = ["prefix", "all"])]
    id: Option<MessageId>,
    /// Every message whose id begins with this
    #[arg(long, value_name = "TEXT", value_parser = prefix)]
    prefix: Option<String>,
    /// Every message
    #[arg(long, conflicts_with = "prefix")]
    all: bool,
    /// Only what this party sent
    #[arg(long, value_name = "PARTY")]
    sender: Option<PartyId>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    rest: ChangeOptions,
}

/// Parses the beginning of ids. It must not be empty, because all ids begin with nothing.
fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "it is empty, and would release every message; if that is meant, give --all instead".into()
        );
    }
    Ok(text.to_owned())
}

impl MailboxArguments {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            MailboxCommand::Ls(ls) => ls.run().await,
            MailboxCommand::Show(show) => show.run().await,
            MailboxCommand::Release(release) => release.run().await,
        }
    }
}

async fn list(
    client: &mut AdminSocketClient,
    request: ListMailboxRequest,
) -> anyhow::Result<ListMailboxResponse> {
    admin::ask("cannot list the mailbox", client.list_mailbox(request)).await
}

fn name(party: Option<&PartyId>) -> String {
    party.map(ToString::to_string).unwrap_or_default()
}

impl MailboxList {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        self.somebody(&mut client).await?;
        let mut after = self.after;
        loop {
            let (sender, prefix) = (name(self.sender.as_ref()), self.prefix.clone());
            let request = ListMailboxRequest { sender, prefix, after, limit: self.list.page() };
            let found = list(&mut client, request).await?;
            if !self.show(&found)? {
                return Ok(Exit::Ok);
            }
            match found.next {
                Some(next) if self.list.all && next > after => after = next,
                Some(next) if !self.list.all && !self.list.json => {
                    complain!("There are more: --all, or --after {next}");
                    return Ok(Exit::Ok);
                }
                _ => return Ok(Exit::Ok),
            }
        }
    }

    /// Fails if the sender is unknown and has nothing here: one that was removed from the party file may have messages.
    async fn somebody(&self, client: &mut AdminSocketClient) -> anyhow::Result<()> {
        let Some(why) = admin::unknown(client, self.sender.as_ref()).await? else { return Ok(()) };
        let sender = name(self.sender.as_ref());
        let request = ListMailboxRequest { sender, prefix: String::new(), after: 0, limit: 1 };
        if list(client, request).await?.messages.is_empty() { Err(why.into()) } else { Ok(()) }
    }

    /// Prints messages; false if nobody reads on.
    fn show(&self, found: &ListMailboxResponse) -> anyhow::Result<bool> {
        match (self.list.json, self.list.all) {
            (false, _) => admin::print(&table(&found.messages)),
            (true, false) => admin::print_json(found),
            (true, true) => {
                for message in &found.messages {
                    if !admin::print_json(message)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

impl MailboxShow {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let message = self.find(&mut client).await?;
        let which = Payload::Held(message.sequence);
        if self.content.write(&mut client, which, &message.sender).await? {
            return Ok(Exit::Ok);
        }
        if self.json {
            admin::print_json(&message)?;
        } else {
            admin::print(&text(&message))?;
        }
        Ok(Exit::Ok)
    }

    async fn find(&self, client: &mut AdminSocketClient) -> anyhow::Result<HeldMessage> {
        let sender = name(self.sender.as_ref());
        let id = match &self.which {
            MessageChoice::Id(id) => id,
            MessageChoice::Sequence(sequence) => {
                let (sequence, after) = (*sequence, sequence.saturating_sub(1));
                let request = ListMailboxRequest { sender, prefix: String::new(), after, limit: 1 };
                let found =
                    list(client, request).await?.messages.into_iter().find(|m| m.sequence == sequence);
                let of = self.sender.as_ref().map(|sender| format!(" of {sender}")).unwrap_or_default();
                return found.ok_or_else(|| {
                    anyhow!(NotThere(format!("no message #{sequence}{of} is in the mailbox")))
                });
            }
        };
        let all = under(client, id).await?;
        let is_meant = |m: &&HeldMessage| sender.is_empty() || m.sender == sender;
        let Some(newest) = all.iter().rfind(is_meant) else {
            let why = nothing(id, &sender, &all);
            return Err(anyhow!(NotThere(why)));
        };
        if let Some(note) = others(newest, &all) {
            complain!("{note}");
        }
        Ok(newest.clone())
    }
}

/// All messages under an id, in the order of arrival: at most one of each sender.
async fn under(client: &mut AdminSocketClient, id: &MessageId) -> anyhow::Result<Vec<HeldMessage>> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let request =
            ListMailboxRequest { sender: String::new(), prefix: id.to_string(), after, limit: PAGE };
        let found = list(client, request).await?;
        all.extend(found.messages.into_iter().filter(|m| m.message_id == id.as_str()));
        match found.next {
            Some(next) if next > after => after = next,
            _ => return Ok(all),
        }
    }
}

fn from(m: &HeldMessage) -> String {
    if m.sender.is_empty() { "a peer that does not say who it is".into() } else { escape(&m.sender) }
}

/// Mentions the messages that are not shown, if there are any.
fn others(shown: &HeldMessage, all: &[HeldMessage]) -> Option<String> {
    let others: Vec<_> = all
        .iter()
        .filter(|m| m.sequence != shown.sequence)
        .map(|m| format!("one from {}, #{}", from(m), m.sequence))
        .collect();
    let id = escape(&shown.message_id);
    (!others.is_empty())
        .then(|| format!("Under {id} there is also {}: name it by --sender or its number", others.join(", ")))
}

fn nothing(id: &MessageId, sender: &str, all: &[HeldMessage]) -> String {
    let others: Vec<_> = all.iter().map(|m| format!("one from {} (#{})", from(m), m.sequence)).collect();
    match (sender, others.as_slice()) {
        ("", _) => format!("no message {id:?} is in the mailbox"),
        (sender, []) => format!("no message {id:?} of {sender} is in the mailbox"),
        (sender, others) => {
            format!(
                "no message {id:?} of {sender} is in the mailbox; under that id there is {}",
                others.join(", ")
            )
        }
    }
}

impl MailboxRelease {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.rest.folder.connect().await?;
        let (which, what) = match (&self.id, self.prefix) {
            (Some(id), _) => (Which::MessageId(id.to_string()), format!("{id:?}")),
            (None, Some(prefix)) => {
                let what = format!("every message whose id begins with \"{}\"", escape(&prefix));
                (Which::Prefix(prefix), what)
            }
            (None, None) => (Which::All(self.all), "every message".into()),
        };
        let of = self.sender.as_ref().map(|sender| format!(" of {sender}")).unwrap_or_default();
        let warning = format!("This ends {what}{of} in the mailbox, read or not, for good.");
        if let Err(exit) = admin::confirmed(&warning, self.yes) {
            return Ok(exit);
        }
        let request = ReleaseMailboxRequest { sender: name(self.sender.as_ref()), which: Some(which) };
        let changed = admin::changed("cannot release", client.release_mailbox(request)).await?;
        admin::told_of_some(&changed, self.rest.json)
    }
}

fn table(messages: &[HeldMessage]) -> String {
    let columns = [
        ("sequence", Align::Right),
        ("from", Align::Left),
        ("size", Align::Right),
        ("read", Align::Left),
        ("id", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for m in messages {
        let from = or_dash(Some(m.sender.clone()));
        let read = if m.unread { "no" } else { "yes" };
        let size = progress::bytes(m.len);
        table.row(&[m.sequence.to_string(), from, size, read.into(), m.message_id.clone()], None);
    }
    if table.is_empty() { "The mailbox has no such messages.".into() } else { table.render(false) }
}

fn text(m: &HeldMessage) -> String {
    let mut lines = vec![
        format!("id        {}", escape(&m.message_id)),
        format!("from      {}", from(m)),
        format!("sequence  {}", m.sequence),
        format!("size      {} ({})", progress::bytes(m.len), bytes_in_full(m.len)),
        format!("read      {}", if m.unread { "no, by nobody" } else { "yes" }),
        format!("age       {}", seconds(m.age_seconds)),
    ];
    if let Some(change) = &m.change {
        let name = |party: &str| match party {
            "" => "a peer that does not say who it is".to_owned(),
            party => escape(party),
        };
        lines.push(format!(
            "changed   receives that name no sender went over from {} to {} at {}",
            name(&change.before),
            name(&change.now),
            time(change.at_ms)
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mailbox_is_a_table() {
        let message = |sender: &str, id: &str, sequence| HeldMessage {
            sender: sender.into(),
            message_id: id.into(),
            sequence,
            len: 3,
            unread: sequence == 9,
            ..HeldMessage::default()
        };
        let shown = table(&[message("party_a", "m", 9), message("", "\u{202e}n", 10)]);
        let expected = "\
sequence  from     size  read  id
       9  party_a   3 B  no    m
      10  -         3 B  yes   \\u{202e}n";
        assert_eq!(shown, expected);
        assert!(table(&[]).contains("no such messages"));
    }

    #[test]
    fn what_another_sender_has_under_the_id_is_said() {
        let held = |sender: &str, sequence| HeldMessage {
            sender: sender.into(),
            message_id: "m".into(),
            sequence,
            ..HeldMessage::default()
        };
        let (a, b) = (held("party_a", 3), held("", 7));
        let id = crate::testing::message_id("m");
        assert_eq!(others(&a, std::slice::from_ref(&a)), None);
        let note = others(&a, &[a.clone(), b.clone()]).unwrap_or_default();
        assert!(note.contains("also one from a peer that does not say who it is, #7"), "{note}");
        let why = nothing(&id, "party_x", &[a, b]);
        assert!(why.contains("of party_x") && why.contains("one from party_a (#3), one from"), "{why}");
        assert!(!nothing(&id, "", &[]).contains("under that id"));
    }
}
