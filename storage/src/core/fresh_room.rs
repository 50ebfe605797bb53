//! How much room there is for new messages: counted by the housekeeping, and reported when that changes what is accepted.

use std::io;
use std::sync::atomic::Ordering;

use crate::core::shared::Shared;

impl Shared {
    /// Counts the room for new messages, and updates the store's state when that changes it. An error means that the data
    /// folder is gone.
    pub(crate) fn refresh_space(&self) -> io::Result<()> {
        self.count_space()?;
        self.tell_fullness();
        Ok(())
    }

    /// Counts the room without updating the state: for a start, before the writers have said how much their segments have
    /// left.
    pub(crate) fn count_space(&self) -> io::Result<()> {
        let shared = self;
        let room = shared.options.disk.room(&shared.options.data_dir)?;
        let (used, files) = {
            let state = shared.state.lock();
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
        shared.space.set_room(fresh + spares + ready, used, files / segment + fresh);
        shared.disk_low.store(on_disk == 0, Ordering::Relaxed);
        shared.space.set_stuck(shared.spares.failed());
        // Records may use the reserve.
        if room.available >= segment {
            shared.spares.retry();
        }
        Ok(())
    }
}
