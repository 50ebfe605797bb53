//! Clients of `petnet.mailbox.v1` that send and receive one message at a time, whole or in pieces.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use petnet::proto::mailbox::mailbox_client::MailboxClient;
use petnet::proto::mailbox::{
    ReceivePiece, ReceiveRequest, ReleaseRequest, SendPiece, SendRequest, release_request,
};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::clients::channel;

pub(crate) type Mailbox = MailboxClient<Channel>;

/// What a stream sends at a time.
const PIECE: u64 = 256 << 10;
/// How long a call waits for a message before it is made again.
const WAIT_MS: u32 = 30_000;

/// A client with a connection of its own.
pub(crate) fn mailbox(address: SocketAddr) -> Mailbox {
    MailboxClient::new(channel(address))
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// Sends a message; returns when it is accepted.
pub(crate) async fn send(client: &mut Mailbox, to: &str, id: String, payload: Bytes) -> Result<()> {
    client
        .send(SendRequest { message_id: id, receiver_id: to.into(), payload, ..SendRequest::default() })
        .await?;
    Ok(())
}

/// Waits for a message; its length.
pub(crate) async fn receive(client: &mut Mailbox, id: &str) -> Result<u64> {
    loop {
        let request = ReceiveRequest { message_id: id.into(), sender_id: String::new(), wait_ms: WAIT_MS };
        let Some(message) = client.receive(request).await?.into_inner().message else { continue };
        if message.payload.len() as u64 == message.len {
            return Ok(message.len);
        }
        // It is too large for one answer.
        return receive_stream(client, id).await;
    }
}

/// Sends `len` bytes in pieces; returns when all of them are accepted.
pub(crate) async fn send_stream(client: &mut Mailbox, to: &str, id: &str, len: u64) -> Result<()> {
    let content = Bytes::from(vec![7; PIECE as usize]);
    let (to, id) = (to.to_owned(), id.to_owned());
    let pieces = (0..len.div_ceil(PIECE).max(1)).map(move |n| {
        let payload = content.slice(..PIECE.min(len - n * PIECE) as usize);
        if n > 0 {
            return SendPiece { payload, ..SendPiece::default() };
        }
        SendPiece {
            message_id: id.clone(),
            receiver_id: to.clone(),
            payload,
            len: Some(len),
            ..SendPiece::default()
        }
    });
    client.send_stream(tokio_stream::iter(pieces)).await?;
    Ok(())
}

/// Waits for a message and reads it in pieces; its length.
pub(crate) async fn receive_stream(client: &mut Mailbox, id: &str) -> Result<u64> {
    let (first, mut pieces) = begun(client, id).await?;
    let mut len = first.payload.len() as u64;
    while let Some(piece) = pieces.message().await? {
        len += piece.payload.len() as u64;
    }
    ensure!(len == first.len, "{id} has {} bytes, and {len} came", first.len);
    Ok(len)
}

/// Waits until a message is there, and leaves it there.
pub(crate) async fn arrived(client: &mut Mailbox, id: &str) -> Result<()> {
    begun(client, id).await.map(drop)
}

/// Waits for the first piece of a message.
async fn begun(client: &mut Mailbox, id: &str) -> Result<(ReceivePiece, Streaming<ReceivePiece>)> {
    loop {
        let request = ReceiveRequest { message_id: id.into(), sender_id: String::new(), wait_ms: WAIT_MS };
        let mut pieces = client.receive_stream(request).await?.into_inner();
        if let Some(first) = pieces.message().await? {
            return Ok((first, pieces));
        }
    }
}

/// Gives a message back.
pub(crate) async fn release(client: &mut Mailbox, id: &str) -> Result<()> {
    let which = Some(release_request::Which::MessageId(id.into()));
    let released = client.release(ReleaseRequest { which, ..ReleaseRequest::default() }).await?.into_inner();
    (released.released == 1).then_some(()).with_context(|| format!("{id} was not there to be released"))
}
