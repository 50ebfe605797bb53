//! Sets damaged places aside and has the index rebuilt.
//!
//! Order: copies go to `corrupt/` and are synced with their report and folder; then the damaged places are written over; then
//! the index is removed; then the store is opened, which rebuilds the index, and closed. After a crash at any point, the same
//! repair completes the work.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contents::BrokenMessage;
use super::mend::Mend;
use super::report::{IndexFinding, InspectError, Inspection, Repaired};
use super::survey::Survey;
use super::{InspectedFolder, Inspector, options};
use crate::core::options::StoreOptions;
use crate::core::shared::Shared;
use crate::face::engine::NoObserver;
use crate::face::error::OpenError;
use crate::index::checkpoint::{CheckpointSlot, FILES, PREFIX_BYTES};
use crate::log::data_folder::{self, FolderLock, open_io};
use crate::log::disk::{Disk, DiskFile, OpenMode, read_exact_at, write_all_at};
use crate::log::files::Log;
use crate::log::inventory;
use crate::opening::recovery::recover_locked;
use crate::store::embedded::Store;
use crate::write::settle;

/// Bytes copied at once.
const CHUNK: u64 = 1 << 20;

pub(super) fn repair(inspector: &Inspector) -> Result<Repaired, InspectError> {
    let (disk, dir) = (&inspector.disk, inspector.data_dir.as_path());
    let folder_lock = inspector.lock()?;
    let format_mended = mend_format(&**disk, dir)?;
    let InspectedFolder { inspection: before, survey, contents, format, .. } = inspector.look()?;
    if before.is_well() {
        return Ok(Repaired { before, after: None, copies: Vec::new(), format_mended });
    }
    if before.unreadable_bytes > 0 {
        return Err(InspectError::Unreadable { path: dir.into(), bytes: before.unreadable_bytes });
    }
    let mut aside = CorruptFolder::open(&**disk, dir, &before)?;
    let log = Log::new(disk.clone(), dir.join("log"));
    // Foreign files are moved to corrupt/, misnamed ones get their own names.
    inventory::take(&log, dir, format.store_id)?;
    for mend in &survey.mends {
        let Some((offset, len)) = mend.overwrites() else { continue };
        let (lane, id) = mend.segment();
        let path = log.path(lane, id);
        let file = log.file(lane, id).map_err(open_io("open", &path))?;
        aside.copy(&*file, &path, offset, len)?;
    }
    for broken in &contents.broken {
        aside.save_rest(&log, &survey, broken)?;
    }
    let slots = crate::index::checkpoint::Checkpoint::slots(&**disk, dir, format.store_id)
        .map_err(open_io("read the checkpoint in", dir))?;
    let damaged = FILES.iter().zip(&slots).filter(|(_, slot)| matches!(slot, CheckpointSlot::Damaged));
    let damaged: Vec<PathBuf> = damaged.map(|(name, _)| dir.join(name)).collect();
    for path in &damaged {
        let file = disk.open(path, OpenMode::Existing).map_err(open_io("open", path))?;
        let len = file.len().map_err(open_io("read", path))?;
        aside.copy(&*file, path, 0, len)?;
    }
    let copies = aside.finish()?;

    write_over(&log, &survey.mends, format.store_id)?;
    for path in &damaged {
        clear(&**disk, path).map_err(open_io("clear", path))?;
    }
    if let Some(index) = disk.index_dir(dir).filter(|index| disk.list(index).is_ok()) {
        crate::index::on_disk::set_aside(&**disk, &index).map_err(open_io("set aside", &index))?;
        disk.sync_dir(dir).map_err(open_io("sync", dir))?;
    }
    make_index(&options(dir, disk.clone()), &folder_lock, &contents.broken)?;
    let after = inspector.look()?.inspection;
    Ok(Repaired { before, after: Some(after), copies, format_mended })
}

/// Mends `FORMAT`, and keeps a copy of what it was before. Returns true if it was damaged.
fn mend_format(disk: &dyn Disk, dir: &Path) -> Result<bool, InspectError> {
    let Some(damaged) = data_folder::mend(disk, dir)? else { return Ok(false) };
    let corrupt = dir.join("corrupt");
    let path = corrupt.join("FORMAT");
    let keep = || -> io::Result<()> {
        disk.create_dir(&corrupt)?;
        let copy = disk.open(&path, OpenMode::Create)?;
        copy.set_len(0)?;
        write_all_at(&*copy, &damaged, 0)?;
        copy.sync_data()?;
        disk.sync_dir(&corrupt)
    };
    keep().map_err(open_io("write", &path))?;
    Ok(true)
}

