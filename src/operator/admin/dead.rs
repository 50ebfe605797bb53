//! Dead letters: listed, accepted again, dropped.

use std::collections::HashSet;

use petnet_storage::{Correspondent, DeadLetter, PartyId, Sequence, StoreError, Tracked};
use tonic::Status;

use super::none::none;
use super::retried::RetriedCounts;
use super::sift::Sift;
use super::{failed, of_room, page, party};
use crate::operator::overview::{Overview, shown};
use crate::proto::admin::{Changed, DeadRequest, ListDeadRequest, ListDeadResponse};
use crate::record::journal::EventKind;
use crate::rules::text::many;
use crate::wire::status;

/// Letters that are read at a time.
const BATCH: usize = 500;

/// A page of dead letters.
pub(super) async fn list(overview: &Overview, request: ListDeadRequest) -> Result<ListDeadResponse, Status> {
    let limit = page(request.limit);
    if let Ok(peer) = PartyId::new(&request.peer)
        && let Some(found) =
            overview.engine.dead_letters_of(&peer, Sequence(request.after), limit).await.map_err(failed)?
    {
        let next = found.last().filter(|_| found.len() >= limit).map(|letter| letter.sequence.0);
        return Ok(ListDeadResponse { letters: found.iter().map(shown).collect(), next });
    }
    let mut sift = Sift::new(request.after, limit, request.peer.is_empty());
    while let Some((after, count)) = sift.next() {
        let some = overview.engine.dead_letters(after, count).await.map_err(failed)?;
        let up_to = some.last().filter(|_| some.len() >= count).map(|last| last.sequence);
        let some = some.into_iter().map(|letter| (letter.sequence, letter)).collect();
        sift.take(some, up_to, |letter: &DeadLetter| letter.correspondent.name() == request.peer);
    }
    let (letters, next) = sift.done();
    let letters = letters.iter().map(shown).collect();
    Ok(ListDeadResponse { letters, next })
}

/// Accepts dead letters again. If all are asked for, those whose id has a newer message are left: an old message must not
/// take its place unasked.
pub(super) async fn retry(overview: &Overview, request: DeadRequest) -> Result<Changed, Status> {
    let (is_all, peer) = (request.all, request.peer.clone());
    let mut done = RetriedCounts::default();
    // Only those that are there now: one that becomes a dead letter again at once is not tried for ever.
    let mut chosen = chosen(overview, request).await?.into_iter();
    for sequence in chosen.by_ref() {
        let tried = match one(overview, sequence).await {
            Ok(Some(letter)) => begin_anew(overview, &letter, is_all, &mut done).await,
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        match tried {
            Ok(()) => {}
            Err(why) if done.count() == 0 => return Err(why),
            // What was done must not look as if it had not been.
            Err(why) => {
                done.stopped = Some((why.message().to_owned(), 1 + chosen.len() as u64));
                break;
            }
        }
    }
    overview.engine.ends_kept().await.map_err(failed)?;
    Ok(Changed { messages: done.count(), failed: done.failed(), text: done.in_words(&peer) })
}

/// Accepts one letter again. On an error it is unchanged.
async fn begin_anew(
    overview: &Overview,
    letter: &DeadLetter,
    leaves_newer: bool,
    done: &mut RetriedCounts,
) -> Result<(), Status> {
    if leaves_newer && has_newer(overview, letter, &done.sent).await? {
        done.left += 1;
        return Ok(());
    }
    let accepted = match overview.engine.retry_dead_letter(letter.sequence).await {
        Err(StoreError::Conflict { .. }) if leaves_newer && letter.correspondent.is_from() => {
            done.left_in_mailbox += 1;
            return Ok(());
        }
        Err(StoreError::Conflict { .. }) if leaves_newer => {
            done.left += 1;
            return Ok(());
        }
        Err(StoreError::Conflict { id }) if letter.correspondent.is_from() => {
            let what = format!(
                "a newer message of its sender is in the mailbox under {id:?}; release that one first, or export the letter: letter {} is as it was",
                letter.sequence.0
            );
            return Err(status::admin_failed(&what));
        }
        accepted => accepted.map_err(failed)?,
    };
    let Some(accepted) = accepted else { return Ok(()) };
    let (with, id, before) = (&letter.correspondent, &letter.id, letter.sequence.0);
    let what = if with.is_from() {
        done.put_back += 1;
        tracing::info!(from = with.name(), message_id = %id, sequence = accepted.0, before, "a dead letter is back in the mailbox");
        EventKind::PutBack
    } else {
        done.sent.insert(accepted);
        tracing::info!(peer = with.name(), message_id = %id, sequence = accepted.0, before, "a dead letter was accepted anew");
        EventKind::Retried
    };
    overview.record.journal.note(what, with.party(), id, accepted);
    Ok(())
}

/// Whether its id has a message that was accepted after it and is not one of those accepted again.
async fn has_newer(
    overview: &Overview,
    letter: &DeadLetter,
    anew: &HashSet<Sequence>,
) -> Result<bool, Status> {
    // For a letter that arrived, the store itself checks that.
    let Correspondent::To(receiver) = &letter.correspondent else { return Ok(false) };
    let newest = overview.engine.track_sent(receiver, &letter.id).await.map_err(failed)?;
    Ok(match newest {
        Tracked::Pending { sequence, .. } | Tracked::Delivered { sequence } => {
            sequence > letter.sequence && !anew.contains(&sequence)
        }
        _ => false,
    })
}

/// Removes dead letters for good.
pub(super) async fn drop_some(overview: &Overview, request: DeadRequest) -> Result<Changed, Status> {
    let (room, peer) = (of_room(overview), request.peer.clone());
    let mut dropped = 0;
    for sequence in chosen(overview, request).await? {
        let Some(letter) = one(overview, sequence).await? else { continue };
        if !overview.engine.drop_dead_letter(letter.sequence).await.map_err(failed)? {
            continue;
        }
        dropped += 1;
        let (with, id) = (&letter.correspondent, &letter.id);
        tracing::info!(peer = with.name(), message_id = %id, sequence = letter.sequence.0, "the operator dropped a dead letter");
        let what = if with.is_from() { EventKind::DroppedUnread } else { EventKind::Dropped };
        overview.record.dropped(what, with.party(), id, letter.sequence);
    }
    overview.engine.ends_kept().await.map_err(failed)?;
    let text = match dropped {
        0 => none(&peer),
        some => format!("{} dropped{room}", many(some, "dead letter", "dead letters")),
    };
    Ok(Changed { messages: dropped, text, failed: 0 })
}

/// The letters that a request means and that are there now: only their sequences, because there may be very many.
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
            let meant = some
                .iter()
                .filter(|letter| peer.as_ref().is_none_or(|p| letter.correspondent.party() == Some(p)));
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

/// A letter without its content; `None` if there is no such letter.
async fn one(overview: &Overview, sequence: Sequence) -> Result<Option<DeadLetter>, Status> {
    let before = Sequence(sequence.0.saturating_sub(1));
    let some = overview.engine.dead_letters(before, 1).await.map_err(failed)?;
    Ok(some.into_iter().find(|letter| letter.sequence == sequence))
}
