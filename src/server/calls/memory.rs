//! Room in memory for the messages of all calls (`MAX_CALL_BYTES`): what has come counts, not what was announced, and no
//! caller can take what the others need.
//!
//! | part | of `MAX_CALL_BYTES` | for one caller |
//! |---|---|---|
//! | whole messages up to 64 KiB | an eighth | half of it |
//! | messages that come, and larger ones | what the others leave | half of it, and the turn |
//! | the turn: one message at a time that needs more | one of the largest | |
//! | callers without a certificate | a sixteenth, at least 10 MiB | a quarter of it, and its turn (half of it) |
//!
//! A small message takes two additions and no lock. A message that has the turn has to arrive at a certain pace while
//! others wait for it.

use crate::rules::limits::{CALL_UNIT, SMALL_MESSAGE, SMALL_SHARE};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::pool::{RoomGrant, RoomPool, RoomWait};
use super::shares::RoomSizes;
use crate::server::callers::ShareHolder;

/// What part of `MAX_CALL_BYTES` callers without a certificate share.
const UNNAMED_SHARE: u64 = 16;
/// The least they get: two messages of the size that a Python peer sends.
const UNNAMED_LEAST: u64 = 10 << 20;
/// The memory that `MAX_CALL_BYTES` allows.
#[derive(Debug)]
pub(crate) struct Memory {
    small: Gauge,
    /// The part of the small messages that belongs to callers without a certificate.
    small_unnamed: Gauge,
    named: Arc<RoomPool>,
    unnamed: Arc<RoomPool>,
    next_message: AtomicU64,
}

/// Count of bytes in use, with an upper bound.
#[derive(Debug)]
struct Gauge {
    used: AtomicU64,
    most: u64,
}

impl Gauge {
    fn new(most: u64) -> Self {
        Self { used: AtomicU64::new(0), most }
    }

    fn try_take(&self, bytes: u64) -> bool {
        take(&self.used, bytes, self.most)
    }
}

fn take(used: &AtomicU64, bytes: u64, most: u64) -> bool {
    let fits = used.fetch_add(bytes, Ordering::AcqRel) + bytes <= most;
    if !fits {
        used.fetch_sub(bytes, Ordering::AcqRel);
    }
    fits
}

/// Room of one message; returned when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Arc<Memory>,
    holder: Arc<ShareHolder>,
    kind: RoomKind,
}

#[derive(Debug)]
enum RoomKind {
    /// This many bytes of the part for small messages.
    Small(u64),
    Growing {
        message: u64,
        is_stream: bool,
        of_share: u64,
        of_turn: u64,
        too_slow: Option<CancellationToken>,
    },
}

/// What a message costs, in whole units.
fn cost(len: u64) -> u64 {
    len.max(1).div_ceil(CALL_UNIT) * CALL_UNIT
}

impl Memory {
    /// Memory for `bytes` in all, which includes room for one message of `largest`.
    pub(crate) fn new(bytes: u64, largest: u64) -> Arc<Self> {
        let turn = cost(largest);
        let left = (bytes - bytes / SMALL_SHARE).saturating_sub(turn).max(bytes / UNNAMED_SHARE);
        let small = bytes.saturating_sub(turn + left);
        let unnamed = (bytes / UNNAMED_SHARE).max(UNNAMED_LEAST).min(left / 2);
        let free = left - unnamed;
        Arc::new(Self {
            small: Gauge::new(small),
            small_unnamed: Gauge::new(small / 4),
            named: RoomPool::new(RoomSizes { free, line: free / 2, turn }),
            unnamed: RoomPool::new(RoomSizes { free: unnamed / 2, line: unnamed / 4, turn: unnamed / 2 }),
            next_message: AtomicU64::new(1),
        })
    }

    fn pool(&self, holder: &ShareHolder) -> &Arc<RoomPool> {
        if holder.unnamed { &self.unnamed } else { &self.named }
    }

    /// The largest message that a caller may have in memory.
    pub(super) fn largest(&self, holder: &ShareHolder) -> u64 {
        self.pool(holder).sizes.turn
    }

    /// What one caller has of the part that is shared out, and the most it may have.
    #[cfg(test)]
    pub(crate) fn share_of(&self, holder: &ShareHolder) -> (u64, u64) {
        let pool = self.pool(holder);
        (pool.lock().shares.used_by(holder.id), pool.sizes.line)
    }

    /// For each caller, what it has and the most it may have.
    #[cfg(test)]
    pub(crate) fn shares(&self) -> Vec<(u64, u64)> {
        let of =
            |pool: &RoomPool| pool.lock().shares.used_by_each().map(|used| (used, pool.sizes.line)).collect();
        let all: [Vec<_>; 2] = [of(&self.named), of(&self.unnamed)];
        all.concat()
    }

