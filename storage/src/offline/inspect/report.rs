//! The result of an inspection. Sizes are in bytes.

use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::survey::{ScannedSegment, Survey};
use crate::face::error::{OpenError, StoreError};
use crate::log::segment::{Lane, PAGE};

/// Why a folder could not be inspected or repaired.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no such folder, or it holds no store.
    #[error("{path} is not the data folder of a gateway: {what}")]
    NoStore {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// It is in use or of a newer format, or the disk returns errors.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk cannot read all of it, so a repair would write where it should not.
    #[error(
        "the disk cannot read {bytes} bytes of {path}; copy the folder to another disk with a tool that goes on after errors (such as ddrescue) and repair the copy"
    )]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Bytes that cannot be read.
        bytes: u64,
    },
    /// The store returned an error while its index was rebuilt.
    #[error("cannot rebuild the index: {0}")]
    Store(#[from] StoreError),
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// File, relative to the data folder.
    pub file: String,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length; 0 means the whole file.
    pub len: u64,
    /// What is wrong, and what is known about what was there.
    pub what: String,
}

/// What a segment is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentUse {
    /// Full: nothing more is added to it.
    Sealed,
    /// The last one of its lane that has records.
    InUse,
    /// Prepared; holds no record yet.
    Ready,
    /// Freed: no message needs it any more.
    GivenBack,
}

/// One segment of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// File name in `log/`.
    pub file: String,
    /// `small` or `bulk`.
    pub lane: &'static str,
    /// What it is used for.
    pub used_for: SegmentUse,
    /// Size of the file.
    pub file_bytes: u64,
    /// Bytes of all records.
    pub used_bytes: u64,
    /// Valid records.
    pub records: u64,
    /// Messages that are served from this segment.
    pub live_messages: u64,
    /// Bytes of records that live messages need.
    pub live_bytes: u64,
    /// Bytes of the other records.
    pub dead_bytes: u64,
    /// Bytes of an unfinished write at its end: normal after a crash.
    pub torn_bytes: u64,
    /// Damaged places, and their bytes.
    pub damaged_places: u64,
    /// See `damaged_places`.
    pub damaged_bytes: u64,
    /// Bytes of damage that an earlier repair set aside.
    pub set_aside_bytes: u64,
    /// Bytes that could be freed: the whole file if nothing in it is live, otherwise the dead bytes.
    pub reclaimable_bytes: u64,
}

/// What a checkpoint file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckpointFound {
    /// A valid checkpoint; the one with the higher generation counts.
    Whole {
        /// Incremented with every checkpoint.
        generation: u64,
    },
    /// Nothing yet.
    #[default]
    Empty,
    /// Not valid. One of the two may be so after a power cut; the other one is used.
    Damaged,
}

/// Whether the index on disk agrees with the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IndexFinding {
    /// There is none; the next start rebuilds it.
    #[default]
    Absent,
    /// It holds what it must hold.
    Agrees {
        /// Messages and dead letters in it that count.
        entries: u64,
    },
    /// It lacks entries, or has wrong ones. The next start reads the segments concerned again.
    Differs {
        /// How many segments it is wrong about.
        segments: u64,
    },
    /// It cannot be read. The next start rebuilds it.
    Unreadable(String),
    /// It was not checked, for this reason.
    NotChecked(String),
}

/// What an inspection found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Recycled files that are ready for use.
    pub free_files: u64,
    /// Their bytes.
    pub free_bytes: u64,
    /// Messages accepted for a peer and not settled.
    pub pending: u64,
    /// Payload bytes of them.
    pub pending_bytes: u64,
    /// Messages that can be received; expired ones are counted until their segment is freed.
    pub mailbox: u64,
    /// Payload bytes of them.
    pub mailbox_bytes: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Large messages that have slices but no end: never accepted, or freed in part.
    pub unfinished: u64,
    /// Payload bytes of them.
    pub unfinished_bytes: u64,
    /// The two checkpoint files.
    pub checkpoints: [CheckpointFound; 2],
    /// The index.
    pub index: IndexFinding,
    /// Everything that is damaged. An unfinished write at the end of the log is not.
    pub damage: Vec<Damage>,
    /// Messages that the index knows but the log no longer has: they were where it is damaged.
    pub missing_messages: u64,
    /// Bytes that the disk could not read.
    pub unreadable_bytes: u64,
}

