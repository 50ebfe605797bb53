//! `petnet send`: hands a message to a running gateway and says so only when it is accepted.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId};
use tonic::transport::Channel;

use super::client::{self, GatewayAddress};
use super::streams::{self, Streamed};
use super::{Exit, progress};
use crate::config::duration;

/// A message of fewer bytes goes in one call, larger ones in pieces.
const ONE_CALL: u64 = 1 << 20;

/// Send a message to another party.
///
/// Returns when the gateway has accepted it: from then on it survives crashes here, and is delivered as soon as the
/// other party's gateway can be reached. It may be as large as the gateway has room for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet send --to party_b --id model/7 weights.bin
  echo hello | petnet send --to party_b --id greeting

Exit codes: 0 accepted, 1 not accepted, 2 wrong arguments")]
pub(crate) struct Send {
    /// The receiving party
    #[arg(long, value_name = "PARTY")]
    to: PartyId,
    /// The message's id; the other side receives it under this id
    #[arg(long, value_name = "ID")]
    id: MessageId,
    /// The content: a file, or - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Longest wait for the gateway to accept it; of a large message, longest time in which nothing moves
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    timeout: Duration,
}

impl Send {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let (mut content, len) = streams::open(&self.file)?;
        if self.file == Path::new("-") && std::io::stdin().is_terminal() {
            eprintln!("reading the message from the keyboard; end it with Ctrl-D");
        }
        let (first, content) = tokio::task::spawn_blocking(move || {
            let mut first = Vec::new();
            (&mut content).take(ONE_CALL).read_to_end(&mut first).map(|_| (Bytes::from(first), content))
        })
        .await?
        .with_context(|| format!("cannot read {}", self.file.display()))?;
        let channel = client::connect(&self.gateway).await?;
        let sent = if (first.len() as u64) < ONE_CALL {
            self.in_one_call(channel, first).await?
        } else {
            self.in_pieces(channel, first, content, len).await?
        };
        eprintln!("accepted {:?} for {}, {sent} bytes", self.id, self.to);
        Ok(Exit::Ok)
    }

    async fn in_one_call(&self, channel: Channel, payload: Bytes) -> anyhow::Result<u64> {
        let len = payload.len() as u64;
        let mut client = client::client(channel);
        let what = || format!("sending {} to {}", progress::bytes(len), self.gateway.gateway);
        progress::shown(what, client::send(&mut client, &self.to, &self.id, payload, self.timeout)).await?;
        Ok(len)
    }

    async fn in_pieces(
        &self,
        channel: Channel,
        first: Bytes,
        content: impl Read + std::marker::Send + 'static,
        len: Option<u64>,
    ) -> anyhow::Result<u64> {
        let moved = streams::Moved::default();
        let what = || {
            let sent = progress::bytes(moved.load(Ordering::Relaxed));
            let of = len.map(|len| format!(" of {}", progress::bytes(len))).unwrap_or_default();
            format!("sending to {}: {sent}{of}", self.gateway.gateway)
        };
        let target = streams::Target { to: &self.to, id: &self.id, len };
        let sent = streams::send(channel.clone(), target, first, content, self.timeout, moved.clone());
        match progress::shown(what, sent).await? {
            Streamed::Done(sent) => Ok(sent),
            Streamed::NotKnown if len.is_some() => {
                let whole = std::fs::read(&self.file);
                let whole = whole.with_context(|| format!("cannot read {}", self.file.display()))?;
                self.in_one_call(channel, whole.into()).await
            }
            Streamed::NotKnown => bail!("the gateway takes no streams: send this much from a file"),
        }
    }
}
