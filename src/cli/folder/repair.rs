//! `petnet repair`: sets the damaged places of a data folder aside and has the index rebuilt.

use std::path::{Path, PathBuf};

use petnet_storage::inspect::{Inspection, Inspector, Repaired};

use crate::cli::folder::verify::{DAMAGED_CHECKPOINT, inspector, place, refused, text, work};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::say::say;
use crate::cli::terminal::table::{count, many};

/// Set damaged records of a stopped gateway's data folder aside.
///
/// What is damaged is copied to corrupt/ in the data folder, with a report; then it is skipped, and the index is
/// rebuilt. Everything undamaged stays and is served. Can be cut off at any moment and run again. Where nothing is damaged,
/// nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet repair --dry-run /var/lib/petnet
  petnet repair /var/lib/petnet

Exit codes:
  0  the folder is well now
  1  it could not be repaired; with --dry-run: there is something to repair
  2  wrong arguments, or the folder is not a data folder
  3  could not begin: the gateway is running, a newer version wrote the folder, or the disk gives errors")]
pub(crate) struct Repair {
    /// The data folder, as the gateway has it in `DATA_DIR`
    #[arg(value_name = "DATA_DIR")]
    data_dir: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Repair {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let (inspector, _scratch) = inspector(self.data_dir.clone())?;
        if self.dry_run {
            return Ok(match work(&inspector, "reading", Inspector::inspect).await? {
                Ok(found) => plan(&found),
                Err(why) => refused("repair", &why),
            });
        }
        Ok(match work(&inspector, "repairing", Inspector::repair).await? {
            Ok(repaired) => done(&repaired, &self.data_dir),
            Err(why) => refused("repair", &why),
        })
    }
}

/// Mentions a damaged checkpoint, which a repair need not mend.
fn say_checkpoint(found: &Inspection) {
    if found.has_damaged_checkpoint() {
        say(DAMAGED_CHECKPOINT);
    }
}

fn plan(found: &Inspection) -> Exit {
    say_checkpoint(found);
    if found.is_well() {
        say("All is well; there is nothing to repair.");
        return Exit::Ok;
    }
    say("A repair would copy these places to corrupt/, have them skipped, and rebuild the index:");
    for damage in &found.damage {
        say(&format!("  {}", place(damage)));
    }
    if found.damage.is_empty() {
        say("  none in the log; only the index would be rebuilt");
    }
    if found.missing_messages > 0 {
        let lost = many(found.missing_messages, "message is", "messages are");
        say(&format!("{lost} lost where the log is damaged."));
    }
    if found.unreadable_bytes > 0 {
        say("But the disk cannot read everything: copy the folder to another disk and repair the copy.");
    }
    say(&format!(
        "{}, {} in the mailbox and {} are undamaged or reported above. Nothing was changed.",
        many(found.pending, "pending message", "pending messages"),
        count(found.mailbox),
        many(found.dead_letters, "dead letter", "dead letters")
    ));
    Exit::Failed
}

fn done(repaired: &Repaired, data_dir: &Path) -> Exit {
    if repaired.format_mended {
        say("FORMAT was damaged and is as it was again; a copy of the damaged one is in corrupt/.");
    }
    let Some(after) = &repaired.after else {
        if repaired.format_mended {
            say("All is well; the gateway can be started.");
            return Exit::Ok;
        }
        say_checkpoint(&repaired.before);
        say("All is well; there was nothing to repair, and nothing was changed.");
        return Exit::Ok;
    };
    let places = many(repaired.before.damage.len() as u64, "damaged place was", "damaged places were");
    say(&format!("{places} set aside:"));
    for damage in &repaired.before.damage {
        say(&format!("  {}", place(damage)));
    }
    if repaired.before.missing_messages > 0 {
        let lost = many(repaired.before.missing_messages, "message was", "messages were");
        say(&format!("{lost} lost where the log was damaged."));
    }
    let corrupt = data_dir.join("corrupt");
    say(&format!(
        "{} written to {}; report.txt there tells of each.\n\nNow:\n{}",
        many(repaired.copies.len() as u64, "file was", "files were"),
        corrupt.display(),
        text(after)
    ));
    if after.is_well() {
        say("\nAll is well; the gateway can be started.");
        return Exit::Ok;
    }
    complain!(
        "petnet repair: not everything could be repaired; keep a copy of the folder, see the places above"
    );
    Exit::Failed
}
