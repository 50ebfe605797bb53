//! The move itself: what has not been moved yet is put, both ends are compared, and the target is released for use.

use super::compare::{Comparison, compare};
use super::digest::read;
use super::{BATCH, Difference, Result, Resume, Source, Tallies, Target, TransferError, Unreadable};
use crate::face::error::StoreError;
use crate::face::message::Sequence;
use crate::face::payload::Payload;

/// What a move is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Messages are put into the target.
    Moving,
    /// Both ends are read and compared.
    Comparing,
}

/// Progress of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The current step.
    pub step: Step,
    /// Messages handled by this step so far, in this run.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Total messages of the source.
    pub of_messages: u64,
    /// Their payload bytes.
    pub of_bytes: u64,
}

/// The result of a move.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where it continued.
    pub resumed: Resume,
    /// What was read from the source.
    pub source: Tallies,
    /// What was read back from the target.
    pub target: Tallies,
    /// Incarnations of senders whose deliveries are remembered.
    pub remembered: u64,
    /// Messages of the source that cannot be read and so were not moved.
    pub unreadable: Vec<Unreadable>,
    /// Damaged places in the source.
    pub damage: Vec<String>,
    /// The first differences between what the target and the source hold.
    pub differences: Vec<Difference>,
    /// Total number of differences.
    pub differing: u64,
    /// Whether the target may be used, since there are no differences.
    pub finished: bool,
}

impl Report {
    /// Whether everything that the source ever held is in the target.
    pub fn is_whole(&self) -> bool {
        self.finished && self.unreadable.is_empty() && self.damage.is_empty()
    }
}

/// Moves everything from `source` to `target`, or continues that, and compares the two. Without differences the target is
/// finished; otherwise it stays one that no gateway accepts. After an error it does, too, and the same call continues there.
/// Both ends are [left](Target::leave) in any case.
pub async fn run(
    source: &dyn Source,
    target: &dyn Target,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report> {
    let moved = all(source, target, progress).await;
    target.leave().await;
    source.leave().await;
    moved
}

async fn all(
    source: &dyn Source,
    target: &dyn Target,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report> {
    let summary = source.summary().await?;
    let resumed = target.begin(&summary).await?;
    let memory = source.memory().await?;
    let mut at = Progress {
        step: Step::Moving,
        messages: 0,
        bytes: 0,
        of_messages: summary.messages,
        of_bytes: summary.bytes,
    };
    // A gateway may start at any time on a target whose move has ended: nothing is written there.
    if !resumed.ended {
        target.remember(memory.clone()).await?;
        fill(source, target, resumed.after, |messages, bytes| {
            at.messages += messages;
            at.bytes += bytes;
            progress(at);
        })
        .await?;
    }

    let copy = target.read_back().await?;
    at = Progress { step: Step::Comparing, messages: 0, bytes: 0, ..at };
    let compared = compare(source, &*copy, |bytes| {
        at.messages += 1;
        at.bytes += bytes;
        progress(at);
    })
    .await?;
    let Comparison { source, target: held, unreadable, differences, differing } = compared;
    let finished = differing == 0;
    if finished {
        target.finish().await?;
    }
    Ok(Report {
        resumed,
        source,
        target: held,
        remembered: memory.len() as u64,
        unreadable,
        damage: summary.damage,
        differences,
        differing,
        finished,
    })
}

/// Puts everything that can be read. What cannot is found, and named, when the two are compared.
async fn fill(
    source: &dyn Source,
    target: &dyn Target,
    mut after: Sequence,
    mut progress: impl FnMut(u64, u64),
) -> Result<()> {
    loop {
        let batch = source.next(after, BATCH).await?;
        let last = batch.last().map(|item| match item {
            Ok(message) => message.sequence,
            Err(unreadable) => unreadable.sequence,
        });
        let Some(last) = last else { return Ok(()) };
        if last <= after {
            let why = "the source gives its messages out of their order; this is a bug".into();
            return Err(TransferError::Unfit { sequence: last.0, why });
        }
        after = last;
        let mut fit = Vec::with_capacity(batch.len());
        for message in batch.into_iter().flatten() {
            if is_readable(&message.payload).await? {
                fit.push(message);
            }
        }
        let (messages, bytes) = (fit.len() as u64, fit.iter().map(|message| message.payload.len()).sum());
        if !fit.is_empty() {
            target.put(fit).await?;
        }
        progress(messages, bytes);
    }
}

/// Checks a content before the target is asked to keep it: half a message would be of no use there.
async fn is_readable(payload: &Payload) -> Result<bool> {
    if matches!(payload, Payload::Whole(_)) {
        return Ok(true);
    }
    match read(payload, |_| {}).await {
        Ok(()) => Ok(true),
        Err(StoreError::Damaged { .. } | StoreError::Gone { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
