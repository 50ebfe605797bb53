//! What waits for the peer's answers: one delivery alone, or many together.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Verdict;

/// Deliveries that are waited for together.
#[derive(Debug)]
pub(super) struct DeliveryBatch {
    inner: Mutex<BatchState>,
}

#[derive(Debug)]
struct BatchState {
    left: usize,
    verdicts: Vec<Option<Verdict>>,
    done: Option<oneshot::Sender<Vec<Option<Verdict>>>>,
}

impl DeliveryBatch {
    /// For `count` deliveries; their verdicts arrive when the last one is answered, or cannot be answered any more
    /// (`None`).
    pub(super) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Option<Verdict>>>) {
        let (done, receiver) = oneshot::channel();
        let inner = BatchState { left: count, verdicts: vec![None; count], done: Some(done) };
        (Arc::new(Self { inner: Mutex::new(inner) }), receiver)
    }

    /// Where the answer to one of them goes.
    pub(super) fn place(self: &Arc<Self>, at: usize) -> AnswerSender {
        AnswerSender(Addressee::Many(self.clone(), at))
    }

    fn fill(&self, at: usize, verdict: Option<Verdict>) {
        let mut inner = self.inner.lock();
        inner.verdicts[at] = verdict;
        inner.left -= 1;
        if inner.left == 0
            && let Some(done) = inner.done.take()
        {
            // The attempt may have been given up.
            drop(done.send(std::mem::take(&mut inner.verdicts)));
        }
    }
}

/// Where an answer goes. If it is dropped, no answer will come.
#[derive(Debug)]
pub(super) struct AnswerSender(Addressee);

#[derive(Debug)]
enum Addressee {
    Nobody,
    One(oneshot::Sender<Verdict>),
    Many(Arc<DeliveryBatch>, usize),
}

impl AnswerSender {
    /// For one delivery.
    pub(super) fn one() -> (Self, oneshot::Receiver<Verdict>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Addressee::One(sender)), receiver)
    }

    pub(super) fn send(mut self, verdict: Verdict) {
        match std::mem::replace(&mut self.0, Addressee::Nobody) {
            Addressee::Nobody => {}
            // The attempt may have been given up.
            Addressee::One(sender) => drop(sender.send(verdict)),
            Addressee::Many(batch, at) => batch.fill(at, Some(verdict)),
        }
    }
}

impl Drop for AnswerSender {
    fn drop(&mut self) {
        if let Addressee::Many(batch, at) = std::mem::replace(&mut self.0, Addressee::Nobody) {
            batch.fill(at, None);
        }
    }
}
