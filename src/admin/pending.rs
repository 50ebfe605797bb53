//! Pending messages: listed, tried at once, dropped; peers paused and resumed.

use petnet_storage::{MessageId, Outcome, PartyId, Pending, Sequence, Tracked};
use tonic::Status;

use super::{LARGEST_PAGE, failed, messages, page, party};
use crate::journal::What;
use crate::overview::Overview;
use crate::proto::admin::{
    Changed, DropPendingRequest, ListPendingRequest, ListPendingResponse, PendingMessage,
};
use crate::status;

/// Messages that one call looks at for those with a prefix.
const LOOKED_AT: usize = 50_000;
/// Messages dropped at a time.
const BATCH: usize = 500;

type Listed = (PartyId, Pending, Option<MessageId>);

/// A page of what is pending for a peer, or for all.
pub(super) async fn list(
    overview: &Overview,
    request: ListPendingRequest,
) -> Result<ListPendingResponse, Status> {
    let limit = page(request.limit);
    let peers = match request.peer.as_str() {
        "" => overview.engine.peers_with_pending().await.map_err(failed)?,
        peer => vec![party(peer)?],
    };
    let (mut found, mut after, mut looked_at) = (Vec::new(), Sequence(request.after), 0);
    let next = loop {
        let some = merged(overview, &peers, after, limit).await?;
        let is_last = some.len() < limit;
        looked_at += some.len();
        for listed in some {
            after = listed.1.sequence;
            if listed.2.as_ref().is_none_or(|id| id.as_str().starts_with(&request.prefix)) {
                found.push(listed);
            }
            if found.len() >= limit {
                break;
            }
        }
        if found.len() >= limit || looked_at >= LOOKED_AT {
            break Some(after.0);
        }
        if is_last {
            break None;
        }
    };
    Ok(ListPendingResponse { messages: shown(overview, found), next })
}

/// The first after a sequence, of all these peers.
async fn merged(
    overview: &Overview,
    peers: &[PartyId],
    after: Sequence,
    limit: usize,
) -> Result<Vec<Listed>, Status> {
    let mut all = Vec::new();
    for peer in peers {
        let list = overview.engine.pending_with_ids(peer, after, limit).await.map_err(failed)?;
        all.extend(list.into_iter().map(|(pending, id)| (peer.clone(), pending, id)));
    }
    all.sort_by_key(|(_, pending, _)| pending.sequence);
    all.truncate(limit);
    Ok(all)
}

fn shown(overview: &Overview, found: Vec<Listed>) -> Vec<PendingMessage> {
    let sequences: Vec<Sequence> = found.iter().map(|(_, pending, _)| pending.sequence).collect();
    let failures = overview.hub.record.journal.failures_of(&sequences);
    let courses = overview.peers.courses();
    let message = |((peer, pending, id), (failed_attempts, last)): (Listed, (u64, Option<_>))| {
        let last: Option<std::sync::Arc<str>> = last;
        PendingMessage {
            message_id: id.map_or_else(|| "(unreadable)".into(), |id| id.to_string()),
            sequence: pending.sequence.0,
            len: pending.len,
            age_seconds: pending.age,
            expires_seconds: pending.expires_in,
            failed_attempts,
            last_error: last.as_deref().unwrap_or_default().to_owned(),
            in_flight: courses.get(&peer).is_some_and(|course| course.is_under_way(pending.id_key)),
            peer: peer.to_string(),
        }
    };
    found.into_iter().zip(failures).map(message).collect()
}

/// The pauses between attempts at a peer, or at all, are over.
pub(super) fn retry(overview: &Overview, peer: &str) -> Result<Changed, Status> {
    let courses = overview.peers.courses();
    let stats = overview.engine.stats();
    let pending_for = |name: &PartyId| {
        stats.pending.iter().find(|pending| pending.peer == *name).map_or(0, |pending| pending.messages)
    };
    if peer.is_empty() {
        for course in courses.values() {
            course.retry_at_once();
        }
        let pending = courses.keys().map(pending_for).sum();
        let text = format!("every peer is tried at once; {} pending", messages(pending));
        return Ok(Changed { messages: pending, text });
    }
    let name = party(peer)?;
    let Some(course) = courses.get(&name) else { return Err(unknown(&name)) };
    course.retry_at_once();
    let pending = pending_for(&name);
    let paused = if course.is_paused() { "; but it is PAUSED: resume it first" } else { "" };
    let text = format!("{name} is tried at once; {} pending{paused}", messages(pending));
    Ok(Changed { messages: pending, text })
}

