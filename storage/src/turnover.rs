//! Checkpoints, and the space that they set free.

use std::io;
use std::sync::atomic::Ordering;

use crate::checkpoint::Checkpoint;
use crate::frame::{Class, Kind, MessageFields};
use crate::keeper::Keeper;
use crate::keys;
use crate::log::lock;
use crate::recent::drop_stale;
use crate::scan::{Found, scan};
use crate::segment::{Lane, LogFile, PAGE};
use crate::state::State;

/// Recycled files kept for use at most.
const MAX_FREE: u64 = 16;

impl Keeper {
    /// Writes a checkpoint, then gives back the segments that two of them found empty.
    pub(crate) fn checkpoint(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let now = shared.now();
        let ttl = shared.message_ttl();
        let begun = shared.counters.begun.load(Ordering::Relaxed);
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
        let kept = self.kept_free(begun);
        (self.spilled, self.begun) = (0, (begun, begun - self.begun.0));
        self.rest(now);
        self.give_back(&checkpoint, kept)
    }

    /// Large messages that stay are read once more at most: the system need not keep their pages in memory. It would look
    /// for new ones for every segment, which is slower than to take those of old ones. Segments that are soon written
    /// again keep theirs.
    fn rest(&self, now: u32) {
        let ttl = self.shared.message_ttl();
        let resting: Vec<u32> = {
            let mut state = lock(&self.shared.state);
            let bulk = state.accounts.iter_mut().filter(|(_, account)| account.lane == Lane::Bulk);
            bulk.filter_map(|(id, account)| account.comes_to_rest(now, ttl).then_some(*id)).collect()
        };
        for id in resting {
            if let Ok(file) = self.shared.log.file(Lane::Bulk, id) {
                file.is_done();
            }
        }
    }

    /// Segments begun since the last checkpoint.
    pub(crate) fn begun_since(&self) -> u64 {
        self.shared.counters.begun.load(Ordering::Relaxed) - self.begun.0
    }

    /// How many recycled files are worth keeping: as many as were begun between two checkpoints lately. Writing into them
    /// is several times as fast as into new space. An idle store keeps one.
    fn kept_free(&self, begun: u64) -> usize {
        let (before, between) = self.begun;
        (begun - before).max(between).clamp(1, MAX_FREE) as usize
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
        lock(&self.shared.unfinished).contains(&id)
    }

    fn give_back(&mut self, checkpoint: &Checkpoint, kept: usize) -> io::Result<()> {
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
            // Another checkpoint looks whether they are still worth it.
            lock(&shared.state).dirty = true;
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
                state.expire(key, sequence);
            } else if let Some(entry) = in_cold {
                state.expire_cold(key, &entry);
                drop(state);
                if let Some(cold) = &shared.cold() {
                    cold.remove(key, &entry).map_err(|e| shared.cold_failed(&e))?;
                }
            }
        }
        Ok(())
    }
}
