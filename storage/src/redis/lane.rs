//! Writing: everything that is accepted or arrives goes through one queue, in its order, many at a time.
//!
//! One operation is under way at a time, and what comes meanwhile is the next one: callers share a round trip and the sync of
//! Redis's append-only file, without a timer. Each operation has a number. When its answer is lost, Redis is asked what became
//! of that number; one that was not carried out by then never will be, so it may be sent anew. Invariants: nobody is told
//! "refused" of what Redis kept; nothing is carried out twice; whoever waits is answered within three times `timeout`, if need
//! be with [`StoreError::InDoubt`], and from then on the operation is not tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::fault::Fault;
use super::inner::Inner;
use super::options::seconds;
use super::scripts::SCRIPTS;
use super::session::{Session, Way};
use crate::engine::IdReuse;
use crate::error::{Result, StoreError};

/// Messages of one operation.
const BATCH: usize = 512;
/// Their bytes; a larger message goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// Messages that may wait in the queue.
const QUEUE: usize = 8192;
/// Unit of the semaphore that bounds what waits.
const PERMIT_BYTES: usize = 1024;
/// Pause before asking again what became of an operation.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Answer about an operation that was not carried out, and will not be.
const NOT_DONE: &str = "!";

/// Answer about one that ended half-way, or whose note got lost.
const NOT_KNOWN: &str = "?";

/// What is written.
#[derive(Debug)]
pub(super) enum Item {
    /// What `record::make` made, and which delivery it is (empty for none).
    Message { made: Bytes, identity: String },
    /// A dead letter to be accepted anew.
    Letter(u64),
    /// Nothing: shows that Redis takes writes, and waits for the replicas.
    Probe,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    New(u64),
    /// The same bytes are held already.
    Same(u64),
    /// What is held is large: whoever brings it has to compare.
    Compare(u64),
    Conflict,
    Repeated,
    Stale,
    Crowded,
    /// The quota; bytes in use.
    Full(u64),
    /// Chunks of it are missing.
    Incomplete,
    NoLetter,
    Probed,
}

struct Job {
    item: Item,
    answer: oneshot::Sender<Result<Outcome>>,
    _room: OwnedSemaphorePermit,
}

/// Where messages are queued.
#[derive(Debug)]
pub(super) struct Lane {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    permits: usize,
}

impl Lane {
    /// The queue, and the task that empties it.
    pub(super) fn start(inner: &Arc<Inner>) -> Self {
        let (jobs, queued) = mpsc::channel(QUEUE);
        let permits = (inner.options.queue_bytes as usize / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        let writer = Writer { inner: inner.clone(), queued, left_over: None, op: 0 };
        inner.tasks.spawn(writer.run());
        Self { jobs, room: Arc::new(Semaphore::new(permits)), permits }
    }

    /// Queues something; when this returns it has its place in the order. What it gives resolves when it is done.
    pub(super) async fn queue(&self, item: Item) -> Result<oneshot::Receiver<Result<Outcome>>> {
        let bytes = if let Item::Message { made, .. } = &item { made.len() } else { 0 };
        let permits = (bytes / PERMIT_BYTES + 1).min(self.permits) as u32;
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)?;
        let (answer, done) = oneshot::channel();
        self.jobs.send(Job { item, answer, _room: room }).await.map_err(|_| StoreError::Closed)?;
        Ok(done)
    }

    /// Queues something and waits for it.
    pub(super) async fn write(&self, item: Item) -> Result<Outcome> {
        self.queue(item).await?.await.map_err(|_| StoreError::Closed)?
    }
}

struct Writer {
    inner: Arc<Inner>,
    queued: mpsc::Receiver<Job>,
    /// Did not fit into the last operation.
    left_over: Option<Job>,
    op: u64,
}

