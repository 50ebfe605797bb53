//! `petnet send`: hands a message to a running gateway and says so only when it is accepted.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId};

use super::client::{self, GatewayAddress};
use super::{Exit, progress};
use crate::config::duration;

/// Send a message to another party.
///
/// Returns when the gateway has accepted it: from then on it survives crashes here, and is delivered as soon as the
/// other party's gateway can be reached.
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
    /// Longest wait for the gateway to accept it
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    timeout: Duration,
}

impl Send {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let payload = content(&self.file)?;
        let len = payload.len() as u64;
        let (to, id, gateway) = (&self.to, &self.id, &self.gateway.gateway);
        let mut client = client::connect(&self.gateway).await?;
        let what = || format!("sending {} to {gateway}", progress::bytes(len));
        let sent = client::send(&mut client, to, id, payload, self.timeout);
        progress::shown(what, sent).await?;
        eprintln!("accepted {id:?} for {to}, {len} bytes");
        Ok(Exit::Ok)
    }
}

fn content(file: &Path) -> anyhow::Result<Bytes> {
    if file != Path::new("-") {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(bytes.into());
    }
    if std::io::stdin().is_terminal() {
        eprintln!("reading the message from the keyboard; end it with Ctrl-D");
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
    Ok(bytes.into())
}
