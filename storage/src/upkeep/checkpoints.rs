//! Checkpoints, and the space that they free.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::core::shared::{BEGUN, Shared};
use crate::index::checkpoint::Checkpoint;
use crate::index::memory::State;
use crate::log::segment::{Lane, LogFile};
use crate::upkeep::spill::drop_all_stale;

/// This many entries moved to the index on disk call for a checkpoint: a start removes again the entries that no checkpoint
/// knows of.
const SPILLED: usize = 65_536;
/// How often service time is written down even if nothing changes.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(60);
/// Maximum number of recycled files kept for use.
const MAX_FREE: u64 = 16;

/// When a checkpoint is due, and what the previous ones recorded.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) generation: u64,
    pub(crate) last_incarnation_ms: u64,
    /// When the last checkpoint was taken.
    pub(crate) last: Instant,
    /// Service time recorded in the last checkpoint.
    pub(crate) known_seconds: u32,
    /// Segments begun up to the last checkpoint, and between that and the one before it.
    begun: (u64, u64),
    /// Recycled files that are not yet durably free.
    freed: Vec<u32>,
}

impl Checkpoints {
    /// Continues from the last checkpoint, as the start found it.
    pub(crate) fn new(generation: u64, known_seconds: u32, last_incarnation_ms: u64) -> Self {
        let (last, begun, freed) = (Instant::now(), (0, 0), Vec::new());
        Self { generation, last_incarnation_ms, last, known_seconds, begun, freed }
    }

    /// Whether a checkpoint is due after this many entries moved to the index on disk.
    pub(crate) fn is_due(&self, shared: &Shared, moved: usize, stopping: bool) -> bool {
        let since = self.last.elapsed();
        let much = moved >= SPILLED || self.begun_since(shared) >= BEGUN;
        let due = much || stopping || since >= shared.options.checkpoint_every;
        let asked = shared.checkpoints_asked.load(Ordering::Acquire);
        let is_asked_for = asked > *shared.checkpoints_written.borrow();
        // Time in which nothing happened counts as service, too.
        let time_went_on = stopping && shared.now() > self.known_seconds;
        due && shared.state.lock().dirty || is_asked_for || time_went_on || since >= IDLE_CHECKPOINT
    }

    /// Writes a checkpoint, then frees the segments that two of them found empty. Returns false if that is not possible yet,
    /// because the log or the index on disk has trouble.
    pub(crate) fn take(&mut self, shared: &Shared) -> io::Result<bool> {
        let written = self.write(shared)?;
        self.last = Instant::now();
        Ok(written)
    }

    fn write(&mut self, shared: &Shared) -> io::Result<bool> {
        let now = shared.now();
        let begun = shared.counters.begun.load(Ordering::Relaxed);
        drop_all_stale(shared);
        // Before the state is captured: a caller that asked before this finds in it what it waits for.
        let asked = shared.checkpoints_asked.load(Ordering::Acquire);
        let checkpoint = {
            let mut state = shared.state.lock();
            state.dirty = false;
            self.capture(shared, &state, now)
        };
        // What was captured may be visible and not yet synced; a checkpoint must not know more than the log.
        if !shared.wait_visible_synced() {
            return Ok(false);
        }
        if let Some(cold) = &shared.cold()
            && shared.cold_dirty.swap(false, Ordering::Relaxed)
            && let Err(e) = cold.sync()
        {
            shared.index_failed(cold, &e).map_err(|e| io::Error::other(e.to_string()))?;
            // It was given up: the next round takes a checkpoint that knows that.
            shared.state.lock().dirty = true;
            return Ok(false);
        }
        let written = checkpoint.write(&*shared.options.disk, &shared.options.data_dir, shared.store_id);
        if let Err(e) = written {
            shared.state.lock().dirty = true;
            return Err(e);
        }
        (self.generation, self.known_seconds) = (checkpoint.generation, now);
        shared.checkpoints_written.send_replace(asked);
        let kept = self.kept_free(begun);
        self.begun = (begun, begun - self.begun.0);
        rest(shared);
        self.give_back(shared, &checkpoint, kept)?;
        Ok(true)
    }

