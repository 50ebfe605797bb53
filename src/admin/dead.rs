//! Dead letters: listed, accepted anew, dropped.

use petnet_storage::{DeadLetter, Sequence};
use tonic::Status;

use super::{failed, messages, page, party};
use crate::journal::What;
use crate::meters;
use crate::overview::Overview;
use crate::proto::admin::{self, Changed, DeadRequest, ListDeadRequest, ListDeadResponse};
use crate::status;

/// Letters that one call looks at for those of a peer.
const LOOKED_AT: usize = 50_000;
/// Letters taken at a time.
const BATCH: usize = 500;

/// A page of them.
pub(super) async fn list(overview: &Overview, request: ListDeadRequest) -> Result<ListDeadResponse, Status> {
    let limit = page(request.limit);
    let (mut letters, mut after, mut looked_at) = (Vec::new(), Sequence(request.after), 0);
    let next = loop {
        let some = overview.engine.dead_letters(after, limit).await.map_err(failed)?;
        let is_last = some.len() < limit;
        looked_at += some.len();
        for letter in some {
            after = letter.sequence;
            if request.peer.is_empty() || letter.receiver.as_str() == request.peer {
                letters.push(shown(&letter));
            }
            if letters.len() >= limit {
                break;
            }
        }
        if letters.len() >= limit || looked_at >= LOOKED_AT {
            break Some(after.0);
        }
        if is_last {
            break None;
        }
    };
    Ok(ListDeadResponse { letters, next })
}

/// As the operator sees it.
pub(crate) fn shown(letter: &DeadLetter) -> admin::DeadLetter {
    admin::DeadLetter {
        sequence: letter.sequence.0,
        peer: letter.receiver.to_string(),
        message_id: letter.id.to_string(),
        len: letter.len,
        reason: meters::death(&letter.reason).into(),
        reason_text: letter.reason.to_string(),
    }
}

/// Accepts them anew.
pub(super) async fn retry(overview: &Overview, request: DeadRequest) -> Result<Changed, Status> {
    let mut retried = 0;
    // Those that are there now: one that dies again at once is not tried for ever.
    for letter in chosen(overview, request).await? {
        let accepted = overview.engine.retry_dead_letter(letter.sequence).await.map_err(failed)?;
        let Some(accepted) = accepted else { continue };
        retried += 1;
        let (peer, id, before) = (&letter.receiver, &letter.id, letter.sequence.0);
        tracing::info!(%peer, message_id = %id, sequence = accepted.0, before, "a dead letter was accepted anew");
        overview.hub.record.journal.note(What::Retried, Some(peer), id, accepted);
    }
    Ok(Changed { messages: retried, text: format!("{} accepted anew", messages(retried)) })
}

/// Removes them for good.
pub(super) async fn drop_some(overview: &Overview, request: DeadRequest) -> Result<Changed, Status> {
    let mut dropped = 0;
    for letter in chosen(overview, request).await? {
        if !overview.engine.drop_dead_letter(letter.sequence).await.map_err(failed)? {
            continue;
        }
        dropped += 1;
        let (peer, id) = (&letter.receiver, &letter.id);
        tracing::info!(%peer, message_id = %id, sequence = letter.sequence.0, "the operator dropped a dead letter");
        overview.hub.record.dropped(What::Dropped, peer, id, letter.sequence);
    }
    let plural = if dropped == 1 { "dead letter" } else { "dead letters" };
    Ok(Changed { messages: dropped, text: format!("{dropped} {plural} dropped") })
}

/// The letters that a request means, without their contents.
async fn chosen(overview: &Overview, request: DeadRequest) -> Result<Vec<DeadLetter>, Status> {
    if request.all != request.sequences.is_empty() {
        return Err(status::admin_invalid("name dead letters by sequence, or ask for all"));
    }
    let peer = if request.peer.is_empty() { None } else { Some(party(&request.peer)?) };
    let mut chosen = Vec::new();
    if request.all {
        let mut after = Sequence(0);
        loop {
            let some = overview.engine.dead_letters(after, BATCH).await.map_err(failed)?;
            let Some(last) = some.last() else { break };
            after = last.sequence;
            chosen.extend(
                some.into_iter().filter(|letter| peer.as_ref().is_none_or(|p| letter.receiver == *p)),
            );
        }
    }
    for sequence in request.sequences {
        let before = Sequence(sequence.saturating_sub(1));
        let some = overview.engine.dead_letters(before, 1).await.map_err(failed)?;
        let Some(letter) = some.into_iter().find(|letter| letter.sequence.0 == sequence) else {
            let what = format!("there is no dead letter {sequence}; nothing was changed");
            return Err(status::admin_not_found(&what));
        };
        chosen.push(letter);
    }
    Ok(chosen)
}
