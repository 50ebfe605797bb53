//! `petnet verify`: reads every record in the data folder of a stopped gateway and reports what is there and what is
//! damaged.
//!
//! Invariant: the data folder is not changed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Context;
use petnet_storage::OpenError;
use petnet_storage::inspect::{
    CheckpointFound, Damage, IndexFinding, InspectError, Inspection, Inspector, SegmentUse,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::say::{say, say_json};
use crate::cli::terminal::table::{bytes_in_full, many};

/// Explains a damaged checkpoint: what may have caused it, since a flipped bit looks like other causes, and what becomes of
/// it.
pub(crate) const DAMAGED_CHECKPOINT: &str = "One of the two checkpoint files does not check out: the disk damaged it, or the power went (or the gateway was killed) while \
     it was written. The other one is used, and the gateway writes this one again after its next start; nothing is lost by it. If \
     nothing of that kind happened, look at the disk.";

/// Check the data folder of a stopped gateway; changes nothing.
///
/// Reads every record of every message and compares checksums. Says per log file what is in use, what is damaged and
/// how much space could be given back, and whether the index agrees with the log. An unfinished write at the end of
/// the log is normal after a crash.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet verify /var/lib/petnet

Exit codes:
  0  all is well
  1  damage found; it says whether messages are hit, and `petnet repair` sets aside what is
  2  wrong arguments, or the folder is not a data folder
  3  could not look: the gateway is running, a newer version wrote the folder, or the disk gives errors")]
pub(crate) struct Verify {
    /// The data folder, as the gateway has it in `DATA_DIR`
    #[arg(value_name = "DATA_DIR")]
    data_dir: PathBuf,
    /// Print one JSON object instead of text; sizes are bytes
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let data_dir = self.data_dir.clone();
        let (inspector, _scratch) = inspector(self.data_dir)?;
        let paused = crate::delivery::paused::damage(&data_dir);
        let looked = work(&inspector, "reading", Inspector::inspect).await?;
        let found = match looked {
            Ok(found) => found,
            Err(why) => return Ok(refused("verify", &why)),
        };
        let is_well = found.is_well() && paused.is_none() && !found.has_damaged_checkpoint();
        if self.json {
            let mut json = to_json(&found);
            json["paused"] = json!(paused);
            json["well"] = json!(is_well);
            say_json(&json);
        } else {
            say(&text(&found));
            if let Some(why) = &paused {
                say(&format!(
                    "\n{why}. The next start pauses every peer; petnet queue resume PEER begins deliveries again, and writes \
                     the file again."
                ));
            }
            if found.has_damaged_checkpoint() {
                say(&format!("\n{DAMAGED_CHECKPOINT}"));
            }
            say(match (found.is_well(), is_well) {
                (true, true) => "\nAll is well.",
                (true, false) => "\nDamage found; every message is well.",
                _ => {
                    "\nDamage found; nothing was changed. `petnet repair` sets it aside, `petnet repair --dry-run` says how."
                }
            });
        }
        Ok(if is_well { Exit::Ok } else { Exit::Failed })
    }
}

/// An inspector for a data folder, with a temporary folder for a copy of the index.
pub(crate) fn inspector(data_dir: PathBuf) -> anyhow::Result<(Inspector, TempDir)> {
    // Whatever the umask is, nobody else may look into the copy.
    let mode = Permissions::from_mode(0o700);
    let scratch = tempfile::Builder::new().prefix("petnet-index-").permissions(mode).tempdir();
    let scratch =
        scratch.context("cannot create a temporary folder; set TMPDIR to a folder that can be written")?;
    Ok((Inspector::new(data_dir).with_scratch(scratch.path()), scratch))
}

/// Runs `job` outside the async workers and shows its progress.
pub(crate) async fn work<T: Send + 'static>(
    inspector: &Inspector,
    doing: &str,
    job: impl FnOnce(&Inspector) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let own = inspector.clone();
    let job = tokio::task::spawn_blocking(move || job(&own));
    let what = || format!("{doing}: {} read", progress::bytes(inspector.bytes_read()));
    progress::shown(what, job).await.context("the work was cut off; this is a bug")
}

/// Reports why nothing was done.
pub(crate) fn refused(command: &str, why: &InspectError) -> Exit {
    complain!("petnet {command}: {why}");
    match why {
        InspectError::NoStore { .. } => Exit::WrongSettings,
        InspectError::Open(OpenError::InUse { .. }) => {
            complain!("Stop the gateway first: while it runs, it looks after the folder itself.");
            Exit::CouldNotStart
        }
        InspectError::Open(_) | InspectError::Unreadable { .. } => Exit::CouldNotStart,
        InspectError::Store(_) => Exit::Failed,
    }
}

