//! The receiving end of `petnet.peer.v1.PeerLink`: many deliveries under way on one stream, answered when durable.
//!
//! Invariants: an answer of `kept` leaves only after the sync that covers the message; at most [`MAX_STORING`] deliveries
//! and [`MAX_STORING_BYTES`] of their payload are under way per stream, and beyond that it is not read on; a stream ends
//! when shutdown begins, after what was under way has been answered. What came of a large message is kept when its stream
//! breaks (`resume`).

mod answers;
mod large;
mod resume;

use crate::server::connections::ConnectionInfo;
use crate::wire::link_limits::WINDOW_PARTS;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use futures_util::{FutureExt, Stream};
use petnet_storage::{DeliveryIdentity, Incarnation, PartyId};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::{Request, Response, Status, Streaming};

use self::answers::AnsweredTags;
use self::large::{IncomingLarge, IncomingPart};
pub(crate) use self::resume::PartialUploads;
use crate::mailbox::Mailbox;
use crate::proto::peer::peer_link_server::PeerLink;
use crate::proto::peer::{Answers, Deliveries, Delivery, Part, Progress};
use crate::rules::access::{self, Caller};
use crate::rules::refusal::Refusal;
use crate::server::calls::{Call, Room};
use crate::server::peer_calls;
use crate::tls::trust::CurrentTrust;
use crate::wire::{metadata, status};

/// Most deliveries of a stream that are being stored at a time.
const MAX_STORING: usize = 4096;
/// Most payload bytes of these deliveries.
const MAX_STORING_BYTES: usize = 32 << 20;

/// The service `petnet.peer.v1.PeerLink`.
#[derive(Debug, Clone)]
pub(crate) struct LinkApi {
    /// The rules.
    pub(crate) mailbox: Arc<Mailbox>,
    /// `CONNECTION_AGE`: a stream of this age ends, because its connection is to end.
    pub(crate) max_age: Duration,
    /// What came of messages whose streams broke.
    pub(crate) partials: Arc<PartialUploads>,
}

type StoresUnderWay = FuturesUnordered<Pin<Box<dyn Future<Output = StoredDeliveries> + Send>>>;

/// What became of some deliveries.
struct StoredDeliveries {
    results: Vec<(u64, Result<(), Refusal>)>,
    bytes: usize,
    /// Room of the frame in which they came.
    _room: Option<Arc<Room>>,
}

/// One stream.
struct IncomingLink {
    mailbox: Arc<Mailbox>,
    partials: Arc<PartialUploads>,
    sender: PartyId,
    call: Option<Arc<Call>>,
    /// Which parties there are.
    trust: CurrentTrust,
    incoming: Option<Streaming<Deliveries>>,
    old: Pin<Box<Sleep>>,
    storing: StoresUnderWay,
    /// Number of deliveries being stored.
    under_way: usize,
    bytes: usize,
    /// Channels for the parts of large messages, by tag.
    large: HashMap<u64, mpsc::Sender<IncomingPart>>,
    progress: (mpsc::Sender<Progress>, mpsc::Receiver<Progress>),
    answered: AnsweredTags,
    /// How the stream ends once everything under way is answered.
    end: Option<Status>,
}

impl LinkApi {
    /// The party that opens a link, if it may deliver.
    fn sender(&self, caller: &Caller, claimed: PartyId) -> Result<PartyId, Refusal> {
        let sender = access::sender(caller, Some(claimed))?;
        self.mailbox.may_deliver(sender.as_ref())?;
        sender.ok_or_else(|| Refusal::Invalid("a link names its sender".into()))
    }
}

#[tonic::async_trait]
impl PeerLink for LinkApi {
    type DeliverStream = Pin<Box<dyn Stream<Item = Result<Answers, Status>> + Send>>;

