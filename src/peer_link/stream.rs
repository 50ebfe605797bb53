//! The delivering end of `petnet.peer.v1.PeerLink`: one stream to the peer, many deliveries under way.
//!
//! There is no timer: a frame is what became ready while the last one went out. Invariants: a delivery is `Delivered`
//! only when the peer answered that it is durable there; when the stream ends, every delivery without an answer learns
//! of it; what waits to be sent is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use futures_util::stream::unfold;
use petnet_storage::{Outgoing, PartyId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::{Verdict, of_refusal};
use crate::link_api::{FRAME_BYTES, FRAME_DELIVERIES};
use crate::metadata;
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::peer::{Answers, Deliveries, Delivery};

/// Deliveries that may wait for the stream to take them; further ones wait in front.
const WAITING: usize = 1024;

/// An open stream.
#[derive(Debug)]
pub(super) struct LinkStream {
    outbound: mpsc::Sender<Delivery>,
    state: Arc<State>,
}

/// What the stream's two directions share.
#[derive(Debug, Default)]
struct State {
    next_tag: AtomicU64,
    over: CancellationToken,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Verdict>>,
    /// Why the stream ended.
    end: Option<Status>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody who waits learns that the stream is over.
    fn over(&self, end: Status) {
        let mut waiting = self.lock();
        waiting.end.get_or_insert(end);
        waiting.answers.clear();
        self.over.cancel();
    }

    fn why(&self) -> Status {
        self.lock().end.clone().unwrap_or_else(crate::status::link_ended)
    }
}

/// Takes an answer that nobody waits for any more off the list.
struct Ticket<'a> {
    state: &'a State,
    tag: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.state.lock().answers.remove(&self.tag);
    }
}

impl LinkStream {
    /// Opens a stream; the error UNIMPLEMENTED says that the peer does not know it.
    pub(super) async fn open(channel: Channel, ours: &PartyId, tasks: &TaskTracker) -> Result<Self, Status> {
        let (outbound, ready) = mpsc::channel(WAITING);
        let mut request = Request::new(frames(ready));
        metadata::write_link(request.metadata_mut(), ours);
        let answers = PeerLinkClient::new(channel).deliver(request).await?.into_inner();
        let state = Arc::<State>::default();
        tasks.spawn(listen(answers, state.clone()));
        Ok(Self { outbound, state })
    }

    /// True when nothing can be delivered over it any more.
    pub(super) fn is_over(&self) -> bool {
        self.state.over.is_cancelled()
    }

    /// Ends the stream: what swallowed one answer may swallow all further ones.
    pub(super) fn give_up(&self, why: Status) {
        self.state.over(why);
    }

    /// Delivers one message; resolves with the peer's answer, or with what ended the stream.
    pub(super) async fn deliver(&self, message: &Outgoing) -> Result<Verdict, Status> {
        let tag = self.state.next_tag.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.state.lock();
            if let Some(end) = &waiting.end {
                return Err(end.clone());
            }
            waiting.answers.insert(tag, answer);
        }
        let _ticket = Ticket { state: &self.state, tag };
        let identity = &message.identity;
        let delivery = Delivery {
            tag,
            message_id: message.id.as_str().to_owned(),
            payload: message.payload.clone(),
            started_ms: identity.incarnation.started_ms,
            random: identity.incarnation.random,
            number: identity.number,
            low_water: identity.low_water,
        };
        self.outbound.send(delivery).await.map_err(|_| self.state.why())?;
        answered.await.map_err(|_| self.state.why())
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.state.over(crate::status::link_ended());
    }
}

/// Packs what is ready into frames.
fn frames(ready: mpsc::Receiver<Delivery>) -> impl Stream<Item = Deliveries> {
    unfold((ready, VecDeque::new()), |(mut ready, mut left)| async move {
        if left.is_empty() {
            let mut taken = Vec::with_capacity(FRAME_DELIVERIES);
            if ready.recv_many(&mut taken, FRAME_DELIVERIES).await == 0 {
                return None;
            }
            left.extend(taken);
        }
        let mut frame = Deliveries::default();
        let mut bytes = 0;
        let fits = |bytes: usize, next: &Delivery| bytes == 0 || bytes + next.payload.len() <= FRAME_BYTES;
        while let Some(next) = left.pop_front_if(|next| fits(bytes, next)) {
            bytes += next.payload.len();
            frame.deliveries.push(next);
        }
        Some((frame, (ready, left)))
    })
}

/// Hands the peer's answers to those who wait, until the stream ends.
async fn listen(mut answers: Streaming<Answers>, state: Arc<State>) {
    let end = loop {
        tokio::select! {
            () = state.over.cancelled() => return,
            answer = answers.message() => match answer {
                Ok(Some(answers)) => tell(&state, answers),
                Ok(None) => break crate::status::link_ended(),
                Err(status) => break status,
            },
        }
    };
    state.over(end);
}

fn tell(state: &State, answers: Answers) {
    let mut waiting = state.lock();
    let kept = answers.kept.into_iter().map(|tag| (tag, Verdict::Delivered));
    let refused = answers.refused.into_iter().map(|r| (r.tag, of_refusal(r.error_code, &r.error_msg)));
    for (tag, verdict) in kept.chain(refused) {
        if let Some(answer) = waiting.answers.remove(&tag) {
            // The attempt may have been given up.
            drop(answer.send(verdict));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_frame_is_what_is_ready_within_its_bounds() {
        let (sender, ready) = mpsc::channel(WAITING);
        let delivery = |tag, len| Delivery { tag, payload: Bytes::from(vec![0; len]), ..Delivery::default() };
        for tag in 0..10 {
            sender.send(delivery(tag, 200 << 10)).await.unwrap();
        }
        for tag in 10..600 {
            sender.send(delivery(tag, 1)).await.unwrap();
        }
        drop(sender);
        let frames: Vec<_> = frames(ready).collect().await;
        for frame in &frames {
            let bytes: usize = frame.deliveries.iter().map(|d| d.payload.len()).sum();
            assert!(bytes <= FRAME_BYTES && frame.deliveries.len() <= FRAME_DELIVERIES);
        }
        assert_eq!(frames[0].deliveries.len(), 5);
        let tags: Vec<u64> = frames.iter().flat_map(|f| f.deliveries.iter().map(|d| d.tag)).collect();
        assert_eq!(tags, (0..600).collect::<Vec<_>>(), "all of them, in order");
    }

    #[tokio::test]
    async fn whoever_waits_learns_that_the_stream_is_over() {
        let (outbound, _ready) = mpsc::channel(1);
        let stream = LinkStream { outbound, state: Arc::default() };
        let message = Outgoing {
            receiver: PartyId::new("b").unwrap(),
            id: petnet_storage::MessageId::new("m").unwrap(),
            payload: Bytes::new(),
            sequence: petnet_storage::Sequence(1),
            identity: petnet_storage::DeliveryIdentity {
                incarnation: petnet_storage::Incarnation { started_ms: 1, random: 1 },
                number: 1,
                low_water: 1,
            },
        };
        let waiting = stream.deliver(&message);
        let end = async { stream.give_up(crate::status::link_ended()) };
        let (answer, ()) = tokio::join!(waiting, end);
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
        assert!(stream.is_over() && stream.deliver(&message).await.is_err());
        assert!(stream.state.lock().answers.is_empty());
    }
}
