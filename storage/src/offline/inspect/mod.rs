//! Inspects the data folder of a stopped gateway, and sets aside what is damaged in it.
//!
//! [`Inspector::inspect`] reads every record and changes nothing: the code that opens a store runs on a copy-on-write view of
//! the folder, so that what is reported is what a gateway would serve. [`Inspector::repair`] copies what is damaged to
//! `corrupt/`, turns the damaged places into ones that are skipped, and has the index rebuilt.
//!
//! Both lock the folder. Invariant: nothing undamaged is ever dropped, and nothing is overwritten before its copy is
//! synced.

pub(crate) mod copy;
pub(crate) mod overlay;

mod contents;
mod index;
mod mend;
mod repair;
mod report;
mod survey;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use report::{
    CheckpointFound, Damage, IndexFinding, InspectError, Inspection, Repaired, SegmentReport, SegmentUse,
};

use crate::core::options::StoreOptions;
use crate::index::checkpoint::{CheckpointSlot, FILES};
use crate::log::data_folder::text::Format;
use crate::log::data_folder::{FolderLock, lock_folder_as_it_is, open_io, read};
use crate::log::disk::{Disk, OpenMode, RealDisk};
use crate::log::files::Log;
use crate::offline::inspect::overlay::{Overlay, ReadCounts};
use crate::opening::move_mark;
use crate::opening::recovery::ReadBack;
use contents::Contents;
use survey::Survey;

/// Inspects one data folder. Clones share their count of bytes read.
#[derive(Debug, Clone)]
pub struct Inspector {
    data_dir: PathBuf,
    scratch: Option<PathBuf>,
    disk: Arc<dyn Disk>,
    counts: Arc<ReadCounts>,
}

/// An inspection and what it is based on.
struct InspectedFolder {
    inspection: Inspection,
    survey: Survey,
    contents: Contents,
    format: Format,
    /// As a start without an index finds it.
    found: ReadBack,
}

impl Inspector {
    /// An inspector of the data folder `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            scratch: None,
            disk: Arc::new(RealDisk),
            counts: Arc::new(ReadCounts::default()),
        }
    }

    /// An empty folder on a real file system where the index may be copied to. Without one the index is not checked.
    #[must_use]
    pub fn with_scratch(mut self, folder: impl Into<PathBuf>) -> Self {
        self.scratch = Some(folder.into());
        self
    }

    /// Uses a disk other than the operating system's.
    #[must_use]
    pub fn with_disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Bytes of the folder read so far.
    pub fn bytes_read(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed)
    }

    /// Reads every record of the folder and reports what is there. Changes nothing. Blocks.
    pub fn inspect(&self) -> Result<Inspection, InspectError> {
        let _lock = self.lock()?;
        Ok(self.look()?.inspection)
    }

    /// Sets damaged places aside and has the index rebuilt. Does nothing if nothing is damaged. Blocks.
    pub fn repair(&self) -> Result<Repaired, InspectError> {
        repair::repair(self)
    }

    /// Locks the folder without creating a lock file: a folder that has none was never opened, or is a copy.
    pub(crate) fn lock(&self) -> Result<Arc<FolderLock>, InspectError> {
        let dir = self.data_dir.as_path();
        let no_store = |what: &str| InspectError::NoStore { path: dir.into(), what: what.into() };
        let names = self.disk.list(dir).map_err(|e| no_store(&e.to_string()))?;
        if !names.iter().any(|n| n == "FORMAT" || n == "log") {
            return Err(no_store("it has no file FORMAT"));
        }
        move_mark::refuse(&*self.disk, dir)?;
        let has_file = names.iter().any(|n| n == "LOCK");
        Ok(lock_folder_as_it_is(&*self.disk, dir, has_file)?)
    }

    /// The folder.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The findings of an inspection, and the log read back, on a view that keeps its changes to itself. Does not lock. Blocks.
    pub(crate) fn read_back(&self) -> Result<(Inspection, Format, ReadBack), InspectError> {
        let InspectedFolder { inspection, found, format, .. } = self.look()?;
        Ok((inspection, format, found))
    }

    fn look(&self) -> Result<InspectedFolder, InspectError> {
        let dir = self.data_dir.as_path();
        let format = read(&*self.disk, dir)?.ok_or_else(|| InspectError::NoStore {
            path: dir.into(),
            what: "it has no file FORMAT".into(),
        })?;
        // Everything below sees the folder as a repair would leave it.
        let mended: Arc<dyn Disk> = Arc::new(Overlay::new(self.disk.clone(), None, self.counts.clone()));
        let log = Log::new(mended.clone(), dir.join("log"));
        let survey = Survey::take(&log, format.store_id)?;
        for mend in &survey.mends {
            let (_, id) = mend.segment();
            let Some(segment) = survey.segments.get(&id) else { continue };
            let path = log.dir.join(&segment.name);
            let file = mended.open(&path, OpenMode::Existing).map_err(open_io("open", &path))?;
            mend.apply(&*file, format.store_id).map_err(open_io("read", &path))?;
        }
        let slots = crate::index::checkpoint::Checkpoint::slots(&*self.disk, dir, format.store_id)
            .map_err(open_io("read the checkpoint in", dir))?;
        let (contents, found) = Contents::read(&options(dir, view(&mended, None)), format, &survey)?;
        let (index, missing) = self.index(&mended, format, &survey)?;
        let mut inspection = report::inspection(&survey, &contents, dir);
        inspection.checkpoints = slots.map(|slot| match slot {
            CheckpointSlot::Checkpoint(found) => CheckpointFound::Whole { generation: found.generation },
            CheckpointSlot::Empty => CheckpointFound::Empty,
            CheckpointSlot::Damaged => CheckpointFound::Damaged,
        });
        if inspection.checkpoints == [CheckpointFound::Damaged; 2] {
            for name in FILES {
                let what =
                    "the checkpoint does not match its checksum, and neither does the other one".into();
                inspection.damage.push(Damage { file: name.into(), offset: 0, len: 0, what });
            }
        }
        inspection.index = index;
        inspection.missing_messages = missing;
        inspection.unreadable_bytes = self.counts.unreadable.load(Ordering::Relaxed);
        Ok(InspectedFolder { inspection, survey, contents, format, found })
    }

    /// Checks the index on disk against the log: the finding, and how many of its messages the log lacks.
    fn index(
        &self,
        mended: &Arc<dyn Disk>,
        format: Format,
        survey: &Survey,
    ) -> Result<(IndexFinding, u64), InspectError> {
        let copy = match index::copy(&*self.disk, &self.data_dir, self.scratch.as_deref()) {
            Ok(copy) => copy,
            Err(finding) => return Ok((finding, 0)),
        };
        let options = options(&self.data_dir, view(mended, Some(copy)));
        Ok(index::compare(&options, format, survey)?)
    }
}

/// A view that keeps its changes to itself; the index may be at `index`.
fn view(below: &Arc<dyn Disk>, index: Option<PathBuf>) -> Arc<dyn Disk> {
    Arc::new(Overlay::new(below.clone(), index, Arc::default()))
}

/// Options with which no message expires: lifetimes are the gateway's business.
fn options(dir: &Path, disk: Arc<dyn Disk>) -> StoreOptions {
    StoreOptions { disk, message_ttl: None, send_ttl: None, cache_bytes: 0, ..StoreOptions::new(dir) }
}