    async fn deliver(
        &self,
        request: Request<Streaming<Deliveries>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let claimed = metadata::link(request.metadata()).map_err(|e| status::bad_link(&e.to_string()))?;
        let caller = ConnectionInfo::caller_of(request.extensions());
        let sender = self.sender(&caller, claimed.clone()).map_err(|refusal| {
            tracing::warn!(sender = %claimed, %refusal, "link refused");
            status::link_refused(&refusal)
        })?;
        tracing::debug!(%sender, "link opened");
        let link = IncomingLink {
            mailbox: self.mailbox.clone(),
            partials: self.partials.clone(),
            sender,
            call: Call::of(request.extensions()),
            trust: self.mailbox.trust.clone(),
            incoming: Some(request.into_inner()),
            old: Box::pin(tokio::time::sleep(self.max_age)),
            storing: FuturesUnordered::new(),
            under_way: 0,
            bytes: 0,
            large: HashMap::new(),
            progress: mpsc::channel(MAX_STORING),
            answered: AnsweredTags::default(),
            end: None,
        };
        Ok(Response::new(Box::pin(unfold(link, |mut link| async move {
            let answers = link.answers().await?;
            Some((answers, link))
        }))))
    }
}

impl IncomingLink {
    /// The next answers; `None` when the stream has ended.
    async fn answers(&mut self) -> Option<Result<Answers, Status>> {
        loop {
            let has_room = self.under_way < MAX_STORING && self.bytes < MAX_STORING_BYTES;
            let reads = has_room && self.incoming.is_some();
            if !reads && self.storing.is_empty() {
                return self.end.take().map(Err);
            }
            tokio::select! {
                biased;
                Some(stored) = self.storing.next() => return Some(Ok(self.collect(stored))),
                Some(progress) = self.progress.1.recv() => return Some(Ok(self.report(progress))),
                () = self.mailbox.draining.cancelled(), if self.incoming.is_some() => {
                    self.over(Some(status::link_draining()));
                }
                () = &mut self.old, if self.incoming.is_some() => self.over(Some(status::link_aged())),
                Ok(()) = self.trust.changed(), if self.incoming.is_some() => self.check_sender(),
                frame = next_frame(&mut self.incoming), if reads => match frame {
                    Ok(Some(frame)) => self.take(frame),
                    Ok(None) => self.over(None),
                    Err(error) => self.over(Some(error)),
                },
            }
        }
    }

    /// After a change of the party file: ends the link if the sender may no longer deliver.
    fn check_sender(&mut self) {
        if let Err(refusal) = self.mailbox.may_deliver(Some(&self.sender)) {
            tracing::info!(sender = %self.sender, %refusal, "link ended");
            self.over(Some(status::link_refused(&refusal)));
        }
    }

    /// Stops reading; the stream ends with `end`, unless another end was set before.
    fn over(&mut self, end: Option<Status>) {
        self.incoming = None;
        // This interrupts the messages they belong to.
        self.large.clear();
        if self.end.is_none() {
            self.end = end;
        }
    }

    fn take(&mut self, frame: Deliveries) {
        let room = self.call.as_ref().and_then(|call| call.take_asked()).map(Arc::new);
        if frame.deliveries.len() > MAX_STORING || frame.parts.len() > MAX_STORING {
            return self.over(Some(status::bad_frame("more deliveries than a frame may have")));
        }
        let mut whole = Vec::with_capacity(frame.deliveries.len());
        for delivery in frame.deliveries {
            if let Err(wrong) = self.answered.expect(delivery.tag) {
                return self.over(Some(status::bad_frame(&wrong)));
            }
            match delivery.len {
                Some(len) => self.begin(delivery, len),
                None => whole.push(delivery),
            }
        }
        if !whole.is_empty() {
            self.store(whole, room.clone());
        }
        for part in frame.parts {
            self.part(part, room.clone());
        }
    }

    fn store(&mut self, deliveries: Vec<Delivery>, room: Option<Arc<Room>>) {
        let bytes = deliveries.iter().map(|delivery| delivery.payload.len()).sum();
        self.bytes += bytes;
        self.under_way += deliveries.len();
        let (mailbox, sender) = (self.mailbox.clone(), self.sender.clone());
        self.storing.push(Box::pin(async move {
            StoredDeliveries { results: store(&mailbox, &sender, deliveries).await, bytes, _room: room }
        }));
    }

