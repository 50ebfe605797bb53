//! Messages in pieces between the command line and a gateway: of any size, and neither side holds more than a few pieces.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::client::{PAUSE, WAIT_PER_CALL, failure};
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::{ReceivePiece, ReceiveRequest, SendPiece};

/// Bytes of a piece that goes out.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// What a stream came to.
pub(super) enum Streamed<T> {
    Done(T),
    /// The gateway has no streams: an old one.
    NotKnown,
}

/// How much has been sent or received, for those who watch.
pub(super) type Moved = Arc<AtomicU64>;

/// Who a message is for, and how long it is, if known.
pub(super) struct Target<'a> {
    pub(super) to: &'a PartyId,
    pub(super) id: &'a MessageId,
    pub(super) len: Option<u64>,
}

/// Sends what `first` begins and `rest` goes on with. `limit`: longest time without a piece taken or an answer.
pub(super) async fn send(
    channel: Channel,
    target: Target<'_>,
    first: Bytes,
    rest: impl Read + Send + 'static,
    limit: Duration,
    moved: Moved,
) -> anyhow::Result<Streamed<u64>> {
    let (pieces, ready) = mpsc::channel(AHEAD);
    let begin = SendPiece {
        message_id: target.id.as_str().into(),
        receiver_id: target.to.as_str().into(),
        payload: first,
        len: target.len,
        last: false,
    };
    let counted = moved.clone();
    let reading = tokio::task::spawn_blocking(move || read(&pieces, begin, rest, &counted));
    let mut client = MailboxClient::new(channel);
    let (to, id) = (target.to, target.id);
    let answer = while_moving(&moved, limit, client.send_stream(ReceiverStream::new(ready))).await;
    let Some(answer) = answer else {
        bail!(
            "nothing has moved for {limit:?}; {id:?} may or may not be accepted: sending it again with the same id is safe"
        );
    };
    let answer = answer.map(tonic::Response::into_inner);
    // A file that cannot be read to its end is the reason, whatever the gateway says to what it got.
    let read = reading.await.context("reading failed")?;
    match (answer, read) {
        (Err(status), _) if status.code() == Code::Unimplemented => Ok(Streamed::NotKnown),
        (_, Err(why)) => Err(why).context("cannot read what is to be sent; nothing was accepted"),
        (Err(status), _) => bail!("{id:?} for {to} was not accepted: {}", failure(&status)),
        (Ok(_), Ok(())) => Ok(Streamed::Done(moved.load(Ordering::Relaxed))),
    }
}

/// Blocks.
fn read(
    pieces: &mpsc::Sender<SendPiece>,
    mut piece: SendPiece,
    mut rest: impl Read,
    moved: &AtomicU64,
) -> std::io::Result<()> {
    loop {
        let mut bytes = Vec::with_capacity(PIECE);
        (&mut rest).take(PIECE as u64).read_to_end(&mut bytes)?;
        piece.last = bytes.is_empty();
        let (len, last) = (piece.payload.len() as u64, piece.last);
        // The gateway has answered already: it says why.
        if pieces.blocking_send(piece).is_err() || last {
            moved.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        }
        moved.fetch_add(len, Ordering::Relaxed);
        piece = SendPiece { payload: bytes.into(), ..SendPiece::default() };
    }
}

/// Resolves with `work`, or with `None` when for `limit` nothing more has moved.
async fn while_moving<T>(moved: &AtomicU64, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = moved.load(Ordering::Relaxed);
        if let Ok(done) = timeout(limit, &mut work).await {
            return Some(done);
        }
        if moved.load(Ordering::Relaxed) == before {
            return None;
        }
    }
}

/// Receives a message into `into`, waiting for it also across restarts of the gateway. `None`: it did not come in time.
pub(super) async fn receive(
    channel: Channel,
    id: &MessageId,
    from: Option<&PartyId>,
    wait: Duration,
    mut into: impl FnMut(&[u8]) -> std::io::Result<()>,
    moved: &Moved,
) -> anyhow::Result<Streamed<Option<u64>>> {
    let mut client = MailboxClient::new(channel);
    let deadline = Instant::now() + wait;
    loop {
        let asked = Instant::now();
        let wait = deadline.saturating_duration_since(asked).min(WAIT_PER_CALL);
        let request = ReceiveRequest {
            message_id: id.as_str().into(),
            sender_id: from.map(|party| party.as_str().to_owned()).unwrap_or_default(),
            wait_ms: wait.as_millis() as u32,
        };
        match begin(&mut client, request).await {
            Ok(Some((first, pieces))) => {
                let len = first.len;
                return Ok(Streamed::Done(Some(take(pieces, len, &mut into, moved).await?)));
            }
            Ok(None) => {}
            Err(status) if status.code() == Code::Unimplemented => return Ok(Streamed::NotKnown),
            // It was there when we connected: it is restarting, and what we wait for survives that.
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {}
            Err(status) => bail!("cannot receive {id:?}: {}", failure(&status)),
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(Streamed::Done(None));
        }
        if now.duration_since(asked) < wait / 2 {
            sleep(PAUSE.min(deadline - now)).await;
        }
    }
}

type Pieces = tonic::Streaming<ReceivePiece>;

async fn begin(
    client: &mut MailboxClient<Channel>,
    request: ReceiveRequest,
) -> Result<Option<(ReceivePiece, Pieces)>, Status> {
    let mut pieces = client.receive_stream(request).await?.into_inner();
    Ok(pieces.message().await?.map(|first| (first, pieces)))
}

async fn take(
    mut pieces: Pieces,
    len: u64,
    into: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    moved: &AtomicU64,
) -> anyhow::Result<u64> {
    let mut have = 0;
    while let Some(piece) = pieces.message().await.map_err(|status| {
        anyhow::anyhow!("the message broke off after {have} of {len} bytes: {}", failure(&status))
    })? {
        into(&piece.payload).context("cannot write what was received")?;
        have += piece.payload.len() as u64;
        moved.store(have, Ordering::Relaxed);
    }
    if have != len {
        bail!("the message broke off after {have} of {len} bytes");
    }
    Ok(have)
}

/// A file, or stdin for `-`; and its length, if it is known.
pub(super) fn open(file: &Path) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let cannot = || format!("cannot read {}", file.display());
    let opened = File::open(file).with_context(cannot)?;
    let found = opened.metadata().with_context(cannot)?;
    Ok((Box::new(opened), found.is_file().then_some(found.len())))
}

/// Writes to stdout. The reader of a pipe may have enough early.
pub(super) fn to_stdout(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
