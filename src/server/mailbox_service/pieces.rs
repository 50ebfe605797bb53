//! Payloads of any size, in pieces: in neither direction are more than a few pieces in memory.

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use petnet_storage::{FromSender, Held, MessageId, Payload, Sequence};
use tonic::{Status, Streaming};

use super::{AnswerStream, PIECE_BYTES, name, refuse};
use crate::mailbox::handed::HandedMessage;
use crate::mailbox::{Mailbox, send_key};
use crate::proto::mailbox::{ReceivePiece, SendPiece};
use crate::rules::refusal::Refusal;
use crate::server::calls::Call;
use crate::wire::status;

/// Bytes of one outgoing piece: a slice of the log.
const OUT_BYTES: u64 = 256 << 10;
/// Number of pieces that are read ahead.
const AHEAD: usize = 3;

/// Accepts a message that comes in pieces; returns when all of it is durable.
pub(super) async fn send(
    mailbox: &Mailbox,
    mut pieces: Streaming<SendPiece>,
    call: Option<&Call>,
) -> Result<Sequence, Status> {
    let (refuse, since) = (refuse(mailbox), Instant::now());
    let invalid = |why: &str| refuse(Refusal::Invalid(why.into()));
    let Some(first) = pieces.message().await? else { return Err(invalid("a stream without a piece")) };
    let id = MessageId::new(first.message_id.as_str()).map_err(|e| refuse(e.into()))?;
    let receiver = mailbox.receiver(&first.receiver_id).map_err(&refuse)?;
    let len = first.len;
    let key = send_key(&first.key).map_err(&refuse)?;
    if let Some(key) = key {
        let before = mailbox.engine.accepted_before(&receiver, &id, len, key).await;
        if let Some(sequence) = before.map_err(|e| refuse(e.into()))? {
            tracing::debug!(%receiver, message_id = %id, "a message that comes in pieces was accepted before");
            return Ok(sequence);
        }
    }
    let mut uploading = mailbox.begin(call.map_or(0, Call::caller), len).map_err(&refuse)?;
    let (mut next, mut is_whole) = (Some(first), len.is_some());
    while let Some(piece) = next {
        is_whole |= piece.last;
        if piece.payload.len() > PIECE_BYTES {
            return Err(invalid("a piece of more than 1 MiB"));
        }
        let room = call.and_then(Call::take_asked);
        let all = uploading.upload.len() + piece.payload.len() as u64;
        mailbox.check_stream(all).map_err(&refuse)?;
        if len.is_some_and(|len| all > len) {
            return Err(invalid("more bytes than the first piece said"));
        }
        uploading.upload.push(piece.payload).await.map_err(|e| refuse(e.into()))?;
        drop(room);
        next = pieces.message().await?;
    }
    let all = uploading.upload.len();
    if len.is_some_and(|len| all < len) {
        return Err(invalid("fewer bytes than the first piece said"));
    }
    if !is_whole {
        return Err(invalid("the stream ended, and neither a length nor a last piece says that it is whole"));
    }
    let sequence = uploading.upload.accept_as(&receiver, &id, key).await.map_err(|e| refuse(e.into()))?;
    mailbox.record.accepted(&receiver, &id, sequence, all, since);
    Ok(sequence)
}

/// Most bytes that are in memory at a time of a message that is handed out.
pub(super) fn in_memory(found: &Held) -> u64 {
    found.payload.len().min(OUT_BYTES * (AHEAD as u64 + 1))
}

/// Hands a message out in pieces; no piece if there is no message. It counts as read when its last piece was taken: a
/// client that broke off earlier has not got it.
pub(super) fn receive(
    mailbox: &Arc<Mailbox>,
    from: &FromSender,
    found: Option<Held>,
) -> AnswerStream<ReceivePiece> {
    let Some(found) = found else { return Box::pin(stream::empty()) };
    let handing = HandedMessage::new(from, &found);
    let Held { sender, id, sequence, payload, .. } = found;
    let first = ReceivePiece {
        message_id: id.as_str().to_owned(),
        sender_id: name(sender.as_ref()),
        sequence: sequence.0,
        len: payload.len(),
        payload: bytes::Bytes::new(),
    };
    let offsets = (0..payload.len()).step_by(OUT_BYTES as usize);
    let read = stream::iter(offsets).map(move |at| read(payload.clone(), at)).buffered(AHEAD);
    let pieces = stream::once(async { Ok(first) }).chain(read.map_err(|e| status::of(e.into())));
    // When the stream is asked for what comes after the last piece, that piece was taken.
    let state = (Box::pin(pieces), Some((mailbox.clone(), handing)));
    Box::pin(stream::unfold(state, |(mut pieces, mut last)| async move {
        let piece = pieces.next().await;
        match &piece {
            Some(Ok(_)) => {}
            Some(Err(_)) => last = None,
            None => {
                if let Some((mailbox, handing)) = last.take() {
                    mailbox.handed(&handing);
                }
            }
        }
        piece.map(|piece| (piece, (pieces, last)))
    }))
}

async fn read(payload: Payload, at: u64) -> petnet_storage::Result<ReceivePiece> {
    let mut piece = payload.piece(at).await?;
    piece.truncate(OUT_BYTES as usize);
    Ok(ReceivePiece { payload: piece, ..ReceivePiece::default() })
}
