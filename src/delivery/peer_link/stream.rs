//! The delivering end of `petnet.peer.v1.PeerLink`: one stream to the peer with many deliveries under way.
//!
//! There is no timer: a frame is what became ready while the last one went out, whole messages before parts of large ones,
//! and parts of several large ones in turn (`large`). Invariants: a delivery is `Delivered` only when the peer answered
//! that it is durable there; when the stream ends, every delivery without an answer learns of it; what waits to be sent is
//! bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use parking_lot::{Mutex, MutexGuard};
use petnet_storage::{Outgoing, PartyId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::answer::{AnswerSender, DeliveryBatch};
use super::{Verdict, of_refusal};
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::peer::{Answers, Deliveries, Delivery, Part};
use crate::wire::link_limits::{FRAME_BYTES, FRAME_DELIVERIES, MAX_FRAME_BYTES};
use crate::wire::metadata;

/// Deliveries that may wait for the stream to take them; further ones wait before they are handed to it.
const WAITING: usize = 4096;
/// Parts that may wait; only a few, so that those of several messages take turns.
const WAITING_PARTS: usize = 4;
/// Unit in which the window is counted.
pub(super) const WINDOW_UNIT: u64 = 1 << 10;

/// An open stream.
#[derive(Debug)]
pub(super) struct LinkStream {
    outbound: mpsc::Sender<Delivery>,
    pub(super) parts: mpsc::Sender<Part>,
    /// `LINK_WINDOW`, in units, minus the parts of large messages that were sent and are not known to be durable.
    pub(super) window: Arc<Semaphore>,
    state: Arc<StreamState>,
}

/// What the stream's two directions share.
#[derive(Debug, Default)]
struct StreamState {
    over: CancellationToken,
    waiting: Mutex<AnswersToCome>,
}

#[derive(Debug, Default)]
struct AnswersToCome {
    next_tag: u64,
    answers: BTreeMap<u64, WaitingDelivery>,
    /// Why the stream ended.
    end: Option<Status>,
}

/// A delivery that waits for an answer.
#[derive(Debug)]
struct WaitingDelivery {
    answer: AnswerSender,
    /// How much of a large message the peer has.
    progress: Option<watch::Sender<Option<u64>>>,
}

/// A delivery under way.
#[derive(Debug)]
pub(super) struct SentDelivery<'a> {
    stream: &'a LinkStream,
    pub(super) tag: u64,
    pub(super) answered: oneshot::Receiver<Verdict>,
}

impl StreamState {
    fn lock(&self) -> MutexGuard<'_, AnswersToCome> {
        self.waiting.lock()
    }

    /// Ends the stream, and informs everyone who waits for an answer.
    fn over(&self, end: Status) {
        let mut waiting = self.lock();
        waiting.end.get_or_insert(end);
        waiting.answers.clear();
        self.over.cancel();
    }
}

impl Drop for SentDelivery<'_> {
    /// Nobody waits for the answer any more.
    fn drop(&mut self) {
        self.stream.state.lock().answers.remove(&self.tag);
    }
}

impl LinkStream {
    /// Opens a stream; the error UNIMPLEMENTED means that the peer does not know it. `window` is in bytes.
    pub(super) async fn open(
        channel: Channel,
        ours: &PartyId,
        window: u64,
        tasks: &TaskTracker,
    ) -> Result<Self, Status> {
        let (outbound, ready) = mpsc::channel(WAITING);
        let (parts, ready_parts) = mpsc::channel(WAITING_PARTS);
        let mut request = Request::new(frames(ready, ready_parts));
        metadata::write_link(request.metadata_mut(), ours);
        let mut client = PeerLinkClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
        let answers = client.deliver(request).await?.into_inner();
        let state = Arc::<StreamState>::default();
        tasks.spawn(listen(answers, state.clone()));
        let window = Arc::new(Semaphore::new((window / WINDOW_UNIT) as usize));
        Ok(Self { outbound, parts, window, state })
    }

    /// True when nothing can be delivered over it any more.
    pub(super) fn is_over(&self) -> bool {
        self.state.over.is_cancelled()
    }

    /// Ends the stream: whatever swallowed one answer may swallow all further ones.
    pub(super) fn give_up(&self, why: Status) {
        self.state.over(why);
    }

    /// Why the stream ended.
    pub(super) fn why(&self) -> Status {
        self.state.lock().end.clone().unwrap_or_else(crate::wire::status::link_ended)
    }

    /// Delivers one message; resolves with the peer's answer, or with the reason why the stream ended.
    pub(super) async fn deliver(&self, message: &Outgoing, payload: Bytes) -> Result<Verdict, Status> {
        let mut sent = self.send(message, payload, None, None).await?;
        (&mut sent.answered).await.map_err(|_| self.why())
    }

