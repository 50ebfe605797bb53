//! Moves entries to the index on disk: what is old enough, or too much for memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::core::shared::{LONG_IDS, Shared};
use crate::face::error::StoreError;
use crate::index::entry::{DeadEntry, Entry};
use crate::index::memory::aging::{current, drop_stale, give_memory_back};
use crate::index::on_disk::{Cold, ColdError};

/// Number of newer segments of its lane from which on an entry moves to the index on disk when it is [`LAGGING_FOR`] old: that
/// bounds what a start reads back of the log, and what of the log cannot be freed.
const LAGGING: usize = 2;
/// What ends within this time never gets there.
const LAGGING_FOR: Duration = Duration::from_secs(5);
/// Entries moved to the index on disk at a time, of each lane. The state's lock is held for each batch twice, some 100 us.
const SPILL_BATCH: usize = 256;
/// Share of a round that spilling may take, so that checkpoints and space come round too.
const SPILL_TIME: Duration = Duration::from_millis(500);
/// Longest pause between two batches that nothing waits for.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Items that stand for nothing, taken off the lists at a time.
const STALE: usize = 1024;

/// What of this the housekeeping remembers.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    /// Entries moved since the last checkpoint.
    pub(crate) moved: usize,
}

impl Spill {
    /// Moves what is old enough, or too much, to the index on disk.
    pub(crate) fn run(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let started = Instant::now();
        loop {
            let begun = Instant::now();
            let (pressed, batch) = Self::pick(shared);
            let Some(cold) = shared.cold() else { return Ok(()) };
            // Room is looked at before each batch: sled, unlike the log, takes it while it writes.
            if batch.0 == [0, 0] || shared.refresh_space().is_err() || shared.disk_low.load(Ordering::Relaxed)
            {
                return Ok(());
            }
            // What an entry replaces on disk ends with it: that needs it to be synced.
            if !shared.wait_visible_synced() {
                return Ok(());
            }
            shared.cold_dirty.store(true, Ordering::Relaxed);
            if let Err(error) = Self::enter(shared, &cold, &batch) {
                // What was on its way there is still in memory.
                return shared.index_failed(&cold, &error);
            }
            self.moved += batch.1.len() + batch.2.len();
            shared.spilled.notify_waiters();
            if started.elapsed() > SPILL_TIME {
                return Ok(());
            }
            if !pressed && !shared.stopping.load(Ordering::Acquire) {
                // Nothing waits for it: callers get the processor for as long as this has just used it.
                std::thread::sleep(begun.elapsed().min(LONGEST_PAUSE));
            }
        }
    }

    /// The oldest entries that should move: how many of each lane's list, and those of them that are valid. Before them: there
    /// is more than memory is meant for.
    fn pick(shared: &Shared) -> (bool, SpillBatch) {
        let now = shared.now();
        let rested = shared.options.spill_after;
        // Who wants all of it in memory has it there.
        let lags = if rested == Duration::MAX { rested } else { rested.min(LAGGING_FOR) };
        let [rested, lags] = [rested, lags].map(|after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX));
        drop_all_stale(shared);
        let mut state = shared.state.lock();
        let state = &mut *state;
        let most = shared.options.index_memory_entries;
        let long_ids = shared.counters.long_ids.load(Ordering::Relaxed);
        // Each has at least one place in the lists, and what stands in them is read back at a start.
        let listed = state.fifo[0].len() + state.fifo[1].len();
        let crowded = listed > most || long_ids > most.saturating_mul(LONG_IDS / 2);
        let mut taken = [0; 2];
        let (mut entries, mut dead) = (Vec::new(), Vec::new());
        let lagging = state.lagging(LAGGING);
        for ((fifo, taken), lagging) in state.fifo.iter().zip(&mut taken).zip(lagging) {
            for recent in fifo.iter().take(SPILL_BATCH) {
                let after = if recent.place.segment < lagging { lags } else { rested };
                if !crowded && now.saturating_sub(recent.time) < after {
                    break;
                }
                *taken += 1;
                if recent.dead_letter {
                    dead.extend(state.dead.get(&recent.sequence).cloned());
                } else {
                    entries.extend(current(&state.live, recent).map(|e| {
                        let id = state.names.id(e.sequence).cloned();
                        (recent.key, e, id)
                    }));
                }
            }
        }
        (crowded, (taken, entries, dead))
    }

    fn enter(shared: &Shared, cold: &Cold, (taken, entries, dead): &SpillBatch) -> Result<(), ColdError> {
        let older = Self::end_older(shared, cold, entries, dead)?;
        for ((key, entry, id), older) in entries.iter().zip(&older) {
            cold.put(*key, entry, older.as_ref(), id.as_deref())?;
        }
        for letter in dead {
            cold.put_dead(letter)?;
            cold.remove(letter.key, &letter.entry)?;
        }
        let mut gone = Vec::new();
        let mut gone_dead = Vec::new();
        {
            let mut state = shared.state.lock();
            if cold.is_lost() {
                return Err(given_up());
            }
            for (fifo, taken) in state.fifo.iter_mut().zip(taken) {
                fifo.drain(..*taken);
            }
            for (key, entry, _) in entries {
                match state.live.get(key).copied() {
                    Some(e) if e.is_same(entry) => {
                        state.hand_over(*key, entry);
                        if entry.is_unread() {
                            state.handed_over_unread(*key, &e);
                        }
                    }
                    _ => gone.push((*key, *entry)),
                }
            }
            for letter in dead {
                match state.dead.get(&letter.entry.sequence) {
                    Some(l) if l == letter => state.hand_over_dead(letter),
                    _ => gone_dead.push(letter.entry.sequence),
                }
            }
            shared.counters.in_memory.store(state.live.len() + state.dead.len(), Ordering::Relaxed);
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
        shared: &Shared,
        cold: &Cold,
        entries: &[Moving],
        dead: &[DeadEntry],
    ) -> Result<Vec<Option<Entry>>, ColdError> {
        let older = entries.iter().map(|(key, entry, _)| cold.older(*key, entry));
        let older = older.collect::<Result<Vec<_>, _>>()?;
        let mut of_letters = Vec::new();
        for letter in dead {
            // No replay will meet the message any more.
            of_letters.extend(cold.older(letter.key, &letter.entry)?.map(|old| (letter.key, old)));
        }
        {
            let mut state = shared.state.lock();
            if cold.is_lost() {
                return Err(given_up());
            }
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

/// Takes what stands for nothing off the front of the lists, some at a time; tables that have become too large shrink.
pub(crate) fn drop_all_stale(shared: &Shared) {
    while drop_stale(&mut shared.state.lock(), STALE) == STALE {}
    give_memory_back(&mut shared.state.lock());
}

/// How many items of each lane's list move, and the messages and dead letters among them.
type SpillBatch = ([usize; 2], Vec<Moving>, Vec<DeadEntry>);

/// An entry that moves to the index on disk: key, entry, id.
type Moving = (u128, Entry, Option<Arc<str>>);

/// Another thread has given the index up meanwhile.
fn given_up() -> ColdError {
    ColdError("it was given up".into())
}