    fn try_small(&self, holder: &ShareHolder, bytes: u64) -> bool {
        let most = if holder.unnamed { self.small_unnamed.most / 2 } else { self.small.most / 2 };
        if !take(&holder.small, bytes, most) {
            return false;
        }
        if self.small.try_take(bytes) {
            if !holder.unnamed || self.small_unnamed.try_take(bytes) {
                return true;
            }
            self.small.used.fetch_sub(bytes, Ordering::AcqRel);
        }
        holder.small.fetch_sub(bytes, Ordering::AcqRel);
        false
    }

    /// The room of a message of `len` bytes. For a small message it is complete at once if there is that much; otherwise it
    /// is empty and [grows](Room::try_grow). `is_stream`: the message is one of a stream that may rest.
    pub(super) fn room(self: &Arc<Self>, holder: &Arc<ShareHolder>, len: u64, is_stream: bool) -> Room {
        let bytes = cost(len);
        let kind = if len <= SMALL_MESSAGE && self.try_small(holder, bytes) {
            RoomKind::Small(bytes)
        } else {
            let message = self.next_message.fetch_add(1, Ordering::Relaxed);
            RoomKind::Growing { message, is_stream, of_share: 0, of_turn: 0, too_slow: None }
        };
        Room { memory: self.clone(), holder: holder.clone(), kind }
    }

    /// Takes room for a whole answer; waits for it.
    pub(super) async fn take(self: &Arc<Self>, holder: &Arc<ShareHolder>, len: u64) -> Room {
        let mut room = self.room(holder, len, false);
        if !room.try_grow(len) {
            let granted = room.wait(len).granted().await;
            room.add(granted);
        }
        room.is_whole();
        room
    }
}

impl Room {
    /// Whether it is enough for `len` bytes.
    pub(super) fn has(&self, len: u64) -> bool {
        self.bytes() >= cost(len)
    }

    fn bytes(&self) -> u64 {
        match self.kind {
            RoomKind::Small(bytes) => bytes,
            RoomKind::Growing { of_share, of_turn, .. } => of_share + of_turn,
        }
    }

    /// Grows it to `len` bytes if that is possible at once.
    pub(super) fn try_grow(&mut self, len: u64) -> bool {
        let more = cost(len).saturating_sub(self.bytes());
        let RoomKind::Growing { message, is_stream, .. } = self.kind else { return true };
        if more == 0 {
            return true;
        }
        let mut state = self.memory.pool(&self.holder).lock();
        let taken = state.shares.try_take(self.holder.id, message, more, is_stream);
        let Some(from) = taken else { return false };
        let grant = state.grant(from, more);
        drop(state);
        self.add(grant);
        true
    }

    /// Waits until it can grow to `len` bytes.
    pub(super) fn wait(&self, len: u64) -> RoomWait {
        let pool = self.memory.pool(&self.holder).clone();
        let (message, is_stream) = match self.kind {
            RoomKind::Growing { message, is_stream, .. } => (message, is_stream),
            RoomKind::Small(_) => unreachable!("a small one has all that it needs"),
        };
        let more = cost(len).saturating_sub(self.bytes());
        RoomWait::new(pool, self.holder.id, message, more, is_stream)
    }

    /// Adds what was granted.
    pub(super) fn add(&mut self, grant: RoomGrant) {
        let RoomKind::Growing { of_share, of_turn, too_slow, .. } = &mut self.kind else { return };
        match grant.turn {
            None => *of_share += grant.bytes,
            Some(token) => {
                *of_turn += grant.bytes;
                *too_slow = Some(token);
            }
        }
    }

    /// Cancelled when the message comes too slowly; `None` unless it has the turn.
    pub(super) fn too_slow(&self) -> Option<&CancellationToken> {
        match &self.kind {
            RoomKind::Growing { too_slow, .. } => too_slow.as_ref(),
            RoomKind::Small(_) => None,
        }
    }

