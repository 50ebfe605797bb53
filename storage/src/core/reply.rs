//! Answers callers that wait for a writer's jobs: for one job, or for many together.
//!
//! Invariant: a reply that is dropped unsent answers [`StoreError::Closed`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::face::error::{Result, StoreError};

/// The failed ones among many jobs: the position of each, and why it failed.
pub(crate) type FailedJobs = Vec<(usize, StoreError)>;

/// Many jobs that are answered together.
#[derive(Debug)]
pub(crate) struct GatheredReply {
    left: AtomicUsize,
    failed: Mutex<FailedJobs>,
    done: Mutex<Option<oneshot::Sender<FailedJobs>>>,
    /// Held until all are done: bounds what waits for the writers.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl GatheredReply {
    /// Gathers the answers of `count` jobs; the receiver gets the result.
    pub(crate) fn new(
        count: usize,
        permit: OwnedSemaphorePermit,
    ) -> (Arc<Self>, oneshot::Receiver<FailedJobs>) {
        let (sender, receiver) = oneshot::channel();
        let gather = Self {
            left: AtomicUsize::new(count),
            failed: Mutex::default(),
            done: Mutex::new(Some(sender)),
            permit: Mutex::new(Some(permit)),
        };
        (Arc::new(gather), receiver)
    }

    /// The reply for the job at position `at`.
    pub(crate) fn reply(self: &Arc<Self>, at: usize) -> Reply {
        Reply { waiting: WaitingCaller::Many(self.clone(), at), permit: None }
    }

    fn answer(&self, at: usize, result: Result<()>) {
        if let Err(error) = result {
            self.failed.lock().push((at, error));
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.permit.lock().take();
            if let Some(done) = self.done.lock().take() {
                // The callers may have gone; their messages are kept all the same.
                drop(done.send(std::mem::take(&mut *self.failed.lock())));
            }
        }
    }
}

#[derive(Debug, Default)]
enum WaitingCaller {
    #[default]
    Nobody,
    One(oneshot::Sender<Result<()>>),
    Many(Arc<GatheredReply>, usize),
}

/// Answers the caller that waits for a job, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    waiting: WaitingCaller,
    /// Held until the job is done: bounds what waits for the writers.
    permit: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// A reply, and the receiver that its answer arrives at.
    pub(crate) fn new(permit: Option<OwnedSemaphorePermit>) -> (Self, oneshot::Receiver<Result<()>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { waiting: WaitingCaller::One(sender), permit }, receiver)
    }

    /// A reply that nobody waits for.
    pub(crate) fn nobody() -> Self {
        Self::default()
    }

    pub(crate) fn send(mut self, result: Result<()>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<()>) {
        match std::mem::take(&mut self.waiting) {
            WaitingCaller::Nobody => {}
            // The caller may have gone; its message is kept all the same.
            WaitingCaller::One(waiting) => drop(waiting.send(result)),
            WaitingCaller::Many(gather, at) => gather.answer(at, result),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(StoreError::Closed));
        self.permit.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_jobs_are_answered_when_the_last_of_them_is() {
        let room = Arc::new(tokio::sync::Semaphore::new(1));
        let (gather, mut done) = GatheredReply::new(3, room.clone().acquire_owned().await.expect("open"));
        let mut replies: Vec<_> = (0..3).map(|at| gather.reply(at)).collect();
        replies.remove(1).send(Ok(()));
        drop(replies.pop());
        assert!(done.try_recv().is_err() && room.available_permits() == 0);
        replies.remove(0).send(Ok(()));
        let failed = done.await.expect("answered");
        assert!(matches!(failed[..], [(2, StoreError::Closed)]), "{failed:?}");
        assert_eq!(room.available_permits(), 1);
    }
}
