//! The writer of the log, one thread per lane: takes what is queued, writes it in one go, syncs once, answers everyone.
//!
//! There is no timer: a batch is what arrived during the last sync. Order of one step: write, make visible, sync, answer.
//! Invariants: no success is answered before the sync that covers the frame; after a failed write or sync nothing is written
//! any more; the writer leaves a segment only after its last write is synced.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;

use crate::core::reply::Reply;
use crate::core::shared::{BEGUN, Shared};
use crate::core::write_queue::{Append, Effect, Job, LargeMessage, WaitForJobs};
use crate::face::error::{StoreError, io_error};
use crate::index::segment_account::Account;
use crate::log::batch::{BATCH_BYTES, Batch};
use crate::log::frame::{
    EXTENT_BYTES, Extent, HEADER_BYTES, Header, Kind, MessageFields, Place, SLICE_BYTES, Slices, frame_len,
};
use crate::log::lane_end::LogEnd;
use crate::log::segment::Lane;
use crate::log::spare_segments::{MORE_FILES, ReadySegment, SegmentTrouble};
use crate::write::publish::{AfterSync, FramePlace, WrittenFrame, publish};

/// Largest write of the bulk lane, in bytes, while small messages flow: limits how long their sync waits behind it.
const BULK_BATCH_BESIDE_SMALL: u64 = 512 << 10;
/// Most large messages that are written side by side; further ones wait their turn.
const MAX_INTERLEAVED: usize = 64;
/// Records of ends and reads are kept while there is no room for another segment, unless this many jobs are kept already.
/// Further ones are dropped: each costs a repetition after a restart, unless a checkpoint comes first.
const MAX_KEPT: usize = 65_536;

/// A large message that is being written.
#[derive(Debug)]
struct LargeInProgress {
    ticket: u64,
    large: Box<LargeMessage>,
    slices: Slices,
}

/// The writer of one lane.
#[derive(Debug)]
pub(crate) struct LaneWriter {
    shared: Arc<Shared>,
    lane: Lane,
    at: LogEnd,
    staged: Vec<u8>,
    backlog: VecDeque<Job>,
    actives: VecDeque<LargeInProgress>,
    barriers: VecDeque<(u64, Reply)>,
    tickets: u64,
    full: bool,
    /// Segment to be left, if it is still in use.
    leaves: Option<u32>,
    /// Whether jobs wait for another segment, for which there is no room.
    stalled: bool,
}

