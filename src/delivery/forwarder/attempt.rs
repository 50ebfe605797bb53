//! Attempts: load from the store, deliver, settle. For one message alone, or for many that share the cost.

use std::sync::Arc;

use petnet_storage::{DeadReason, Engine, MessageId, Outcome, PartyId, Sequence, StoreError};

use crate::delivery::peer_link::{Deliver, Verdict};

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum AttemptEnd {
    /// The peer has it, and the message is settled.
    Delivered(MessageId),
    /// The peer refused it for good: it is now a dead letter.
    Refused,
    /// It was no longer pending.
    Gone,
    /// Not delivered.
    Again { id: MessageId, reason: String, whole_peer: bool },
    /// Our own store failed, which says nothing about the peer.
    Store(StoreError),
}

/// Makes one attempt at one message, up to settling it.
pub(super) async fn one(
    engine: Arc<dyn Engine>,
    link: Arc<impl Deliver>,
    peer: PartyId,
    sequence: Sequence,
    suspect: bool,
) -> AttemptEnd {
    let (outcome, end) = match engine.load(&peer, sequence).await {
        Ok(None) => return AttemptEnd::Gone,
        Ok(Some(message)) => match link.deliver(&message, suspect).await {
            Verdict::Delivered => (Outcome::Delivered, AttemptEnd::Delivered(message.id)),
            Verdict::RefusedForGood(why) => (Outcome::Dead(DeadReason::Refused(why)), AttemptEnd::Refused),
            Verdict::TryAgain { reason, whole_peer } => {
                return AttemptEnd::Again { id: message.id, reason, whole_peer };
            }
            Verdict::Unreadable(error) => return unreadable(&*engine, &peer, sequence, error).await,
        },
        Err(error) => return unreadable(&*engine, &peer, sequence, error).await,
    };
    match engine.settle(&peer, sequence, outcome).await {
        Ok(_) => end,
        Err(error) => AttemptEnd::Store(error),
    }
}

/// Handles a message that the store could not read. A damaged one becomes a dead letter.
async fn unreadable(
    engine: &dyn Engine,
    peer: &PartyId,
    sequence: Sequence,
    error: StoreError,
) -> AttemptEnd {
    match error {
        StoreError::Gone { .. } => AttemptEnd::Gone,
        StoreError::Damaged { .. } => {
            let outcome = Outcome::Dead(DeadReason::Damaged(error.to_string()));
            match engine.settle(peer, sequence, outcome).await {
                Ok(_) => AttemptEnd::Gone,
                Err(error) => AttemptEnd::Store(error),
            }
        }
        error => AttemptEnd::Store(error),
    }
}

/// Makes one attempt at each of many messages, up to settling them.
pub(super) async fn many(
    engine: Arc<dyn Engine>,
    link: Arc<impl Deliver>,
    peer: PartyId,
    sequences: Vec<Sequence>,
) -> Vec<(Sequence, AttemptEnd)> {
    let mut ends = Vec::with_capacity(sequences.len());
    let mut messages = Vec::with_capacity(sequences.len());
    for (sequence, loaded) in sequences.iter().zip(engine.load_many(&peer, &sequences).await) {
        match loaded {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => ends.push((*sequence, AttemptEnd::Gone)),
            Err(error) => ends.push((*sequence, unreadable(&*engine, &peer, *sequence, error).await)),
        }
    }
    let verdicts = link.deliver_many(&messages).await;
    let mut delivered = Vec::with_capacity(messages.len());
    for (message, verdict) in messages.into_iter().zip(verdicts) {
        let sequence = message.sequence;
        let end = match verdict {
            Verdict::Delivered => {
                delivered.push((sequence, message.id));
                continue;
            }
            Verdict::RefusedForGood(why) => {
                let outcome = Outcome::Dead(DeadReason::Refused(why));
                let settled = engine.settle(&peer, sequence, outcome).await;
                settled.map_or_else(AttemptEnd::Store, |_| AttemptEnd::Refused)
            }
            Verdict::TryAgain { reason, whole_peer } => {
                AttemptEnd::Again { id: message.id, reason, whole_peer }
            }
            Verdict::Unreadable(error) => unreadable(&*engine, &peer, sequence, error).await,
        };
        ends.push((sequence, end));
    }
    let sequences: Vec<_> = delivered.iter().map(|(sequence, _)| *sequence).collect();
    let settled = engine.settle_delivered(&peer, &sequences).await;
    let end = |(sequence, id)| match &settled {
        Ok(()) => (sequence, AttemptEnd::Delivered(id)),
        Err(error) => (sequence, AttemptEnd::Store(error.clone())),
    };
    ends.extend(delivered.into_iter().map(end));
    ends
}
