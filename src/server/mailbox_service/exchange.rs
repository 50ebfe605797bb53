//! One stream over which a client sends, subscribes, releases and receives, with many messages under way.
//!
//! Invariants: an acceptance, and the answer that a release is carried out, leave only after the sync that covers them; at
//! most [`MAX_ACCEPTING`] messages and [`MAX_ACCEPTING_BYTES`] of a stream wait for their sync, and beyond that it is not
//! read on; what was subscribed to is handed out once per subscription, whether it was there before or came later
//! (`subscriptions.rs` decides what is next; it is carried out here).
//!
//! A stream waits only when there is nothing that it could do: each step that changed anything is followed by another one.
//! And no kind of work waits for the end of another: each step reads a request, hands out one answer's worth of messages,
//! and begins a look.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use petnet_storage::{Found, FromSender, Handed, MessageId, Sequence, StoreError};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep};
use tonic::{Status, Streaming};

use super::{AnswerStream, name, release, sender};
use crate::mailbox::Mailbox;
use crate::mailbox::subscriptions::{self, Coverage, Inbox, PAGE, SubscriptionLook, Subscriptions, Ticket};
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::{
    ExchangeRequest, ExchangeResponse, Outgoing, Received, Refused, Released, Subscription,
};
use crate::rules::refusal::Refusal;
use crate::server::calls::{Call, Room};
use crate::wire::status;

/// Most messages of a stream that wait for their sync.
const MAX_ACCEPTING: usize = 8192;
/// Most payload bytes of these messages.
const MAX_ACCEPTING_BYTES: usize = 16 << 20;
/// Most entries of one request.
const MAX_ENTRIES: usize = 16_384;
/// Most requests that are being dealt with; further ones are not read yet.
const MAX_RUNNING: usize = 256;
/// Payloads of more bytes are not part of an answer; the client fetches them separately.
const LARGEST: u64 = 256 << 10;
/// Pause before a store that could not be read is asked again, unless it reports earlier that it is back.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Most messages in one answer, and most payload bytes of them.
const ANSWER_MESSAGES: usize = 512;
const ANSWER_BYTES: usize = 1 << 20;

type RunningRequests = FuturesUnordered<Pin<Box<dyn Future<Output = RequestResult> + Send>>>;

/// The result of a request.
enum RequestResult {
    Accepted(Vec<(u64, Result<Sequence, Refusal>)>, usize, Option<Room>),
    /// The result of a release, with its tag.
    Released(u64, Result<u64, Refusal>),
    Looked(SubscriptionLook, Result<FoundPage, Refusal>),
}

/// What a look found, and whether that is all.
type FoundPage = (Vec<Found>, bool);

/// What a stream can subscribe to once: which messages, and whose.
type SubscribedTo = (Coverage, FromSender);

/// One stream.
pub(super) struct Exchange {
    mailbox: Arc<Mailbox>,
    subscriptions: Arc<Subscriptions>,
    call: Option<Arc<Call>>,
    incoming: Option<Streaming<ExchangeRequest>>,
    old: Pin<Box<Sleep>>,
    running: RunningRequests,
    accepting: usize,
    accepting_bytes: usize,
    inbox: Arc<Inbox>,
    subscribed: HashMap<SubscribedTo, subscriptions::Subscription>,
    /// What was subscribed to, by the number of the subscription.
    chosen: HashMap<u64, SubscribedTo>,
    /// When a store that could not be read is asked again.
    try_again: Instant,
    refused: Vec<Refused>,
    end: Option<Status>,
}

