//! How deliveries to one peer go, and the operator's hand on them: both lanes write, the status reads; the operator pauses,
//! resumes, and asks for an attempt at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lanes::{Lane, Wakes};
use crate::wire::wall_clock::now_ms;

/// The course of deliveries to one peer.
#[derive(Debug)]
pub(crate) struct Course {
    wakes: Arc<Wakes>,
    paused: AtomicBool,
    /// Whether an attempt is wanted now, by lane.
    at_once: [AtomicBool; 2],
    lanes: Mutex<[LaneCourse; 2]>,
    /// By lane: why the last failed attempt failed, until everything has gone well again.
    last_errors: Mutex<[Option<LastError>; 2]>,
    /// Whether the operator wants to know if the peer answers.
    asked: AtomicBool,
    /// The answer to the last such question, with the number of answers so far.
    answers: watch::Sender<(u64, Result<(), Arc<str>>)>,
}

/// How deliveries in one lane go.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LaneCourse {
    /// Messages under way.
    pub(crate) in_flight: usize,
    /// Since when the peer has taken nothing.
    pub(crate) down_since: Option<Instant>,
    /// When the next attempt is made, while it is down.
    pub(crate) next_attempt: Option<Instant>,
}

/// Why the last failed attempt failed.
#[derive(Debug, Clone)]
pub(crate) struct LastError {
    pub(crate) why: Arc<str>,
    /// Milliseconds since the epoch.
    pub(crate) at_ms: u64,
}

impl Course {
    /// Nothing has been attempted yet. `wakes` are those of the peer's forwarders.
    pub(crate) fn new(wakes: Arc<Wakes>, paused: bool) -> Self {
        Self {
            wakes,
            paused: AtomicBool::new(paused),
            at_once: Default::default(),
            lanes: Mutex::default(),
            last_errors: Mutex::default(),
            asked: AtomicBool::new(false),
            answers: watch::Sender::new((0, Ok(()))),
        }
    }

    /// Whether no new attempts are begun.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Stops beginning new attempts, or begins them again.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        self.wakes.wake_both();
    }

    /// Ends the pauses between attempts now.
    pub(crate) fn retry_at_once(&self) {
        for lane in &self.at_once {
            lane.store(true, Ordering::Release);
        }
        self.wakes.wake_both();
    }

    /// Ends the pauses of the other lane now: what this lane has heard from the peer holds for both.
    pub(super) fn retry_other(&self, lane: Lane) {
        let other = if lane == Lane::Small { Lane::Bulk } else { Lane::Small };
        self.at_once[other as usize].store(true, Ordering::Release);
        self.wakes.wake_both();
    }

    /// Asks whether the peer answers, and starts at once with what waits. Resolves when the peer has answered or could not.
    pub(crate) async fn ask(&self) -> Result<(), Arc<str>> {
        let mut answers = self.answers.subscribe();
        let before = answers.borrow_and_update().0;
        self.asked.store(true, Ordering::Release);
        self.retry_at_once();
        match answers.wait_for(|(number, _)| *number > before).await {
            Ok(answer) => answer.1.clone(),
            // Nobody is left to report an answer.
            Err(_) => Err("deliveries to it have ended".into()),
        }
    }

    /// Whether [`ask`](Self::ask) was called since the last call.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }

    /// Reports the result of asking the peer.
    pub(super) fn answered(&self, answer: Result<(), Arc<str>>) {
        self.answers.send_modify(|(number, last)| {
            *number += 1;
            *last = answer;
        });
    }

    /// Whether an attempt at once was asked for since the last call.
    pub(super) fn take_at_once(&self, lane: Lane) -> bool {
        self.at_once[lane as usize].swap(false, Ordering::AcqRel)
    }

    /// Whether a delivery of a message with this key is under way.
    pub(crate) fn is_under_way(&self, id_key: u128) -> bool {
        self.wakes.is_under_way(id_key)
    }

    /// Notes how deliveries go in a lane.
    pub(super) fn note(&self, lane: Lane, course: LaneCourse) {
        self.lanes.lock()[lane as usize] = course;
    }

    /// How deliveries go, in both lanes together.
    pub(crate) fn now(&self) -> LaneCourse {
        let [a, b] = *self.lanes.lock();
        LaneCourse {
            in_flight: a.in_flight + b.in_flight,
            down_since: a.down_since.into_iter().chain(b.down_since).min(),
            next_attempt: a.next_attempt.into_iter().chain(b.next_attempt).min(),
        }
    }

    /// Notes that an attempt failed.
    pub(super) fn failed(&self, lane: Lane, why: &str) {
        let last = &mut self.last_errors.lock()[lane as usize];
        let why = match &*last {
            Some(last) if *last.why == *why => last.why.clone(),
            _ => why.into(),
        };
        *last = Some(LastError { why, at_ms: now_ms() });
    }

    /// Whether an error of the lane is being shown.
    pub(super) fn has_failed(&self, lane: Lane) -> bool {
        self.last_errors.lock()[lane as usize].is_some()
    }

    /// Clears the lane's error: everything that failed in it has gone well since.
    pub(super) fn recovered(&self, lane: Lane) {
        self.last_errors.lock()[lane as usize] = None;
    }

    /// Why the last failed attempt failed, as long as that is still a problem.
    pub(crate) fn last_error(&self) -> Option<LastError> {
        self.last_errors.lock().iter().flatten().max_by_key(|error| error.at_ms).cloned()
    }
}
