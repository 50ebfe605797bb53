//! Pending messages: listed, dropped; peers paused and resumed.

use petnet_storage::{MessageId, Outcome, PartyId, Pending, Sequence, Tracked};
use tonic::Status;

use super::sift::Sift;
use super::{LARGEST_PAGE, failed, messages, of_room, page, party};
use crate::operator::overview::Overview;
use crate::proto::admin::{
    Changed, DropPendingRequest, ListPendingRequest, ListPendingResponse, PendingMessage,
};
use crate::record::journal::EventKind;
use crate::wire::status;

/// Messages that are dropped at a time.
const BATCH: usize = 500;

type ListedMessage = (PartyId, Pending, Option<MessageId>);

/// A page of what is pending for one peer, or for all.
pub(super) async fn list(
    overview: &Overview,
    request: ListPendingRequest,
) -> Result<ListPendingResponse, Status> {
    let peers = match request.peer.as_str() {
        "" => overview.engine.peers_with_pending().await.map_err(failed)?,
        peer => vec![party(peer)?],
    };
    let begins =
        |listed: &ListedMessage| listed.2.as_ref().is_none_or(|id| id.as_str().starts_with(&request.prefix));
    let mut sift = Sift::new(request.after, page(request.limit), request.prefix.is_empty());
    let mut next = sift.next();
    while let Some((after, count)) = next {
        let (some, up_to) = merged(overview, &peers, after, count).await?;
        sift.take(some.into_iter().map(|listed| (listed.1.sequence, listed)).collect(), up_to, begins);
        next = sift.next();
        let Some((after, _)) = next.filter(|_| !request.prefix.is_empty()) else { continue };
        // Few ids begin with the prefix: from here on the engine looks for those alone, if it can.
        let peer = peers.first().filter(|_| !request.peer.is_empty());
        let engine = &overview.engine;
        if let Some(page) =
            engine.pending_named(peer, &request.prefix, after, sift.left()).await.map_err(failed)?
        {
            let (mut found, _) = sift.done();
            found.extend(page.messages.into_iter().map(|(peer, pending, id)| (peer, pending, Some(id))));
            let next = page.next.map(|next| next.0);
            return Ok(ListPendingResponse { messages: shown(overview, found), next });
        }
    }
    let (found, next) = sift.done();
    Ok(ListPendingResponse { messages: shown(overview, found), next })
}

/// The first messages after a sequence, of all these peers together, and up to which sequence, if there may be more. Ids
/// are read only of these messages.
async fn merged(
    overview: &Overview,
    peers: &[PartyId],
    after: Sequence,
    limit: usize,
) -> Result<(Vec<ListedMessage>, Option<Sequence>), Status> {
    let mut first = Vec::new();
    for peer in peers {
        let list = overview.engine.pending_anywhere(peer, after, limit).await.map_err(failed)?;
        first.extend(list.into_iter().map(|pending| (pending.sequence, peer)));
    }
    first.sort();
    first.truncate(limit);
    let up_to = first.last().filter(|_| first.len() >= limit).map(|(last, _)| *last);
    let mut all = Vec::new();
    for peer in peers {
        let count = first.iter().filter(|(_, of)| *of == peer).count();
        if count > 0 {
            let list = overview.engine.pending_with_ids(peer, after, count).await.map_err(failed)?;
            all.extend(list.into_iter().map(|(pending, id)| (peer.clone(), pending, id)));
        }
    }
    // Some may have been settled meanwhile, and others from behind the page have moved up into their place.
    all.retain(|(_, pending, _)| up_to.is_none_or(|up_to| pending.sequence <= up_to));
    all.sort_by_key(|(_, pending, _)| pending.sequence);
    Ok((all, up_to))
}

