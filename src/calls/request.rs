//! The body of a request: tonic makes room for a message as soon as it has read its length, so the length is read
//! here first, and what holds it is passed on when there is room.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::Call;
use crate::listen::Transfer;

/// Before every gRPC message: a flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// A request's body.
pub(super) struct Incoming {
    body: Body,
    call: Arc<Call>,
    is_stream: bool,
    /// Bytes of one message, where they are limited besides.
    largest: Option<u64>,
    messages: Messages,
    /// While bytes are owed to us.
    owed: Option<Transfer>,
    /// Bytes that wait for the room of the messages that begin in them.
    waiting: Option<(Frame<Bytes>, Waiting)>,
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Incoming {
    pub(super) fn new(body: Body, call: Arc<Call>, is_stream: bool, largest: Option<u64>) -> Self {
        Self { body, call, is_stream, largest, messages: Messages::default(), owed: None, waiting: None }
    }

    /// Room for messages that begin; `None`: it is there.
    fn take_room(&self, begun: Vec<u64>) -> Option<Waiting> {
        let largest = self.call.calls.largest;
        let mut begun = begun.into_iter().filter(move |len| *len <= largest);
        let first = begun.by_ref().find(|len| match self.call.calls.memory.try_take(*len) {
            Some(room) => {
                self.call.asked().push_back(room);
                false
            }
            None => true,
        })?;
        let call = self.call.clone();
        Some(Box::pin(async move {
            for len in std::iter::once(first).chain(begun) {
                let room = call.calls.memory.take(len).await;
                call.asked().push_back(room);
            }
        }))
    }

    fn is_owed(&self) -> bool {
        // A stream may rest between its messages; any other request is one message.
        !self.is_stream || !self.messages.is_between()
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some((_, waiting)) = &mut this.waiting {
            ready!(waiting.as_mut().poll(cx));
        }
        if let Some((frame, _)) = this.waiting.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            if this.owed.is_none() && this.is_owed() {
                this.owed = this.call.transfer();
            }
            return Poll::Pending;
        };
        this.owed = None;
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let begun = frame.data_ref().map(|bytes| this.messages.begun_in(bytes)).unwrap_or_default();
        if let Some(largest) = this.largest
            && let Some(len) = begun.iter().find(|len| **len > largest)
        {
            return Poll::Ready(Some(Err(crate::status::large_piece(*len, largest))));
        }
        let Some(mut waiting) = this.take_room(begun) else { return Poll::Ready(Some(Ok(frame))) };
        let polled = waiting.as_mut().poll(cx);
        if polled.is_ready() {
            return Poll::Ready(Some(Ok(frame)));
        }
        this.waiting = Some((frame, waiting));
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where in a sequence of gRPC messages a body is.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes of the message that are still to come.
    left: u64,
}

impl Messages {
    /// Lengths of the messages whose prefix ends in `bytes`, which come next.
    fn begun_in(&mut self, mut bytes: &[u8]) -> Vec<u64> {
        let mut begun = Vec::new();
        while !bytes.is_empty() {
            if self.left > 0 {
                let of_message = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= of_message as u64;
                bytes = &bytes[of_message..];
                continue;
            }
            let of_prefix = bytes.len().min(PREFIX - self.have);
            self.prefix[self.have..self.have + of_prefix].copy_from_slice(&bytes[..of_prefix]);
            self.have += of_prefix;
            bytes = &bytes[of_prefix..];
            if self.have == PREFIX {
                let [_, len @ ..] = self.prefix;
                self.left = u32::from_be_bytes(len).into();
                self.have = 0;
                begun.push(self.left);
            }
        }
        begun
    }

    fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_found_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        let lengths = [0_u32, 1, 300, 5, 70_000];
        for len in lengths {
            bytes.push(0);
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend(std::iter::repeat_n(0xff, len as usize));
        }
        for cut in [1, 2, 3, 4, 5, 7, 1000, bytes.len()] {
            let mut messages = Messages::default();
            let found: Vec<u64> = bytes.chunks(cut).flat_map(|some| messages.begun_in(some)).collect();
            assert_eq!(found, lengths.map(u64::from), "{cut}");
            assert!(messages.is_between());
        }
        let mut messages = Messages::default();
        messages.begun_in(&[0, 0]);
        assert!(!messages.is_between());
    }
}