    /// Begins a message that comes in parts.
    fn begin(&mut self, delivery: Delivery, len: u64) {
        let (parts, incoming) = mpsc::channel(WINDOW_PARTS);
        self.large.insert(delivery.tag, parts);
        let tag = delivery.tag;
        let large = IncomingLarge {
            mailbox: self.mailbox.clone(),
            partials: self.partials.clone(),
            sender: self.sender.clone(),
            delivery,
            len,
            progress: self.progress.0.clone(),
        };
        self.under_way += 1;
        self.storing.push(Box::pin(async move {
            StoredDeliveries { results: vec![(tag, large.receive(incoming).await)], bytes: 0, _room: None }
        }));
    }

    /// Takes a part. A message that is refused, or was there already, may still have parts on their way.
    fn part(&mut self, part: Part, room: Option<Arc<Room>>) {
        let Some(parts) = self.large.get(&part.tag) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = parts.try_send(IncomingPart { part, _room: room }) {
            self.over(Some(status::bad_frame("parts beyond the window")));
        }
    }

    /// Puts everything that is done by now into one frame of answers.
    fn collect(&mut self, first: StoredDeliveries) -> Answers {
        let mut answers = Answers::default();
        let mut next = Some(first);
        while let Some(StoredDeliveries { results, bytes, .. }) = next {
            self.bytes -= bytes;
            self.under_way -= results.len();
            for (tag, result) in results {
                self.large.remove(&tag);
                let refused = |refusal| {
                    self.mailbox.record.refused(&refusal);
                    status::refused_delivery(&refusal)
                };
                match result.map_err(refused) {
                    Ok(()) => self.answered.kept(tag),
                    Err(Ok(response)) => self.answered.refused(tag, response),
                    // This passes by itself or with a restart: the peer should come again.
                    Err(Err(status)) => self.over(Some(status)),
                }
            }
            next = self.storing.next().now_or_never().flatten();
        }
        self.answered.write(&mut answers);
        answers
    }

    fn report(&mut self, first: Progress) -> Answers {
        let mut answers = Answers::default();
        answers.progress.push(first);
        while let Ok(more) = self.progress.1.try_recv() {
            answers.progress.push(more);
        }
        answers
    }
}

async fn next_frame(incoming: &mut Option<Streaming<Deliveries>>) -> Result<Option<Deliveries>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => Ok(None),
    }
}

/// The identity of a delivery.
fn identity(delivery: &Delivery) -> Result<DeliveryIdentity, Refusal> {
    let incarnation = Incarnation { started_ms: delivery.started_ms, random: delivery.random };
    let identity = DeliveryIdentity { incarnation, number: delivery.number, low_water: delivery.low_water };
    metadata::check_identity(&identity).map_err(|e| Refusal::Invalid(e.to_string()))?;
    Ok(identity)
}

/// Stores the deliveries of a frame: each is kept or refused on its own, and they share a sync.
async fn store(
    mailbox: &Mailbox,
    sender: &PartyId,
    deliveries: Vec<Delivery>,
) -> Vec<(u64, Result<(), Refusal>)> {
    let mut results = Vec::with_capacity(deliveries.len());
    let (mut tags, mut arrivals) =
        (Vec::with_capacity(deliveries.len()), Vec::with_capacity(deliveries.len()));
    for delivery in deliveries {
        let identity = identity(&delivery);
        let Delivery { tag, message_id, payload, .. } = delivery;
        let arrival = identity.and_then(|i| mailbox.arrival(Some(sender), &message_id, payload, Some(i)));
        match arrival {
            Ok(arrival) => {
                tags.push((tag, arrival.id.clone(), arrival.payload.len() as u64));
                arrivals.push(arrival);
            }
            Err(refusal) => results.push((tag, peer_calls::tell(Some(sender), &message_id, Err(refusal)))),
        }
    }
    let stored = mailbox.engine.store_many(arrivals).await;
    for ((tag, id, len), stored) in tags.into_iter().zip(stored) {
        if let Ok(stored) = stored {
            mailbox.record.stored(Some(sender), &id, len, stored);
        }
        results.push((tag, peer_calls::tell(Some(sender), id.as_str(), stored.map_err(Refusal::from))));
    }
    results
}
