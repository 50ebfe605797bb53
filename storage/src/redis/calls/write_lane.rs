//! Writing: everything that is accepted or arrives passes through one queue, in order, many messages at a time.
//!
//! One operation is under way at a time, and what comes in the meantime makes up the next one: callers share a round trip and
//! the sync of Redis's append-only file, without a timer. Each operation has a number. If its answer is lost, Redis is asked
//! what became of that number; an operation that has not been carried out by then never will be, so it may be sent again.
//! Invariants: no caller is answered "refused" for what Redis kept; nothing is carried out twice; a caller is answered within
//! three times `timeout`, if need be with [`StoreError::InDoubt`], and from then on the operation is not tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::face::error::{Result, StoreError};
use crate::redis::connection::fault::Fault;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::{Session, Way};
use crate::redis::shared::RedisShared;

/// Messages per operation.
const BATCH: usize = 512;
/// Bytes per operation; a larger message is sent alone.
const BATCH_BYTES: usize = 1 << 20;
/// Messages that may wait in the queue.
const QUEUE: usize = 8192;
/// Unit of the semaphore that limits what may wait.
const PERMIT_BYTES: usize = 1024;
/// Pause before asking again what became of an operation.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Answer for an operation that was not carried out, and will not be.
const NOT_DONE: &str = "!";

/// Answer for an operation that ended half-way, or whose note was lost.
const NOT_KNOWN: &str = "?";

/// What is written.
#[derive(Debug)]
pub(crate) enum WriteRequest {
    /// What `record::make` made, and the identity of the delivery (empty if none); for a message to be sent, what `sends::text`
    /// returns.
    Message { made: Bytes, identity: String },
    /// A dead letter that is to be accepted again.
    Letter(u64),
    /// Nothing: it shows that Redis accepts writes, and waits for the replicas.
    Probe,
}

/// The result of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    New(u64),
    /// The same bytes are held already.
    Same(u64),
    /// What is held is large: the caller has to compare.
    Compare(u64),
    Conflict,
    Repeated,
    Stale,
    Crowded,
    /// The sender's incarnation was forgotten.
    TooOld,
    /// The key belongs to a send to another receiver or with another id.
    OtherName,
    /// The key belongs to a send of other bytes.
    OtherBytes,
    /// The quota is used up; bytes in use.
    Full(u64),
    /// Some of its chunks are missing.
    Incomplete,
    NoLetter,
    Probed,
}

struct QueuedWrite {
    item: WriteRequest,
    answer: oneshot::Sender<Result<WriteOutcome>>,
    _room: OwnedSemaphorePermit,
}

/// Where messages are queued.
#[derive(Debug)]
pub(crate) struct WriteLane {
    jobs: mpsc::Sender<QueuedWrite>,
    room: Arc<Semaphore>,
    permits: usize,
}

impl WriteLane {
    /// Creates the queue, and starts the task that empties it.
    pub(crate) fn start(inner: &Arc<RedisShared>) -> Self {
        let (jobs, queued) = mpsc::channel(QUEUE);
        let permits = (inner.options.queue_bytes as usize / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        let writer = Writer { inner: inner.clone(), queued, left_over: None, op: 0 };
        inner.tasks.spawn(writer.run());
        Self { jobs, room: Arc::new(Semaphore::new(permits)), permits }
    }

    /// Queues an item, which has its place in the order when this returns. The returned receiver resolves when it is done.
    pub(crate) async fn queue(&self, item: WriteRequest) -> Result<oneshot::Receiver<Result<WriteOutcome>>> {
        let bytes = if let WriteRequest::Message { made, .. } = &item { made.len() } else { 0 };
        let permits = (bytes / PERMIT_BYTES + 1).min(self.permits) as u32;
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)?;
        let (answer, done) = oneshot::channel();
        self.jobs.send(QueuedWrite { item, answer, _room: room }).await.map_err(|_| StoreError::Closed)?;
        Ok(done)
    }

    /// Queues an item and waits for its result.
    pub(crate) async fn write(&self, item: WriteRequest) -> Result<WriteOutcome> {
        self.queue(item).await?.await.map_err(|_| StoreError::Closed)?
    }
}

