//! Messages in pieces between the command line and a gateway: of any size, with no more than a few pieces in memory on
//! either side.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cli::messages::client::{PAUSE, WAIT_PER_CALL, failure, hint_of_senders};
use crate::cli::messages::patience::{AttemptFailure, is_passing};
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::{ReceivePiece, ReceiveRequest, SendPiece};
use crate::wire::status::ERROR_CODE;
use crate::wire::status::code::MESSAGE_ID_CONFLICT;

/// Bytes of an outgoing piece.
pub(crate) const PIECE: usize = 256 << 10;
/// Number of pieces that are read ahead.
const AHEAD: usize = 4;
/// How long a message whose transfer broke off is asked for again, however long the wait for its arrival was.
const RESUME_FOR: Duration = Duration::from_secs(60);

/// The result of a stream.
pub(crate) enum Streamed<T> {
    Done(T),
    /// The gateway is an old one that does not have streams.
    NotKnown,
}

/// How much has been sent or received, for showing progress.
pub(crate) type ByteProgress = Arc<AtomicU64>;

/// Which message it is, whom it is for, and how long it is, if that is known.
pub(crate) struct SendTarget<'a> {
    pub(crate) to: &'a PartyId,
    pub(crate) id: &'a MessageId,
    pub(crate) len: Option<u64>,
    /// Key of the send, the same for every attempt.
    pub(crate) key: Bytes,
}

/// Sends a message that `first` begins and `rest` continues. `limit`: longest time without a piece taken or an answer.
pub(crate) async fn send(
    channel: Channel,
    target: SendTarget<'_>,
    first: Bytes,
    rest: impl Read + Send + 'static,
    limit: Duration,
    moved: ByteProgress,
) -> Result<Streamed<u64>, AttemptFailure> {
    let (pieces, ready) = mpsc::channel(AHEAD);
    let begin = SendPiece {
        message_id: target.id.as_str().into(),
        receiver_id: target.to.as_str().into(),
        payload: first,
        len: target.len,
        last: false,
        key: target.key,
    };
    let counted = moved.clone();
    let reading = tokio::task::spawn_blocking(move || read(&pieces, begin, rest, &counted));
    let mut client = MailboxClient::new(channel);
    let (to, id) = (target.to, target.id);
    let answer = while_moving(&moved, limit, client.send_stream(ReceiverStream::new(ready))).await;
    let Some(answer) = answer else {
        return Err(AttemptFailure::Final(anyhow!(
            "nothing has moved for {limit:?}; {id:?} may or may not be accepted: sending it again with the same id is safe"
        )));
    };
    let answer = answer.map(tonic::Response::into_inner);
    // If the file cannot be read to its end, that is the reason, whatever the gateway says to what it got.
    let read = reading.await.context("reading failed").map_err(AttemptFailure::Final)?;
    match (answer, read) {
        (Err(status), _) if status.code() == Code::Unimplemented => Ok(Streamed::NotKnown),
        (_, Err(why)) => Err(AttemptFailure::Final(
            anyhow!(why).context("cannot read what is to be sent; nothing was accepted"),
        )),
        (Err(status), _) => {
            let failed = if is_passing(&status) { AttemptFailure::Passing } else { AttemptFailure::Final };
            Err(failed(anyhow!("{id:?} for {to} was not accepted: {}", failure(&status))))
        }
        (Ok(_), Ok(())) => Ok(Streamed::Done(moved.load(Ordering::Relaxed))),
    }
}

/// Reads the content and passes it on in pieces; blocks.
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
        // The gateway has answered already, and its answer says why.
        if pieces.blocking_send(piece).is_err() || last {
            moved.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        }
        moved.fetch_add(len, Ordering::Relaxed);
        piece = SendPiece { payload: bytes.into(), ..SendPiece::default() };
    }
}

/// Resolves with the result of `work`, or with `None` when nothing more has moved for `limit`.
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

