//! The body of a request: each message is kept here as it comes, until it is whole, and then passed on.
//!
//! tonic would make room for a message as soon as it has read its length, and announcing a length costs a caller nothing.
//! So only what has come counts; no more is read while there is no room for it; and memory for a message as a whole is
//! taken only when all of it is here.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;

use super::Call;
use super::memory::Room;
use super::messages::BodyPosition;
use super::pool::RoomGrant;
use crate::server::connections::Transfer;
use crate::wire::status;

/// Pieces below this are joined: each keeps alive the buffer in which it came, which has up to 64 KiB.
const SMALL_PIECE: usize = 16 << 10;
/// Room is taken as a message comes: at least the first number of bytes at a time, and at most the second ahead of what has
/// come.
const STEP: (u64, u64) = (16 << 10, 1 << 20);

type GrantFuture = Pin<Box<dyn Future<Output = RoomGrant> + Send>>;

/// The body of a request.
pub(super) struct RequestBody {
    body: Body,
    call: Arc<Call>,
    is_stream: bool,
    /// Largest message where there is a limit besides tonic's, in bytes.
    largest: Option<u64>,
    messages: BodyPosition,
    /// Held while the other side owes us bytes.
    owed: Option<Transfer>,
    /// Bytes that have come and do not have room yet.
    taking: Option<BytesWithoutRoom>,
    /// Room of the message that has begun.
    room: Option<Room>,
    /// Resolves when that message comes too slowly while others need the room it has.
    too_slow: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    kept: UnfinishedMessage,
    /// Whole messages, in the bytes in which they came.
    first: Option<Bytes>,
    /// Further messages, or bytes that tonic is to judge.
    ready: VecDeque<Bytes>,
    /// Set for a message above what tonic takes: it is passed through, and tonic refuses it when it sees the length.
    passes: bool,
}

/// Bytes for whose messages room is being taken.
struct BytesWithoutRoom {
    bytes: Bytes,
    ended: VecDeque<u64>,
    end: usize,
    begun: Option<(u64, u64)>,
    waiting: Option<GrantFuture>,
}

/// What has come of a message that is not whole yet.
#[derive(Default)]
struct UnfinishedMessage {
    pieces: VecDeque<Bytes>,
    /// The last pieces, joined.
    last: BytesMut,
}

impl UnfinishedMessage {
    fn add(&mut self, bytes: Bytes) {
        if bytes.len() < SMALL_PIECE {
            self.last.extend_from_slice(&bytes);
            if self.last.len() >= SMALL_PIECE {
                self.pieces.push_back(self.last.split().freeze());
            }
            return;
        }
        if !self.last.is_empty() {
            self.pieces.push_back(self.last.split().freeze());
        }
        self.pieces.push_back(bytes);
    }

    fn move_to(&mut self, ready: &mut VecDeque<Bytes>) {
        ready.append(&mut self.pieces);
        if !self.last.is_empty() {
            ready.push_back(self.last.split().freeze());
        }
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }
}

impl RequestBody {
    pub(super) fn new(body: Body, call: Arc<Call>, is_stream: bool, largest: Option<u64>) -> Self {
        Self {
            body,
            call,
            is_stream,
            largest,
            messages: BodyPosition::default(),
            owed: None,
            taking: None,
            room: None,
            too_slow: None,
            kept: UnfinishedMessage::default(),
            first: None,
            ready: VecDeque::new(),
            passes: false,
        }
    }

    fn is_owed(&self) -> bool {
        // A stream may rest between its messages; any other request is one message.
        !self.is_stream || !self.messages.is_between()
    }

    /// Finds out what the bytes that came are. Fails if a message is too large.
    fn see(&mut self, bytes: Bytes) -> Result<(), Status> {
        let largest = self.call.calls.largest;
        let seen = self.messages.see(&bytes, largest);
        let begun = seen.begun.map(|(len, _)| len);
        let longest = seen.ended.iter().copied().chain(begun).max().unwrap_or(0);
        if let Some(limit) = self.largest
            && longest > limit
        {
            return Err(status::large_piece(longest, limit));
        }
        let here = self.call.calls.memory.largest(&self.call.holder);
        if longest <= largest && longest > here {
            return Err(status::large_for_unnamed(longest, here));
        }
        self.passes = begun.is_some_and(|len| len > largest);
        let begun = seen.begun.filter(|_| !self.passes);
        let end = if self.passes { bytes.len() } else { seen.end };
        self.taking = Some(BytesWithoutRoom { bytes, ended: seen.ended.into(), end, begun, waiting: None });
        Ok(())
    }

    /// Takes room for what came; ready when there is room for all of it.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(taking) = &mut self.taking else { return Poll::Ready(()) };
        loop {
            if let Some(waiting) = &mut taking.waiting {
                let grant = ready!(waiting.as_mut().poll(cx));
                taking.waiting = None;
                if let Some(room) = &mut self.room {
                    room.add(grant);
                }
            }
            let (len, come) = match (taking.ended.front(), taking.begun) {
                (Some(len), _) => (*len, *len),
                (None, Some((len, come))) if come > 0 => (len, come),
                (None, _) => break,
            };
            let calls = &self.call.calls;
            let room =
                self.room.get_or_insert_with(|| calls.memory.room(&self.call.holder, len, self.is_stream));
            if !room.has(come) {
                let more = (come + come.clamp(STEP.0, STEP.1)).min(len);
                if !room.try_grow(more) && !room.try_grow(come) {
                    taking.waiting = Some(Box::pin(room.wait(come).granted()));
                    continue;
                }
            }
            if taking.ended.pop_front().is_none() {
                let token = room.too_slow().filter(|_| self.too_slow.is_none());
                self.too_slow = self
                    .too_slow
                    .take()
                    .or_else(|| token.map(|token| Box::pin(token.clone().cancelled_owned())));
                break;
            }
            self.too_slow = None;
            if let Some(mut room) = self.room.take() {
                room.is_whole();
                self.call.asked().push_back(room);
            }
        }
        if let Some(BytesWithoutRoom { mut bytes, end, .. }) = self.taking.take() {
            let rest = bytes.split_off(end);
            if end > 0 && self.kept.is_empty() {
                self.first = Some(bytes);
            } else if end > 0 {
                self.kept.move_to(&mut self.ready);
                self.ready.push_back(bytes);
            }
            if !rest.is_empty() {
                self.kept.add(rest);
            }
        }
        Poll::Ready(())
    }

    /// The next frame from the network; `None` at the end.
    fn poll_network(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.owed = None;
            return Poll::Ready(frame);
        }
        if self.owed.is_none() && self.is_owed() {
            self.owed = self.call.transfer();
        }
        if let Some(too_slow) = &mut self.too_slow
            && too_slow.as_mut().poll(cx).is_ready()
        {
            self.too_slow = None;
            self.room = None;
            self.kept = UnfinishedMessage::default();
            return Poll::Ready(Some(Err(status::comes_too_slowly())));
        }
        Poll::Pending
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_take(cx));
            if let Some(bytes) = this.first.take().or_else(|| this.ready.pop_front()) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let frame = match ready!(this.poll_network(cx)) {
                Some(Ok(frame)) => frame,
                // tonic reports half a message as no message.
                None if !this.kept.is_empty() => {
                    this.kept.move_to(&mut this.ready);
                    continue;
                }
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(bytes) if this.passes => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(bytes) => {
                    if let Err(refused) = this.see(bytes) {
                        return Poll::Ready(Some(Err(refused)));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_some = self.taking.is_some() || self.first.is_some() || !self.ready.is_empty();
        !has_some && self.kept.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
