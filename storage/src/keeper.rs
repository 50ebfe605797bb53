//! Housekeeping, in one low-priority thread: moves older entries to the index on disk, takes checkpoints, expires
//! pending messages, gives space back. None of it is on the way of an append.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cold::{Cold, ColdError};
use crate::compact::compact;
use crate::disk::passes;
use crate::letters;
use crate::log::lock;
use crate::recent::{current, drop_stale, give_memory_back};
use crate::shared::Shared;
use crate::state::{DeadEntry, Entry};

/// So many entries moved to the index on disk call for a checkpoint: a start takes out again what none knows of.
const SPILLED: usize = 65_536;
/// So many segments begun call for a checkpoint: what is behind them comes back for use only through one.
pub(crate) const BEGUN: u64 = 8;
/// Entries moved to the index on disk at a time.
const SPILL_BATCH: usize = 2048;
/// When the processors are busy, callers come first: what housekeeping moves to the disk fits the memory for a while
/// (see `CROWDED`), and it catches up later.
const NICENESS: i32 = 10;
/// Share of a round that spilling may take, so that checkpoints and space come round too.
const SPILL_TIME: Duration = Duration::from_millis(500);
/// Without any change, service time is still written down this often.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(60);

/// The housekeeping thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) generation: u64,
    pub(crate) last_incarnation_ms: u64,
    pub(crate) last_checkpoint: Instant,
    /// Entries moved to the index on disk since then.
    pub(crate) spilled: usize,
    /// Segments begun up to then, and between the one before it and it.
    pub(crate) begun: (u64, u64),
    /// Recycled files that are not durably free yet.
    pub(crate) freed: Vec<u32>,
    /// What failed in the last round.
    pub(crate) trouble: Option<String>,
    /// When the missing index on disk was last tried.
    pub(crate) index_tried: Option<Instant>,
    /// Service time from which on mail in the index on disk may have expired.
    pub(crate) next_expiry: u32,
}

impl Keeper {
    /// Runs until the store stops; a last checkpoint makes the next start quick.
    pub(crate) fn run(mut self) {
        // Of this thread, on Linux. Without it everything works the same, and callers wait a little more for it.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "housekeeping keeps its priority");
        }
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
            self.expire_mail_or_tell().map_err(|e| io::Error::other(e.to_string()))?;
            self.spill().map_err(|e| io::Error::other(self.shared.cold_failed(&e).to_string()))?;
            compact(&self.shared);
        }
        if self.checkpoint_is_due(stopping) {
            self.checkpoint()?;
            self.last_checkpoint = Instant::now();
            self.renew_index();
            self.refresh_space()?;
        }
        Ok(())
    }

    fn checkpoint_is_due(&self, stopping: bool) -> bool {
        let since = self.last_checkpoint.elapsed();
        let much = self.spilled >= SPILLED || self.begun_since() >= BEGUN;
        let due = much || stopping || since >= self.shared.options.checkpoint_every;
        due && lock(&self.shared.state).dirty || since >= IDLE_CHECKPOINT
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

    /// Moves what is old enough, or too much, to the index on disk.
    fn spill(&mut self) -> Result<(), ColdError> {
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
            self.spilled += batch.1.len() + batch.2.len();
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
        let older = self.end_older(cold, entries, dead)?;
        for ((key, entry), older) in entries.iter().zip(&older) {
            cold.put(*key, entry, older.as_ref())?;
        }
        for letter in dead {
            cold.put_dead(letter)?;
            cold.remove(letter.key, &letter.entry)?;
        }
        let mut gone = Vec::new();
        let mut gone_dead = Vec::new();
        {
            let mut state = lock(&self.shared.state);
            for (fifo, taken) in state.fifo.iter_mut().zip(taken) {
                fifo.drain(..*taken);
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
            give_memory_back(&mut state);
            self.shared.counters.in_memory.store(state.live.len() + state.dead.len(), Ordering::Relaxed);
        }
        // Ended or moved while they were being entered.
        for (key, entry) in gone {
            cold.remove(key, &entry)?;
        }
        for sequence in gone_dead {
            cold.remove_dead(sequence)?;
        }
        Ok(())
    }

    /// Ends what messages that move have replaced in the index on disk, before anybody finds them there: who settles one
    /// of them meanwhile would find itself, not what is older, and that would be pending again. Gives what each message
    /// replaced.
    fn end_older(
        &self,
        cold: &Cold,
        entries: &[(u128, Entry)],
        dead: &[DeadEntry],
    ) -> Result<Vec<Option<Entry>>, ColdError> {
        let older = entries.iter().map(|(key, entry)| cold.older(*key, entry));
        let older = older.collect::<Result<Vec<_>, _>>()?;
        let mut of_letters = Vec::new();
        for letter in dead {
            // No replay will meet the message any more.
            of_letters.extend(cold.older(letter.key, &letter.entry)?.map(|old| (letter.key, old)));
        }
        {
            let mut state = lock(&self.shared.state);
            for old in older.iter().flatten().chain(of_letters.iter().map(|(_, old)| old)) {
                state.remove_cold(old);
            }
        }
        for (key, old) in of_letters {
            cold.remove(key, &old)?;
        }
        Ok(older)
    }
}
