//! Prepares segments before they are needed, so that no append waits for a file to be created.
//!
//! A ready segment has its header, its name and its folder entry on the disk already. Recycled files are taken first:
//! a sync into space that was written before is cheaper than one into fresh space.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::log::disk::{DiskFile, OpenMode, is_no_room, passes, write_all_at};
use crate::log::files::Log;
use crate::log::segment::{Lane, LogFile, PAGE, SegmentHeader};

/// How long a writer waits for a segment before it fails the queued jobs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Zeros written at a time into a fresh segment.
const FILL_BYTES: usize = 1 << 20;

/// A segment that is ready for use.
#[derive(Debug)]
pub(crate) struct ReadySegment {
    pub(crate) id: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) size: u32,
}

#[derive(Debug, Default)]
struct SparesState {
    ready: [Option<ReadySegment>; 2],
    wanted: [bool; 2],
    /// Whether the last try for a lane failed; cleared by a recycled file or when room may have come back.
    failed: [bool; 2],
    /// Why the last failed try failed, until the next success.
    trouble: Option<SegmentTrouble>,
    free: Vec<u32>,
    next_id: u32,
    stop: bool,
}

/// Why a segment could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SegmentTrouble {
    /// There is no room: on the disk, in a quota, or within the limit on a file's size.
    NoRoom(Arc<str>),
    /// Any other error, usually a temporary one such as too many open files.
    Other(Arc<str>),
}

/// What the operator can do if another log file cannot be begun for lack of something other than room.
pub(crate) const MORE_FILES: &str =
    "free open files, or raise their limit (ulimit -n, LimitNOFILE) or that of memory";

impl SegmentTrouble {
    /// A text for the operator, with what to do.
    pub(crate) fn words(&self) -> String {
        let (why, remedy) = match self {
            Self::NoRoom(why) => (why, "free disk space, or raise the quota or the limit that says so"),
            Self::Other(why) => (why, MORE_FILES),
        };
        format!("cannot begin another log file: {why}; {remedy}")
    }

    fn of(error: &io::Error) -> Self {
        let why = error.to_string().into();
        if is_no_room(error) { Self::NoRoom(why) } else { Self::Other(why) }
    }
}

/// Ready and recycled segments.
#[derive(Debug, Default)]
pub(crate) struct SpareSegments {
    inner: Mutex<SparesState>,
    changed: Condvar,
}

impl SpareSegments {
    pub(crate) fn new(next_id: u32, free: Vec<u32>) -> Self {
        Self {
            inner: Mutex::new(SparesState { free, next_id, ..SparesState::default() }),
            changed: Condvar::new(),
        }
    }

    /// Asks for a segment to be made ready for `lane`.
    pub(crate) fn want(&self, lane: Lane) {
        let mut inner = self.inner.lock();
        if !inner.wanted[lane.index()] && inner.ready[lane.index()].is_none() {
            inner.wanted[lane.index()] = true;
            self.changed.notify_all();
        }
    }

    /// Takes the ready segment of `lane`, if it is there.
    pub(crate) fn take_ready(&self, lane: Lane) -> Option<ReadySegment> {
        self.inner.lock().ready[lane.index()].take()
    }

    /// Takes the ready segment of `lane`, waiting for it for a while. `None` if none could be made or none became ready in
    /// time.
    pub(crate) fn take(&self, lane: Lane) -> Option<ReadySegment> {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.inner.lock();
        loop {
            if let Some(ready) = inner.ready[lane.index()].take() {
                return Some(ready);
            }
            if inner.failed[lane.index()] || inner.stop || Instant::now() > deadline {
                inner.wanted[lane.index()] = true;
                self.changed.notify_all();
                return None;
            }
            inner.wanted[lane.index()] = true;
            self.changed.notify_all();
            self.changed.wait_for(&mut inner, Duration::from_millis(100));
        }
    }

