//! `petnet dead`: the dead letters, and what can be done about them.

mod export;
mod folder;

use anyhow::anyhow;
use petnet_storage::PartyId;

use crate::cli::operate::admin::{self, GatewayFolder, NotThere};
use crate::cli::operate::queue::{ChangeOptions, ContentOptions, Listing, left};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::{Align, Colour, Table, bytes_in_full, colours, escape, many, seconds};
use crate::proto::admin::payload_request::Which as Payload;
use crate::proto::admin::{DeadLetter, DeadRequest, ListDeadRequest, ListDeadResponse};
use crate::wire::admin_socket::AdminSocketClient;

/// List, show, retry, drop and export dead letters: messages that were not delivered, or that arrived and nobody read.
///
/// Asks the gateway that runs on the data folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet dead ls --data-dir /var/lib/petnet
  petnet dead retry --all --peer party_b
  petnet dead export ./letters

Exit codes: 0 done, 1 failed or no gateway runs there, 2 wrong arguments, 5 no such letter")]
pub(crate) struct Dead {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadCommand {
    Ls(DeadList),
    Show(DeadShow),
    Retry(DeadRetry),
    Drop(DeadDrop),
    Export(export::DeadExport),
}

/// List dead letters, oldest first.
///
/// Reasons: expired (older than `SEND_TTL`), refused (by its receiver, for good), damaged (its bytes on disk), unread (it
/// arrived, and nobody read it within `UNREAD_TTL`).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet dead ls
  petnet dead ls --peer party_b --all --json

JSON: one document {\"letters\": [...], \"next\": SEQUENCE or null}; with --all one letter a line.

Exit codes: 0 listed, 1 failed or no gateway runs there, 2 wrong arguments, 5 there is no such peer, nor a letter of it")]
struct DeadList {
    /// Only those for this party, or from it
    #[arg(long, value_name = "PEER")]
    peer: Option<PartyId>,
    #[command(flatten)]
    list: Listing,
    /// Only after this sequence number, where the page before ended
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0, hide_default_value = true)]
    after: u64,
    #[command(flatten)]
    folder: GatewayFolder,
}

/// Show one dead letter, or its content.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet dead show 17
  petnet dead show 17 -o weights.bin

Exit codes: 0 shown, 1 failed or no gateway runs there, 2 wrong arguments, 5 no such letter")]
struct DeadShow {
    /// Its sequence number, as `petnet dead ls` has it
    #[arg(value_name = "SEQUENCE", value_parser = sequence)]
    sequence: u64,
    #[command(flatten)]
    content: ContentOptions,
    /// Print JSON instead of text, for programs
    #[arg(long, conflicts_with = "payload")]
    json: bool,
    #[command(flatten)]
    folder: GatewayFolder,
}

/// Send dead letters again, or put them back into the mailbox; the letters are gone then.
///
/// One that arrived and was not read is back in the mailbox, as if it arrived now; not while a newer one of its sender is
/// there under its id. One for a peer becomes pending as if it were sent now, with a whole `SEND_TTL` before it. One under
/// an id that was sent again since then replaces the newer message, pending or at its receiver: look first. With `--all`
/// such a letter stays, as far as the gateway remembers the newer message.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet dead retry 17 18
  petnet dead retry --all --peer party_b

Exit codes: 0 all retried, 1 some stay, it failed, or no gateway runs there, 2 wrong arguments, 5 no such letter, or none at
all")]
struct DeadRetry {
    #[command(flatten)]
    which: ChosenLetters,
    #[command(flatten)]
    rest: ChangeOptions,
}

/// Drop dead letters: they are lost for good.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet dead drop 17 18
  petnet dead drop --all --yes

Exit codes: 0 dropped, 1 failed, not confirmed, or no gateway runs there, 2 wrong arguments, 5 no such letter, or none at
all")]
struct DeadDrop {
    #[command(flatten)]
    which: ChosenLetters,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    rest: ChangeOptions,
}