    /// Hands a message to the stream. `len` and `progress` belong to a message that goes in parts.
    pub(super) async fn send(
        &self,
        message: &Outgoing,
        payload: Bytes,
        len: Option<u64>,
        progress: Option<watch::Sender<Option<u64>>>,
    ) -> Result<SentDelivery<'_>, Status> {
        // Reserved before it gets a tag, because tags go out without gaps.
        let place = self.outbound.reserve().await.map_err(|_| self.why())?;
        let (answer, answered) = AnswerSender::one();
        let mut waiting = self.state.lock();
        if let Some(end) = &waiting.end {
            return Err(end.clone());
        }
        let tag = waiting.next_tag;
        waiting.next_tag += 1;
        waiting.answers.insert(tag, WaitingDelivery { answer, progress });
        // Under the lock, so that deliveries go out in the order of their tags.
        place.send(delivery(tag, message, payload, len));
        drop(waiting);
        Ok(SentDelivery { stream: self, tag, answered })
    }

    /// Delivers many messages and waits for all of them; `None` for one if the stream ended before its answer.
    pub(super) async fn deliver_many(
        &self,
        messages: &[(&Outgoing, Bytes)],
    ) -> Result<Vec<Option<Verdict>>, Status> {
        let places = self.outbound.reserve_many(messages.len()).await.map_err(|_| self.why())?;
        let (batch, answered) = DeliveryBatch::new(messages.len());
        let under_way = {
            let mut waiting = self.state.lock();
            if let Some(end) = &waiting.end {
                return Err(end.clone());
            }
            let first = waiting.next_tag;
            waiting.next_tag += messages.len() as u64;
            for (at, (place, (message, payload))) in places.zip(messages).enumerate() {
                let tag = first + at as u64;
                waiting.answers.insert(tag, WaitingDelivery { answer: batch.place(at), progress: None });
                place.send(delivery(tag, message, payload.clone(), None));
            }
            ManySent { stream: self, first, end: waiting.next_tag }
        };
        drop(batch);
        let answers = answered.await.map_err(|_| self.why());
        drop(under_way);
        answers
    }
}

fn delivery(tag: u64, message: &Outgoing, payload: Bytes, len: Option<u64>) -> Delivery {
    let identity = &message.identity;
    Delivery {
        tag,
        message_id: message.id.as_str().to_owned(),
        payload,
        started_ms: identity.incarnation.started_ms,
        random: identity.incarnation.random,
        number: identity.number,
        low_water: identity.low_water,
        len,
    }
}

/// Many deliveries that are under way together.
struct ManySent<'a> {
    stream: &'a LinkStream,
    first: u64,
    end: u64,
}

impl Drop for ManySent<'_> {
    /// Nobody waits for the unanswered ones any more.
    fn drop(&mut self) {
        let mut waiting = self.stream.state.lock();
        let left: Vec<u64> = waiting.answers.range(self.first..self.end).map(|(tag, _)| *tag).collect();
        for tag in left {
            waiting.answers.remove(&tag);
        }
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.state.over(crate::wire::status::link_ended());
    }
}

/// What is ready to be sent, and what did not fit into the last frame.
#[derive(Debug)]
struct ReadyToSend {
    deliveries: mpsc::Receiver<Delivery>,
    parts: mpsc::Receiver<Part>,
    left: VecDeque<Delivery>,
    part: Option<Part>,
}

/// Packs what is ready into frames.
fn frames(
    deliveries: mpsc::Receiver<Delivery>,
    parts: mpsc::Receiver<Part>,
) -> impl Stream<Item = Deliveries> {
    let ready = ReadyToSend { deliveries, parts, left: VecDeque::new(), part: None };
    unfold(ready, |mut ready| async move { ready.wait().await.then(|| (ready.frame(), ready)) })
}

impl ReadyToSend {
    /// Waits until something is ready; false if nothing more will come.
    async fn wait(&mut self) -> bool {
        if !self.left.is_empty() {
            return true;
        }
        let mut taken = Vec::with_capacity(FRAME_DELIVERIES);
        tokio::select! {
            biased;
            count = self.deliveries.recv_many(&mut taken, FRAME_DELIVERIES) => {
                if count == 0 {
                    return false;
                }
            }
            () = std::future::ready(()), if self.part.is_some() => {}
            Some(part) = self.parts.recv() => self.part = Some(part),
        }
        self.left.extend(taken);
        true
    }

    fn frame(&mut self) -> Deliveries {
        let mut frame = Deliveries::default();
        let mut bytes = 0;
        let fits = |bytes: usize, next: usize| bytes == 0 || bytes + next <= FRAME_BYTES;
        while let Some(next) = self.left.pop_front_if(|next| fits(bytes, next.payload.len())) {
            bytes += next.payload.len();
            frame.deliveries.push(next);
        }
        // Parts of large messages that are ready fill up the frame.
        while let Some(part) = self.part.take().or_else(|| self.parts.try_recv().ok()) {
            if !fits(bytes, part.payload.len()) {
                self.part = Some(part);
                break;
            }
            bytes += part.payload.len();
            frame.parts.push(part);
        }
        frame
    }
}

/// Hands the peer's answers to the deliveries that wait for them, until the stream ends.
async fn listen(mut answers: Streaming<Answers>, state: Arc<StreamState>) {
    let end = loop {
        tokio::select! {
            () = state.over.cancelled() => return,
            answer = answers.message() => match answer {
                Ok(Some(answers)) => tell(&state, answers),
                Ok(None) => break crate::wire::status::link_ended(),
                Err(status) => break status,
            },
        }
    };
    state.over(end);
}