fn shown(overview: &Overview, found: Vec<ListedMessage>) -> Vec<PendingMessage> {
    let sequences: Vec<Sequence> = found.iter().map(|(_, pending, _)| pending.sequence).collect();
    let failures = overview.record.journal.failures_of(&sequences);
    let courses = overview.peers.courses();
    let message = |((peer, pending, id), (failed_attempts, last)): (ListedMessage, (u64, Option<_>))| {
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

pub(super) fn unknown(peer: &PartyId) -> Status {
    status::admin_not_found(&format!("{peer} is not in the party file, or is our own party"))
}

/// Pauses a peer, so that no attempts are begun for it, or resumes it.
pub(super) async fn pause(overview: &Overview, peer: &str, paused: bool) -> Result<Changed, Status> {
    let name = party(peer)?;
    if !overview.peers.courses().contains_key(&name) && !concerns_us(overview, &name).await? {
        return Err(unknown(&name));
    }
    let at_all = overview.engine.pauses().is_some();
    let is_new = if at_all {
        overview.engine.pause(&name, paused).await.map_err(failed)?
    } else {
        pause_here(overview, &name, paused).await?
    };
    let at_all = if at_all { " at all gateways" } else { "" };
    let is_listed = overview.trust.borrow().parties.contains(&name);
    let absent =
        if is_listed { "" } else { "; it is not in the party file, so nothing is delivered to it anyway" };
    let text = match (paused, is_new) {
        (true, true) => format!(
            "{name} is paused{at_all}, also after a restart: messages for it are accepted and wait; SEND_TTL goes on"
        ),
        (true, false) => format!("{name} was paused already"),
        (false, true) => format!("{name} is resumed{at_all}"),
        (false, false) => format!("{name} was not paused"),
    };
    if is_new {
        tracing::info!(peer = %name, paused, "the operator changed whether deliveries are paused");
    }
    Ok(Changed { text: text + absent, ..Changed::default() })
}

/// Whether anything is left of a party that is not in the party file: messages that wait for it, or a pause.
async fn concerns_us(overview: &Overview, name: &PartyId) -> Result<bool, Status> {
    if *name == overview.identity.party {
        return Ok(false);
    }
    let waits = overview.engine.peers_with_pending().await.map_err(failed)?.contains(name);
    Ok(waits || overview.peers.is_paused(name))
}

/// Pauses or resumes a peer with a pause that is kept in the data folder.
async fn pause_here(overview: &Overview, peer: &PartyId, paused: bool) -> Result<bool, Status> {
    let (peers, of) = (overview.peers.clone(), peer.clone());
    match tokio::task::spawn_blocking(move || peers.pause(&of, paused)).await {
        Ok(Ok(is_new)) => Ok(is_new),
        Ok(Err(why)) => {
            let what = format!("nothing was changed: it cannot be kept in the data folder: {why}");
            Err(status::admin_failed(&what))
        }
        Err(panicked) => Err(status::admin_failed(&panicked.to_string())),
    }
}

/// Drops pending messages of a peer.
pub(super) async fn drop_some(overview: &Overview, request: DropPendingRequest) -> Result<Changed, Status> {
    let peer = party(&request.peer)?;
    let named = request.sequences.len() + request.message_ids.len();
    if request.all == (named > 0) {
        return Err(status::admin_invalid("name messages by sequence or id, or ask for all of a peer's"));
    }
    let room = of_room(overview);
    let (mut dropped, mut missing) = (0, Vec::new());
    if request.all {
        // What is accepted from now on is not meant, and dropping it could go on for ever.
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
        let found = list.into_iter().find(|(pending, _)| pending.sequence.0 == sequence);
        let is_dropped = match found {
            Some((_, id)) => drop_one(overview, &peer, Sequence(sequence), id).await?,
            None => false,
        };
        if is_dropped { dropped += 1 } else { missing.push(format!("#{sequence}")) }
    }
    for id in request.message_ids {
        let id = MessageId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))?;
        let tracked = overview.engine.track_sent(&peer, &id).await.map_err(failed)?;
        let (is_dropped, shown) = match tracked {
            Tracked::Pending { sequence, .. } => {
                (drop_one(overview, &peer, sequence, Some(id.clone())).await?, id)
            }
            _ => (false, id),
        };
        if is_dropped { dropped += 1 } else { missing.push(shown.to_string()) }
    }
    overview.engine.ends_kept().await.map_err(failed)?;
    let text = match dropped {
        0 if request.all => format!("nothing is pending for {peer}"),
        0 => format!("none of these is pending for {peer}"),
        some => format!("{} for {peer} dropped{}{room}", messages(some), not_pending(&missing)),
    };
    Ok(Changed { messages: dropped, text, failed: missing.len() as u64 })
}

/// Names the messages that were asked for but are not pending.
fn not_pending(missing: &[String]) -> String {
    /// Most names that are listed.
    const NAMED: usize = 10;
    if missing.is_empty() {
        return String::new();
    }
    let (named, rest) = missing.split_at(missing.len().min(NAMED));
    let rest = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("; not pending: {}{rest}", named.join(", "))
}

/// The last message that is pending for a peer now; 0 if there is none.
async fn last_pending(overview: &Overview, peer: &PartyId) -> Result<Sequence, Status> {
    let mut last = Sequence(0);
    // Read with ids, because that also works where another gateway delivers.
    let page =
        async |after| overview.engine.pending_with_ids(peer, after, LARGEST_PAGE).await.map_err(failed);
    while let Some((newer, _)) = page(last).await?.last() {
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
            overview.record.dropped(EventKind::Dropped, Some(peer), &id, sequence);
        }
    }
    Ok(dropped)
}