impl Exchange {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        subscriptions: Arc<Subscriptions>,
        call: Option<Arc<Call>>,
        incoming: Streaming<ExchangeRequest>,
        max_age: Duration,
    ) -> Self {
        let inbox = subscriptions.inbox(call.as_ref().map_or(0, |call| call.caller()));
        Self {
            mailbox,
            subscriptions,
            call,
            incoming: Some(incoming),
            old: Box::pin(tokio::time::sleep(max_age)),
            running: FuturesUnordered::new(),
            accepting: 0,
            accepting_bytes: 0,
            inbox,
            subscribed: HashMap::new(),
            chosen: HashMap::new(),
            try_again: Instant::now(),
            refused: Vec::new(),
            end: None,
        }
    }

    pub(super) fn answers(self) -> AnswerStream<ExchangeResponse> {
        Box::pin(unfold(self, |mut exchange| async move {
            let answer = exchange.next().await?;
            Some((answer, exchange))
        }))
    }

    /// The next answer; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Result<ExchangeResponse, Status>> {
        loop {
            if self.incoming.is_none() && self.running.is_empty() {
                return self.end.take().map(Err);
            }
            let mut answer = ExchangeResponse::default();
            let went_on = self.step(&mut answer).await;
            if answer != ExchangeResponse::default() {
                return Some(Ok(answer));
            }
            if went_on {
                // There may be many looks that find nothing, and none of them waits for anything.
                consume_budget().await;
                continue;
            }
            self.wait(&mut answer).await;
            self.collect_all(&mut answer);
            if answer != ExchangeResponse::default() {
                return Some(Ok(answer));
            }
        }
    }

    /// Does what can be done without waiting, some of each kind. Returns false if there was nothing to do.
    async fn step(&mut self, answer: &mut ExchangeResponse) -> bool {
        let mut went_on = false;
        if let Some(end) = self.ends() {
            self.over(Some(end));
            went_on = true;
        }
        if self.reads()
            && let Some(request) = next(&mut self.incoming).now_or_never()
        {
            self.came(request).await;
            went_on = true;
        }
        if self.incoming.is_some() {
            went_on |= self.hand_out(answer).await;
            went_on |= self.look();
        }
        went_on |= self.collect_all(answer);
        answer.refused.append(&mut self.refused);
        went_on
    }

    /// Why nothing more is read although the client would go on.
    fn ends(&self) -> Option<Status> {
        if self.incoming.is_none() {
            None
        } else if self.mailbox.draining.is_cancelled() {
            Some(status::of(Refusal::Draining))
        } else if Instant::now() >= self.old.deadline() {
            Some(status::exchange_aged())
        } else {
            None
        }
    }

    /// Whether another request may be read.
    fn reads(&self) -> bool {
        self.incoming.is_some()
            && self.accepting < MAX_ACCEPTING
            && self.accepting_bytes < MAX_ACCEPTING_BYTES
            && self.running.len() < MAX_RUNNING
            && self.refused.is_empty()
    }

    /// Waits until something happens. Called only when there is nothing to do.
    async fn wait(&mut self, answer: &mut ExchangeResponse) {
        let (reads, is_away) = (self.reads(), self.inbox.is_away());
        tokio::select! {
            biased;
            Some(done) = self.running.next() => self.collect(done, answer),
            () = tokio::time::sleep_until(self.try_again), if is_away => self.inbox.back(),
            () = self.inbox.came.notified(), if self.incoming.is_some() => {}
            // The next step ends the stream.
            () = self.mailbox.draining.cancelled(), if self.incoming.is_some() => {}
            () = &mut self.old, if self.incoming.is_some() => {}
            request = next(&mut self.incoming), if reads => self.came(request).await,
        }
    }

    async fn came(&mut self, request: Result<Option<ExchangeRequest>, Status>) {
        match request {
            Ok(Some(request)) => self.take(request).await,
            Ok(None) => self.over(None),
            Err(error) => self.over(Some(error)),
        }
    }

    /// Stops reading; what is under way is still answered.
    fn over(&mut self, end: Option<Status>) {
        self.incoming = None;
        self.inbox.close();
        self.subscribed.clear();
        self.chosen.clear();
        if self.end.is_none() {
            self.end = end;
        }
    }

    async fn take(&mut self, request: ExchangeRequest) {
        let entries =
            [request.send.len(), request.subscribe.len(), request.unsubscribe.len(), request.release.len()];
        if entries.iter().sum::<usize>() > MAX_ENTRIES {
            let why = format!("a request with more than {MAX_ENTRIES} entries");
            let end = super::refuse(&self.mailbox)(Refusal::Invalid(why));
            return self.over(Some(end));
        }
        let room = self.call.as_ref().and_then(|call| call.take_asked());
        for wanted in request.subscribe {
            if let Err(refusal) = self.subscribe(&wanted) {
                self.refused.push(refused(&self.mailbox, 0, &refusal));
            }
        }
        for wanted in request.unsubscribe {
            match chosen(&wanted) {
                Ok(chosen) => {
                    if let Some(subscription) = self.subscribed.remove(&chosen) {
                        self.chosen.remove(&subscription.number);
                    }
                }
                Err(refusal) => self.refused.push(refused(&self.mailbox, 0, &refusal)),
            }
        }
        for request in request.release {
            let (mailbox, tag) = (self.mailbox.clone(), request.tag);
            self.running.push(Box::pin(async move {
                RequestResult::Released(tag, release(&mailbox, request).await)
            }));
        }
        if !request.send.is_empty() {
            self.send(request.send, room).await;
        }
    }

    /// Queues messages in their order. Until they are queued nothing more is read, so that of two messages under one id the
    /// later one counts.
    async fn send(&mut self, messages: Vec<Outgoing>, room: Option<Room>) {
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        self.accepting += messages.len();
        self.accepting_bytes += bytes;
        let tags: Vec<_> = messages.iter().map(|message| message.tag).collect();
        let accepting = self.mailbox.accept_many(messages).await;
        self.running.push(Box::pin(async move {
            RequestResult::Accepted(tags.into_iter().zip(accepting.await).collect(), bytes, room)
        }));
    }

    fn subscribe(&mut self, wanted: &Subscription) -> Result<(), Refusal> {
        let chosen = chosen(wanted)?;
        if self.subscribed.contains_key(&chosen) {
            return Ok(());
        }
        // Subscribe first, then look, so that nothing that arrives between the two is missed.
        let (which, from) = chosen.clone();
        let subscription = self.subscriptions.subscribe(which, from, &self.inbox);
        let subscription = subscription.ok_or(Refusal::TooManySubscriptions)?;
        self.chosen.insert(subscription.number, chosen.clone());
        self.subscribed.insert(chosen, subscription);
        Ok(())
    }

    /// Begins the look that is due. Returns false if none is.
    fn look(&mut self) -> bool {
        let Some(look) = self.inbox.next_look() else { return false };
        let Some((which, from)) = self.chosen.get(&look.subscription).cloned() else {
            // The subscription was withdrawn. Until this look is reported as done, the inbox begins no other one.
            self.inbox.page(look, Vec::new(), true);
            return true;
        };
        let mailbox = self.mailbox.clone();
        self.running.push(Box::pin(async move {
            let found = find(&mailbox, &from, &which, look.after).await;
            RequestResult::Looked(look, found.map_err(Refusal::from))
        }));
        true
    }

    /// Collects what is done by now. Returns false if nothing is.
    fn collect_all(&mut self, answer: &mut ExchangeResponse) -> bool {
        let mut any = false;
        while let Some(Some(done)) = self.running.next().now_or_never() {
            self.collect(done, answer);
            any = true;
        }
        any
    }

    fn collect(&mut self, done: RequestResult, answer: &mut ExchangeResponse) {
        match done {
            RequestResult::Accepted(results, bytes, _room) => {
                self.accepting -= results.len();
                self.accepting_bytes -= bytes;
                for (tag, result) in results {
                    match result {
                        Ok(sequence) => {
                            answer.accepted.push(tag);
                            answer.sequences.push(sequence.0);
                        }
                        Err(refusal) => answer.refused.push(refused(&self.mailbox, tag, &refusal)),
                    }
                }
            }
            RequestResult::Released(0, Ok(_)) => {}
            RequestResult::Released(tag, Ok(messages)) => answer.released.push(Released { tag, messages }),
            RequestResult::Released(tag, Err(refusal)) => {
                answer.refused.push(refused(&self.mailbox, tag, &refusal));
            }
            RequestResult::Looked(look, Ok((found, is_last))) => self.inbox.page(look, found, is_last),
            // The look is repeated when the store is back.
            RequestResult::Looked(look, Err(Refusal::Store(StoreError::Unavailable(_)))) => {
                self.inbox.away(look);
                self.try_again = Instant::now() + TRY_AGAIN;
            }
            // What the look would have found could never be handed out.
            RequestResult::Looked(_, Err(refusal)) => {
                let end = super::refuse(&self.mailbox)(refusal);
                self.over(Some(end));
            }
        }
    }

    /// Puts waiting messages into an answer, as many as fit. Returns false if none waits.
    async fn hand_out(&mut self, answer: &mut ExchangeResponse) -> bool {
        let mut handed = Vec::new();
        let any = self.fill(answer, &mut handed).await;
        // Each says who sent it. A payload that the client fetches separately has not been read yet.
        if !handed.is_empty() {
            self.mailbox.engine.note_read(&handed);
        }
        any
    }

    async fn fill(&mut self, answer: &mut ExchangeResponse, handed: &mut Vec<Handed>) -> bool {
        let (mut bytes, mut any) = (0, false);
        while answer.received.len() < ANSWER_MESSAGES && bytes < ANSWER_BYTES {
            let ticket = match self.inbox.take() {
                Ok(Some(ticket)) => ticket,
                Ok(None) => return any,
                Err(_) => {
                    self.over(Some(status::too_slow()));
                    return true;
                }
            };
            any = true;
            match received(&self.mailbox, &ticket, handed).await {
                Ok(Some(received)) => {
                    bytes += received.payload.len();
                    answer.received.push(received);
                }
                Ok(None) => {}
                // It keeps its turn.
                Err(StoreError::Unavailable(_)) => {
                    self.inbox.put_back(ticket);
                    self.try_again = Instant::now() + TRY_AGAIN;
                }
                Err(error) => {
                    self.over(Some(status::of(error.into())));
                    return true;
                }
            }
        }
        any
    }
}

