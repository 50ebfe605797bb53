//! Housekeeping, in one low-priority thread: moves older entries to the index on disk, takes checkpoints, expires
//! pending messages, gives space back. None of it is on the way of an append.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::checkpoint::Checkpoint;
use crate::cold::{Cold, ColdError};
use crate::compact::compact;
use crate::disk::passes;
use crate::frame::{Class, Kind, MessageFields};
use crate::keys;
use crate::letters;
use crate::log::lock;
use crate::message::{DeadReason, Sequence};
use crate::reader::Reader;
use crate::recent::{current, drop_stale};
use crate::scan::{Found, scan};
use crate::segment::{LogFile, PAGE};
use crate::settle::bury;
use crate::shared::Shared;
use crate::spares::MAX_FREE;
use crate::state::{DeadEntry, Entry, State};

/// Pause between tries to open a missing index on disk.
const REOPEN: Duration = Duration::from_secs(5);
/// Entries moved to the index on disk at a time.
const SPILL_BATCH: usize = 2048;
/// Share of a round that spilling may take, so that checkpoints and space come round too.
const SPILL_TIME: Duration = Duration::from_millis(500);
/// Without any change, service time is still written down this often.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(60);
/// Pending messages looked at for expiry per peer and round.
const EXPIRE_BATCH: usize = 256;

/// The housekeeping thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) generation: u64,
    pub(crate) last_incarnation_ms: u64,
    pub(crate) last_checkpoint: Instant,
    /// Recycled files that are not durably free yet.
    pub(crate) freed: Vec<u32>,
    /// What failed in the last round.
    pub(crate) trouble: Option<String>,
    /// When the missing index on disk was last tried.
    pub(crate) index_tried: Option<Instant>,
}

impl Keeper {
    /// Runs until the store stops; a last checkpoint makes the next start quick.
    pub(crate) fn run(mut self) {
        loop {
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            if self.shared.state_error().is_some_and(|e| matches!(e, crate::StoreError::Poisoned(_))) {
                return;
            }
            if let Err(error) = self.round(stopping) {
                if !passes(&error) {
                    self.shared.poison(&self.final_trouble(&error));
                    return;
                }
                // Once per trouble, not four times a second.
                let why = error.to_string();
                if self.trouble.as_ref() != Some(&why) {
                    tracing::warn!(%error, "housekeeping failed; it is tried again");
                    self.trouble = Some(why);
                }
            } else {
                self.trouble = None;
            }
            if stopping {
                return;
            }
            let guard = lock(&self.shared.keeper_lock);
            if !self.shared.stopping.load(Ordering::Acquire) {
                let pause = self.shared.options.housekeeping_every;
                drop(self.shared.wake_keeper.wait_timeout(guard, pause));
            }
        }
    }

