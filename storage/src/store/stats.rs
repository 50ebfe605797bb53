//! Counters and gauges of the embedded store.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::shared::Shared;
use crate::face::engine::{PeerPending, StoreStats};

/// The current gauges, and the counters since the start. Holds the lock of the index for as long as it takes to look at each
/// party and segment.
pub(crate) fn stats(shared: &Shared) -> StoreStats {
    let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
    let state = shared.state.lock();
    let names = state.parties.names().iter().enumerate();
    let pending = names.filter_map(|(i, peer)| {
        let c = state.parties.counts.get(i + 1)?;
        let (queued, bytes) = state.queued.pending_of((i + 1) as u16);
        let (messages, bytes) = (c.pending + queued, c.pending_bytes + bytes);
        (messages > 0).then(|| PeerPending { peer: peer.clone(), messages, bytes })
    });
    let files: u64 = state.accounts.values().map(|a| u64::from(a.size)).sum();
    // Summed over all segments: a large message is counted whole at the last of its segments.
    let written: u64 = state.accounts.values().map(|a| u64::from(a.tail)).sum();
    let live: u64 = state.accounts.values().map(|a| a.live_bytes).sum();
    let free = shared.spares.free_count() as u64;
    let (used_bytes, limit_bytes) = shared.space.used();
    StoreStats {
        pending: pending.collect(),
        mailbox_messages: state.mailbox,
        dead_letters: state.dead.len() as u64 + state.cold_dead,
        disk_bytes: files + free * shared.segment_bytes,
        used_bytes,
        limit_bytes,
        quota_bytes: shared.options.max_bytes,
        segments: state.accounts.len() as u64,
        spare_segments: free,
        appends: count(&shared.counters.appends),
        syncs: count(&shared.counters.syncs),
        repeated: count(&shared.counters.repeated),
        damaged: count(&shared.counters.damaged),
        index_in_memory: (state.live.len() + state.dead.len()) as u64,
        listed: count(&shared.counters.listed),
        service_seconds: u64::from(shared.now()),
        expired: state.expired,
        reclaimable_bytes: written.saturating_sub(live),
        sync_seconds: shared.counters.sync_seconds.spread(),
        sync_records: shared.counters.sync_records.spread(),
    }
}