async fn next(incoming: &mut Option<Streaming<ExchangeRequest>>) -> Result<Option<ExchangeRequest>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => Ok(None),
    }
}

fn refused(mailbox: &Mailbox, tag: u64, refusal: &Refusal) -> Refused {
    mailbox.record.refused(refusal);
    Refused { tag, error_code: status::told(refusal).number, error_msg: refusal.to_string() }
}

fn chosen(wanted: &Subscription) -> Result<(Coverage, FromSender), Refusal> {
    let which = match &wanted.which {
        Some(Wanted::MessageId(id)) => Coverage::Id(MessageId::new(id.as_str())?),
        Some(Wanted::Topic(topic)) if topic.len() > petnet_storage::MAX_MESSAGE_ID_BYTES => {
            return Err(Refusal::Invalid("a topic longer than an id can be".into()));
        }
        Some(Wanted::Topic(topic)) => Coverage::Topic(topic.clone()),
        None => return Err(Refusal::Invalid("a subscription names a message_id or a topic".into())),
    };
    Ok((which, sender(&wanted.sender_id)?))
}

async fn find(
    mailbox: &Mailbox,
    from: &FromSender,
    which: &Coverage,
    after: Sequence,
) -> petnet_storage::Result<FoundPage> {
    match which {
        Coverage::Id(id) => {
            let mut held = mailbox.engine.held(from, id).await?;
            held.retain(|found| found.sequence > after);
            held.sort_by_key(|found| found.sequence);
            let is_last = held.len() <= PAGE;
            held.truncate(PAGE);
            Ok((held, is_last))
        }
        Coverage::Topic(topic) => {
            let found = mailbox.engine.topic(from, topic, after, PAGE).await?;
            let is_last = found.len() < PAGE;
            Ok((found, is_last))
        }
    }
}