/// Applies the changes from back to front after lengthening the files, and syncs each file once.
fn write_over(log: &Log, mends: &[Mend], store_id: u128) -> Result<(), OpenError> {
    let mut touched = Vec::new();
    // A file gets its full length before anything at its end is read.
    let lengthen = |mend: &&Mend| matches!(mend, Mend::Lengthen { .. });
    for mend in mends.iter().filter(lengthen).chain(mends.iter().rev().filter(|mend| !lengthen(mend))) {
        let (lane, id) = mend.segment();
        let path = log.path(lane, id);
        let file = log.file(lane, id).map_err(open_io("open", &path))?;
        mend.apply(&*file, store_id).map_err(open_io("write over the damage in", &path))?;
        if !touched.contains(&(lane, id)) {
            touched.push((lane, id));
        }
    }
    for (lane, id) in touched {
        let path = log.path(lane, id);
        let file = log.file(lane, id).map_err(open_io("open", &path))?;
        file.sync_data().map_err(open_io("sync", &path))?;
    }
    Ok(())
}

/// Makes a checkpoint file hold no checkpoint.
fn clear(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Existing)?;
    write_all_at(&*file, &[0; PREFIX_BYTES], 0)?;
    file.sync_data()
}

/// Opens the store without an index, ends the messages that cannot be complete, and takes a checkpoint.
fn make_index(
    options: &StoreOptions,
    folder_lock: &Arc<FolderLock>,
    broken: &[BrokenMessage],
) -> Result<(), InspectError> {
    // Everything stays in memory for the short time that it is open; the gateway moves it to the index.
    let options = StoreOptions {
        spill_after: std::time::Duration::MAX,
        index_memory_entries: usize::MAX,
        ..options.clone()
    };
    let mut recovered = recover_locked(&options, folder_lock)?;
    // So that a checkpoint is written that knows nothing of what was there.
    recovered.state.dirty = true;
    let store = Store::start(options, Arc::new(NoObserver), recovered)?;
    for BrokenMessage { key, sequence, .. } in broken {
        end(&store.shared, *key, *sequence);
    }
    Ok(store.stop_now()?)
}

/// Settles a message, so that neither it nor an older one with its key returns.
fn end(shared: &Shared, key: u128, sequence: u64) {
    let ended = {
        let mut state = shared.state.lock();
        if let Some(letter) = state.dead.get(&sequence).cloned() {
            state.remove_dead(&letter, false);
            Some((letter.entry.place, true))
        } else {
            state.remove(key, sequence).map(|entry| (entry.place, false))
        }
    };
    if let Some((place, dead_letter)) = ended {
        settle::record(shared, key, sequence, place, dead_letter);
    }
}

/// The folder `corrupt/`, while it is being written to.
struct CorruptFolder<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    names: Vec<String>,
    lines: Vec<String>,
    made: Vec<String>,
}

impl<'a> CorruptFolder<'a> {
    fn open(disk: &'a dyn Disk, data_dir: &Path, found: &Inspection) -> Result<Self, OpenError> {
        let dir = data_dir.join("corrupt");
        disk.create_dir(&dir).map_err(open_io("create", &dir))?;
        disk.sync_dir(data_dir).map_err(open_io("sync", data_dir))?;
        let names = disk.list(&dir).map_err(open_io("list", &dir))?;
        let line = |d: &super::Damage| {
            format!("repair: {} offset {} length {}: {}", d.file, d.offset, d.len, d.what)
        };
        let mut lines: Vec<_> = found.damage.iter().map(line).collect();
        if found.missing_messages > 0 {
            lines
                .push(format!("repair: {} messages of the index are not in the log", found.missing_messages));
        }
        match &found.index {
            IndexFinding::Differs { segments } => {
                lines.push(format!("repair: the index did not agree with the log in {segments} segments"));
            }
            IndexFinding::Unreadable(why) => {
                lines.push(format!("repair: the index could not be read: {why}"));
            }
            _ => {}
        }
        Ok(Self { disk, dir, names, lines, made: Vec::new() })
    }