#[derive(Debug, clap::Args)]
struct ChosenLetters {
    /// The letters' sequence numbers
    #[arg(value_name = "SEQUENCE", value_parser = sequence, required_unless_present = "all", conflicts_with = "all")]
    sequences: Vec<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// With --all: only those for this party, or from it
    #[arg(long, value_name = "PEER", requires = "all", conflicts_with = "sequences")]
    peer: Option<PartyId>,
}

impl ChosenLetters {
    fn request(self) -> DeadRequest {
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        DeadRequest { sequences: self.sequences, all: self.all, peer }
    }

    fn in_words(&self) -> String {
        match (&self.peer, self.all) {
            (None, true) => "every dead letter".into(),
            (Some(peer), true) => format!("every dead letter for {peer}"),
            (_, false) => many(self.sequences.len() as u64, "dead letter", "dead letters"),
        }
    }
}

/// Parses `17`, or `#17` as lists of other commands show it.
fn sequence(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix('#').unwrap_or(text);
    digits
        .parse()
        .map_err(|_| "expected the sequence number of a dead letter; `petnet dead ls` has it".into())
}

impl Dead {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            DeadCommand::Ls(ls) => ls.run().await,
            DeadCommand::Show(show) => show.run().await,
            DeadCommand::Retry(DeadRetry { which, rest }) => {
                let mut client = rest.folder.connect().await?;
                let changed = admin::changed("cannot retry", client.retry_dead(which.request())).await?;
                // If letters stay, there are some.
                if changed.failed > 0 {
                    return admin::told(&changed, rest.json);
                }
                admin::told_of_some(&changed, rest.json)
            }
            DeadCommand::Drop(drop) => drop.run().await,
            DeadCommand::Export(export) => export.run().await,
        }
    }
}

/// Fetches one page.
async fn list(
    client: &mut AdminSocketClient,
    peer: &str,
    after: u64,
    limit: u32,
) -> anyhow::Result<ListDeadResponse> {
    let request = ListDeadRequest { after, limit, peer: peer.into() };
    admin::ask("cannot list dead letters", client.list_dead(request)).await
}

/// Fetches the letter with this number.
async fn find(client: &mut AdminSocketClient, sequence: u64) -> anyhow::Result<DeadLetter> {
    let found = list(client, "", sequence.saturating_sub(1), 1).await?;
    let letter = found.letters.into_iter().find(|letter| letter.sequence == sequence);
    letter.ok_or_else(|| anyhow!(NotThere(format!("there is no dead letter {sequence}"))))
}

