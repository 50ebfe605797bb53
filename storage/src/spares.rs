//! Segments made ready before they are needed, so that no append waits for a file to be made.
//!
//! A ready segment has its header, its name and its folder entry on the disk already. Recycled files are taken first:
//! a sync into space that was written before is cheaper than one into fresh space.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::{DiskFile, OpenMode, passes, write_all_at};
use crate::log::{Log, lock};
use crate::segment::{Lane, LogFile, PAGE, SegmentHeader};

/// How long a writer waits for a segment before it fails what is queued.
const PATIENCE: Duration = Duration::from_secs(10);
/// Zeros written at a time into a fresh segment.
const FILL_BYTES: usize = 1 << 20;

/// A segment that is ready for use.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) id: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) size: u32,
}

#[derive(Debug, Default)]
struct Inner {
    ready: [Option<Ready>; 2],
    wanted: [bool; 2],
    /// The last try for a lane failed; cleared by the next success or when space came back.
    failed: [bool; 2],
    free: Vec<u32>,
    next_id: u32,
    stop: bool,
}

/// Ready and recycled segments.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Spares {
    pub(crate) fn new(next_id: u32, free: Vec<u32>) -> Self {
        Self { inner: Mutex::new(Inner { free, next_id, ..Inner::default() }), changed: Condvar::new() }
    }

    /// Asks for a segment to be made ready for `lane`.
    pub(crate) fn want(&self, lane: Lane) {
        let mut inner = lock(&self.inner);
        if !inner.wanted[lane.index()] && inner.ready[lane.index()].is_none() {
            inner.wanted[lane.index()] = true;
            self.changed.notify_all();
        }
    }

    /// Takes the ready segment of `lane`; waits for it a while. `None`: there is no room for one.
    pub(crate) fn take(&self, lane: Lane) -> Option<Ready> {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = lock(&self.inner);
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
            inner = self
                .changed
                .wait_timeout(inner, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Recycled and ready segments, as of one moment.
    pub(crate) fn free_and_ready(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (inner.free.len() as u64, inner.ready.iter().flatten().count() as u64)
    }

    pub(crate) fn free_count(&self) -> usize {
        lock(&self.inner).free.len()
    }

    /// A file named `free-<id>` may be used again.
    pub(crate) fn recycle(&self, id: u32) {
        let mut inner = lock(&self.inner);
        inner.free.push(id);
        inner.failed = [false; 2];
        self.changed.notify_all();
    }

    /// Takes a recycled file out, to remove it.
    pub(crate) fn take_free(&self) -> Option<u32> {
        lock(&self.inner).free.pop()
    }

    /// Room may have come back.
    pub(crate) fn retry(&self) {
        lock(&self.inner).failed = [false; 2];
        self.changed.notify_all();
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        lock(&self.inner).stop = true;
        self.changed.notify_all();
    }

    /// The preparing thread: makes wanted segments until [`stop`](Self::stop). A segment is registered before it can
    /// be taken, so that no checkpoint can miss one that is in use.
    /// `broken` is told of an error that does not pass.
    pub(crate) fn run(
        &self,
        log: &Log,
        store_id: u128,
        size: u32,
        register: impl Fn(Lane, &Ready),
        broken: impl Fn(&io::Error),
    ) {
        loop {
            let mut inner = lock(&self.inner);
            let lane = loop {
                if inner.stop {
                    return;
                }
                let wanted = crate::segment::LANES.into_iter().find(|l| {
                    inner.wanted[l.index()] && inner.ready[l.index()].is_none() && !inner.failed[l.index()]
                });
                match wanted {
                    Some(lane) => break lane,
                    None => inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
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
            let mut inner = lock(&self.inner);
            match made {
                Ok(ready) => {
                    inner.ready[lane.index()] = Some(ready);
                    inner.wanted[lane.index()] = false;
                }
                Err(error) => {
                    inner.failed[lane.index()] = true;
                    drop(inner);
                    if passes(&error) {
                        tracing::warn!(%error, "cannot prepare a log segment; new messages are refused until there is room");
                    } else {
                        broken(&error);
                    }
                }
            }
            self.changed.notify_all();
        }
    }
}

/// Makes a segment ready: from a recycled file, or a fresh one.
pub(crate) fn prepare(
    log: &Log,
    store_id: u128,
    lane: Lane,
    id: u32,
    size: u32,
    free: Option<u32>,
) -> io::Result<Ready> {
    let from = log.dir.join(LogFile::Free(free.unwrap_or(id)).name());
    let made = fill(log, store_id, lane, id, size, &from, free.is_none());
    if made.is_err() && free.is_none() {
        // Half of a file helps nobody; where even this fails, the next start removes it.
        drop(log.disk.remove(&from));
    }
    let ready = made?;
    log.disk.rename(&from, &log.path(lane, id))?;
    log.disk.sync_dir(&log.dir)?;
    Ok(ready)
}

fn fill(
    log: &Log,
    store_id: u128,
    lane: Lane,
    id: u32,
    size: u32,
    path: &Path,
    fresh: bool,
) -> io::Result<Ready> {
    let file = log.disk.open(path, OpenMode::Create)?;
    if fresh || file.len()? != u64::from(size) {
        file.allocate(size.into())?;
        file.set_len(size.into())?;
        // Small appends are paid for by the sync, and that is cheaper into written space. Bulk pays for its bytes:
        // writing them twice would halve it.
        if lane == Lane::Small {
            let zeros = vec![0; FILL_BYTES.min(size as usize)];
            let mut at = PAGE;
            while at < u64::from(size) {
                let n = zeros.len().min((u64::from(size) - at) as usize);
                write_all_at(&*file, &zeros[..n], at)?;
                at += n as u64;
            }
        }
    }
    let header = SegmentHeader { store_id, lane, id, size: size.into() };
    // The page behind it too: what a recycled file holds there must not look like a torn write.
    let mut pages = header.encode();
    pages.resize(2 * PAGE as usize, 0);
    write_all_at(&*file, &pages, 0)?;
    file.sync_data()?;
    Ok(Ready { id, file, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted in two steps, a recycled file that was taken in between made the number of ready ones fall below zero:
    /// housekeeping panicked in debug builds, and in release builds found endless room for new messages.
    #[test]
    fn recycled_and_ready_segments_are_counted_at_one_moment() {
        let spares = Spares::default();
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
