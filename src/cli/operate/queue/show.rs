//! `petnet queue show`: one pending message, and its content.

use std::path::PathBuf;

use anyhow::anyhow;
use petnet_storage::{MessageId, PartyId};

use crate::cli::messages::recv::MessageOutput;
use crate::cli::operate::admin::{self, GatewayFolder, NotThere};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::{bytes_in_full, count, escape, or_dash, seconds};
use crate::proto::admin::payload_request::Which as Payload;
use crate::proto::admin::{ListPendingRequest, PayloadRequest, PendingMessage, TrackRequest};
use crate::wire::admin_socket::AdminSocketClient;

/// Show one pending message, or its content.
///
/// Looking at it changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet queue show party_b model/7
  petnet queue show party_b '#17' -o weights.bin

Exit codes: 0 shown, 1 failed or no gateway runs there, 2 wrong arguments, 5 no such message is pending")]
pub(crate) struct QueueShow {
    /// The peer that it waits for
    #[arg(value_name = "PEER")]
    peer: PartyId,
    /// Its id, or its sequence number after a # (in quotes: a shell takes # for a comment)
    #[arg(value_name = "ID|#SEQUENCE", value_parser = which)]
    which: MessageChoice,
    #[command(flatten)]
    content: ContentOptions,
    /// Print JSON instead of text, for programs
    #[arg(long, conflicts_with = "payload")]
    json: bool,
    #[command(flatten)]
    folder: GatewayFolder,
}

/// Where the content goes.
#[derive(Debug, clap::Args)]
pub(crate) struct ContentOptions {
    /// Write the content to this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write the content, and nothing else, to stdout
    #[arg(long, conflicts_with = "output")]
    pub(crate) payload: bool,
}

impl ContentOptions {
    /// Writes the content where it is wanted; true if nothing else is wanted.
    pub(crate) async fn write(
        &self,
        client: &mut AdminSocketClient,
        which: Payload,
        party: &str,
    ) -> anyhow::Result<bool> {
        if self.output.is_none() && !self.payload {
            return Ok(false);
        }
        let request = PayloadRequest { party: party.into(), which: Some(which) };
        let mut output = MessageOutput::open(self.output.as_deref())?;
        let len = admin::payload(client, request, |bytes| output.write(bytes)).await?;
        output.keep()?;
        if let Some(file) = &self.output {
            complain!("wrote {} to {}", bytes_in_full(len), file.display());
        }
        Ok(self.payload)
    }
}

/// Which message is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MessageChoice {
    Id(MessageId),
    Sequence(u64),
}

/// Parses a sequence number after a `#`, or else an id.
pub(crate) fn which(text: &str) -> Result<MessageChoice, String> {
    if let Some(Ok(sequence)) = text.strip_prefix('#').map(str::parse) {
        return Ok(MessageChoice::Sequence(sequence));
    }
    MessageId::new(text).map(MessageChoice::Id).map_err(|why| why.to_string())
}

impl QueueShow {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let message = self.find(&mut client).await?;
        if self.content.write(&mut client, Payload::Pending(message.sequence), self.peer.as_str()).await? {
            return Ok(Exit::Ok);
        }
        if self.json {
            admin::print_json(&message)?;
        } else {
            admin::print(&text(&message))?;
        }
        Ok(Exit::Ok)
    }

    async fn find(&self, client: &mut AdminSocketClient) -> anyhow::Result<PendingMessage> {
        const WHAT: &str = "cannot show the message";
        let peer = self.peer.to_string();
        let (sequence, shown) = match &self.which {
            MessageChoice::Sequence(sequence) => (Some(*sequence), format!("#{sequence}")),
            MessageChoice::Id(id) => {
                // Found through its life: going through a list of millions for one id would take long.
                let request = TrackRequest { message_id: id.to_string(), party: peer.clone() };
                let found = admin::ask(WHAT, client.track(request)).await?;
                let pending = found.lives.iter().rfind(|l| l.direction == "sent" && l.state == "pending");
                (pending.map(|life| life.sequence), format!("{id:?}"))
            }
        };
        let nothing = || anyhow!(NotThere(format!("no message {shown} is pending for {}", self.peer)));
        let sequence = sequence.ok_or_else(nothing)?;
        let (after, prefix) = (sequence.saturating_sub(1), String::new());
        let request = ListPendingRequest { peer, prefix, after, limit: 1 };
        let found = admin::ask(WHAT, client.list_pending(request)).await?;
        found.messages.into_iter().find(|m| m.sequence == sequence).ok_or_else(nothing)
    }
}

fn text(m: &PendingMessage) -> String {
    let on_its_way = if m.in_flight { "yes" } else { "no" };
    [
        format!("id               {}", escape(&m.message_id)),
        format!("waits for        {}", escape(&m.peer)),
        format!("sequence         #{}", m.sequence),
        format!("size             {} ({})", progress::bytes(m.len), bytes_in_full(m.len)),
        format!("age              {}", seconds(m.age_seconds)),
        format!("expires in       {}", m.expires_seconds.map_or_else(|| "never".into(), seconds)),
        format!("on its way       {on_its_way}"),
        format!("failed attempts  {}", count(m.failed_attempts)),
        format!("last error       {}", or_dash(Some(escape(&m.last_error)))),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_number_after_a_hash_is_a_sequence_and_all_else_an_id() {
        assert_eq!(which("#17").unwrap(), MessageChoice::Sequence(17));
        for id in ["17", "#x", "#", "##17", "#-1", "#99999999999999999999"] {
            assert_eq!(which(id).unwrap(), MessageChoice::Id(MessageId::new(id).unwrap()), "{id}");
        }
        assert!(which("").is_err());
    }
}
