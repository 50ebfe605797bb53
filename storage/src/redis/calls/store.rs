//! The handle of a store in Redis; its calls are in the other files of this folder.

use std::sync::Arc;

use crate::redis::calls::write_lane::WriteLane;
use crate::redis::shared::RedisShared;

/// A store that keeps its messages in Redis and shares them with other gateways of its party. See [the module](crate::redis).
#[derive(Clone)]
pub struct RedisStore {
    pub(crate) inner: Arc<RedisShared>,
    pub(crate) lane: Arc<WriteLane>,
    pub(crate) _life: Arc<StoreLife>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisStore({})", self.inner.options.url)
    }
}

/// Ends the tasks of a store when its last handle is dropped.
#[derive(Debug)]
pub(crate) struct StoreLife(pub(crate) Arc<RedisShared>);

impl Drop for StoreLife {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}