struct Writer {
    inner: Arc<RedisShared>,
    queued: mpsc::Receiver<QueuedWrite>,
    /// A job that did not fit into the last operation.
    left_over: Option<QueuedWrite>,
    op: u64,
}

impl Writer {
    async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            let done = self.carry_out(&batch).await;
            match done {
                Ok(outcomes) => {
                    self.inner.sessions.set_refusing(None);
                    let repeated =
                        outcomes.iter().filter(|outcome| **outcome == WriteOutcome::Repeated).count();
                    self.inner.repeated.fetch_add(repeated as u64, Ordering::Relaxed);
                    for (job, outcome) in batch.into_iter().zip(outcomes) {
                        // A caller that has gone away is owed nothing.
                        drop(job.answer.send(Ok(outcome)));
                    }
                }
                Err(error) => batch.into_iter().for_each(|job| drop(job.answer.send(Err(error.clone())))),
            }
        }
    }

    async fn next_batch(&mut self) -> Option<Vec<QueuedWrite>> {
        let first = match self.left_over.take() {
            Some(job) => job,
            None => self.queued.recv().await?,
        };
        let mut bytes = size(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = self.queued.try_recv()
        {
            bytes += size(&job);
            if bytes > BATCH_BYTES {
                self.left_over = Some(job);
                break;
            }
            batch.push(job);
        }
        Some(batch)
    }

    async fn carry_out(&mut self, batch: &[QueuedWrite]) -> Result<Vec<WriteOutcome>> {
        let limit = self.inner.options.timeout;
        let until = Instant::now() + limit;
        loop {
            let session = self.inner.sessions.get(until).await?;
            self.op += 1;
            let refusal: Arc<str> = match self.attempt(&session, batch).await {
                Ok(answer) => match self.confirmed(session, answer, batch).await? {
                    Some(outcomes) => return Ok(outcomes),
                    None => "a failover took it away".into(),
                },
                Err(Fault::Refused(why)) => {
                    self.inner.sessions.set_refusing(Some(&why));
                    return Err(StoreError::Unavailable(why));
                }
                Err(Fault::Late) => {
                    session.life.end("the clock of Redis jumped");
                    "the clock of Redis jumped".into()
                }
                Err(Fault::NoScript) => "a script is missing".into(),
                Err(Fault::WrongServer(why)) => why,
                Err(Fault::Lost(why)) => {
                    if let Some(outcomes) = self.find_out(&why, batch).await? {
                        return Ok(outcomes);
                    }
                    why
                }
                Err(Fault::Failed(why)) => {
                    if let Some(outcomes) = self.find_out(&why, batch).await? {
                        return Ok(outcomes);
                    }
                    self.inner.sessions.set_refusing(Some(&why));
                    return Err(StoreError::Unavailable(why));
                }
            };
            // It was not carried out, and never will be.
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(refusal));
            }
        }
    }

    async fn attempt(&self, session: &Session, batch: &[QueuedWrite]) -> std::result::Result<String, Fault> {
        let options = &self.inner.options;
        let latest = session.redis_time(options.timeout);
        let answer = session.script(Way::Write, &SCRIPTS.write, |call| {
            call.arg(&self.inner.name).arg(self.op).arg(latest).arg(&session.incarnation);
            let rules = self.inner.rules();
            call.arg(rules.message_ttl()).arg(rules.max_bytes()).arg(u8::from(rules.rejects_reuse()));
            for job in batch {
                match &job.item {
                    WriteRequest::Message { made, identity } => call.arg(&made[..]).arg(identity),
                    WriteRequest::Letter(sequence) => call.arg("").arg(format!("dead{sequence}")),
                    WriteRequest::Probe => continue,
                };
            }
        });
        answer.await
    }

    /// The results of the operation whose answer is missing; `None` if it was not carried out and never will be.
    async fn find_out(&self, why: &Arc<str>, batch: &[QueuedWrite]) -> Result<Option<Vec<WriteOutcome>>> {
        let (session, answer) = self.resolve(why, Instant::now() + self.inner.options.timeout).await?;
        if answer == NOT_DONE { Ok(None) } else { self.confirmed(session, answer, batch).await }
    }

    /// What became of the operation whose answer was lost, with the session that answered.
    async fn resolve(&self, why: &Arc<str>, until: Instant) -> Result<(Arc<Session>, String)> {
        let in_doubt = || StoreError::InDoubt(why.clone());
        loop {
            let session = self.inner.sessions.get_patiently(until).await.map_err(|_| in_doubt())?;
            let asked = session.script(Way::Write, &SCRIPTS.resolve, |call| {
                call.arg(&self.inner.name).arg(self.op);
            });
            match asked.await {
                Ok(answer) if answer == NOT_KNOWN => return Err(in_doubt()),
                Ok(answer) => return Ok((session, answer)),
                Err(_) if Instant::now() >= until => return Err(in_doubt()),
                // Redis does not accept writes at the moment.
                Err(_) => sleep(ASK_AGAIN).await,
            }
        }
    }

    /// The results, once the required replicas have them. `None` if the current primary does not have the operation.
    async fn confirmed(
        &self,
        session: Arc<Session>,
        answer: String,
        batch: &[QueuedWrite],
    ) -> Result<Option<Vec<WriteOutcome>>> {
        let (replicas, limit) = (self.inner.options.wait_replicas, self.inner.options.timeout);
        let until = Instant::now() + limit;
        let mut waited = session.wait(replicas, limit / 2).await;
        while !matches!(waited, Ok(true)) {
            let lacks_replicas = waited.is_ok();
            let why: Arc<str> = match waited {
                Ok(_) => session.lacks(replicas),
                Err(fault) => fault.to_string().into(),
            };
            if Instant::now() >= until {
                if lacks_replicas {
                    // Nothing is accepted until the replicas are back.
                    self.inner.sessions.set_refusing(Some(&why));
                }
                return Err(StoreError::InDoubt(why));
            }
            let (session, found) = self.resolve(&why, until).await?;
            if found == NOT_DONE {
                return Ok(None);
            }
            waited = session.wait(replicas, limit / 4).await;
        }
        let outcomes: Option<Vec<_>> =
            answer.split(' ').filter(|word| !word.is_empty()).map(outcome).collect();
        let mut outcomes = outcomes.into_iter().flatten();
        let of = |job: &QueuedWrite| {
            if matches!(job.item, WriteRequest::Probe) { Some(WriteOutcome::Probed) } else { outcomes.next() }
        };
        let all: Option<Vec<_>> = batch.iter().map(of).collect();
        all.map(Some).ok_or_else(|| {
            StoreError::InDoubt(format!("{} answered what cannot be understood", session.node).into())
        })
    }
}