impl Inspection {
    /// Whether one of the two checkpoint files is not valid. It costs nothing, and the next gateway writes it again.
    pub fn has_damaged_checkpoint(&self) -> bool {
        self.checkpoints.contains(&CheckpointFound::Damaged)
    }

    /// Whether nothing is damaged. An unfinished last write, one unfinished checkpoint and an absent index are normal.
    pub fn is_well(&self) -> bool {
        let index = !matches!(self.index, IndexFinding::Differs { .. } | IndexFinding::Unreadable(_));
        index && self.damage.is_empty() && self.missing_messages == 0 && self.unreadable_bytes == 0
    }
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The folder before the repair.
    pub before: Inspection,
    /// The folder after the repair; `None` if nothing was damaged and nothing was changed.
    pub after: Option<Inspection>,
    /// Files written to `corrupt/` by this repair.
    pub copies: Vec<String>,
    /// Whether `FORMAT` was damaged and has been restored.
    pub format_mended: bool,
}

pub(super) fn inspection(survey: &Survey, contents: &Contents, dir: &Path) -> Inspection {
    let mut report = Inspection {
        free_files: survey.free_files,
        free_bytes: survey.free_bytes,
        pending: contents.pending,
        pending_bytes: contents.pending_bytes,
        mailbox: contents.mailbox,
        mailbox_bytes: contents.mailbox_bytes,
        dead_letters: contents.dead_letters,
        unfinished: survey.unfinished.len() as u64,
        unfinished_bytes: survey.unfinished.values().sum(),
        ..Inspection::default()
    };
    for (id, segment) in &survey.segments {
        report.segments.push(segment_report(*id, segment, contents));
        report.damage.extend(segment.bad.iter().map(|bad| Damage {
            file: format!("log/{}", segment.name),
            offset: bad.offset,
            len: bad.len,
            what: bad.what.clone(),
        }));
    }
    let whole = |file: String, what: String| Damage { file, offset: 0, len: 0, what };
    let strangers = survey.strangers.iter();
    report.damage.extend(strangers.map(|(name, why)| whole(format!("log/{name}"), why.clone())));
    report.damage.extend(contents.lost_segments.iter().map(|(name, messages)| {
        let what = format!(
            "the file is missing, and {messages} messages with it; if there is a copy of {} that has it, use that",
            dir.display()
        );
        whole(format!("log/{name}"), what)
    }));
    report.damage.extend(contents.broken.iter().map(|broken| Damage {
        file: format!("log/{}", broken.file),
        offset: broken.place.offset.into(),
        len: 0,
        what: broken.what.clone(),
    }));
    report
}

fn segment_report(id: u32, segment: &ScannedSegment, contents: &Contents) -> SegmentReport {
    let needs = contents.needs.get(&id).copied().unwrap_or_default();
    let used_for = match () {
        () if contents.given_back.contains(&id) => SegmentUse::GivenBack,
        () if segment.sealed => SegmentUse::Sealed,
        () if segment.records > 0 => SegmentUse::InUse,
        () => SegmentUse::Ready,
    };
    // The header's page holds no records.
    let records_hit = segment.bad.iter().filter(|bad| bad.offset >= PAGE && bad.offset < segment.end.offset);
    let damaged_bytes = records_hit.map(|bad| bad.len).sum::<u64>();
    let used_bytes = segment.end.offset.saturating_sub(PAGE);
    let dead_bytes = used_bytes.saturating_sub(needs.bytes + damaged_bytes + segment.covered);
    let whole_file = needs.bytes == 0 && matches!(used_for, SegmentUse::Sealed | SegmentUse::GivenBack);
    SegmentReport {
        file: segment.name.clone(),
        lane: if segment.lane == Lane::Small { "small" } else { "bulk" },
        used_for,
        file_bytes: segment.size,
        used_bytes,
        records: segment.records,
        live_messages: needs.messages,
        live_bytes: needs.bytes,
        dead_bytes,
        torn_bytes: segment.end.torn,
        damaged_places: segment.bad.len() as u64,
        damaged_bytes,
        set_aside_bytes: segment.covered,
        reclaimable_bytes: if whole_file { segment.size } else { dead_bytes },
    }
}
