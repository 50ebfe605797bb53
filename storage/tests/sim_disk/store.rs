//! A small store on the simulated disk, in which time stands still.

use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{Engine, ManualClock, NoObserver, Store, StoreOptions};

use super::SimDisk;

/// Opens it. `checkpoint_every`: an hour leaves everything to the log.
pub fn open_small(disk: &SimDisk, checkpoint_every: Duration) -> Arc<dyn Engine> {
    open_with(small(disk, checkpoint_every))
}

/// Opens it with options of one's own.
pub fn open_with(options: StoreOptions) -> Arc<dyn Engine> {
    Store::open(options, Arc::new(NoObserver)).expect("opens").0
}

/// Its options.
pub fn small(disk: &SimDisk, checkpoint_every: Duration) -> StoreOptions {
    StoreOptions {
        clock: Arc::new(ManualClock::default()),
        checkpoint_every,
        housekeeping_every: Duration::from_millis(5),
        segment_bytes: 1 << 20,
        disk: Arc::new(disk.clone()),
        message_ttl: None,
        send_ttl: None,
        ..StoreOptions::new("/data")
    }
}