/// The message of a ticket; `None` if it has ended, or if a newer one has its id, which has a ticket of its own.
async fn received(
    mailbox: &Mailbox,
    ticket: &Ticket,
    handed: &mut Vec<Handed>,
) -> petnet_storage::Result<Option<Received>> {
    let Ticket { message, payload, .. } = ticket;
    let payload = match payload {
        Some(payload) => payload.clone(),
        None if message.len > LARGEST => bytes::Bytes::new(),
        None => {
            let read = async {
                match mailbox.engine.open_found(message).await? {
                    Some(held) => held.payload.whole().await.map(Some),
                    None => Ok(None),
                }
            };
            match read.await {
                Ok(Some(payload)) => payload,
                // Damaged: a client that asks for the message itself is told.
                Ok(None) | Err(StoreError::Damaged { .. } | StoreError::Gone { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    };
    let Found { sender, id, sequence, len, .. } = message;
    if payload.len() as u64 == *len {
        mailbox.record.read(sender.as_ref(), id, *sequence, *len);
        handed.push(Handed { sender: sender.clone(), id: id.clone(), sequence: *sequence });
    }
    let sender_id = name(sender.as_ref());
    Ok(Some(Received {
        message_id: id.as_str().to_owned(),
        sender_id,
        payload,
        sequence: sequence.0,
        len: *len,
    }))
}