impl DeadList {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let peer = self.peer.as_ref().map(ToString::to_string).unwrap_or_default();
        self.somebody(&mut client, &peer).await?;
        if !self.list.all {
            let found = self.first(&mut client, &peer).await?;
            if self.show(&found)?
                && !self.list.json
                && let Some(next) = found.next
            {
                complain!("There are more: --all, or --after {next}");
            }
            return Ok(Exit::Ok);
        }
        let mut after = self.after;
        loop {
            let found = list(&mut client, &peer, after, self.list.page()).await?;
            if !self.show(&found)? {
                return Ok(Exit::Ok);
            }
            match found.next {
                Some(next) if next > after => after = next,
                _ => return Ok(Exit::Ok),
            }
        }
    }

    /// Fails if the peer is unknown and has no letter: one that was removed from the party file may have some.
    async fn somebody(&self, client: &mut AdminSocketClient, peer: &str) -> anyhow::Result<()> {
        let Some(why) = admin::unknown(client, self.peer.as_ref()).await? else { return Ok(()) };
        let mut after = 0;
        loop {
            let found = list(client, peer, after, 1).await?;
            match found.next {
                _ if !found.letters.is_empty() => return Ok(()),
                Some(next) if next > after => after = next,
                _ => return Err(why.into()),
            }
        }
    }

    /// Fetches as many as are wanted, however many answers that takes: an answer holds only what was found among a limited
    /// number of letters.
    async fn first(&self, client: &mut AdminSocketClient, peer: &str) -> anyhow::Result<ListDeadResponse> {
        let limit = self.list.page();
        let mut all = list(client, peer, self.after, limit).await?;
        let mut after = self.after;
        while let Some(next) = all.next.filter(|next| *next > after)
            && let Some(left) = left(limit, all.letters.len())
        {
            after = next;
            let more = list(client, peer, after, left).await?;
            all.letters.extend(more.letters);
            all.next = more.next;
        }
        Ok(all)
    }

    /// Prints letters; false if nobody reads on.
    fn show(&self, found: &ListDeadResponse) -> anyhow::Result<bool> {
        match (self.list.json, self.list.all) {
            (false, _) => admin::print(&table(&found.letters)),
            (true, false) => admin::print_json(found),
            (true, true) => {
                for letter in &found.letters {
                    if !admin::print_json(letter)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

impl DeadShow {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let letter = find(&mut client, self.sequence).await?;
        if self.content.write(&mut client, Payload::Dead(letter.sequence), "").await? {
            return Ok(Exit::Ok);
        }
        if self.json {
            admin::print_json(&letter)?;
        } else {
            admin::print(&text(&letter))?;
        }
        Ok(Exit::Ok)
    }
}

impl DeadDrop {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.rest.folder.connect().await?;
        let what = self.which.in_words();
        let warning =
            format!("This drops {what}; what was not exported (`petnet dead export`) is lost for good.");
        if let Err(exit) = admin::confirmed(&warning, self.yes) {
            return Ok(exit);
        }
        let changed = admin::changed("cannot drop", client.drop_dead(self.which.request())).await?;
        admin::told_of_some(&changed, self.rest.json)
    }
}

fn table(letters: &[DeadLetter]) -> String {
    let mut table = Table::new(&[
        ("sequence", Align::Right),
        ("peer", Align::Left),
        ("size", Align::Right),
        ("reason", Align::Left),
        ("id", Align::Left),
        ("text", Align::Left),
    ]);
    for l in letters {
        let (size, reason) = (progress::bytes(l.len), l.reason.clone());
        let cells =
            [l.sequence.to_string(), whom(l), size, reason, l.message_id.clone(), l.reason_text.clone()];
        table.row(&cells, Some(3));
    }
    if table.is_empty() { "There are no dead letters.".into() } else { table.render(colours()) }
}

/// The other party; for a letter that arrived, this is marked.
fn whom(l: &DeadLetter) -> String {
    if l.arrived { format!("from {}", or_unnamed(&l.peer)) } else { l.peer.clone() }
}

fn or_unnamed(peer: &str) -> String {
    if peer.is_empty() { "(unnamed)".into() } else { escape(peer) }
}

fn text(l: &DeadLetter) -> String {
    [
        format!("id        {}", escape(&l.message_id)),
        format!("{}      {}", if l.arrived { "from" } else { "for " }, or_unnamed(&l.peer)),
        format!("sequence  {}", l.sequence),
        format!("size      {} ({})", progress::bytes(l.len), bytes_in_full(l.len)),
        format!("reason    {}", Colour::of(&l.reason).paint(&escape(&l.reason), colours())),
        format!("text      {}", escape(&l.reason_text)),
        format!("dead for  {}", l.dead_seconds.map_or_else(|| "not known".into(), seconds)),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_a_table_and_their_reasons_are_no_commands() {
        assert_eq!(table(&[]), "There are no dead letters.");
        let letter = DeadLetter {
            sequence: 7,
            peer: "party_b".into(),
            message_id: "m".into(),
            len: 2048,
            reason: "refused".into(),
            reason_text: "\u{1b}]0;x\u{7}".into(),
            ..DeadLetter::default()
        };
        let shown = table(std::slice::from_ref(&letter));
        let expected = "\
sequence  peer        size  reason   id  text
       7  party_b  2.0 KiB  refused  m   \\u{1b}]0;x\\u{7}";
        assert_eq!(shown, expected);
        assert!(!text(&letter).contains('\u{7}'));
    }
}
