//! Room in memory for the messages of all calls: a large message waits for others to be done, and small ones do not
//! wait for large ones.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one unit. A call costs about that much besides its message.
const UNIT: u64 = 1 << 10;
/// Messages up to so many bytes have room of their own.
const SMALL: u64 = 64 << 10;
/// The share of it.
const SMALL_SHARE: u64 = 8;

/// `MAX_CALL_BYTES`.
#[derive(Debug)]
pub(crate) struct Memory {
    small: Pool,
    large: Pool,
}

#[derive(Debug)]
struct Pool {
    units: u32,
    free: Arc<Semaphore>,
}

/// Room that was taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

fn units(len: u64) -> u32 {
    u32::try_from(len.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX)
}

impl Pool {
    fn new(bytes: u64) -> Self {
        let units = units(bytes);
        Self { units, free: Arc::new(Semaphore::new((units as usize).min(Semaphore::MAX_PERMITS))) }
    }
}

impl Memory {
    /// The least that makes sense for messages of up to `largest` bytes.
    pub(crate) fn least(largest: u64) -> u64 {
        (largest.saturating_mul(SMALL_SHARE) / (SMALL_SHARE - 1)).max(SMALL * SMALL_SHARE)
            + SMALL_SHARE * UNIT
    }

    /// Room for so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let small = bytes / SMALL_SHARE;
        Self { small: Pool::new(small), large: Pool::new(bytes - small) }
    }

    fn pool(&self, len: u64) -> &Pool {
        if len <= SMALL { &self.small } else { &self.large }
    }

    /// Room for a message, at once. A longer one than there is room at all takes all there is.
    pub(crate) fn try_take(&self, len: u64) -> Option<Room> {
        let pool = self.pool(len);
        pool.free.clone().try_acquire_many_owned(units(len).min(pool.units)).ok().map(Room)
    }

    /// Room for a message; whoever came first gets it first.
    pub(crate) async fn take(&self, len: u64) -> Room {
        let pool = self.pool(len);
        let taken = pool.free.clone().acquire_many_owned(units(len).min(pool.units)).await;
        Room(taken.unwrap_or_else(|_| unreachable!("the semaphore is never closed")))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_large_message_waits_and_small_ones_do_not_wait_for_it() {
        let memory = Memory::new(8 << 20);
        let first = memory.take(5 << 20).await;
        let mut second = pin!(memory.take(5 << 20));
        assert!(futures_util::poll!(&mut second).is_pending());
        let small: Vec<_> = (0..16).map_while(|_| memory.try_take(SMALL)).collect();
        assert_eq!(small.len(), 16);
        assert!(memory.try_take(1).is_none(), "the share of the small ones is bounded, too");
        drop(first);
        second.await;
        drop(small);
        assert!(memory.try_take(1).is_some());
    }

    #[tokio::test]
    async fn the_least_has_room_for_the_largest_message() {
        for largest in [1, SMALL, 1 << 20, 256 << 20, 2 << 30] {
            let memory = Memory::new(Memory::least(largest));
            let pool = memory.pool(largest);
            assert!(units(largest) <= pool.units, "{largest}");
        }
    }
}
