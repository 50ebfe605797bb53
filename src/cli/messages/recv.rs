//! `petnet recv`: waits for a message at a running gateway and outputs its bytes unchanged.
//!
//! Invariant: a file named with `-o` holds either the whole message or what it held before.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use petnet_storage::{MessageId, PartyId};
use tempfile::NamedTempFile;
use tonic::transport::Channel;

use crate::cli::messages::client::{self, GatewayAddress};
use crate::cli::messages::patience::Patience;
use crate::cli::messages::streams::{self, Streamed};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::bytes_in_full;
use crate::config::{duration, parent_of};

/// Receive a message that another party sent.
///
/// The bytes go to stdout, or to a file; everything else goes to stderr. Receiving does not remove the message: it can
/// be received again until its time is over.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet recv --id model/7 --wait 5m -o weights.bin
  petnet recv --id greeting --from party_a

Exit codes: 0 received, 1 failed, 2 wrong arguments, 5 not there in time")]
pub(crate) struct Recv {
    /// The message's id
    #[arg(long, value_name = "ID")]
    id: MessageId,
    /// How long to wait for it, also for a gateway that is not there yet or restarts; 0 looks once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    wait: Duration,
    /// Only a message of this party; without it one that nobody has read, else the one that was read last
    #[arg(long, value_name = "PARTY")]
    from: Option<PartyId>,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    gateway: GatewayAddress,
}

impl Recv {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut patience = Patience::new(self.wait);
        let channel = client::connect_within(&self.gateway, &mut patience).await?;
        let wait = patience.left();
        let mut output = MessageOutput::open(self.output.as_deref())?;
        let moved = streams::ByteProgress::default();
        let what = || match moved.load(Ordering::Relaxed) {
            0 => format!("waiting for {:?} at {}", self.id, self.gateway.gateway),
            some => format!("receiving {:?}: {}", self.id, progress::bytes(some)),
        };
        let write = |bytes: &[u8]| output.write(bytes);
        let received = streams::receive(channel.clone(), &self.id, self.from.as_ref(), wait, write, &moved);
        let len = match progress::shown(what, received).await? {
            Streamed::Done(len) => len,
            Streamed::NotKnown => self.in_one_call(channel, wait, &mut output).await?,
        };
        let Some(len) = len else {
            complain!("no message {:?} within {:?}", self.id, self.wait);
            return Ok(Exit::NotThere);
        };
        output.keep()?;
        if let Some(file) = &self.output {
            complain!("received {:?}, {}, in {}", self.id, bytes_in_full(len), file.display());
        }
        Ok(Exit::Ok)
    }

    /// Receives from a gateway that does not have streams.
    async fn in_one_call(
        &self,
        channel: Channel,
        wait: Duration,
        output: &mut MessageOutput,
    ) -> anyhow::Result<Option<u64>> {
        let mut client = client::client(channel);
        let what = || format!("waiting for {:?} at {}", self.id, self.gateway.gateway);
        let message = client::receive(&mut client, &self.id, self.from.as_ref(), wait);
        let Some(payload) = progress::shown(what, message).await? else { return Ok(None) };
        output.write(&payload)?;
        Ok(Some(payload.len() as u64))
    }
}

/// Where a message is written.
pub(crate) enum MessageOutput {
    Stdout,
    /// Not a regular file (`/dev/null`, a pipe): a rename would replace it.
    Device(File),
    /// A temporary file beside the target, renamed when it is whole: a crash leaves the old file or the new one, never a
    /// part.
    File(NamedTempFile, PathBuf),
}

impl MessageOutput {
    /// Opens the output. A symbolic link is followed.
    pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else { return Ok(Self::Stdout) };
        let cannot = || format!("cannot write {}", file.display());
        if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
            return Ok(Self::Device(File::options().write(true).open(file).with_context(cannot)?));
        }
        let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
        let temporary = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(parent_of(&file))
            .with_context(cannot)?;
        Ok(Self::File(temporary, file))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            // The reader of a pipe may have enough before the end.
            Self::Stdout => match streams::to_stdout(bytes) {
                Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written,
            },
            Self::Device(file) => file.write_all(bytes),
            Self::File(temporary, _) => temporary.write_all(bytes),
        }
    }

    /// Finishes the output, now that the message is whole.
    pub(crate) fn keep(self) -> anyhow::Result<()> {
        let Self::File(temporary, file) = self else { return Ok(()) };
        let keep = || {
            temporary.as_file().sync_all()?;
            temporary.persist(&file).map_err(|failed| failed.error)?;
            File::open(parent_of(&file))?.sync_all()
        };
        keep().with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn write_whole(file: &Path, content: &[u8]) -> anyhow::Result<()> {
        let mut output = MessageOutput::open(Some(file))?;
        output.write(content)?;
        output.keep()
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_device_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for content in [b"long content".as_slice(), b"", b"short"] {
            write_whole(&file, content).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), content);
        }
        write_whole(&link, b"through the link").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"through the link");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        // As long as it is not kept, nothing changes.
        MessageOutput::open(Some(&file)).unwrap().write(b"half").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"through the link");
        write_whole(Path::new("/dev/null"), b"nothing").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        assert!(write_whole(Path::new("/no/such/folder/file"), b"").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file was left behind");
    }
}
