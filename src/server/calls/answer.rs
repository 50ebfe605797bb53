//! The body of an answer: its call ends when the network has taken the last byte, not when hyper has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::Call;
use crate::server::connections::Transfer;

/// An answer's body.
pub(super) struct AnswerBody {
    body: Body,
    call: Arc<Call>,
}

impl AnswerBody {
    pub(super) fn new(body: Body, call: Arc<Call>) -> Self {
        Self { body, call }
    }

    fn on_its_way(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        Bytes::from_owner(OnItsWay { bytes, _transfer: self.call.transfer(), _call: self.call.clone() })
    }
}

/// Bytes that HTTP/2 drops once they are written.
struct OnItsWay {
    bytes: Bytes,
    _transfer: Option<Transfer>,
    _call: Arc<Call>,
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|bytes| this.on_its_way(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
