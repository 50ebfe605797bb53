//! `petnet mailbox`: the messages that arrived and wait to be read, and their release.

use anyhow::anyhow;
use petnet_storage::{MessageId, PartyId};

use super::admin::{self, Folder, NotThere, PAGE};
use super::queue::{Content, Listing, Rest};
use super::table::{Align, Table, count, escape, or_dash};
use super::{Exit, progress};
use crate::admin_socket::Client;
use crate::proto::admin::payload_request::Which as Payload;
use crate::proto::admin::release_mailbox_request::Which;
use crate::proto::admin::{HeldMessage, ListMailboxRequest, ListMailboxResponse, ReleaseMailboxRequest};

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
pub(crate) struct Mailbox {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Ls(Ls),
    Show(Show),
    Release(Release),
}

/// List messages in the mailbox, in the order of arrival.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox ls
  petnet mailbox ls --sender party_b --prefix model/ --all --json

JSON: one document {\"messages\": [...], \"next\": SEQUENCE or null}; with --all one message a line.

Exit codes: 0 listed, 1 failed or no gateway runs there, 2 wrong arguments")]
struct Ls {
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
    folder: Folder,
}

/// Show one message of the mailbox, or its content.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox show model/7
  petnet mailbox show model/7 --sender party_b -o weights.bin

Exit codes: 0 shown, 1 failed or no gateway runs there, 2 wrong arguments, 5 no such message")]
struct Show {
    /// Its id
    #[arg(value_name = "ID")]
    id: MessageId,
    /// Only what this party sent; without it the newest under the id
    #[arg(long, value_name = "PARTY")]
    sender: Option<PartyId>,
    #[command(flatten)]
    content: Content,
    /// For machines
    #[arg(long, conflicts_with = "payload")]
    json: bool,
    #[command(flatten)]
    folder: Folder,
}

/// Release messages of the mailbox, read or not: nobody gets them any more.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet mailbox release model/7
  petnet mailbox release --prefix model/ --sender party_b --yes

Exit codes: 0 released, 1 failed, not confirmed, or no gateway runs there, 2 wrong arguments, 5 no such message")]
struct Release {
    /// The message's id
    #[arg(value_name = "ID", required_unless_present = "prefix", conflicts_with = "prefix")]
    id: Option<MessageId>,
    /// Every message whose id begins with this
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prefix: Option<String>,
    /// Only what this party sent
    #[arg(long, value_name = "PARTY")]
    sender: Option<PartyId>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    rest: Rest,
}

impl Mailbox {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Ls(ls) => ls.run().await,
            Command::Show(show) => show.run().await,
            Command::Release(release) => release.run().await,
        }
    }
}

async fn list(client: &mut Client, request: ListMailboxRequest) -> anyhow::Result<ListMailboxResponse> {
    admin::ask("cannot list the mailbox", client.list_mailbox(request)).await
}

fn name(party: Option<&PartyId>) -> String {
    party.map(ToString::to_string).unwrap_or_default()
}

impl Ls {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
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
                    eprintln!("There are more: --all, or --after {next}");
                    return Ok(Exit::Ok);
                }
                _ => return Ok(Exit::Ok),
            }
        }
    }

    /// False when nobody reads on.
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

impl Show {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let Some(message) = self.find(&mut client).await? else {
            return Err(anyhow!(NotThere(format!("no message {:?} is in the mailbox", self.id))));
        };
        let which = Payload::MessageId(message.message_id.clone());
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

    /// The newest: the last one in the order of arrival.
    async fn find(&self, client: &mut Client) -> anyhow::Result<Option<HeldMessage>> {
        let (mut newest, mut after) = (None, 0);
        loop {
            let (sender, prefix) = (name(self.sender.as_ref()), self.id.to_string());
            let found = list(client, ListMailboxRequest { sender, prefix, after, limit: PAGE }).await?;
            newest = found.messages.into_iter().rfind(|m| m.message_id == self.id.as_str()).or(newest);
            match found.next {
                Some(next) if next > after => after = next,
                _ => return Ok(newest),
            }
        }
    }
}

impl Release {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.rest.folder.connect().await?;
        let (which, what) = match (&self.id, self.prefix) {
            (Some(id), _) => (Which::MessageId(id.to_string()), format!("{id:?}")),
            (None, prefix) => {
                let prefix = prefix.unwrap_or_default();
                let what = format!("every message whose id begins with \"{}\"", escape(&prefix));
                (Which::Prefix(prefix), what)
            }
        };
        let of = self.sender.as_ref().map(|sender| format!(" of {sender}")).unwrap_or_default();
        let warning = format!("This ends {what}{of} in the mailbox, read or not, for good.");
        if let Err(exit) = admin::confirmed(&warning, self.yes) {
            return Ok(exit);
        }
        let request = ReleaseMailboxRequest { sender: name(self.sender.as_ref()), which: Some(which) };
        admin::change("cannot release", self.rest.json, client.release_mailbox(request)).await
    }
}

fn table(messages: &[HeldMessage]) -> String {
    let columns =
        [("sequence", Align::Right), ("from", Align::Left), ("size", Align::Right), ("id", Align::Left)];
    let mut table = Table::new(&columns);
    for m in messages {
        let from = or_dash(Some(m.sender.clone()));
        table.row(&[m.sequence.to_string(), from, progress::bytes(m.len), m.message_id.clone()], None);
    }
    if table.is_empty() { "The mailbox has no such messages.".into() } else { table.render(false) }
}

fn text(m: &HeldMessage) -> String {
    let from =
        if m.sender.is_empty() { "a peer that does not say who it is".into() } else { escape(&m.sender) };
    [
        format!("id        {}", escape(&m.message_id)),
        format!("from      {from}"),
        format!("sequence  {}", m.sequence),
        format!("size      {} ({} bytes)", progress::bytes(m.len), count(m.len)),
    ]
    .join("\n")
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
        };
        let shown = table(&[message("party_a", "m", 9), message("", "\u{202e}n", 10)]);
        let expected = "\
sequence  from     size  id
       9  party_a   3 B  m
      10  -         3 B  \\u{202e}n";
        assert_eq!(shown, expected);
        assert!(table(&[]).contains("no such messages"));
    }
}
