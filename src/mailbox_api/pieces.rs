//! Payloads of any size, in pieces: neither way more than a few of them are in memory.

use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use petnet_storage::{Held, MessageId, Payload, Sequence};
use tonic::{Status, Streaming};

use super::{Answers, PIECE_BYTES, name, refuse};
use crate::calls::Call;
use crate::mailbox::{Mailbox, Refusal, Uploader};
use crate::proto::mailbox::{ReceivePiece, SendPiece};
use crate::status;

/// Bytes of one piece that goes out: a slice of the log.
const OUT_BYTES: u64 = 256 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 3;

/// Takes a message in pieces; returns when all of it is durable.
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
    let mut uploading = mailbox.begin(Uploader::Client, len).map_err(&refuse)?;
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
    let sequence = uploading.upload.accept(&receiver, &id).await.map_err(|e| refuse(e.into()))?;
    mailbox.record.accepted(&receiver, &id, sequence, all, since);
    Ok(sequence)
}

/// Bytes of a message that is handed out which are in memory at a time.
pub(super) fn in_memory(found: &Held) -> u64 {
    found.payload.len().min(OUT_BYTES * (AHEAD as u64 + 1))
}

/// Hands a message out in pieces; none, if there is none.
pub(super) fn receive(found: Option<Held>) -> Answers<ReceivePiece> {
    let Some(Held { sender, id, sequence, payload }) = found else { return Box::pin(stream::empty()) };
    let first = ReceivePiece {
        message_id: id.as_str().to_owned(),
        sender_id: name(sender.as_ref()),
        sequence: sequence.0,
        len: payload.len(),
        payload: bytes::Bytes::new(),
    };
    let offsets = (0..payload.len()).step_by(OUT_BYTES as usize);
    let read = stream::iter(offsets).map(move |at| read(payload.clone(), at)).buffered(AHEAD);
    Box::pin(stream::once(async { Ok(first) }).chain(read.map_err(|e| status::of(e.into()))))
}

async fn read(payload: Payload, at: u64) -> petnet_storage::Result<ReceivePiece> {
    let mut piece = payload.piece(at).await?;
    piece.truncate(OUT_BYTES as usize);
    Ok(ReceivePiece { payload: piece, ..ReceivePiece::default() })
}