/// Receives a message into `into`, waiting for it even across restarts of the gateway. `None` if it did not come in time.
pub(crate) async fn receive(
    channel: Channel,
    id: &MessageId,
    from: Option<&PartyId>,
    wait: Duration,
    mut into: impl FnMut(&[u8]) -> std::io::Result<()>,
    moved: &ByteProgress,
) -> anyhow::Result<Streamed<Option<u64>>> {
    let mut client = MailboxClient::new(channel);
    let mut deadline = Instant::now() + wait;
    let mut taken: Option<PassedOn> = None;
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
                let message = PassedOn::of(&first);
                let taken = taken.get_or_insert(message);
                if (taken.sequence, taken.len) != (message.sequence, message.len) {
                    bail!("another message came under {id:?} while it was received: receive it again");
                }
                match taken.go_on(pieces, &mut into, moved).await? {
                    None => return Ok(Streamed::Done(Some(taken.len))),
                    Some(status) if is_passing(&status) => {
                        deadline = deadline.max(Instant::now() + RESUME_FOR);
                    }
                    Some(status) => bail!("{}: {}", taken.broke_off(), failure(&status)),
                }
            }
            Ok(None) => {}
            Err(status) if status.code() == Code::Unimplemented => return Ok(Streamed::NotKnown),
            // The gateway was there when we connected: it is restarting, and what we wait for survives that.
            Err(status) if is_passing(&status) && Instant::now() < deadline => {}
            Err(status) => {
                let number =
                    status.metadata().get(ERROR_CODE).and_then(|number| number.to_str().ok()?.parse().ok());
                let hint = hint_of_senders(number == Some(MESSAGE_ID_CONFLICT), from);
                bail!("cannot receive {id:?}: {}{hint}", failure(&status))
            }
        }
        let now = Instant::now();
        if now >= deadline {
            return match taken {
                Some(taken) => bail!("{}, and the gateway gives it no more", taken.broke_off()),
                None => Ok(Streamed::Done(None)),
            };
        }
        if now.duration_since(asked) < wait / 2 {
            sleep(PAUSE.min(deadline - now)).await;
        }
    }
}

type PieceStream = tonic::Streaming<ReceivePiece>;

async fn begin(
    client: &mut MailboxClient<Channel>,
    request: ReceiveRequest,
) -> Result<Option<(ReceivePiece, PieceStream)>, Status> {
    let mut pieces = client.receive_stream(request).await?.into_inner();
    Ok(pieces.message().await?.map(|first| (first, pieces)))
}

/// How much of which message was passed on: after a break it continues there, since the same message has the same bytes.
#[derive(Debug, Clone, Copy)]
struct PassedOn {
    sequence: u64,
    len: u64,
    have: u64,
}

impl PassedOn {
    fn of(first: &ReceivePiece) -> Self {
        Self { sequence: first.sequence, len: first.len, have: 0 }
    }

    /// Passes on what was not passed on yet. Returns a status if the stream broke off.
    async fn go_on(
        &mut self,
        mut pieces: PieceStream,
        into: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
        moved: &AtomicU64,
    ) -> anyhow::Result<Option<Status>> {
        let mut at = 0;
        loop {
            let piece = match pieces.message().await {
                Ok(Some(piece)) => piece,
                Ok(None) if self.have == self.len => return Ok(None),
                Ok(None) => bail!("{}", self.broke_off()),
                Err(status) => return Ok(Some(status)),
            };
            let bytes = &piece.payload;
            let known = (self.have - at).min(bytes.len() as u64);
            into(&bytes[known as usize..]).context("cannot write what was received")?;
            at += bytes.len() as u64;
            self.have = self.have.max(at);
            moved.store(self.have, Ordering::Relaxed);
        }
    }

    fn broke_off(&self) -> String {
        format!("the message broke off after {} of {} bytes", self.have, self.len)
    }
}

/// Opens a file, or stdin for `-`; returns its length, too, if that is known.
pub(crate) fn open(file: &Path) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let cannot = || format!("cannot read {}", file.display());
    let opened = File::open(file).with_context(cannot)?;
    let found = opened.metadata().with_context(cannot)?;
    Ok((Box::new(opened), found.is_file().then_some(found.len())))
}

/// Writes to stdout. The reader of a pipe may have enough before the end.
pub(crate) fn to_stdout(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
