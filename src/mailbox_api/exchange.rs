//! One stream over which a client sends, subscribes, releases and receives, with many messages under way.
//!
//! Invariants: an acceptance leaves only after the sync that covers its message; at most [`MAX_ACCEPTING`] messages and
//! [`MAX_ACCEPTING_BYTES`] of a stream wait for theirs, then it is not read on; what was subscribed to is handed out once
//! per subscription, whether it was there before or came later.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use petnet_storage::{Found, FromSender, MessageId, Sequence, StoreError};
use tokio::time::Sleep;
use tonic::{Status, Streaming};

use super::{Answers, name, release, sender};
use crate::calls::{Call, Room};
use crate::mailbox::{Mailbox, Refusal};
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::{ExchangeRequest, ExchangeResponse, Outgoing, Received, Refused, Subscription};
use crate::status;
use crate::subscriptions::{self, Inbox, Subscriptions, Ticket, Which};

/// Messages of a stream that wait for their sync.
const MAX_ACCEPTING: usize = 8192;
/// Their payload bytes.
const MAX_ACCEPTING_BYTES: usize = 16 << 20;
/// Entries of one request.
const MAX_ENTRIES: usize = 16_384;
/// Requests that are being dealt with: further ones are not read.
const MAX_RUNNING: usize = 256;
/// Payloads of more bytes are fetched for themselves.
const LARGEST: u64 = 256 << 10;
/// Pause before a store that could not be read is asked again, unless it says itself that it is back.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Messages in one answer, and their payload bytes.
const ANSWER_MESSAGES: usize = 512;
const ANSWER_BYTES: usize = 1 << 20;
/// Messages of a topic that are looked for at a time.
const PAGE: usize = 32_768;

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>;

/// What came of a request.
enum Done {
    Accepted(Vec<(u64, Result<Sequence, Refusal>)>, usize, Option<Room>),
    Released(Result<u64, Refusal>),
    /// Of a subscription, after a sequence.
    Found(u64, Sequence, Result<Vec<Found>, Refusal>),
}

/// A subscription, and whose messages it is to.
struct Subscribed {
    subscription: subscriptions::Subscription,
    from: FromSender,
}

impl Subscribed {
    fn is(&self, which: &Which, from: &FromSender) -> bool {
        (&self.subscription.which, &self.from) == (which, from)
    }
}