    fn final_trouble(&self, error: &io::Error) -> String {
        let folder = self.shared.options.data_dir.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                format!("a file of the store is gone ({error}): was {folder} removed?")
            }
            _ => format!("housekeeping of the log failed: {error}"),
        }
    }

    fn round(&mut self, stopping: bool) -> io::Result<()> {
        self.refresh_space()?;
        if !stopping {
            self.expire_pending();
            if let Err(error) = letters::keep_within_bound(&self.shared) {
                tracing::warn!(%error, "cannot drop old dead letters; it is tried again");
            }
            self.reopen_index();
            self.spill().map_err(|e| io::Error::other(self.shared.cold_failed(&e).to_string()))?;
            compact(&self.shared);
        }
        let since = self.last_checkpoint.elapsed();
        let dirty = lock(&self.shared.state).dirty;
        let due = dirty && since >= self.shared.options.checkpoint_every;
        if due || since >= IDLE_CHECKPOINT || stopping && dirty {
            self.checkpoint()?;
            self.last_checkpoint = Instant::now();
            self.refresh_space()?;
        }
        Ok(())
    }

    /// Counts what room there is for new messages. An error: the data folder is gone.
    pub(crate) fn refresh_space(&self) -> io::Result<()> {
        let shared = &self.shared;
        let room = shared.options.disk.room(&shared.options.data_dir)?;
        let (used, files) = {
            let state = lock(&shared.state);
            let used = state.accounts.values().map(|a| u64::from(a.tail)).sum::<u64>();
            (used, state.accounts.values().map(|a| u64::from(a.size)).sum::<u64>())
        };
        let segment = shared.segment_bytes;
        let (spares, ready) = shared.spares.free_and_ready();
        let files = files + spares * segment;
        let reserve = (room.total / 20).min(64 << 20);
        let on_disk = room.available.saturating_sub(reserve);
        let by_quota = match shared.options.max_bytes {
            0 => u64::MAX,
            max => max.saturating_sub(files),
        };
        let fresh = on_disk.min(by_quota) / segment;
        shared.space.set_room(fresh + spares + ready, used, files + on_disk.min(by_quota));
        shared.disk_low.store(on_disk == 0, Ordering::Relaxed);
        // Records may use the reserve.
        if room.available >= segment {
            shared.spares.retry();
        }
        Ok(())
    }

    /// A start without an index on disk (full disk, no descriptors) gets one as soon as there is room: an empty one, since
    /// everything is indexed in memory.
    fn reopen_index(&mut self) {
        let shared = &self.shared;
        let path = shared.options.disk.index_dir(&shared.options.data_dir);
        let Some(path) = path.filter(|_| shared.cold().is_none() && !shared.disk_low.load(Ordering::Relaxed))
        else {
            return;
        };
        if self.index_tried.is_some_and(|at| at.elapsed() < REOPEN) {
            return;
        }
        self.index_tried = Some(Instant::now());
        let opened = Cold::open(&*shared.options.disk, &path, shared.store_id)
            .and_then(|(cold, _)| cold.clear().map(|()| cold));
        match opened {
            Ok(cold) => {
                tracing::info!("the index on disk is there again");
                *lock(&shared.index) = Some(Arc::new(cold));
            }
            Err(error) => tracing::debug!(%error, "still no index on disk"),
        }
    }

    /// Moves what is old enough, or too much, to the index on disk.
    fn spill(&self) -> Result<(), ColdError> {
        let started = Instant::now();
        loop {
            let batch = self.pick();
            let Some(cold) = self.shared.cold() else { return Ok(()) };
            // Room is looked at before each batch: sled, unlike the log, takes it while it writes.
            if batch.0 == [0, 0]
                || self.refresh_space().is_err()
                || self.shared.disk_low.load(Ordering::Relaxed)
            {
                return Ok(());
            }
            // What an entry replaces on disk ends with it: that needs it to be synced.
            if !self.shared.wait_visible_synced() {
                return Ok(());
            }
            self.shared.cold_dirty.store(true, Ordering::Relaxed);
            self.spill_batch(&cold, &batch)?;
            self.shared.spilled.notify_waiters();
            if started.elapsed() > SPILL_TIME {
                return Ok(());
            }
        }
    }

    /// The oldest entries that should move: how many of each lane's list, and those of them that are valid.
    fn pick(&self) -> ([usize; 2], Vec<(u128, Entry)>, Vec<DeadEntry>) {
        let now = self.shared.now();
        let after = self.shared.options.spill_after.as_secs() as u32;
        let ttl = self.shared.message_ttl();
        let mut state = lock(&self.shared.state);
        let state = &mut *state;
        drop_stale(state, now, ttl, self.shared.cold().is_none());
        let crowded = state.live.len() > self.shared.options.index_memory_entries;
        let mut taken = [0; 2];
        let (mut entries, mut dead) = (Vec::new(), Vec::new());
        for (fifo, taken) in state.fifo.iter().zip(&mut taken) {
            for recent in fifo.iter().take(SPILL_BATCH) {
                if !crowded && now.saturating_sub(recent.time) < after {
                    break;
                }
                *taken += 1;
                if recent.dead_letter {
                    dead.extend(state.dead.get(&recent.sequence).cloned());
                } else {
                    entries.extend(current(&state.live, recent).map(|e| (recent.key, e)));
                }
            }
        }
        (taken, entries, dead)
    }

    fn spill_batch(
        &self,
        cold: &Cold,
        (taken, entries, dead): &([usize; 2], Vec<(u128, Entry)>, Vec<DeadEntry>),
    ) -> Result<(), ColdError> {
        let mut replaced = Vec::new();
        for (key, entry) in entries {
            replaced.extend(cold.put(*key, entry)?.map(|old| (*key, old)));
        }
        for letter in dead {
            cold.put_dead(letter)?;
            cold.remove(letter.key, &letter.entry)?;
            // What the message replaced ends here: no replay will meet the message any more.
            let old = cold.latest_pending(letter.key)?.filter(|old| old.sequence < letter.entry.sequence);
            replaced.extend(old.map(|old| (letter.key, old)));
        }
        let mut gone = Vec::new();
        let mut gone_dead = Vec::new();
        {
            let mut state = lock(&self.shared.state);
            for (fifo, taken) in state.fifo.iter_mut().zip(taken) {
                fifo.drain(..*taken);
            }
            for (_, old) in &replaced {
                state.remove_cold(old);
            }
            for (key, entry) in entries {
                match state.live.get(key) {
                    Some(e) if e == entry => state.hand_over(*key, entry),
                    _ => gone.push((*key, *entry)),
                }
            }
            for letter in dead {
                match state.dead.get(&letter.entry.sequence) {
                    Some(l) if l == letter => state.hand_over_dead(letter),
                    _ => gone_dead.push(letter.entry.sequence),
                }
            }
            self.shared.counters.in_memory.store(state.live.len() + state.dead.len(), Ordering::Relaxed);
        }
        // Ended or moved while they were being entered.
        for (key, entry) in
            gone.into_iter().chain(replaced.into_iter().filter(|(_, o)| o.class == Class::Outgoing))
        {
            cold.remove(key, &entry)?;
        }
        for sequence in gone_dead {
            cold.remove_dead(sequence)?;
        }
        Ok(())
    }

    /// Turns pending messages whose time is over into dead letters.
    fn expire_pending(&self) {
        let shared = &self.shared;
        let Some(ttl) = shared.send_ttl() else { return };
        let now = shared.now();
        let parties: Vec<_> = {
            let state = lock(&shared.state);
            let names = state.parties.names();
            let pending = |i: usize| state.parties.counts.get(i + 1).is_some_and(|c| c.pending > 0);
            names.iter().enumerate().filter(|(i, _)| pending(*i)).map(|(i, _)| (i + 1) as u16).collect()
        };
        let reader = Reader { shared };
        for party in parties {
            let Ok(first) = reader.pending_entries(party, Sequence(0), EXPIRE_BATCH) else { return };
            let expired: Vec<_> =
                first.into_iter().take_while(|(_, e)| e.is_expired(now, Some(ttl))).collect();
            if expired.is_empty() || !shared.wait_visible_synced() {
                continue;
            }
            let mut waiting = Vec::new();
            for (key, entry) in expired {
                waiting.extend(bury(shared, key, entry, DeadReason::Expired).ok());
            }
            for burial in waiting {
                if let Err(error) = burial.wait_blocking(shared) {
                    tracing::warn!(%error, "cannot record an expired message; it is tried again");
                    return;
                }
            }
        }
    }

    /// Writes a checkpoint, then gives back the segments that two of them found empty.
    fn checkpoint(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let now = shared.now();
        let ttl = shared.message_ttl();
        let checkpoint = {
            let mut state = lock(&shared.state);
            state.dirty = false;
            drop_stale(&mut state, now, ttl, shared.cold().is_none());
            self.capture(&state, now)
        };
        // What was captured may be visible and not yet synced; a checkpoint must not know more than the log.
        if !shared.wait_visible_synced() {
            return Ok(());
        }
        if let Some(cold) = &shared.cold()
            && shared.cold_dirty.swap(false, Ordering::Relaxed)
            && let Err(e) = cold.sync()
        {
            return Err(io::Error::other(shared.cold_failed(&e).to_string()));
        }
        let written = checkpoint.write(&*shared.options.disk, &shared.options.data_dir, shared.store_id);
        if let Err(e) = written {
            lock(&shared.state).dirty = true;
            return Err(e);
        }
        self.generation = checkpoint.generation;
        self.give_back(&checkpoint)
    }

    fn capture(&self, state: &State, now: u32) -> Checkpoint {
        let ttl = self.shared.message_ttl();
        let positions = state.positions();
        let segments = state.accounts.iter().map(|(id, account)| {
            let mut account = account.clone();
            // Records behind the position are still read at the next start.
            let passed = account.sealed && *id < positions[account.lane.index()].segment;
            account.was_empty = passed && account.is_empty(now, ttl) && !self.is_unfinished(*id);
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
        }
    }

    /// Holds slices of a message whose end is not written yet.
    fn is_unfinished(&self, id: u32) -> bool {
        u64::from(id) >= self.shared.unfinished_from.load(Ordering::Acquire)
    }

    fn give_back(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut free = Vec::new();
        {
            let mut state = lock(&shared.state);
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
            match self.forget_expired(id) {
                Ok(()) => {}
                Err(error @ crate::StoreError::Poisoned(_)) => {
                    return Err(io::Error::other(error.to_string()));
                }
                Err(error) => {
                    tracing::warn!(segment = id, %error, "an old segment cannot be read and is kept for now");
                    continue;
                }
            }
            let size = {
                let mut state = lock(&shared.state);
                state.dirty = true;
                state.accounts.remove(&id).map_or(0, |a| u64::from(a.size))
            };
            shared.log.forget(id);
            let path = shared.log.path(lane, id);
            if shared.spares.free_count() + self.freed.len() < MAX_FREE && size == shared.segment_bytes {
                shared.log.disk.rename(&path, &shared.log.dir.join(LogFile::Free(id).name()))?;
                self.freed.push(id);
            } else {
                shared.log.disk.remove(&path)?;
            }
        }
        self.trim()?;
        if !self.freed.is_empty() {
            shared.log.disk.sync_dir(&shared.log.dir)?;
            for id in self.freed.drain(..) {
                shared.spares.recycle(id);
            }
        }
        Ok(())
    }

    /// An idle store keeps one recycled file, not more.
    fn trim(&self) -> io::Result<()> {
        let in_use = lock(&self.shared.state).accounts.len();
        while in_use <= 4
            && self.shared.spares.free_count() > 1
            && let Some(id) = self.shared.spares.take_free()
        {
            self.shared.log.disk.remove(&self.shared.log.dir.join(LogFile::Free(id).name()))?;
        }
        Ok(())
    }

    /// Takes what expired in a segment out of the indexes, before the segment goes.
    fn forget_expired(&self, id: u32) -> Result<(), crate::StoreError> {
        let shared = &self.shared;
        let Some(lane) = lock(&shared.state).accounts.get(&id).filter(|a| a.incoming > 0).map(|a| a.lane)
        else {
            return Ok(());
        };
        let mut keys = Vec::new();
        let path = shared.log.path(lane, id);
        let io = |e| crate::log::io_error("read", &path, e);
        let file = shared.log.file(lane, id).map_err(io)?;
        scan(&*file, id, PAGE, |found| {
            if let Found::Frame(place, header, body) = found
                && matches!(header.kind, Kind::Message | Kind::Commit)
                && let Ok(f) = MessageFields::decode(&body[..usize::from(header.fields_len)])
                && f.class != Class::Outgoing
            {
                keys.push((keys::key(shared.key_secret, f.class, f.party, f.id), place, header.sequence));
            }
            Ok(())
        })
        .map_err(io)?;
        for (key, place, sequence) in keys {
            let in_cold = match &shared.cold() {
                Some(cold) => {
                    cold.mail(key).map_err(|e| shared.cold_failed(&e))?.filter(|e| e.place == place)
                }
                None => None,
            };
            let mut state = lock(&shared.state);
            if !state.is_valid(place) {
                continue;
            }
            if state.live.get(&key).is_some_and(|e| e.place == place) {
                state.remove(key, sequence);
            } else if let Some(entry) = in_cold {
                state.remove_cold(&entry);
                drop(state);
                if let Some(cold) = &shared.cold() {
                    cold.remove(key, &entry).map_err(|e| shared.cold_failed(&e))?;
                }
            }
        }
        Ok(())
    }
}
