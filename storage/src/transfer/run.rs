//! The move itself: what was not moved yet is put, then both ends are compared, then the target is released for use.

use super::compare::{Compared, compare};
use super::digest::read;
use super::{Difference, Result, Resume, Source, Tallies, Target, TransferError, Unreadable};
use crate::error::StoreError;
use crate::message::Sequence;
use crate::payload::Payload;

/// Messages read and put at a time.
pub(super) const BATCH: usize = 256;

/// What a move is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Messages go to the target.
    Moving,
    /// Both ends are read and compared.
    Comparing,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Messages of this step so far, in this run.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Messages of the source.
    pub of_messages: u64,
    /// Their payload bytes.
    pub of_bytes: u64,
}

/// What a move did.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where it went on.
    pub resumed: Resume,
    /// What the source gave.
    pub source: Tallies,
    /// What the target gave back.
    pub target: Tallies,
    /// Incarnations of senders of which deliveries are remembered.
    pub remembered: u64,
    /// Messages of the source that cannot be read, and so did not move.
    pub unreadable: Vec<Unreadable>,
    /// Places in the source where something is damaged.
    pub damage: Vec<String>,
    /// What the target does not hold as the source does, the first of them.
    pub differences: Vec<Difference>,
    /// How many there are of those.
    pub differing: u64,
    /// The target may be used: there are no differences.
    pub finished: bool,
}

impl Report {
    /// All that the source was ever given, is in the target.
    pub fn is_whole(&self) -> bool {
        self.finished && self.unreadable.is_empty() && self.damage.is_empty()
    }
}

/// Moves everything from `source` to `target`, or goes on with it, and compares the two. Without differences the target is
/// finished; with some it stays one that no gateway takes. An error leaves it so, too, and the same call goes on there.
pub async fn run(
    source: &dyn Source,
    target: &dyn Target,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report> {
    let summary = source.summary().await?;
    let resumed = target.begin(&summary).await?;
    let memory = source.memory().await?;
    target.remember(memory.clone()).await?;
    let mut at = Progress {
        step: Step::Moving,
        messages: 0,
        bytes: 0,
        of_messages: summary.messages,
        of_bytes: summary.bytes,
    };
    fill(source, target, resumed.after, |messages, bytes| {
        at.messages += messages;
        at.bytes += bytes;
        progress(at);
    })
    .await?;

    let copy = target.read_back().await?;
    at = Progress { step: Step::Comparing, messages: 0, bytes: 0, ..at };
    let compared = compare(source, &*copy, |bytes| {
        at.messages += 1;
        at.bytes += bytes;
        progress(at);
    })
    .await?;
    let Compared { source, target: held, unreadable, differences, differing } = compared;
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

/// Puts all that can be read. What cannot is met, and named, when the two are compared.
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

/// Looks before the target is asked to keep it: half of a message would be of no use there.
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
