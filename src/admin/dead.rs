//! Dead letters: listed, accepted anew, dropped.

use std::collections::HashSet;

use petnet_storage::{DeadLetter, Sequence, Tracked};
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

/// Accepts them anew. Of all, those whose id has a newer message are left: an old one must not take its place unasked.
pub(super) async fn retry(overview: &Overview, request: DeadRequest) -> Result<Changed, Status> {
    let leaves_newer = request.all;
    let (mut anew, mut left) = (HashSet::new(), 0);
    // Those that are there now: one that dies again at once is not tried for ever.
    for sequence in chosen(overview, request).await? {
        let Some(letter) = one(overview, sequence).await? else { continue };
        if leaves_newer && has_newer(overview, &letter, &anew).await? {
            left += 1;
            continue;
        }
        let accepted = overview.engine.retry_dead_letter(letter.sequence).await.map_err(failed)?;
        let Some(accepted) = accepted else { continue };
        anew.insert(accepted);
        let (peer, id, before) = (&letter.receiver, &letter.id, letter.sequence.0);
        tracing::info!(%peer, message_id = %id, sequence = accepted.0, before, "a dead letter was accepted anew");
        overview.hub.record.journal.note(What::Retried, Some(peer), id, accepted);
    }
    overview.engine.ends_kept().await.map_err(failed)?;
    let retried = anew.len() as u64;
    let rest = if left > 0 {
        format!(
            "; {left} left, whose ids have newer messages: name one by its sequence to send it all the same"
        )
    } else {
        String::new()
    };
    Ok(Changed { messages: retried, text: format!("{} accepted anew{rest}", messages(retried)) })
}

/// Whether a message that was accepted after it, and is none of those accepted anew, has its id.
async fn has_newer(
    overview: &Overview,
    letter: &DeadLetter,
    anew: &HashSet<Sequence>,
) -> Result<bool, Status> {
    let newest = overview.engine.track_sent(&letter.receiver, &letter.id).await.map_err(failed)?;
    Ok(match newest {
        Tracked::Pending { sequence, .. } | Tracked::Delivered { sequence } => {
            sequence > letter.sequence && !anew.contains(&sequence)
        }
        _ => false,
    })
}

/// Removes them for good.
pub(super) async fn drop_some(overview: &Overview, request: DeadRequest) -> Result<Changed, Status> {
    let mut dropped = 0;
    for sequence in chosen(overview, request).await? {
        let Some(letter) = one(overview, sequence).await? else { continue };
        if !overview.engine.drop_dead_letter(letter.sequence).await.map_err(failed)? {
            continue;
        }
        dropped += 1;
        let (peer, id) = (&letter.receiver, &letter.id);
        tracing::info!(%peer, message_id = %id, sequence = letter.sequence.0, "the operator dropped a dead letter");
        overview.hub.record.dropped(What::Dropped, peer, id, letter.sequence);
    }
    overview.engine.ends_kept().await.map_err(failed)?;
    let plural = if dropped == 1 { "dead letter" } else { "dead letters" };
    Ok(Changed { messages: dropped, text: format!("{dropped} {plural} dropped") })
}

/// The letters that a request means and that are there now: their sequences alone, for there may be very many.
async fn chosen(overview: &Overview, request: DeadRequest) -> Result<Vec<Sequence>, Status> {
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
            let meant = some.iter().filter(|letter| peer.as_ref().is_none_or(|p| letter.receiver == *p));
            chosen.extend(meant.map(|letter| letter.sequence));
        }
    }
    for sequence in request.sequences {
        if one(overview, Sequence(sequence)).await?.is_none() {
            let what = format!("there is no dead letter {sequence}; nothing was changed");
            return Err(status::admin_not_found(&what));
        }
        chosen.push(Sequence(sequence));
    }
    Ok(chosen)
}

/// A letter without its content; `None`: there is no such letter.
async fn one(overview: &Overview, sequence: Sequence) -> Result<Option<DeadLetter>, Status> {
    let before = Sequence(sequence.0.saturating_sub(1));
    let some = overview.engine.dead_letters(before, 1).await.map_err(failed)?;
    Ok(some.into_iter().find(|letter| letter.sequence == sequence))
}