    /// Notes that the message has come whole: what it has is returned when it has been dealt with.
    pub(super) fn is_whole(&mut self) {
        let RoomKind::Growing { message, is_stream, too_slow, .. } = &mut self.kind else { return };
        if too_slow.take().is_none() {
            return;
        }
        let mut state = self.memory.pool(&self.holder).lock();
        if *is_stream {
            state.shares.turn_to_share(*message);
            state.serve();
        } else if let Some(turn) = state.shares.turn().filter(|turn| turn.message == *message) {
            turn.is_coming = false;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        match self.kind {
            RoomKind::Small(bytes) => {
                self.memory.small.used.fetch_sub(bytes, Ordering::AcqRel);
                if self.holder.unnamed {
                    self.memory.small_unnamed.used.fetch_sub(bytes, Ordering::AcqRel);
                }
                self.holder.small.fetch_sub(bytes, Ordering::AcqRel);
            }
            RoomKind::Growing { of_share: 0, of_turn: 0, .. } => {}
            RoomKind::Growing { message, of_share, of_turn, .. } => {
                let mut state = self.memory.pool(&self.holder).lock();
                state.shares.give_back(self.holder.id, message, of_share, of_turn);
                state.serve();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::rules::limits::least_call_bytes;

    const LARGEST: u64 = 16 << 20;

    fn memory() -> Arc<Memory> {
        Memory::new(64 << 20, LARGEST)
    }

    /// Takes room for as many messages of `len` bytes as fit at once.
    fn fill(memory: &Arc<Memory>, holder: &Arc<ShareHolder>, len: u64) -> Vec<Room> {
        let room = || {
            let mut room = memory.room(holder, len, false);
            room.try_grow(len).then_some(room)
        };
        std::iter::from_fn(room).take(10_000).collect()
    }

    #[tokio::test]
    async fn one_caller_fills_what_is_his_and_another_finds_room_of_every_size() {
        for unnamed in [false, true] {
            let memory = memory();
            let (hostile, good) = (ShareHolder::numbered(1, unnamed), ShareHolder::numbered(2, false));
            let large = fill(&memory, &hostile, 1 << 20);
            let small = fill(&memory, &hostile, SMALL_MESSAGE);
            assert!(!small.is_empty() && !large.is_empty());
            for len in [1, SMALL_MESSAGE, SMALL_MESSAGE + 1, 1 << 20, 10 << 20] {
                assert!(memory.room(&good, len, false).try_grow(len), "{len} bytes");
            }
            drop((small, large));
            assert_eq!(memory.small.used.load(Ordering::Relaxed), 0);
            assert_eq!(memory.share_of(&hostile).0, 0);
        }
    }

    #[tokio::test]
    async fn any_number_of_callers_without_a_certificate_leave_those_with_one_alone() {
        let memory = memory();
        let all: Vec<_> = (10..200).map(|id| ShareHolder::numbered(id, true)).collect();
        let rooms: Vec<_> =
            all.iter().map(|one| [fill(&memory, one, 1 << 20), fill(&memory, one, 10)]).collect();
        let good = ShareHolder::numbered(1, false);
        for len in [1, 1 << 20, LARGEST] {
            assert!(memory.room(&good, len, false).try_grow(len), "{len} bytes");
        }
        drop(rooms);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_the_turn_and_does_not_use_it_loses_it_to_another() {
        let memory = memory();
        let (slow, good) = (ShareHolder::numbered(1, false), ShareHolder::numbered(2, false));
        let share = fill(&memory, &slow, 1 << 20);
        let turn = share.last().unwrap().too_slow().cloned().expect("the last one has the turn");
        let mut waiting = pin!(memory.take(&good, LARGEST));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::select! {
            () = turn.cancelled() => {}
            _ = &mut waiting => panic!("there is no room for it yet"),
        }
        drop(share);
        waiting.await;
    }

    #[tokio::test]
    async fn one_who_waits_and_leaves_has_nothing() {
        let memory = memory();
        let holder = ShareHolder::numbered(1, false);
        let rooms = fill(&memory, &holder, 1 << 20);
        {
            let mut waiting = pin!(memory.take(&holder, 5 << 20));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            drop(rooms);
            // The grant has been made, but the waiter does not know it yet.
        }
        assert_eq!(memory.share_of(&holder).0, 0);
        assert!(memory.named.lock().shares.turn().is_none());
    }

    #[test]
    fn the_parts_are_no_more_than_the_whole_and_the_largest_message_fits() {
        for largest in [1, SMALL_MESSAGE, 1 << 20, 256 << 20, 2 << 30] {
            for bytes in [least_call_bytes(largest), 2 * largest + (64 << 20)] {
                let memory = Memory::new(bytes, largest);
                let (named, unnamed) = (memory.named.sizes, memory.unnamed.sizes);
                let all = memory.small.most + named.free + named.turn + unnamed.free + unnamed.turn;
                assert!(all <= bytes, "{largest} in {bytes}: {all}");
                assert!(named.turn >= largest && named.line > 0 && memory.small.most >= SMALL_MESSAGE / 2);
            }
        }
    }
}
