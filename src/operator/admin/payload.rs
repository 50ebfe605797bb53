//! The content of a message, for the operator: in pieces, however large it is.

use std::pin::Pin;

use futures_util::stream::{self, Stream, StreamExt};
use petnet_storage::{FromSender, MessageId, Payload, Sequence};
use tonic::Status;

use super::{failed, mail, party};
use crate::operator::overview::Overview;
use crate::proto::admin::payload_request::Which;
use crate::proto::admin::{PayloadPiece, PayloadRequest};
use crate::wire::status;

/// Most bytes of one piece.
const PIECE: usize = 1 << 20;

type PayloadPieces = Pin<Box<dyn Stream<Item = Result<PayloadPiece, Status>> + Send>>;

/// Finds the message and hands it out piece by piece.
pub(super) async fn open(overview: &Overview, request: PayloadRequest) -> Result<PayloadPieces, Status> {
    let engine = &overview.engine;
    let found = match request.which {
        Some(Which::MessageId(id)) => {
            let id = MessageId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))?;
            let held = engine.open(&mail::sender(&request.party)?, &id).await.map_err(failed)?;
            held.map(|held| {
                let sender = held.sender.map(|sender| sender.to_string()).unwrap_or_default();
                (held.id, sender, held.payload)
            })
        }
        Some(Which::Held(sequence)) => held(overview, Sequence(sequence)).await?,
        Some(Which::Pending(sequence)) => {
            let peer = party(&request.party)?;
            let found = engine.open_pending(&peer, Sequence(sequence)).await.map_err(failed)?;
            found.map(|found| (found.id, peer.to_string(), found.payload))
        }
        Some(Which::Dead(sequence)) => {
            let found = engine.open_dead_letter(Sequence(sequence)).await.map_err(failed)?;
            found.map(|(letter, payload)| (letter.id, letter.correspondent.name().to_owned(), payload))
        }
        None => return Err(status::admin_invalid("name a message")),
    };
    let Some((id, party, payload)) = found else {
        return Err(status::admin_not_found("there is no such message"));
    };
    let first = PayloadPiece { message_id: id.to_string(), party, len: payload.len(), ..Default::default() };
    Ok(Box::pin(stream::once(async { Ok(first) }).chain(pieces(payload))))
}

/// A message in the mailbox, found by its sequence: id, sender and content.
async fn held(
    overview: &Overview,
    sequence: Sequence,
) -> Result<Option<(MessageId, String, Payload)>, Status> {
    let before = Sequence(sequence.0.saturating_sub(1));
    let listed = overview.engine.topic(&FromSender::Any, "", before, 1).await.map_err(failed)?;
    let Some(listed) = listed.into_iter().find(|found| found.sequence == sequence) else { return Ok(None) };
    let from = FromSender::from(listed.sender);
    let held = overview.engine.open(&from, &listed.id).await.map_err(failed)?;
    // A newer message of the same sender may have come in between.
    Ok(held.filter(|held| held.sequence == sequence).map(|held| {
        let sender = held.sender.map(|sender| sender.to_string()).unwrap_or_default();
        (held.id, sender, held.payload)
    }))
}

fn pieces(payload: Payload) -> impl Stream<Item = Result<PayloadPiece, Status>> + Send {
    stream::unfold(Some((payload, 0)), |state| async {
        let (payload, at) = state.filter(|(payload, at)| *at < payload.len())?;
        match payload.piece(at).await {
            Ok(mut piece) => {
                piece.truncate(PIECE);
                let next = at + piece.len() as u64;
                Some((Ok(PayloadPiece { payload: piece, ..Default::default() }), Some((payload, next))))
            }
            Err(error) => Some((Err(failed(error)), None)),
        }
    })
}
