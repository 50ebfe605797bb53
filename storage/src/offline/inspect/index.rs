//! Checks the index on disk against the log. sled writes when it opens, so a copy is opened.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::contents::opened;
use super::report::IndexFinding;
use super::survey::Survey;
use crate::core::options::StoreOptions;
use crate::face::error::OpenError;
use crate::index::on_disk::{Cold, ColdError};
use crate::log::data_folder::text::Format;
use crate::log::disk::Disk;
use crate::log::frame::Place;
use crate::offline::inspect::copy::{copy_tree, tree_bytes};
use crate::opening::recovery::{ReadBack, read_back};
use crate::opening::replay::ReplayFailure;

/// Free bytes that must remain after copying.
const SPARE_BYTES: u64 = 64 << 20;

/// Copies the index to `scratch`; if that is not possible, returns the finding to report instead.
pub(super) fn copy(disk: &dyn Disk, dir: &Path, scratch: Option<&Path>) -> Result<PathBuf, IndexFinding> {
    let Some(from) = disk.index_dir(dir) else { return Err(IndexFinding::Absent) };
    let failed = |what: &str| IndexFinding::NotChecked(what.into());
    let bytes = tree_bytes(&from).map_err(|e| failed(&format!("cannot read {}: {e}", from.display())))?;
    if bytes == 0 {
        return Err(IndexFinding::Absent);
    }
    let Some(scratch) = scratch else { return Err(failed("there is no folder for a copy of it")) };
    // What another disk says about free room does not apply to the scratch folder.
    let room = crate::log::disk::RealDisk.room(scratch).map_or(0, |room| room.available);
    if room < bytes + SPARE_BYTES {
        return Err(failed(&format!(
            "a copy of it needs {bytes} bytes in {}, and {room} are free; set TMPDIR to a folder with more",
            scratch.display()
        )));
    }
    let to = scratch.join("index");
    let fresh = crate::log::disk::RealDisk.remove_tree(&to);
    fresh
        .and_then(|()| copy_tree(&from, &to))
        .map_err(|e| failed(&format!("cannot copy it to {}: {e}", to.display())))?;
    Ok(to)
}

/// Starts with the copy as a gateway would, and returns what that found; also how many messages of the index the log lacks.
pub(super) fn compare(
    options: &StoreOptions,
    format: Format,
    survey: &Survey,
) -> Result<(IndexFinding, u64), OpenError> {
    let found = match read_back(options, format) {
        Ok(found) => found,
        Err(ReplayFailure::Index(error)) => return Ok((IndexFinding::Unreadable(error.to_string()), 0)),
        Err(failure @ ReplayFailure::Open(_)) => return Err(opened(failure)),
    };
    let Some(cold) = found.cold.as_deref().filter(|_| found.trusted) else {
        let why = if found.checkpoint.generation == 0 {
            IndexFinding::NotChecked("there is no checkpoint that says what it must hold".into())
        } else {
            IndexFinding::Unreadable("sled cannot open it".into())
        };
        return Ok((why, 0));
    };
    let counted = catch_unwind(AssertUnwindSafe(|| count(&found, cold, survey)))
        .unwrap_or_else(|_| Err(ColdError("sled panicked while it was read".into())));
    Ok(match counted {
        Err(error) => (IndexFinding::Unreadable(error.to_string()), 0),
        Ok((_, missing)) if !found.wrong.is_empty() => {
            (IndexFinding::Differs { segments: found.wrong.len() as u64 }, missing)
        }
        Ok((entries, missing)) => (IndexFinding::Agrees { entries }, missing),
    })
}

/// Counts the entries that are valid, and those of them that the log lacks.
fn count(found: &ReadBack, cold: &Cold, survey: &Survey) -> Result<(u64, u64), ColdError> {
    let (mut entries, mut missing) = (0, 0);
    let mut see = |place: Place| {
        if found.state.is_valid(place) {
            entries += 1;
            missing += u64::from(!survey.messages.contains_key(&place));
        }
    };
    for item in cold.all_mail().chain(cold.all_pending()) {
        see(item?.1.place);
    }
    for item in cold.dead_after(0) {
        see(item?.entry.place);
    }
    Ok((entries, missing))
}