/// The report as text.
pub(crate) fn text(found: &Inspection) -> String {
    let mut lines = vec![format!(
        "{:<22} {:<10} {:>10} {:>8} {:>10} {:>10} {:>8} {:>7} {:>11}",
        "log file", "state", "used", "messages", "live", "dead", "torn", "damaged", "reclaimable"
    )];
    for s in &found.segments {
        lines.push(format!(
            "{:<22} {:<10} {:>10} {:>8} {:>10} {:>10} {:>8} {:>7} {:>11}",
            s.file,
            state(s.used_for),
            progress::bytes(s.used_bytes),
            s.live_messages,
            progress::bytes(s.live_bytes),
            progress::bytes(s.dead_bytes),
            progress::bytes(s.torn_bytes),
            s.damaged_places,
            progress::bytes(s.reclaimable_bytes),
        ));
    }
    let set_aside: u64 = found.segments.iter().map(|s| s.set_aside_bytes).sum();
    if set_aside > 0 {
        lines.push(format!("{} of earlier damage is set aside and skipped.", progress::bytes(set_aside)));
    }
    lines.push(String::new());
    lines.push(format!("pending       {}, {}", found.pending, progress::bytes(found.pending_bytes)));
    lines.push(format!("mailbox       {}, {}", found.mailbox, progress::bytes(found.mailbox_bytes)));
    lines.push(format!("dead letters  {}", found.dead_letters));
    lines.push(format!(
        "unfinished    {} large messages without their end, {}",
        found.unfinished,
        progress::bytes(found.unfinished_bytes)
    ));
    lines.push(format!("spare files   {}, {}", found.free_files, progress::bytes(found.free_bytes)));
    let [first, second] = found.checkpoints.map(checkpoint);
    lines.push(format!("checkpoints   {first}; {second}"));
    lines.push(format!("index         {}", index(&found.index)));
    if found.missing_messages > 0 {
        lines.push(format!(
            "missing       {} not in the log",
            many(found.missing_messages, "message of the index is", "messages of the index are")
        ));
    }
    if found.unreadable_bytes > 0 {
        lines.push(format!(
            "unreadable    {}: the disk gives errors",
            progress::bytes(found.unreadable_bytes)
        ));
    }
    if !found.damage.is_empty() {
        lines.push(format!("\n{}:", many(found.damage.len() as u64, "damaged place", "damaged places")));
        lines.extend(found.damage.iter().map(|damage| format!("  {}", place(damage))));
    }
    lines.join("\n")
}

/// A damaged place as text.
pub(crate) fn place(damage: &Damage) -> String {
    match damage {
        Damage { file, offset: 0, len: 0, what } => format!("{file}: {what}"),
        Damage { file, offset, len: 0, what } => format!("{file} at {offset}: {what}"),
        Damage { file, offset, len, what } => format!("{file} at {offset}, {}: {what}", bytes_in_full(*len)),
    }
}

fn state(used_for: SegmentUse) -> &'static str {
    match used_for {
        SegmentUse::Sealed => "full",
        SegmentUse::InUse => "in use",
        SegmentUse::Ready => "ready",
        SegmentUse::GivenBack => "given back",
    }
}

fn checkpoint(found: CheckpointFound) -> String {
    match found {
        CheckpointFound::Whole { generation } => format!("generation {generation}, whole"),
        CheckpointFound::Empty => "none yet".into(),
        CheckpointFound::Damaged => "unfinished or damaged".into(),
    }
}

fn index(found: &IndexFinding) -> String {
    match found {
        IndexFinding::Absent => "none; the next start rebuilds it".into(),
        IndexFinding::Agrees { entries } => {
            format!("agrees with the log, {}", many(*entries, "entry", "entries"))
        }
        IndexFinding::Differs { segments } => {
            let them = if *segments == 1 { "it" } else { "them" };
            format!(
                "wrong about {}; the next start reads {them} again",
                many(*segments, "log file", "log files")
            )
        }
        IndexFinding::Unreadable(why) => format!("cannot be read ({why}); the next start rebuilds it"),
        IndexFinding::NotChecked(why) => format!("not checked: {why}"),
    }
}

pub(crate) fn to_json(found: &Inspection) -> Value {
    let segment = |s: &petnet_storage::inspect::SegmentReport| {
        json!({
            "file": s.file, "lane": s.lane, "state": state(s.used_for), "file_bytes": s.file_bytes,
            "used_bytes": s.used_bytes, "records": s.records, "live_messages": s.live_messages,
            "live_bytes": s.live_bytes, "dead_bytes": s.dead_bytes, "torn_bytes": s.torn_bytes,
            "damaged_places": s.damaged_places, "damaged_bytes": s.damaged_bytes,
            "set_aside_bytes": s.set_aside_bytes, "reclaimable_bytes": s.reclaimable_bytes,
        })
    };
    let damage = |d: &Damage| json!({"file": d.file, "offset": d.offset, "bytes": d.len, "what": d.what});
    json!({
        "well": found.is_well() && !found.has_damaged_checkpoint(),
        "segments": found.segments.iter().map(segment).collect::<Vec<_>>(),
        "spare_files": found.free_files, "spare_bytes": found.free_bytes,
        "pending": found.pending, "pending_bytes": found.pending_bytes,
        "mailbox": found.mailbox, "mailbox_bytes": found.mailbox_bytes,
        "dead_letters": found.dead_letters,
        "unfinished": found.unfinished, "unfinished_bytes": found.unfinished_bytes,
        "checkpoints": found.checkpoints.map(checkpoint),
        "index": index(&found.index),
        "damage": found.damage.iter().map(damage).collect::<Vec<_>>(),
        "missing_messages": found.missing_messages,
        "unreadable_bytes": found.unreadable_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_for_a_copy_of_the_index_is_for_its_user_only() {
        let (_, scratch) = inspector("nowhere".into()).unwrap();
        let mode = std::fs::metadata(scratch.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