    /// Segments begun since the last checkpoint.
    fn begun_since(&self, shared: &Shared) -> u64 {
        shared.counters.begun.load(Ordering::Relaxed) - self.begun.0
    }

    /// How many recycled files are worth keeping: as many as were lately begun between two checkpoints. Writing into them is
    /// several times as fast as into new space. An idle store keeps one.
    fn kept_free(&self, begun: u64) -> usize {
        let (before, between) = self.begun;
        (begun - before).max(between).clamp(1, MAX_FREE) as usize
    }

    fn capture(&self, shared: &Shared, state: &State, now: u32) -> Checkpoint {
        let positions = state.positions();
        let segments = state.accounts.iter().map(|(id, account)| {
            let mut account = account.clone();
            // Records after the position are still read at the next start.
            let passed = account.sealed && *id < positions[account.lane.index()].segment;
            account.was_empty = passed && account.is_empty() && !shared.is_unfinished(*id);
            (*id, account)
        });
        Checkpoint {
            generation: self.generation + 1,
            service_seconds: now,
            last_sequence: state.last_sequence,
            next_segment: state.next_segment,
            last_incarnation_ms: self.last_incarnation_ms,
            positions,
            parties: state.parties.names().to_vec(),
            incarnations: state.incarnations.clone(),
            delivered: state.delivered.clone(),
            segments: segments.collect(),
            sends: state.sends.all(),
        }
    }

    fn give_back(&mut self, shared: &Shared, checkpoint: &Checkpoint, kept: usize) -> io::Result<()> {
        let mut free = Vec::new();
        {
            let mut state = shared.state.lock();
            for (id, captured) in &checkpoint.segments {
                let Some(account) = state.accounts.get_mut(id) else { continue };
                if !captured.was_empty {
                    account.empty_since = None;
                    continue;
                }
                match account.empty_since {
                    Some(since) if since < checkpoint.generation => free.push((*id, captured.lane)),
                    Some(_) => {}
                    None => {
                        account.empty_since = Some(checkpoint.generation);
                        state.dirty = true;
                    }
                }
            }
        }
        for (id, lane) in free {
            let size = {
                let mut state = shared.state.lock();
                state.dirty = true;
                state.accounts.remove(&id).map_or(0, |a| u64::from(a.size))
            };
            shared.log.forget(id);
            let path = shared.log.path(lane, id);
            if shared.spares.free_count() + self.freed.len() < kept && size == shared.segment_bytes {
                shared.log.disk.rename(&path, &shared.log.dir.join(LogFile::Free(id).name()))?;
                self.freed.push(id);
            } else {
                shared.log.disk.remove(&path)?;
            }
        }
        while shared.spares.free_count() > kept
            && let Some(id) = shared.spares.take_free()
        {
            shared.log.disk.remove(&shared.log.dir.join(LogFile::Free(id).name()))?;
        }
        if !self.freed.is_empty() {
            shared.log.disk.sync_dir(&shared.log.dir)?;
            for id in self.freed.drain(..) {
                shared.spares.recycle(id);
            }
        }
        if shared.spares.free_count() > 1 {
            // Another checkpoint checks whether they are still worth keeping.
            shared.state.lock().dirty = true;
        }
        Ok(())
    }
}

/// Large messages that stay are read at most once more, so the system need not keep their pages in memory. Otherwise it would
/// look for new pages for every segment, which is slower than taking those of old ones. Segments that will soon be written again
/// keep theirs.
fn rest(shared: &Shared) {
    let resting: Vec<u32> = {
        let mut state = shared.state.lock();
        let bulk = state.accounts.iter_mut().filter(|(_, account)| account.lane == Lane::Bulk);
        bulk.filter_map(|(id, account)| account.comes_to_rest().then_some(*id)).collect()
    };
    for id in resting {
        if let Ok(file) = shared.log.file(Lane::Bulk, id) {
            file.is_done();
        }
    }
}
