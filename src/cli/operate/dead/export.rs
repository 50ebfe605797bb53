//! `petnet dead export`: writes dead letters into a folder, so that they can be dropped afterwards.
//!
//! It writes a file for each letter, and `index.json`, which says what they are. Invariant: what the index names is whole
//! and on the disk when the index names it; nothing is ever overwritten; if it is cut off at any moment, the same command
//! continues.

use std::path::PathBuf;

use petnet_storage::PartyId;
use ring::digest::{Context as Digest, SHA256};

use super::folder::{Entry, ExportFolder, PlacedFile, hex};
use super::{find, list};
use crate::cli::operate::admin::{self, GatewayFolder, NotThere, PAGE};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::{escape, many};
use crate::proto::admin::payload_request::Which as Payload;
use crate::proto::admin::{DeadLetter, PayloadRequest, StatusRequest};
use crate::wire::admin_socket::AdminSocketClient;

/// After this many letters the index is written: a cut-off export has to compare at most that many again.
const LETTERS_PER_INDEX: usize = 256;

/// Write dead letters into a folder, and change nothing in the gateway.
///
/// Makes SEQUENCE.payload for each letter, and index.json with peer, id, bytes, SHA-256 and reason. Nothing that is there is
/// overwritten. What is named in index.json is on the disk: it may be dropped. Cut off, the same command goes on; run
/// again later, it adds what is new.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet dead export ./letters
  petnet dead export ./letters 17 18

Exit codes: 0 all of them are on the disk, 1 not all, or no gateway runs there, 2 wrong arguments, 5 no such letter")]
pub(crate) struct DeadExport {
    /// The folder; made if its last part is missing
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
    /// Only these letters
    #[arg(value_name = "SEQUENCE", value_parser = super::sequence)]
    sequences: Vec<u64>,
    /// Only those for this party, or from it
    #[arg(long, value_name = "PEER", conflicts_with = "sequences")]
    peer: Option<PartyId>,
    #[command(flatten)]
    folder: GatewayFolder,
}

#[derive(Debug, Default)]
struct ExportCount {
    written: u64,
    there: u64,
    failed: u64,
    since_index: usize,
}

impl DeadExport {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let party = admin::ask("cannot export", client.status(StatusRequest {})).await?.party;
        let mut folder = ExportFolder::open(&self.to, &party)?;
        let mut done = ExportCount::default();
        if self.sequences.is_empty() {
            let peer = self.peer.as_ref().map(ToString::to_string).unwrap_or_default();
            let mut after = 0;
            loop {
                let found = list(&mut client, &peer, after, PAGE).await?;
                for letter in &found.letters {
                    one(&mut client, &mut folder, letter, &mut done).await?;
                }
                match found.next {
                    Some(next) if next > after => after = next,
                    _ => break,
                }
            }
        }
        for sequence in &self.sequences {
            let letter = match find(&mut client, *sequence).await {
                Ok(letter) => letter,
                Err(why) => {
                    // What was written so far is kept.
                    folder.write_index()?;
                    return Err(why);
                }
            };
            one(&mut client, &mut folder, &letter, &mut done).await?;
        }
        folder.write_index()?;
        let (written, to) = (many(done.written, "dead letter", "dead letters"), self.to.display());
        admin::print(&format!(
            "{written} written to {to}, {} there already; index.json names them",
            done.there
        ))?;
        if done.failed > 0 {
            complain!("petnet dead export: {} could not be exported", many(done.failed, "letter", "letters"));
            return Ok(Exit::Failed);
        }
        Ok(Exit::Ok)
    }
}

/// Exports one letter. An error ends the export; an error that concerns only this letter is reported and counted.
async fn one(
    client: &mut AdminSocketClient,
    folder: &mut ExportFolder,
    letter: &DeadLetter,
    done: &mut ExportCount,
) -> anyhow::Result<()> {
    if folder.has(letter)? {
        done.there += 1;
        return Ok(());
    }
    let mut file = folder.begin()?;
    let mut digest = Digest::new(&SHA256);
    let request = PayloadRequest { party: String::new(), which: Some(Payload::Dead(letter.sequence)) };
    let write = |bytes: &[u8]| {
        digest.update(bytes);
        std::io::Write::write_all(&mut file, bytes)
    };
    let what = || format!("exporting {}", letter.sequence);
    match progress::shown(what, admin::payload(client, request, write)).await {
        Ok(_) => {}
        // A full disk, or a gateway that is gone, stops the whole export.
        Err(why) if why.is::<std::io::Error>() || !admin::is_about_one_message(&why) => {
            folder.write_index()?;
            return Err(why);
        }
        Err(why) => {
            complain!("letter {} ({}): {why:#}", letter.sequence, escape(&letter.message_id));
            // It does not count if the letter was dropped or retried in the meantime.
            let is_gone = find(client, letter.sequence).await.is_err_and(|why| why.is::<NotThere>());
            done.failed += u64::from(!is_gone);
            return Ok(());
        }
    }
    match folder.place(file, Entry::new(letter, hex(digest)))? {
        PlacedFile::Written => done.written += 1,
        PlacedFile::WasThere => done.there += 1,
    }
    done.since_index += 1;
    if done.since_index >= LETTERS_PER_INDEX {
        folder.write_index()?;
        done.since_index = 0;
    }
    Ok(())
}
