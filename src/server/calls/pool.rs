//! The room that a group of callers has for messages that are coming, with the clock and the waiting.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::shares::{RoomOrigin, RoomSizes, Shares};

/// How often a message that waits for the turn checks whether the turn is being used.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a message may have the turn before its pace is checked.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes per second at which it has to come from then on, while messages of other callers wait for the turn.
const PACE: u64 = 4 << 20;
/// Bytes per second while only messages of its own caller wait.
const OWN_PACE: u64 = 16 << 10;

/// The room that a group of callers has for messages that are coming.
#[derive(Debug)]
pub(super) struct RoomPool {
    pub(super) sizes: RoomSizes,
    state: Mutex<PoolState>,
}

#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) shares: Shares<oneshot::Sender<RoomGrant>>,
    /// Since when the current message has the turn, and what ends that message.
    turn: Option<(Instant, CancellationToken)>,
}

/// What a message was granted.
#[derive(Debug)]
pub(super) struct RoomGrant {
    pub(super) bytes: u64,
    /// Set if it got the turn. Cancelled when the message is too slow while others wait for the turn; the message must then
    /// end.
    pub(super) turn: Option<CancellationToken>,
}

impl RoomPool {
    pub(super) fn new(sizes: RoomSizes) -> Arc<Self> {
        Arc::new(Self { sizes, state: Mutex::new(PoolState { shares: Shares::new(sizes), turn: None }) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock()
    }

    /// Checks, for a caller that waits, whether the turn is being used.
    fn look(&self, caller: u64) {
        let mut state = self.lock();
        let PoolState { shares, turn: Some((since, too_slow)) } = &mut *state else { return };
        let Some(turn) = shares.turn().filter(|turn| turn.is_coming) else { return };
        let pace = if turn.caller == caller { OWN_PACE } else { PACE };
        let late = since.elapsed().saturating_sub(GRACE);
        if late.is_zero() || u128::from(turn.used) * 1000 >= late.as_millis() * u128::from(pace) {
            return;
        }
        if turn.is_stream {
            // It may be resting, with nobody reading it.
            let message = turn.message;
            shares.turn_to_share(message);
            state.serve();
        } else {
            too_slow.cancel();
        }
    }
}

impl PoolState {
    pub(super) fn grant(&mut self, from: RoomOrigin, bytes: u64) -> RoomGrant {
        if from == RoomOrigin::Share {
            return RoomGrant { bytes, turn: None };
        }
        let (_, too_slow) = self.turn.get_or_insert_with(|| (Instant::now(), CancellationToken::new()));
        RoomGrant { bytes, turn: Some(too_slow.clone()) }
    }

    /// Tells those that wait what they are granted now.
    pub(super) fn serve(&mut self) {
        if self.shares.turn().is_none() {
            self.turn = None;
        }
        for (tell, from, bytes) in self.shares.serve() {
            let grant = self.grant(from, bytes);
            // The receiver still exists: a waiter gives up under the same lock.
            drop(tell.send(grant));
        }
    }
}

/// A message that waits for room.
#[derive(Debug)]
pub(super) struct RoomWait {
    pool: Arc<RoomPool>,
    caller: u64,
    message: u64,
    ticket: u64,
    told: Option<oneshot::Receiver<RoomGrant>>,
}

impl RoomWait {
    /// Waits for `bytes` more of a message.
    pub(super) fn new(pool: Arc<RoomPool>, caller: u64, message: u64, bytes: u64, is_stream: bool) -> Self {
        let (tell, told) = oneshot::channel();
        let mut state = pool.lock();
        let ticket = state.shares.wait(caller, message, bytes, is_stream, tell);
        // Some may have been returned since the attempt.
        state.serve();
        drop(state);
        Self { pool, caller, message, ticket, told: Some(told) }
    }

    /// Resolves when room was granted; until then it checks that the message that has the turn uses it.
    pub(super) async fn granted(mut self) -> RoomGrant {
        loop {
            // The receiver is there until the grant has come.
            let Some(told) = &mut self.told else { return RoomGrant { bytes: 0, turn: None } };
            tokio::select! {
                biased;
                Ok(grant) = told => {
                    self.told = None;
                    return grant;
                }
                () = tokio::time::sleep(LOOK_AGAIN) => self.pool.look(self.caller),
            }
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        let Some(mut told) = self.told.take() else { return };
        let mut state = self.pool.lock();
        state.shares.take_back(self.caller, self.ticket);
        if let Ok(RoomGrant { bytes, turn }) = told.try_recv() {
            let (of_share, of_turn) = if turn.is_some() { (0, bytes) } else { (bytes, 0) };
            state.shares.give_back(self.caller, self.message, of_share, of_turn);
            state.serve();
        }
    }
}
