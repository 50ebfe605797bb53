//! The lists of what is in the log and not in the index on disk: which of their items still stand for something.

use std::collections::HashMap;

use crate::frame::Class;
use crate::state::{Entry, Recent, State};

/// The entry that a list item stands for, unless it ended or moved.
pub(crate) fn current(live: &HashMap<u128, Entry>, recent: &Recent) -> Option<Entry> {
    live.get(&recent.key).copied().filter(|e| e.sequence == recent.sequence && e.place == recent.place)
}

/// Takes items off the front of the lists that stand for nothing any more; without an index on disk, also expired
/// messages, which nothing else would.
pub(crate) fn drop_stale(state: &mut State, now: u32, ttl: Option<u32>, expired_too: bool) {
    for lane in 0..2 {
        while let Some(recent) = state.fifo[lane].front().copied() {
            let keep = if recent.dead_letter {
                state.dead.get(&recent.sequence).is_some_and(|l| l.death.place == recent.place)
            } else {
                match current(&state.live, &recent) {
                    Some(e) if expired_too && e.class != Class::Outgoing && e.is_expired(now, ttl) => {
                        state.expire(recent.key, recent.sequence);
                        false
                    }
                    found => found.is_some(),
                }
            };
            if keep {
                break;
            }
            state.fifo[lane].pop_front();
        }
    }
}

/// After many entries have left: their room goes back to the system.
pub(crate) fn give_memory_back(state: &mut State) {
    const KEPT: usize = 4096;
    if state.live.capacity() > 4 * state.live.len().max(KEPT) {
        state.live.shrink_to(2 * state.live.len());
    }
    for fifo in &mut state.fifo {
        if fifo.capacity() > 4 * fifo.len().max(KEPT) {
            fifo.shrink_to(2 * fifo.len());
        }
    }
}
