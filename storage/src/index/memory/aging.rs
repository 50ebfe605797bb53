//! The lists of what is in the log but not in the index on disk: which of their items are still current.

use crate::index::entry::{Entry, RecentEntry};
use crate::index::maps::Map;
use crate::index::memory::State;

/// The entry that a list item stands for, unless the message has ended or moved.
pub(crate) fn current(live: &Map<u128, Entry>, recent: &RecentEntry) -> Option<Entry> {
    live.get(&recent.key).copied().filter(|e| e.sequence == recent.sequence && e.place == recent.place)
}

/// Removes stale items from the front of the lists, at most `most`; returns how many.
pub(crate) fn drop_stale(state: &mut State, most: usize) -> usize {
    let mut dropped = 0;
    for lane in 0..2 {
        while let Some(recent) = state.fifo[lane].front().filter(|_| dropped < most) {
            let keep = if recent.dead_letter {
                state.dead.get(&recent.sequence).is_some_and(|l| l.death.place == recent.place)
            } else {
                current(&state.live, recent).is_some()
            };
            if keep {
                break;
            }
            state.fifo[lane].pop_front();
            dropped += 1;
        }
    }
    dropped
}

/// Returns memory to the system after many entries have been removed.
pub(crate) fn give_memory_back(state: &mut State) {
    const KEPT: usize = 4096;
    if state.live.capacity() > 4 * state.live.len().max(KEPT) {
        state.live.shrink_to(2 * state.live.len());
    }
    state.names.give_memory_back();
    for fifo in &mut state.fifo {
        if fifo.capacity() > 4 * fifo.len().max(KEPT) {
            fifo.shrink_to(2 * fifo.len());
        }
    }
}
