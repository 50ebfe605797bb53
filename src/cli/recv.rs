//! `petnet recv`: waits for a message at a running gateway and hands its bytes over unchanged.
//!
//! Invariant: a file named with `-o` is either the whole message or what it was before.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use petnet_storage::{MessageId, PartyId};

use super::client::{self, GatewayAddress};
use super::{Exit, progress};
use crate::config::duration;

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
    /// How long to wait for it; 0 looks once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    wait: Duration,
    /// Only a message of this party; without it the newest under the id
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
        let mut client = client::connect(&self.gateway).await?;
        let what = || format!("waiting for {:?} at {}", self.id, self.gateway.gateway);
        let message = client::receive(&mut client, &self.id, self.from.as_ref(), self.wait);
        let Some(payload) = progress::shown(what, message).await? else {
            eprintln!("no message {:?} within {:?}", self.id, self.wait);
            return Ok(Exit::NotThere);
        };
        match &self.output {
            None => match write_stdout(&payload) {
                // The reader of a pipe may have enough early.
                Err(why) if why.kind() == ErrorKind::BrokenPipe => {}
                written => written.context("cannot write to stdout")?,
            },
            Some(file) => {
                write_whole(file, &payload).with_context(|| format!("cannot write {}", file.display()))?;
                eprintln!("received {:?}, {} bytes, in {}", self.id, payload.len(), file.display());
            }
        }
        Ok(Exit::Ok)
    }
}

fn write_stdout(payload: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(payload)?;
    stdout.flush()
}

/// Through a temporary file beside it and a rename: a crash leaves the old file or the new one, never a part.
/// A link is followed. What is not a file (`/dev/null`, a pipe) is written to, for a rename would replace it.
fn write_whole(file: &Path, payload: &[u8]) -> std::io::Result<()> {
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return File::options().write(true).open(file)?.write_all(payload);
    }
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    temporary.write_all(payload)?;
    temporary.as_file().sync_all()?;
    temporary.persist(&file).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

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
        write_whole(Path::new("/dev/null"), b"nothing").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        assert!(write_whole(Path::new("/no/such/folder/file"), b"").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file was left behind");
    }
}