impl LaneWriter {
    pub(crate) fn new(shared: Arc<Shared>, lane: Lane, at: LogEnd) -> Self {
        shared.space.set_left(lane, u64::from(at.size).saturating_sub(at.end));
        Self {
            shared,
            lane,
            at,
            staged: Vec::new(),
            backlog: VecDeque::new(),
            actives: VecDeque::new(),
            barriers: VecDeque::new(),
            tickets: 0,
            full: false,
            leaves: None,
            stalled: false,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        loop {
            let how = match (self.stalled, self.is_idle()) {
                (true, _) => WaitForJobs::WaitBriefly,
                (false, true) => WaitForJobs::Wait,
                (false, false) => WaitForJobs::AtOnce,
            };
            let open = self.shared.queues[self.lane.index()].take(how, &mut self.backlog).is_some();
            self.stalled = false;
            let result = self.poisoned().map_or_else(|| self.step(), Err);
            if let Err(error) = result {
                let keep = matches!(error, StoreError::Full { .. } | StoreError::NoSegment { .. });
                self.fail_all(&error, open && keep);
            }
            if !open && self.is_idle() {
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.backlog.is_empty() && self.actives.is_empty() && self.barriers.is_empty()
    }

    fn poisoned(&self) -> Option<StoreError> {
        // Closing still writes what is queued.
        self.shared.state_error().filter(|e| matches!(e, StoreError::Poisoned(_)))
    }

    fn step(&mut self) -> Result<(), StoreError> {
        if self.full
            && let Err(error) = self.roll()
        {
            // Shorter frames still find room in this segment, as they were admitted to.
            self.full = false;
            return Err(error);
        }
        let mut batch =
            Batch::new(self.at.segment, self.at.end, &self.at.tail, std::mem::take(&mut self.staged));
        let mut written = Vec::new();
        self.fill(&mut batch, &mut written);
        if batch.len() == 0 {
            self.staged = batch.into_staged();
        } else {
            self.write(batch, written)?;
        }
        self.note_unfinished();
        self.answer_barriers();
        if self.leaves.take() == Some(self.at.segment) {
            self.leave();
        }
        if self.at.end > u64::from(self.at.size / 4) {
            self.shared.spares.want(self.lane);
        }
        Ok(())
    }

    /// Takes frames until the batch or the segment is full, or no work is left.
    fn fill(&mut self, batch: &mut Batch, written: &mut Vec<WrittenFrame>) {
        let limit = self.batch_limit();
        // Slices of uploads come one by one; messages that are here in full take turns with them.
        let share = if self.actives.is_empty() { limit } else { limit / 2 };
        while batch.len() < share
            && !self.full
            && self.actives.len() < MAX_INTERLEAVED
            && let Some(job) = self.backlog.pop_front()
        {
            match job {
                Job::Append(append) => {
                    if let Err(append) = self.push(batch, append, written) {
                        self.backlog.push_front(Job::Append(append));
                    }
                }
                Job::Large(large) => {
                    let slices = large.uploaded.as_ref().map(|upload| upload.slices()).unwrap_or_default();
                    if slices.of.is_some() && slices.len() != large.len {
                        // Earlier slices of it found no room.
                        let error = self.full_error();
                        self.fail(large.commit, &error);
                        continue;
                    }
                    self.tickets += 1;
                    self.actives.push_back(LargeInProgress { ticket: self.tickets, large, slices });
                }
                Job::Barrier(reply) => self.barriers.push_back((self.tickets, reply)),
                Job::Leave(segment) => self.leaves = Some(segment),
            }
        }
        while batch.len() < limit
            && !self.full
            && let Some(mut active) = self.actives.pop_front()
        {
            if active.slices.extents.len() < active.large.slice_crcs.len() {
                self.push_slice(batch, &mut active);
                // Round-robin: the next slice of this message comes after one of each other message.
                self.actives.push_back(active);
            } else if let Err(active) = self.push_commit(batch, active, written) {
                self.actives.push_front(active);
            }
        }
        // Segments are only added here: a message whose end is in this batch is unfinished until the batch is entered.
        if self.lane == Lane::Bulk {
            let unfinished = self.unfinished();
            self.shared.unfinished.lock().extend(unfinished);
        }
    }

    /// Segments that hold slices of messages whose end is not written.
    fn unfinished(&self) -> BTreeSet<u32> {
        let mut segments = BTreeSet::new();
        for active in &self.actives {
            // The segments of one message are in order.
            for extent in &active.slices.extents {
                if segments.last() != Some(&extent.place.segment) {
                    segments.insert(extent.place.segment);
                }
            }
        }
        self.shared.of_uploads(&mut segments);
        segments
    }

    fn note_unfinished(&self) {
        if self.lane == Lane::Bulk {
            *self.shared.unfinished.lock() = self.unfinished();
        }
    }

    fn batch_limit(&self) -> u64 {
        match self.lane {
            Lane::Bulk if self.shared.small_is_busy() => BULK_BATCH_BESIDE_SMALL,
            _ => BATCH_BYTES,
        }
    }

    /// True if a body of `len` bytes fits after the batch; otherwise the segment is full.
    fn fits(&mut self, batch: &Batch, len: u32) -> bool {
        let fits = u64::from(batch.place().offset) + frame_len(len) <= u64::from(self.at.size);
        self.full = !fits;
        fits
    }

    #[expect(clippy::result_large_err, reason = "hands the job back")]
    fn push(
        &mut self,
        batch: &mut Batch,
        append: Append,
        written: &mut Vec<WrittenFrame>,
    ) -> Result<(), Append> {
        let header = Header {
            kind: append.kind,
            fields_len: append.fields.len() as u16,
            body_len: (append.fields.len() + append.payload.len()) as u32,
            body_crc: append.crc,
            sequence: append.sequence,
            time: append.time,
        };
        if !self.fits(batch, header.body_len) {
            return Err(append);
        }
        let place = batch.push(&header, &append.fields, &append.payload);
        if let Effect::Slice(upload) = &append.effect {
            upload.add(Extent { place, len: header.body_len });
        }
        let frame_len = (HEADER_BYTES as u32) + header.body_len;
        written.push(WrittenFrame { at: FramePlace { place, frame_len, first_segment: 0 }, append });
        Ok(())
    }

    fn push_slice(&mut self, batch: &mut Batch, active: &mut LargeInProgress) {
        let at = active.slices.extents.len() * SLICE_BYTES;
        let payload = &active.large.payload;
        let slice = payload.slice(at..payload.len().min(at + SLICE_BYTES));
        let header = Header {
            kind: Kind::Part,
            fields_len: 0,
            body_len: slice.len() as u32,
            body_crc: active.large.slice_crcs[active.slices.extents.len()],
            sequence: active.large.commit.sequence,
            time: active.large.commit.time,
        };
        if self.fits(batch, header.body_len) {
            let place = batch.push(&header, &[], &slice);
            active.slices.extents.push(Extent { place, len: slice.len() as u32 });
        }
    }

    fn push_commit(
        &mut self,
        batch: &mut Batch,
        mut active: LargeInProgress,
        written: &mut Vec<WrittenFrame>,
    ) -> Result<(), LargeInProgress> {
        let commit = &mut active.large.commit;
        let first = active.slices.extents.first().map_or(self.at.segment, |e| e.place.segment);
        // We encoded these fields, so they have one.
        if let Ok(at) = MessageFields::first_segment_at(&commit.fields) {
            commit.fields[at..at + 4].copy_from_slice(&first.to_le_bytes());
        }
        let mut extents = Vec::with_capacity(active.slices.extents.len() * EXTENT_BYTES + 8);
        active.slices.encode(&mut extents);
        if !self.fits(batch, (commit.fields.len() + extents.len()) as u32) {
            return Err(active);
        }
        let mut append = active.large.commit;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&append.fields);
        crc.update(&extents);
        append.crc = crc.finalize();
        append.payload = Bytes::from(extents);
        if self.push(batch, append, written).is_ok()
            && let Some(last) = written.last_mut()
        {
            last.at.first_segment = first;
        }
        Ok(())
    }

    fn write(&mut self, mut batch: Batch, written: Vec<WrittenFrame>) -> Result<(), StoreError> {
        batch.finish(self.at.size.into());
        let result = self.at.file.write_at(&mut batch.slices(), batch.start());
        if let Err(e) = result {
            return Err(self.broken("write to", e, written));
        }
        (self.at.end, self.staged) = batch.into_tail(&mut self.at.tail);
        self.shared.space.set_left(self.lane, u64::from(self.at.size).saturating_sub(self.at.end));
        let tail = Place { segment: self.at.segment, offset: self.at.end as u32 };
        let records = written.len();
        let AfterSync { replies, ended, sends } = publish(&self.shared, self.lane, tail, written);
        let progress = &self.shared.progress[self.lane.index()];
        progress.sync_start.begin(self.shared.options.clock.elapsed());
        let began = Instant::now();
        let synced = self.at.file.sync_data();
        progress.sync_start.end();
        if let Err(e) = synced {
            let error = self.poison("sync", e);
            for (reply, _) in replies {
                reply.send(Err(error.clone()));
            }
            return Err(error);
        }
        let counters = &self.shared.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.sync_seconds.note(began.elapsed().as_secs_f64());
        counters.sync_records.note(records as f64);
        let mut let_go = progress.became_synced(&self.shared.queues[Lane::Small.index()]);
        let_go.extend(ended);
        AfterSync::let_go(&self.shared, &let_go, sends);
        for (reply, cost) in replies {
            self.shared.space.leave(self.lane, cost);
            reply.send(Ok(()));
        }
        Ok(())
    }

    fn poison(&self, action: &'static str, error: std::io::Error) -> StoreError {
        let path = self.shared.log.path(self.lane, self.at.segment);
        let why = io_error(action, &path, error).to_string();
        self.shared.poison(&why);
        StoreError::Poisoned(why.into())
    }

    fn broken(&self, action: &'static str, error: std::io::Error, written: Vec<WrittenFrame>) -> StoreError {
        let error = self.poison(action, error);
        for item in written {
            item.append.reply.send(Err(error.clone()));
        }
        error
    }

    /// Answers the barriers that no unfinished large message holds back.
    fn answer_barriers(&mut self) {
        let oldest = self.actives.iter().map(|a| a.ticket).min().unwrap_or(u64::MAX);
        while self.barriers.front().is_some_and(|(ticket, _)| *ticket < oldest) {
            if let Some((_, reply)) = self.barriers.pop_front() {
                reply.send(Ok(()));
            }
        }
    }

    /// Goes on in the next segment if this one is still empty and the next one is ready; if that is not ready, asks for it
    /// and stays.
    fn leave(&mut self) {
        let is_empty = {
            let state = self.shared.state.lock();
            state.accounts.get(&self.at.segment).is_some_and(Account::is_empty)
        };
        if !is_empty {
            return;
        }
        match self.shared.spares.take_ready(self.lane) {
            Some(ready) => self.go_on_in(ready),
            None => self.shared.spares.want(self.lane),
        }
    }

    /// Goes on in the next segment.
    fn roll(&mut self) -> Result<(), StoreError> {
        let Some(ready) = self.shared.spares.take(self.lane) else {
            return Err(self.poisoned().unwrap_or_else(|| self.full_error()));
        };
        self.go_on_in(ready);
        Ok(())
    }

    fn go_on_in(&mut self, ready: ReadySegment) {
        {
            let mut state = self.shared.state.lock();
            if let Some(old) = state.accounts.get_mut(&self.at.segment) {
                old.sealed = true;
            }
            state.active[self.lane.index()] = ready.id;
            state.dirty = true;
        }
        self.shared.log.keep(ready.id, ready.file.clone());
        self.shared.space.take_segment();
        if self.shared.counters.begun.fetch_add(1, Ordering::Relaxed) % BEGUN == BEGUN - 1 {
            self.shared.wake_keeper.notify_all();
        }
        self.at = LogEnd {
            segment: ready.id,
            file: ready.file,
            size: ready.size,
            end: crate::log::segment::PAGE,
            tail: Vec::new(),
        };
        self.full = false;
        self.shared.space.set_left(self.lane, u64::from(self.at.size) - self.at.end);
    }

    fn full_error(&self) -> StoreError {
        if let Some(SegmentTrouble::Other(why)) = self.shared.spares.trouble() {
            return StoreError::NoSegment { why, remedy: MORE_FILES };
        }
        let (used, limit) = self.shared.space.used();
        let remedy = "no room for another log segment: free disk space or raise STORE_MAX_BYTES";
        StoreError::Full { used, limit, remedy }
    }

    /// Answers everything queued with an error. With `keep`, what must not be refused stays queued and is tried again.
    fn fail_all(&mut self, error: &StoreError, keep: bool) {
        for job in std::mem::take(&mut self.backlog) {
            match job {
                Job::Barrier(reply) => reply.send(Err(error.clone())),
                Job::Leave(_) => {}
                Job::Append(append) if keep && self.must_keep(&append) => {
                    self.backlog.push_back(Job::Append(append));
                }
                Job::Append(append) => self.fail(append, error),
                Job::Large(large) if keep && self.must_keep(&large.commit) => {
                    self.backlog.push_back(Job::Large(large));
                }
                Job::Large(large) => self.fail(large.commit, error),
            }
        }
        for active in std::mem::take(&mut self.actives) {
            if keep && self.must_keep(&active.large.commit) {
                self.actives.push_back(active);
            } else {
                self.fail(active.large.commit, error);
            }
        }
        for (_, reply) in self.barriers.drain(..) {
            reply.send(Err(error.clone()));
        }
        self.stalled = !self.backlog.is_empty() || !self.actives.is_empty();
        self.note_unfinished();
    }

    /// Whether a job must be kept on a full disk: a message that a peer may already have cannot be refused any more, and the
    /// record of an end or of reads, which nobody waits for, should not be lost. Anything else is withdrawn.
    fn must_keep(&self, append: &Append) -> bool {
        match append.effect {
            Effect::Message => !self.shared.state.lock().refuse(append.sequence),
            _ => matches!(append.kind, Kind::Settle | Kind::Read) && self.backlog.len() < MAX_KEPT,
        }
    }

    fn fail(&self, append: Append, error: &StoreError) {
        self.shared.space.leave(self.lane, append.cost);
        if matches!(append.effect, Effect::Message) {
            self.shared.state.lock().withdraw(append.sequence);
        }
        append.reply.send(Err(error.clone()));
    }
}