impl Writer {
    async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            let done = self.carry_out(&batch).await;
            match done {
                Ok(outcomes) => {
                    self.inner.sessions.set_refusing(None);
                    let repeated = outcomes.iter().filter(|outcome| **outcome == Outcome::Repeated).count();
                    self.inner.repeated.fetch_add(repeated as u64, Ordering::Relaxed);
                    for (job, outcome) in batch.into_iter().zip(outcomes) {
                        // A caller that went away is owed nothing.
                        drop(job.answer.send(Ok(outcome)));
                    }
                }
                Err(error) => batch.into_iter().for_each(|job| drop(job.answer.send(Err(error.clone())))),
            }
        }
    }

    async fn next_batch(&mut self) -> Option<Vec<Job>> {
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

    async fn carry_out(&mut self, batch: &[Job]) -> Result<Vec<Outcome>> {
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
                    session.end("the clock of Redis jumped");
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

    async fn attempt(&self, session: &Session, batch: &[Job]) -> std::result::Result<String, Fault> {
        let options = &self.inner.options;
        let latest = session.redis_time(options.timeout);
        let answer = session.script(Way::Write, &SCRIPTS.write, |call| {
            call.arg(&self.inner.name).arg(self.op).arg(latest).arg(&session.incarnation);
            call.arg(seconds(options.message_ttl)).arg(options.max_bytes);
            call.arg(u8::from(options.id_reuse == IdReuse::Reject));
            for job in batch {
                match &job.item {
                    Item::Message { made, identity } => call.arg(&made[..]).arg(identity),
                    Item::Letter(sequence) => call.arg("").arg(format!("dead{sequence}")),
                    Item::Probe => continue,
                };
            }
        });
        answer.await
    }

    /// The results of the operation whose answer is missing; `None`: it was not carried out, and never will be.
    async fn find_out(&self, why: &Arc<str>, batch: &[Job]) -> Result<Option<Vec<Outcome>>> {
        let (session, answer) = self.resolve(why, Instant::now() + self.inner.options.timeout).await?;
        if answer == NOT_DONE { Ok(None) } else { self.confirmed(session, answer, batch).await }
    }

    /// What became of the operation whose answer was lost, and a session that knows.
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
                // Redis writes nothing at the moment.
                Err(_) => sleep(ASK_AGAIN).await,
            }
        }
    }

    /// The results, once the replicas have them that are to have them. `None`: the primary of now does not have it.
    async fn confirmed(
        &self,
        session: Arc<Session>,
        answer: String,
        batch: &[Job],
    ) -> Result<Option<Vec<Outcome>>> {
        let (replicas, limit) = (self.inner.options.wait_replicas, self.inner.options.timeout);
        let until = Instant::now() + limit;
        let mut waited = session.wait(Way::Write, replicas, limit / 2).await;
        while !matches!(waited, Ok(true)) {
            let lacks_replicas = waited.is_ok();
            let why: Arc<str> = match waited {
                Ok(_) => {
                    format!("{} has it, but not the {replicas} replicas of REDIS_WAIT_REPLICAS", session.node)
                        .into()
                }
                Err(fault) => fault.to_string().into(),
            };
            if Instant::now() >= until {
                if lacks_replicas {
                    // Nothing is accepted until they are back.
                    self.inner.sessions.set_refusing(Some(&why));
                }
                return Err(StoreError::InDoubt(why));
            }
            let (session, found) = self.resolve(&why, until).await?;
            if found == NOT_DONE {
                return Ok(None);
            }
            waited = session.wait(Way::Write, replicas, limit / 4).await;
        }
        let outcomes: Option<Vec<_>> =
            answer.split(' ').filter(|word| !word.is_empty()).map(outcome).collect();
        let mut outcomes = outcomes.into_iter().flatten();
        let of =
            |job: &Job| if matches!(job.item, Item::Probe) { Some(Outcome::Probed) } else { outcomes.next() };
        let all: Option<Vec<_>> = batch.iter().map(of).collect();
        all.map(Some).ok_or_else(|| {
            StoreError::InDoubt(format!("{} answered what cannot be understood", session.node).into())
        })
    }
}

fn size(job: &Job) -> usize {
    if let Item::Message { made, .. } = &job.item { made.len() } else { 0 }
}

fn outcome(word: &str) -> Option<Outcome> {
    let number = || word.get(1..)?.parse().ok();
    Some(match word.as_bytes().first()? {
        b'N' => Outcome::New(number()?),
        b'S' => Outcome::Same(number()?),
        b'H' => Outcome::Compare(number()?),
        b'F' => Outcome::Full(number()?),
        b'C' => Outcome::Conflict,
        b'R' => Outcome::Repeated,
        b'O' => Outcome::Stale,
        b'X' => Outcome::Crowded,
        b'G' => Outcome::Incomplete,
        b'U' => Outcome::NoLetter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_answer_are_understood_or_not_at_all() {
        let all: Option<Vec<_>> = "N12 R O X F99 H3 S4 C G U".split(' ').map(outcome).collect();
        assert_eq!(all.unwrap()[..2], [Outcome::New(12), Outcome::Repeated]);
        for wrong in ["", "N", "Nx", "?", "!"] {
            assert_eq!(outcome(wrong), None, "{wrong:?}");
        }
    }
}
