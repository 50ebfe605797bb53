//! `petnet send`: hands a message to a running gateway and reports success only when it is accepted.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId};
use tonic::transport::Channel;

use crate::cli::messages::client::{self, GatewayAddress};
use crate::cli::messages::keyed;
use crate::cli::messages::patience::{AttemptFailure, Patience};
use crate::cli::messages::streams::{self, Streamed};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::bytes_in_full;
use crate::config::duration;

/// Smaller messages are sent in one call, larger ones in pieces.
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
    /// Longest wait for the gateway to accept it, also for one that is not there yet or restarts; of a large message, longest
    /// time in which nothing moves
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    timeout: Duration,
}

impl Send {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let (mut content, len) = streams::open(&self.file)?;
        if self.file == Path::new("-") && std::io::stdin().is_terminal() {
            complain!("reading the message from the keyboard; end it with Ctrl-D");
        }
        let (first, content) = tokio::task::spawn_blocking(move || {
            let mut first = Vec::new();
            (&mut content).take(ONE_CALL).read_to_end(&mut first).map(|_| (Bytes::from(first), content))
        })
        .await?
        .with_context(|| format!("cannot read {}", self.file.display()))?;
        let key = keyed::new_key()?;
        let mut patience = Patience::new(self.timeout);
        let channel = client::connect_within(&self.gateway, &mut patience).await?;
        let sent = if (first.len() as u64) < ONE_CALL {
            self.in_one_call(channel, first, key, &mut patience).await?
        } else {
            self.in_pieces(channel, (first, content, len), key, &mut patience).await?
        };
        complain!("accepted {:?} for {}, {}", self.id, self.to, bytes_in_full(sent));
        Ok(Exit::Ok)
    }

    async fn in_one_call(
        &self,
        channel: Channel,
        payload: Bytes,
        key: Bytes,
        patience: &mut Patience,
    ) -> anyhow::Result<u64> {
        let len = payload.len() as u64;
        let what = || format!("sending {} to {}", progress::bytes(len), self.gateway.gateway);
        let sent = patience.with(async || {
            let (to, payload) = ((&self.to, &self.id), payload.clone());
            keyed::try_send(channel.clone(), to, payload, key.clone(), self.timeout).await
        });
        progress::shown(what, sent).await?;
        Ok(len)
    }

    async fn in_pieces(
        &self,
        channel: Channel,
        (first, content, len): (Bytes, impl Read + std::marker::Send + 'static, Option<u64>),
        key: Bytes,
        patience: &mut Patience,
    ) -> anyhow::Result<u64> {
        let moved = streams::ByteProgress::default();
        let what = || {
            let sent = progress::bytes(moved.load(Ordering::Relaxed));
            let of = len.map(|len| format!(" of {}", progress::bytes(len))).unwrap_or_default();
            format!("sending to {}: {sent}{of}", self.gateway.gateway)
        };
        let target = streams::SendTarget { to: &self.to, id: &self.id, len, key: key.clone() };
        let begin = streams::send(channel.clone(), target, first, content, self.timeout, moved.clone());
        let mut sent = progress::shown(what, begin).await;
        // Each further attempt reads the file from its beginning: the gateway keeps nothing of a message that it has not
        // accepted. What came through a pipe is gone.
        let mut best = 0;
        while let Err(AttemptFailure::Passing(why)) = sent {
            if len.is_none() {
                return Err(
                    why.context("what comes through a pipe cannot be sent a second time; from a file it is")
                );
            }
            // Time in which it got farther than before does not count as waiting.
            if best < moved.load(Ordering::Relaxed) {
                best = moved.load(Ordering::Relaxed);
                patience.renew(self.timeout);
            }
            if !patience.again(&why).await {
                return Err(why);
            }
            moved.store(0, Ordering::Relaxed);
            let (content, len) = streams::open(&self.file)?;
            let target = streams::SendTarget { to: &self.to, id: &self.id, len, key: key.clone() };
            let again =
                streams::send(channel.clone(), target, Bytes::new(), content, self.timeout, moved.clone());
            sent = progress::shown(what, again).await;
        }
        match sent.map_err(AttemptFailure::into_error)? {
            Streamed::Done(sent) => Ok(sent),
            Streamed::NotKnown if len.is_some() => {
                let whole = std::fs::read(&self.file);
                let whole = whole.with_context(|| format!("cannot read {}", self.file.display()))?;
                self.in_one_call(channel, whole.into(), key, patience).await
            }
            Streamed::NotKnown => bail!("the gateway takes no streams: send this much from a file"),
        }
    }
}