    /// Number of recycled and of ready segments, counted at one moment.
    pub(crate) fn free_and_ready(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.free.len() as u64, inner.ready.iter().flatten().count() as u64)
    }

    /// Why the last segment that was tried could not be made; `None` if it could.
    pub(crate) fn trouble(&self) -> Option<SegmentTrouble> {
        self.inner.lock().trouble.clone()
    }

    /// By lane: whether the last try to make a segment failed.
    pub(crate) fn failed(&self) -> [bool; 2] {
        self.inner.lock().failed
    }

    pub(crate) fn free_count(&self) -> usize {
        self.inner.lock().free.len()
    }

    /// Adds a file named `free-<id>`, which may be used again.
    pub(crate) fn recycle(&self, id: u32) {
        let mut inner = self.inner.lock();
        inner.free.push(id);
        inner.failed = [false; 2];
        self.changed.notify_all();
    }

    /// Takes out a recycled file, to remove it.
    pub(crate) fn take_free(&self) -> Option<u32> {
        self.inner.lock().free.pop()
    }

    /// Allows another try: room may have come back.
    pub(crate) fn retry(&self) {
        self.inner.lock().failed = [false; 2];
        self.changed.notify_all();
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.inner.lock().stop = true;
        self.changed.notify_all();
    }

    /// Runs the preparing thread: makes wanted segments until [`stop`](Self::stop). A segment is registered before it can be
    /// taken, so that no checkpoint can miss one that is in use. `broken` is called with an error that is not temporary.
    pub(crate) fn run(
        &self,
        log: &Log,
        store_id: u128,
        size: u32,
        register: impl Fn(Lane, &ReadySegment),
        broken: impl Fn(&io::Error),
    ) {
        loop {
            let mut inner = self.inner.lock();
            let lane = loop {
                if inner.stop {
                    return;
                }
                let wanted = crate::log::segment::LANES.into_iter().find(|l| {
                    inner.wanted[l.index()] && inner.ready[l.index()].is_none() && !inner.failed[l.index()]
                });
                match wanted {
                    Some(lane) => break lane,
                    None => self.changed.wait(&mut inner),
                }
            };
            let id = inner.next_id;
            inner.next_id += 1;
            let free = inner.free.pop();
            drop(inner);
            let made = prepare(log, store_id, lane, id, size, free);
            if let Ok(ready) = &made {
                register(lane, ready);
            }
            let mut inner = self.inner.lock();
            match made {
                Ok(ready) => {
                    inner.ready[lane.index()] = Some(ready);
                    inner.wanted[lane.index()] = false;
                    inner.trouble = None;
                }
                Err(UnmadeSegment { error, unused, is_named }) => {
                    inner.failed[lane.index()] = true;
                    inner.free.extend(unused);
                    if !is_named {
                        // Only this thread takes numbers. A gap in them would look like a lost file.
                        inner.next_id = id;
                    }
                    // Logged once per trouble, not for each try.
                    let trouble = Some(SegmentTrouble::of(&error));
                    let is_new = inner.trouble != trouble;
                    inner.trouble = trouble;
                    drop(inner);
                    if !passes(&error) {
                        broken(&error);
                    } else if is_new {
                        tracing::warn!(%error, "cannot prepare a log segment; new messages are refused until that is possible");
                    }
                }
            }
            self.changed.notify_all();
        }
    }
}

/// Why no segment was made, and what is left of the try.
#[derive(Debug)]
pub(crate) struct UnmadeSegment {
    pub(crate) error: io::Error,
    /// The recycled file, if it can still be used.
    unused: Option<u32>,
    /// A file may already have the segment's name.
    is_named: bool,
}

/// Prepares a segment from a recycled file or a fresh one.
pub(crate) fn prepare(
    log: &Log,
    store_id: u128,
    lane: Lane,
    id: u32,
    size: u32,
    free: Option<u32>,
) -> Result<ReadySegment, UnmadeSegment> {
    let from = log.dir.join(LogFile::Free(free.unwrap_or(id)).name());
    let file = log.disk.open(&from, OpenMode::Create).map_err(|error| UnmadeSegment {
        error,
        unused: free,
        is_named: false,
    })?;
    let ready = fill(&file, store_id, lane, id, size, free.is_none()).map_err(|error| {
        // Half a file is of no use, and takes room that something else needs. If even this fails, the next start removes it.
        drop(log.disk.remove(&from));
        UnmadeSegment { error, unused: None, is_named: false }
    })?;
    let name = || -> io::Result<()> {
        log.disk.rename(&from, &log.path(lane, id))?;
        log.disk.sync_dir(&log.dir)
    };
    name().map_err(|error| UnmadeSegment { error, unused: None, is_named: true })?;
    Ok(ready)
}

fn fill(
    file: &Arc<dyn DiskFile>,
    store_id: u128,
    lane: Lane,
    id: u32,
    size: u32,
    fresh: bool,
) -> io::Result<ReadySegment> {
    let fresh = fresh || file.len()? != u64::from(size);
    // Also for a file of the right length: one that was copied may have holes, and a write into a hole can meet a full disk.
    file.allocate(size.into())?;
    if fresh {
        file.set_len(size.into())?;
        // The cost of small appends is the sync, which is cheaper into space that was written before. The cost of bulk is
        // its bytes: writing them twice would halve its throughput.
        if lane == Lane::Small {
            let zeros = vec![0; FILL_BYTES.min(size as usize)];
            let mut at = PAGE;
            while at < u64::from(size) {
                let n = zeros.len().min((u64::from(size) - at) as usize);
                write_all_at(&**file, &zeros[..n], at)?;
                at += n as u64;
            }
        }
    }
    let header = SegmentHeader { store_id, lane, id, size: size.into() };
    // The page after it, too: what a recycled file holds there must not look like a torn write.
    let mut pages = header.encode();
    pages.resize(2 * PAGE as usize, 0);
    write_all_at(&**file, &pages, 0)?;
    file.sync_data()?;
    Ok(ReadySegment { id, file: file.clone(), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When these were counted in two steps, a recycled file that was taken in between made the number of ready ones fall
    /// below zero: housekeeping panicked in debug builds, and found endless room for new messages in release builds.
    #[test]
    fn recycled_and_ready_segments_are_counted_at_one_moment() {
        let spares = SpareSegments::default();
        std::thread::scope(|scope| {
            let taking = scope.spawn(|| {
                for _ in 0..20_000 {
                    spares.recycle(1);
                    assert_eq!(spares.take_free(), Some(1));
                }
            });
            while !taking.is_finished() {
                let (free, ready) = spares.free_and_ready();
                assert!(free <= 1 && ready == 0);
            }
        });
    }
}