/// One stream.
pub(super) struct Exchange {
    mailbox: Arc<Mailbox>,
    subscriptions: Arc<Subscriptions>,
    call: Option<Arc<Call>>,
    incoming: Option<Streaming<ExchangeRequest>>,
    old: Pin<Box<Sleep>>,
    running: Running,
    accepting: usize,
    accepting_bytes: usize,
    inbox: Arc<Inbox>,
    subscribed: HashMap<u64, Subscribed>,
    /// What was there before a subscription. The next look begins when it is handed out, one at a time.
    found: VecDeque<Found>,
    looks: VecDeque<(u64, Sequence)>,
    is_looking: bool,
    /// The store cannot be read for now.
    paused: bool,
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
        let inbox = subscriptions.inbox();
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
            found: VecDeque::new(),
            looks: VecDeque::new(),
            is_looking: false,
            paused: false,
            refused: Vec::new(),
            end: None,
        }
    }

    pub(super) fn answers(self) -> Answers<ExchangeResponse> {
        Box::pin(unfold(self, |mut exchange| async move {
            let answer = exchange.next().await?;
            Some((answer, exchange))
        }))
    }

    /// The next answer; `None` when the stream is over.
    async fn next(&mut self) -> Option<Result<ExchangeResponse, Status>> {
        loop {
            if self.incoming.is_none() && self.running.is_empty() {
                return self.end.take().map(Err);
            }
            let reads = self.accepting < MAX_ACCEPTING
                && self.accepting_bytes < MAX_ACCEPTING_BYTES
                && self.running.len() < MAX_RUNNING
                && self.refused.is_empty();
            let mut answer = ExchangeResponse::default();
            match self.hand_out(&mut answer).await {
                Ok(()) => {}
                Err(status) => self.over(Some(status)),
            }
            while let Some(Some(done)) = self.running.next().now_or_never() {
                self.collect(done, &mut answer);
            }
            answer.refused.append(&mut self.refused);
            if answer != ExchangeResponse::default() {
                return Some(Ok(answer));
            }
            if !self.found.is_empty() && !self.paused {
                continue;
            }
            tokio::select! {
                biased;
                Some(done) = self.running.next() => {
                    self.collect(done, &mut answer);
                    while let Some(Some(done)) = self.running.next().now_or_never() {
                        self.collect(done, &mut answer);
                    }
                    if answer != ExchangeResponse::default() {
                        return Some(Ok(answer));
                    }
                }
                () = tokio::time::sleep(TRY_AGAIN), if self.paused => self.paused = false,
                () = self.inbox.came.notified(), if self.incoming.is_some() => {}
                () = self.mailbox.draining.cancelled(), if self.incoming.is_some() => {
                    self.over(Some(status::of(Refusal::Draining)));
                }
                () = &mut self.old, if self.incoming.is_some() => self.over(Some(status::exchange_aged())),
                request = next(&mut self.incoming), if reads && self.incoming.is_some() => match request {
                    Ok(Some(request)) => self.take(request).await,
                    Ok(None) => self.over(None),
                    Err(error) => self.over(Some(error)),
                },
            }
        }
    }

    /// Nothing more is read; what is under way is answered.
    fn over(&mut self, end: Option<Status>) {
        self.incoming = None;
        self.subscribed.clear();
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
                Ok((which, from)) => self.subscribed.retain(|_, s| !s.is(&which, &from)),
                Err(refusal) => self.refused.push(refused(&self.mailbox, 0, &refusal)),
            }
        }
        for request in request.release {
            let mailbox = self.mailbox.clone();
            self.running.push(Box::pin(async move { Done::Released(release(&mailbox, request).await) }));
        }
        if !request.send.is_empty() {
            self.send(request.send, room).await;
        }
    }

    /// Queues them, in their order; before that nothing more is read, so that of two under one id the last one counts.
    async fn send(&mut self, messages: Vec<Outgoing>, room: Option<Room>) {
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        self.accepting += messages.len();
        self.accepting_bytes += bytes;
        let (tags, messages): (Vec<_>, Vec<_>) =
            messages.into_iter().map(|m| (m.tag, (m.receiver_id, m.message_id, m.payload))).unzip();
        let accepting = self.mailbox.accept_many(messages).await;
        self.running.push(Box::pin(async move {
            Done::Accepted(tags.into_iter().zip(accepting.await).collect(), bytes, room)
        }));
    }

    fn subscribe(&mut self, wanted: &Subscription) -> Result<(), Refusal> {
        let (which, from) = chosen(wanted)?;
        if self.subscribed.values().any(|s| s.is(&which, &from)) {
            return Ok(());
        }
        // First this, then the look: what arrives between the two is not missed.
        let subscription = self.subscriptions.subscribe(which, from.clone(), &self.inbox);
        let subscription = subscription.ok_or(Refusal::TooManySubscriptions)?;
        let number = subscription.number;
        self.subscribed.insert(number, Subscribed { subscription, from });
        self.looks.push_back((number, Sequence(0)));
        Ok(())
    }

    /// Looks for what was there before a subscription, if none does so already.
    fn look(&mut self) {
        let again = self.inbox.look_again();
        self.paused &= again.is_empty();
        self.looks.extend(again);
        if self.is_looking || self.paused || !self.found.is_empty() {
            return;
        }
        let Some((number, after)) = self.looks.pop_front() else { return };
        let Some(Subscribed { from, subscription }) = self.subscribed.get(&number) else { return };
        self.is_looking = true;
        let (mailbox, from, which) = (self.mailbox.clone(), from.clone(), subscription.which.clone());
        self.running.push(Box::pin(async move {
            let found = find(&mailbox, &from, &which, after).await;
            Done::Found(number, after, found.map_err(Refusal::from))
        }));
    }

    fn collect(&mut self, done: Done, answer: &mut ExchangeResponse) {
        match done {
            Done::Accepted(results, bytes, _room) => {
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
            Done::Released(result) => {
                answer.refused.extend(result.err().map(|refusal| refused(&self.mailbox, 0, &refusal)));
            }
            Done::Found(number, _, Ok(page)) => self.found(number, page),
            // It looks again when the store is back.
            Done::Found(number, after, Err(Refusal::Store(StoreError::Unavailable(_)))) => {
                self.is_looking = false;
                self.paused = true;
                self.looks.push_front((number, after));
            }
            Done::Found(number, _, Err(refusal)) => {
                self.is_looking = false;
                self.inbox.looked(number);
                answer.refused.push(refused(&self.mailbox, 0, &refusal));
            }
        }
    }

    fn found(&mut self, number: u64, mut page: Vec<Found>) {
        self.is_looking = false;
        let Some(subscribed) = self.subscribed.get(&number) else { return };
        let is_topic = matches!(subscribed.subscription.which, Which::Topic(_));
        let next = page.last().filter(|_| is_topic && page.len() >= PAGE).map(|last| last.sequence);
        self.inbox.found(number, &mut page);
        self.found.extend(page);
        match next {
            Some(after) => self.looks.push_front((number, after)),
            None => self.inbox.looked(number),
        }
    }

    /// Puts what waits into an answer, as much as it takes.
    async fn hand_out(&mut self, answer: &mut ExchangeResponse) -> Result<(), Status> {
        let mut bytes = 0;
        while answer.received.len() < ANSWER_MESSAGES
            && bytes < ANSWER_BYTES
            && self.incoming.is_some()
            && !self.paused
        {
            let ticket = match self.found.pop_front() {
                Some(message) => Ticket { message, payload: None },
                None => match self.inbox.take().map_err(|_| status::too_slow())? {
                    Some(ticket) => ticket,
                    None => break,
                },
            };
            match received(&self.mailbox, &ticket).await {
                Ok(Some(received)) => {
                    bytes += received.payload.len();
                    answer.received.push(received);
                }
                Ok(None) => {}
                // It keeps its turn.
                Err(StoreError::Unavailable(_)) => {
                    self.paused = true;
                    self.found.push_front(ticket.message);
                }
                Err(error) => return Err(status::of(error.into())),
            }
        }
        self.look();
        Ok(())
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
    Refused { tag, error_code: status::number(refusal), error_msg: refusal.to_string() }
}

fn chosen(wanted: &Subscription) -> Result<(Which, FromSender), Refusal> {
    let which = match &wanted.which {
        Some(Wanted::MessageId(id)) => Which::Id(MessageId::new(id.as_str())?),
        Some(Wanted::Topic(topic)) if topic.len() > petnet_storage::MAX_MESSAGE_ID_BYTES => {
            return Err(Refusal::Invalid("a topic longer than an id can be".into()));
        }
        Some(Wanted::Topic(topic)) => Which::Topic(topic.clone()),
        None => return Err(Refusal::Invalid("a subscription names a message_id or a topic".into())),
    };
    Ok((which, sender(&wanted.sender_id)?))
}

async fn find(
    mailbox: &Mailbox,
    from: &FromSender,
    which: &Which,
    after: Sequence,
) -> petnet_storage::Result<Vec<Found>> {
    match which {
        Which::Id(id) => {
            let mut held = mailbox.engine.held(from, id).await?;
            held.retain(|found| found.sequence > after);
            Ok(held)
        }
        Which::Topic(topic) => mailbox.engine.topic(from, topic, after, PAGE).await,
    }
}

/// The message of a ticket; `None`: it ended, or a newer one has its id, which comes for itself.
async fn received(mailbox: &Mailbox, ticket: &Ticket) -> petnet_storage::Result<Option<Received>> {
    let Ticket { message, payload } = ticket;
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
                // Damaged: who asks for it is told.
                Ok(None) | Err(StoreError::Damaged { .. } | StoreError::Gone { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    };
    let Found { sender, id, sequence, len } = message;
    if payload.len() as u64 == *len {
        mailbox.record.read(sender.as_ref(), id, *sequence, *len);
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
