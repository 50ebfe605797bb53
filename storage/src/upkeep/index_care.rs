//! Opens the index on disk if a start had to do without it, and rebuilds it if it is empty and large: sled does not free space
//! by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::core::shared::Shared;
use crate::face::error::StoreError;
use crate::index::on_disk::{Cold, ColdError};
use crate::log::spare_segments::SegmentTrouble;

/// The pause between attempts to open a missing index on disk is that between checkpoints. It doubles each time the index has to
/// be given up, at most this often: to five minutes.
const MAX_DOUBLINGS: u32 = 6;
/// An empty index whose file is larger than this, in bytes, is rebuilt.
const RENEW_BYTES: u64 = 8 << 20;
/// Longest wait for lookups that are under way in the index.
const PATIENCE: Duration = Duration::from_millis(100);

/// When opening a missing index on disk was last tried.
#[derive(Debug, Default)]
pub(crate) struct IndexCare {
    /// How often it had been given up the last time it was found missing.
    losses: u32,
    tried: Option<Instant>,
}

impl IndexCare {
    /// A start without an index on disk (full disk, no descriptors) gets one as soon as there is room: an empty one, since
    /// everything is indexed in memory.
    pub(crate) fn reopen(&mut self, shared: &Shared) {
        let path = shared.options.disk.index_dir(&shared.options.data_dir);
        let has_room = || !shared.disk_low.load(Ordering::Relaxed) && shared.spares.trouble().is_none();
        let Some(path) = path.filter(|_| shared.cold().is_none() && has_room()) else { return };
        let losses = shared.index_losses.load(Ordering::Relaxed).min(MAX_DOUBLINGS);
        if losses != self.losses {
            // It was given up just now, so do not try at once.
            (self.losses, self.tried) = (losses, Some(Instant::now()));
        }
        if self.tried.is_some_and(|at| at.elapsed() < shared.options.checkpoint_every * 2_u32.pow(losses)) {
            return;
        }
        self.tried = Some(Instant::now());
        let opened = Cold::open(&*shared.options.disk, &path, shared.store_id)
            .and_then(|(cold, _)| cold.clear().map(|()| cold));
        match opened {
            Ok(cold) => {
                tracing::info!("the index on disk is there again");
                shared.cold_dirty.store(true, Ordering::Relaxed);
                *shared.index.lock() = Some(Arc::new(cold));
            }
            Err(error) => {
                tracing::debug!(%error, "still no index on disk");
                if error.is_passing() {
                    // A half-made one takes room that the log may need.
                    drop(shared.options.disk.remove_tree(&path));
                }
            }
        }
    }

    /// Rebuilds an empty index if its file is large. Until the new one is there, everything is indexed in memory; a start in
    /// between finds none and reads the log.
    pub(crate) fn renew(&mut self, shared: &Shared) {
        let is_large = |cold: &Cold| cold.file_bytes().is_ok_and(|bytes| bytes > RENEW_BYTES);
        let Some(path) = shared.options.disk.index_dir(&shared.options.data_dir) else { return };
        let Some(cold) = shared.cold().filter(|cold| is_large(cold)) else { return };
        drop(cold);
        // Only this thread enters anything.
        if !shared.state.lock().is_cold_empty() {
            return;
        }
        let Some(mut cold) = shared.index.lock().take() else { return };
        let patience = Instant::now() + PATIENCE;
        while let Err(in_use) = Arc::try_unwrap(cold).map(drop) {
            cold = in_use;
            if Instant::now() > patience {
                *shared.index.lock() = Some(cold);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match shared.options.disk.remove_tree(&path) {
            Ok(()) => tracing::debug!("an empty index on disk is rebuilt"),
            Err(error) => tracing::warn!(%error, "cannot remove an empty index on disk; it is opened again"),
        }
        self.tried = None;
        self.reopen(shared);
    }
}

/// Frees the room of the index on disk if the log needs it: the index can be rebuilt, the log cannot wait.
pub(crate) fn make_room_for_the_log(shared: &Shared) -> Result<(), StoreError> {
    let Some(SegmentTrouble::NoRoom(why)) = shared.spares.trouble() else { return Ok(()) };
    if let Some(path) = shared.options.disk.index_dir(&shared.options.data_dir) {
        crate::index::on_disk::remove_aside(&*shared.options.disk, &path);
    }
    let gives_room = |cold: &Arc<Cold>| cold.file_bytes().is_ok_and(|bytes| bytes >= shared.segment_bytes);
    let Some(cold) = shared.cold().filter(gives_room) else { return Ok(()) };
    cold.lose();
    shared.index_failed(&cold, &ColdError(format!("the log needs its room: {why}")))
}
