//! The jobs that wait for a lane's writer, and the queue they wait in.
//!
//! Invariant: a caller that waits for a job gets exactly one answer: from the sync that covers it, from the failure that
//! ended it, or, when the job is dropped unwritten, [`StoreError::Closed`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::core::reply::Reply;
use crate::core::slices_written::SlicesWritten;
use crate::index::entry::{DeadEntry, Entry};
use crate::index::sends::AnotherSendKey;
use crate::log::frame::Kind;

/// Lazy records are written after this time at the latest, if no other write takes them along.
const LAZY_DELAY: Duration = Duration::from_millis(200);
/// A stalled writer tries again after this time.
const STALL_PAUSE: Duration = Duration::from_millis(250);
/// Deliveries from our own peers are written after this time at the latest, if nothing else takes them along: they are
/// visible before that, and their sender has many under way, so that a shared sync costs nobody any time. Fewer syncs leave
/// the disk to callers that do wait.
const SOON_DELAY: Duration = Duration::from_millis(1);
/// How often a writer yields to other threads before it takes what waits. On a busy processor more jobs gather for the next
/// sync (a third of the syncs at 64 senders, measured); on an idle one it costs a microsecond.
const YIELDS: usize = 2;
/// With this many jobs waiting, write immediately.
const PATIENT_JOBS: usize = 4096;

/// What becomes visible once the frame is in the file.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// The queued message with the frame's sequence is entered into the index.
    Message,
    /// A slice of an upload is noted as written.
    Slice(Arc<SlicesWritten>),
    /// A live message moved here from `entry.place`.
    Moved { key: u128, entry: Entry, id: Box<str> },
    /// A pending message becomes a dead letter.
    Dead(Box<DeadEntry>),
    /// Another key of a send becomes known.
    Named(Box<AnotherSendKey>),
}

/// One frame to append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    pub(crate) time: u32,
    pub(crate) fields: Vec<u8>,
    pub(crate) payload: Bytes,
    /// CRC-32 of fields and payload.
    pub(crate) crc: u32,
    /// Admitted room; 0 for records.
    pub(crate) cost: u64,
    pub(crate) effect: Effect,
    pub(crate) reply: Reply,
}

/// A large message, written in slices.
#[derive(Debug)]
pub(crate) struct LargeMessage {
    /// The commit frame without its extents.
    pub(crate) commit: Append,
    pub(crate) payload: Bytes,
    /// Checksum of each slice.
    pub(crate) slice_crcs: Vec<u32>,
    /// For an upload: what is written, which must be everything by now. Held until the message is in the index.
    pub(crate) uploaded: Option<Arc<SlicesWritten>>,
    /// Payload bytes.
    pub(crate) len: u64,
}

/// Work for a lane's writer.
#[derive(Debug)]
pub(crate) enum Job {
    Append(Append),
    Large(Box<LargeMessage>),
    /// Answered once everything queued before it is synced.
    Barrier(Reply),
    /// Tells the writer to go on in another segment, if it still uses this one and another one is ready.
    Leave(u32),
}

/// How long to wait for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitForJobs {
    /// Not at all.
    AtOnce,
    /// Until there are some.
    Wait,
    /// Until there are some, or it is time to retry what could not be written.
    WaitBriefly,
}

/// When a job must be written at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A caller waits for the answer.
    AtOnce,
    /// A peer waits, but has more under way: within [`SOON_DELAY`].
    Soon,
    /// Nobody waits: within [`LAZY_DELAY`].
    Lazy,
}

#[derive(Debug, Default)]
struct WaitingJobs {
    jobs: VecDeque<Job>,
    urgent: bool,
    /// When the jobs are to be taken, if none is urgent.
    due: Option<Instant>,
    closed: bool,
}

/// The queue of one writer.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<WaitingJobs>,
    arrived: Condvar,
}

impl Queue {
    /// Queues a job. False if the queue is closed; the job was then answered accordingly.
    pub(crate) fn push(&self, job: Job, urgency: Urgency) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            // The job is dropped here, which answers it.
            return false;
        }
        waiting.jobs.push_back(job);
        self.announce(waiting, urgency);
        true
    }

    /// Queues many jobs, one behind the other. False if the queue is closed; all were then answered accordingly.
    pub(crate) fn push_all(&self, jobs: Vec<Job>, urgency: Urgency) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return false;
        }
        waiting.jobs.extend(jobs);
        self.announce(waiting, urgency);
        true
    }

    fn announce(&self, mut waiting: MutexGuard<'_, WaitingJobs>, urgency: Urgency) {
        if waiting.urgent {
            return;
        }
        let delay = match urgency {
            Urgency::AtOnce => None,
            Urgency::Soon => Some(SOON_DELAY),
            Urgency::Lazy => Some(LAZY_DELAY),
        };
        let due = delay.filter(|_| waiting.jobs.len() < PATIENT_JOBS).map(|delay| Instant::now() + delay);
        waiting.urgent = due.is_none();
        if due.is_none_or(|due| waiting.due.is_none_or(|earlier| due < earlier)) {
            waiting.due = due;
            self.arrived.notify_one();
        }
    }

    /// Takes everything that waits. `None` if the queue is closed and empty.
    pub(crate) fn take(&self, how: WaitForJobs, into: &mut VecDeque<Job>) -> Option<()> {
        let mut waiting = self.waiting.lock();
        let retry_at = (how == WaitForJobs::WaitBriefly).then(|| Instant::now() + STALL_PAUSE);
        while how != WaitForJobs::AtOnce && !waiting.urgent && !waiting.closed {
            let Some(due) = waiting.due.into_iter().chain(retry_at).min() else {
                self.arrived.wait(&mut waiting);
                continue;
            };
            let pause = due.saturating_duration_since(Instant::now());
            if pause.is_zero() {
                break;
            }
            self.arrived.wait_for(&mut waiting, pause);
        }
        if how != WaitForJobs::AtOnce {
            drop(waiting);
            for _ in 0..YIELDS {
                std::thread::yield_now();
            }
            waiting = self.waiting.lock();
        }
        waiting.urgent = false;
        waiting.due = None;
        let closed = waiting.closed && waiting.jobs.is_empty();
        into.append(&mut waiting.jobs);
        (!closed).then_some(())
    }

    /// Closes the queue: nothing more is queued.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Closes the queue and drops what is in it, which answers it: nobody will take it.
    pub(crate) fn close_and_drop(&self) {
        self.close();
        let jobs = std::mem::take(&mut self.waiting.lock().jobs);
        drop(jobs);
    }

    /// Wakes the writer, so that it looks at the state of the store.
    pub(crate) fn wake(&self) {
        self.waiting.lock().urgent = true;
        self.arrived.notify_one();
    }
}
