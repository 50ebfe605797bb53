//! How deliveries to one peer go, and the operator's hand on them: both lanes write, status reads; the operator pauses,
//! resumes, and asks for an attempt at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::lanes::{Lane, Wakes};
use crate::meters::now_ms;

/// One peer's.
#[derive(Debug)]
pub(crate) struct Course {
    wakes: Arc<Wakes>,
    paused: AtomicBool,
    /// An attempt is wanted now, by lane.
    at_once: [AtomicBool; 2],
    lanes: Mutex<[LaneCourse; 2]>,
    last_error: Mutex<Option<LastError>>,
}

/// How deliveries in one lane go.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LaneCourse {
    /// Messages under way.
    pub(crate) in_flight: usize,
    /// Since when the peer takes nothing.
    pub(crate) down_since: Option<Instant>,
    /// When the next attempt is made, while it is down.
    pub(crate) next_attempt: Option<Instant>,
}

/// Why the last attempt that failed did.
#[derive(Debug, Clone)]
pub(crate) struct LastError {
    pub(crate) why: Arc<str>,
    /// Milliseconds since the epoch.
    pub(crate) at_ms: u64,
}

impl Course {
    /// Nothing went anywhere yet. `wakes` are those of the peer's forwarders.
    pub(crate) fn new(wakes: Arc<Wakes>, paused: bool) -> Self {
        Self {
            wakes,
            paused: AtomicBool::new(paused),
            at_once: Default::default(),
            lanes: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// Whether no new attempts are begun.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Begins no new attempts from now on, or begins them again.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        self.wakes.wake_both();
    }

    /// The pauses between attempts are over.
    pub(crate) fn retry_at_once(&self) {
        for lane in &self.at_once {
            lane.store(true, Ordering::Release);
        }
        self.wakes.wake_both();
    }

    /// Whether that was asked for since the last call.
    pub(super) fn take_at_once(&self, lane: Lane) -> bool {
        self.at_once[lane as usize].swap(false, Ordering::AcqRel)
    }

    /// Whether a delivery of a message with this key is under way.
    pub(crate) fn is_under_way(&self, id_key: u128) -> bool {
        self.wakes.is_under_way(id_key)
    }

    /// How it goes in a lane.
    pub(super) fn note(&self, lane: Lane, course: LaneCourse) {
        lock(&self.lanes)[lane as usize] = course;
    }

    /// How it goes, in both lanes together.
    pub(crate) fn now(&self) -> LaneCourse {
        let [a, b] = *lock(&self.lanes);
        LaneCourse {
            in_flight: a.in_flight + b.in_flight,
            down_since: a.down_since.into_iter().chain(b.down_since).min(),
            next_attempt: a.next_attempt.into_iter().chain(b.next_attempt).min(),
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&self, why: &str) {
        let mut last = lock(&self.last_error);
        let why = match &*last {
            Some(last) if *last.why == *why => last.why.clone(),
            _ => why.into(),
        };
        *last = Some(LastError { why, at_ms: now_ms() });
    }

    /// Why the last attempt that failed did.
    pub(crate) fn last_error(&self) -> Option<LastError> {
        lock(&self.last_error).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