    /// Copies a range of a file, unless an earlier copy begins with the same bytes.
    fn copy(&mut self, file: &dyn DiskFile, path: &Path, offset: u64, len: u64) -> Result<(), OpenError> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = self.dir.clone();
        self.copy_range(file, &name, offset, len).map_err(open_io("copy the damage to", &dir))
    }

    fn copy_range(&mut self, file: &dyn DiskFile, name: &str, offset: u64, len: u64) -> io::Result<()> {
        // A file that was cut short may end before the damage does.
        let len = len.min(file.len()?.saturating_sub(offset));
        let mut copy = format!("{name}-{offset:010}.bin");
        let mut n = 1;
        while self.names.contains(&copy) {
            let old = self.disk.open(&self.dir.join(&copy), OpenMode::Read)?;
            if same(&*old, file, offset, len)? {
                return Ok(());
            }
            n += 1;
            copy = format!("{name}-{offset:010}.{n}.bin");
        }
        self.write(copy, len, |at, bytes| read_exact_at(file, bytes, offset + at))
    }

    /// Saves the remains of a large message: its payload, with zeros where slices are missing.
    fn save_rest(&mut self, log: &Log, survey: &Survey, broken: &BrokenMessage) -> Result<(), OpenError> {
        let name = format!("{}-{:010}.partial", broken.file, broken.place.offset);
        let (Some(slices), Some(segment)) =
            (survey.messages.get(&broken.place), survey.segments.get(&broken.place.segment))
        else {
            return Ok(());
        };
        if self.names.contains(&name) {
            return Ok(());
        }
        let sequence = slices.sequence(broken.sequence);
        // Where each slice begins. Only one slice at a time is in memory.
        let mut begins = Vec::with_capacity(slices.extents.len());
        let mut len = 0;
        for extent in &slices.extents {
            begins.push(len);
            len += u64::from(extent.len);
        }
        let slice = RefCell::new((usize::MAX, Vec::new()));
        let read = |mut at: u64, mut bytes: &mut [u8]| {
            let mut slice = slice.borrow_mut();
            while !bytes.is_empty() {
                let n = begins.partition_point(|begin| *begin <= at).saturating_sub(1);
                if slice.0 != n {
                    let extent = &slices.extents[n];
                    slice.1.clear();
                    slice.1.resize(extent.len as usize, 0);
                    if survey.parts.get(&extent.place) != Some(&(sequence, extent.len))
                        || log.read_payload_into(segment.lane, extent.place, &mut slice.1).is_err()
                    {
                        slice.1.fill(0);
                    }
                    slice.0 = n;
                }
                let from = (at - begins[n]) as usize;
                let take = bytes.len().min(slice.1.len() - from);
                let (now, later) = bytes.split_at_mut(take);
                now.copy_from_slice(&slice.1[from..from + take]);
                (at, bytes) = (at + take as u64, later);
            }
            Ok(())
        };
        let dir = self.dir.clone();
        self.write(name, len, read).map_err(open_io("copy the rest of a message to", &dir))
    }

    /// Writes under a temporary name first, so that a file with its final name is complete.
    fn write(
        &mut self,
        name: String,
        len: u64,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let unfinished = self.dir.join(format!("{name}.unfinished"));
        let copy = self.disk.open(&unfinished, OpenMode::Create)?;
        copy.set_len(0)?;
        let mut at = 0;
        while at < len {
            let mut bytes = vec![0; (len - at).min(CHUNK) as usize];
            read(at, &mut bytes)?;
            write_all_at(&*copy, &bytes, at)?;
            at += bytes.len() as u64;
        }
        copy.sync_data()?;
        self.disk.rename(&unfinished, &self.dir.join(&name))?;
        self.made.push(name.clone());
        self.names.push(name);
        Ok(())
    }

    /// Writes the report and syncs everything; returns the names of the copies made.
    fn finish(self) -> Result<Vec<String>, OpenError> {
        let path = self.dir.join("report.txt");
        let work = || -> io::Result<()> {
            let report = self.disk.open(&path, OpenMode::Create)?;
            let mut old = vec![0; report.len()? as usize];
            report.read_at(&mut old, 0)?;
            let known = String::from_utf8_lossy(&old);
            let new: Vec<_> = self.lines.iter().filter(|line| !known.lines().any(|k| k == *line)).collect();
            let text: String = new.into_iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            if !text.is_empty() {
                write_all_at(&*report, text.as_bytes(), old.len() as u64)?;
            }
            report.sync_data()?;
            self.disk.sync_dir(&self.dir)
        };
        work().map_err(open_io("write", &path))?;
        Ok(self.made)
    }
}

/// Whether `copy` begins with the `len` bytes of `file` at `offset`.
fn same(copy: &dyn DiskFile, file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<bool> {
    if copy.len()? < len {
        return Ok(false);
    }
    let mut at = 0;
    while at < len {
        let n = (len - at).min(CHUNK) as usize;
        let (mut a, mut b) = (vec![0; n], vec![0; n]);
        read_exact_at(copy, &mut a, at)?;
        read_exact_at(file, &mut b, offset + at)?;
        if a != b {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}