fn size(job: &QueuedWrite) -> usize {
    if let WriteRequest::Message { made, .. } = &job.item { made.len() } else { 0 }
}

fn outcome(word: &str) -> Option<WriteOutcome> {
    let number = || word.get(1..)?.parse().ok();
    Some(match word.as_bytes().first()? {
        b'N' => WriteOutcome::New(number()?),
        b'S' => WriteOutcome::Same(number()?),
        b'H' => WriteOutcome::Compare(number()?),
        b'F' => WriteOutcome::Full(number()?),
        b'C' => WriteOutcome::Conflict,
        b'R' => WriteOutcome::Repeated,
        b'O' => WriteOutcome::Stale,
        b'X' => WriteOutcome::Crowded,
        b'T' => WriteOutcome::TooOld,
        b'I' => WriteOutcome::OtherName,
        b'B' => WriteOutcome::OtherBytes,
        b'G' => WriteOutcome::Incomplete,
        b'U' => WriteOutcome::NoLetter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_answer_are_understood_or_not_at_all() {
        let all: Option<Vec<_>> = "N12 R O X F99 H3 S4 C G U T I B".split(' ').map(outcome).collect();
        assert_eq!(all.unwrap()[..2], [WriteOutcome::New(12), WriteOutcome::Repeated]);
        for wrong in ["", "N", "Nx", "?", "!"] {
            assert_eq!(outcome(wrong), None, "{wrong:?}");
        }
    }
}