fn tell(state: &StreamState, answers: Answers) {
    let mut waiting = state.lock();
    for refused in answers.refused {
        if let Some(waiter) = waiting.answers.remove(&refused.tag) {
            waiter.answer.send(of_refusal(refused.error_code, &refused.error_msg));
        }
    }
    for tag in answers.kept {
        if let Some(waiter) = waiting.answers.remove(&tag) {
            waiter.answer.send(Verdict::Delivered);
        }
    }
    if answers.answered_below > 0 {
        let above = waiting.answers.split_off(&answers.answered_below);
        for (_, waiter) in std::mem::replace(&mut waiting.answers, above) {
            waiter.answer.send(Verdict::Delivered);
        }
    }
    for progress in answers.progress {
        if let Some(WaitingDelivery { progress: Some(tell), .. }) = waiting.answers.get(&progress.tag) {
            tell.send_modify(|known| *known = (*known).max(Some(progress.bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn delivery(tag: u64, len: usize) -> Delivery {
        Delivery { tag, payload: Bytes::from(vec![0; len]), ..Delivery::default() }
    }

    #[tokio::test]
    async fn a_frame_is_what_is_ready_within_its_bounds() {
        let (sender, ready) = mpsc::channel(WAITING);
        let (parts, ready_parts) = mpsc::channel(WAITING_PARTS);
        for tag in 0..10 {
            sender.send(delivery(tag, 200 << 10)).await.unwrap();
        }
        for tag in 10..600 {
            sender.send(delivery(tag, 1)).await.unwrap();
        }
        for offset in 0..4 {
            let payload = Bytes::from(vec![0; 256 << 10]);
            parts.send(Part { tag: 700, offset, payload }).await.unwrap();
        }
        drop(sender);
        drop(parts);
        let frames: Vec<_> = frames(ready, ready_parts).collect().await;
        for frame in &frames {
            let bytes: usize = frame.deliveries.iter().map(|d| d.payload.len()).sum::<usize>()
                + frame.parts.iter().map(|p| p.payload.len()).sum::<usize>();
            assert!(bytes <= FRAME_BYTES && frame.deliveries.len() <= FRAME_DELIVERIES);
        }
        assert_eq!(frames[0].deliveries.len(), 5);
        let tags: Vec<u64> = frames.iter().flat_map(|f| f.deliveries.iter().map(|d| d.tag)).collect();
        assert_eq!(tags, (0..600).collect::<Vec<_>>(), "all of them, in order");
        let parts: Vec<u64> = frames.iter().flat_map(|f| f.parts.iter().map(|p| p.offset)).collect();
        assert_eq!(parts, [0, 1, 2, 3]);
    }

    fn stream() -> (LinkStream, mpsc::Receiver<Delivery>) {
        let (outbound, ready) = mpsc::channel(8);
        let (parts, _) = mpsc::channel(1);
        (LinkStream { outbound, parts, window: Arc::new(Semaphore::new(1)), state: Arc::default() }, ready)
    }

    fn message() -> Outgoing {
        Outgoing {
            receiver: PartyId::new("b").unwrap(),
            id: petnet_storage::MessageId::new("m").unwrap(),
            payload: Bytes::new().into(),
            sequence: petnet_storage::Sequence(1),
            identity: petnet_storage::DeliveryIdentity {
                incarnation: petnet_storage::Incarnation { started_ms: 1, random: 1 },
                number: 1,
                low_water: 1,
            },
        }
    }

    #[tokio::test]
    async fn whoever_waits_learns_that_the_stream_is_over() {
        let (stream, _ready) = stream();
        let message = message();
        let waiting = stream.deliver(&message, Bytes::new());
        let end = async { stream.give_up(crate::wire::status::link_ended()) };
        let (answer, ()) = tokio::join!(waiting, end);
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
        assert!(stream.is_over() && stream.deliver(&message, Bytes::new()).await.is_err());
        assert!(stream.state.lock().answers.is_empty());
    }

    #[tokio::test]
    async fn an_answer_below_a_tag_is_one_for_all_that_were_not_refused() {
        let (stream, _ready) = stream();
        let message = message();
        let mut sent = Vec::new();
        for _ in 0..4 {
            sent.push(stream.send(&message, Bytes::new(), None, None).await.unwrap());
        }
        let refusal = crate::proto::peer::Refusal { tag: 1, error_code: 30006, error_msg: String::new() };
        tell(&stream.state, Answers { answered_below: 3, refused: vec![refusal], ..Answers::default() });
        let verdicts: Vec<_> = sent.iter_mut().map(|sent| sent.answered.try_recv().ok()).collect();
        assert_eq!(verdicts[0], Some(Verdict::Delivered));
        assert!(matches!(verdicts[1], Some(Verdict::RefusedForGood(_))));
        assert_eq!((&verdicts[2], &verdicts[3]), (&Some(Verdict::Delivered), &None));
    }
}