fn unknown(peer: &PartyId) -> Status {
    status::admin_not_found(&format!("{peer} is not in the party file, or is our own party"))
}

/// Begins no attempts for a peer any more, or again.
pub(super) async fn pause(overview: &Overview, peer: &str, paused: bool) -> Result<Changed, Status> {
    let name = party(peer)?;
    if !overview.peers.courses().contains_key(&name) {
        return Err(unknown(&name));
    }
    let (peers, of) = (overview.peers.clone(), name.clone());
    let kept = tokio::task::spawn_blocking(move || peers.pause(&of, paused)).await;
    let is_new = match kept {
        Ok(Ok(is_new)) => is_new,
        Ok(Err(why)) => {
            let what = format!("nothing was changed: it cannot be kept in the data folder: {why}");
            return Err(status::admin_failed(&what));
        }
        Err(panicked) => return Err(status::admin_failed(&panicked.to_string())),
    };
    // There another gateway may take the peer over, and it was not asked.
    let only_here =
        if overview.identity.engine == "redis" { "; by this gateway: pause it at each" } else { "" };
    let text = match (paused, is_new) {
        (true, true) => format!(
            "{name} is paused, also after a restart: messages for it are accepted and wait; SEND_TTL goes on{only_here}"
        ),
        (true, false) => format!("{name} was paused already"),
        (false, true) => format!("{name} is resumed"),
        (false, false) => format!("{name} was not paused"),
    };
    if is_new {
        tracing::info!(peer = %name, paused, "the operator changed whether deliveries are paused");
    }
    Ok(Changed { messages: 0, text })
}

/// Ends pending messages of a peer.
pub(super) async fn drop_some(overview: &Overview, request: DropPendingRequest) -> Result<Changed, Status> {
    let peer = party(&request.peer)?;
    let named = request.sequences.len() + request.message_ids.len();
    if request.all == (named > 0) {
        return Err(status::admin_invalid("name messages by sequence or id, or ask for all of a peer's"));
    }
    let mut dropped = 0;
    if request.all {
        // What is accepted from now on is not meant, and could go on for ever.
        let (mut after, last) = (Sequence(0), last_pending(overview, &peer).await?);
        while after < last {
            let some = overview.engine.pending_with_ids(&peer, after, BATCH).await.map_err(failed)?;
            let Some((newest, _)) = some.last() else { break };
            after = newest.sequence;
            for (pending, id) in some.into_iter().filter(|(pending, _)| pending.sequence <= last) {
                dropped += u64::from(drop_one(overview, &peer, pending.sequence, id).await?);
            }
        }
    }
    for sequence in request.sequences {
        let before = Sequence(sequence.saturating_sub(1));
        let list = overview.engine.pending_with_ids(&peer, before, 1).await.map_err(failed)?;
        if let Some((_, id)) = list.into_iter().find(|(pending, _)| pending.sequence.0 == sequence) {
            dropped += u64::from(drop_one(overview, &peer, Sequence(sequence), id).await?);
        }
    }
    for id in request.message_ids {
        let id = MessageId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))?;
        let tracked = overview.engine.track_sent(&peer, &id).await.map_err(failed)?;
        if let Tracked::Pending { sequence, .. } = tracked {
            dropped += u64::from(drop_one(overview, &peer, sequence, Some(id)).await?);
        }
    }
    overview.engine.ends_kept().await.map_err(failed)?;
    Ok(Changed { messages: dropped, text: format!("{} for {peer} dropped", messages(dropped)) })
}

/// The last message that is pending for a peer now; 0 without any.
async fn last_pending(overview: &Overview, peer: &PartyId) -> Result<Sequence, Status> {
    let mut last = Sequence(0);
    while let Some(newer) = overview.engine.pending(peer, last, LARGEST_PAGE).await.map_err(failed)?.last() {
        last = newer.sequence;
    }
    Ok(last)
}

async fn drop_one(
    overview: &Overview,
    peer: &PartyId,
    sequence: Sequence,
    id: Option<MessageId>,
) -> Result<bool, Status> {
    let dropped = overview.engine.settle(peer, sequence, Outcome::Dropped).await.map_err(failed)?;
    if dropped {
        let shown = id.as_ref().map(MessageId::as_str).unwrap_or_default();
        tracing::info!(%peer, message_id = shown, sequence = sequence.0, "the operator dropped a pending message");
        if let Some(id) = id {
            overview.hub.record.dropped(What::Dropped, peer, &id, sequence);
        }
    }
    Ok(dropped)
}
