//! The index on disk is opened when a start had to do without it, and made anew when it is empty and large: sled gives no
//! space back by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cold::Cold;
use crate::keeper::Keeper;
use crate::log::lock;

/// Pause between tries to open a missing index on disk.
const REOPEN: Duration = Duration::from_secs(5);
/// An empty index whose file is larger is made anew, in bytes.
const RENEW_BYTES: u64 = 8 << 20;
/// With so many messages in it the index is not looked through for expired ones.
const EXPIRED_MAIL: u64 = 65_536;
/// Longest wait for lookups that are under way in it.
const PATIENCE: Duration = Duration::from_millis(100);

impl Keeper {
    /// A start without an index on disk (full disk, no descriptors) gets one as soon as there is room: an empty one, since
    /// everything is indexed in memory.
    pub(crate) fn reopen_index(&mut self) {
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
                shared.cold_dirty.store(true, Ordering::Relaxed);
                *lock(&shared.index) = Some(Arc::new(cold));
            }
            Err(error) => tracing::debug!(%error, "still no index on disk"),
        }
    }

    /// Makes an empty index anew when its file is large. Until the new one is there everything is indexed in memory; a start
    /// in between finds none and reads the log.
    pub(crate) fn renew_index(&mut self) {
        let shared = &self.shared;
        let is_large = |cold: &Cold| cold.file_bytes().is_ok_and(|bytes| bytes > RENEW_BYTES);
        let Some(path) = shared.options.disk.index_dir(&shared.options.data_dir) else { return };
        let Some(cold) = shared.cold().filter(|cold| is_large(cold)) else { return };
        self.end_expired_mail(&cold);
        drop(cold);
        // Only this thread puts anything in.
        if !lock(&shared.state).is_cold_empty() {
            return;
        }
        let Some(mut cold) = lock(&shared.index).take() else { return };
        let patience = Instant::now() + PATIENCE;
        while let Err(in_use) = Arc::try_unwrap(cold).map(drop) {
            cold = in_use;
            if Instant::now() > patience {
                *lock(&shared.index) = Some(cold);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match shared.options.disk.remove_tree(&path) {
            Ok(()) => tracing::debug!("an empty index on disk is made anew"),
            Err(error) => tracing::warn!(%error, "cannot remove an empty index on disk; it is opened again"),
        }
        self.index_tried = None;
        self.reopen_index();
    }

    /// Takes expired mail out of the counts. It shares a segment with what is still needed, and stays in the index until that
    /// segment goes; by itself it must not keep the index large.
    fn end_expired_mail(&self, cold: &Cold) {
        let shared = &self.shared;
        let now = shared.now();
        {
            let state = lock(&shared.state);
            if state.cold_mail == 0 || state.cold_mail > EXPIRED_MAIL || !state.is_only_mail_cold() {
                return;
            }
        }
        for item in cold.all_mail() {
            match item {
                Ok((key, entry)) if entry.is_expired(now, shared.message_ttl()) => {
                    lock(&shared.state).expire_cold(key, &entry);
                }
                // Something is needed, or the index is damaged, which the next lookup deals with.
                Ok(_) | Err(_) => return,
            }
        }
    }
}
