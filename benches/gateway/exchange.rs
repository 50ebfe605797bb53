//! Clients of Exchange: a stream per sender with many messages under way, and one stream that subscribes to all of them
//! at the other end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use petnet::proto::mailbox::{
    ExchangeRequest, ExchangeResponse, Outgoing, Received, Subscription, subscription,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::load::{Done, Load, all, content};
use crate::mailbox::{Mailbox, mailbox, receive_stream};
use crate::ways::Ends;

/// Messages that a stream has under way at most,
const MESSAGES: usize = 512;
/// their payload bytes, one message is always allowed,
const BYTES: usize = 4 << 20;
/// and the payload bytes that all streams have under way.
const ALL_BYTES: usize = 512 << 20;
/// What goes into one request at most: several requests make up what is under way, so that it does not move in one lump.
const PACKED: usize = 128;
const PACKED_BYTES: usize = 256 << 10;
/// Messages that came without their payload are fetched so many at a time.
const FETCHES: usize = 16;

/// How many messages of a size each of some streams has under way.
pub(crate) fn under_way(size: usize, streams: usize) -> usize {
    (BYTES.min(ALL_BYTES / streams) / size).clamp(1, MESSAGES)
}

/// A stream with its two directions.
struct Stream {
    requests: mpsc::Sender<ExchangeRequest>,
    answers: Streaming<ExchangeResponse>,
}

impl Stream {
    /// Opens a stream that begins with this request.
    async fn open(client: &mut Mailbox, first: ExchangeRequest) -> Result<Self> {
        // A request is in it for each message under way at most, so it has room for all of them.
        let (requests, outgoing) = mpsc::channel(MESSAGES + 1);
        requests.try_send(first)?;
        let answers = client.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// The next answer; refusals are failures.
    async fn answer(&mut self) -> Result<ExchangeResponse> {
        let answer = self.answers.message().await?.context("the gateway ended the stream")?;
        match answer.refused.first() {
            Some(refused) => Err(anyhow!("{refused:?}")),
            None => Ok(answer),
        }
    }
}

/// A stream that sends.
struct Sender {
    stream: Stream,
    to: String,
    prefix: String,
    payload: Bytes,
    /// Messages that may be under way.
    window: usize,
    under_way: usize,
    /// When each message was sent, by tag; taken when it is accepted.
    begun: Vec<Option<Instant>>,
    times: Vec<Duration>,
}

impl Sender {
    /// A stream on which a message was accepted.
    async fn connected(ends: Arc<Ends>, load: Arc<Load>, n: usize) -> Result<Self> {
        let (to, payload) = (ends.parties[1].clone(), content(load.size));
        let message_id = format!("warm/{}{n}", load.run);
        let warm =
            Outgoing { message_id, receiver_id: to.clone(), payload: payload.clone(), ..Outgoing::default() };
        let first = ExchangeRequest { send: vec![warm], ..ExchangeRequest::default() };
        let mut stream = Stream::open(&mut mailbox(ends.addresses[0]), first).await?;
        while stream.answer().await?.accepted.is_empty() {}
        let (prefix, window) = (format!("{}{n}:", load.run), under_way(load.size, load.senders));
        Ok(Self { stream, to, prefix, payload, window, under_way: 0, begun: vec![], times: vec![] })
    }

    /// Sends until the time is over, then waits until all are accepted; how long each took.
    async fn run(self, start: Instant, time: Duration) -> Result<Vec<Duration>> {
        let more = move |begun: usize| begun == 0 || start.elapsed() < time;
        self.send_while(move |begun| if more(begun) { usize::MAX } else { begun }).await
    }

    /// Sends until as many were begun as `limit` makes of their number, then waits until all are accepted.
    async fn send_while(mut self, limit: impl Fn(usize) -> usize) -> Result<Vec<Duration>> {
        loop {
            self.fill(limit(self.begun.len()))?;
            if self.under_way == 0 {
                return Ok(self.times);
            }
            let answer = self.stream.answer().await?;
            for tag in answer.accepted {
                let begun = self.begun.get_mut(tag as usize).and_then(Option::take);
                self.times.push(begun.with_context(|| format!("tag {tag} is accepted twice"))?.elapsed());
                self.under_way -= 1;
            }
        }
    }

    /// Sends what may be under way and is not, up to a number of messages.
    fn fill(&mut self, limit: usize) -> Result<()> {
        let packed = (PACKED_BYTES / self.payload.len()).clamp(1, PACKED);
        while self.under_way < self.window && self.begun.len() < limit {
            let count = packed.min(self.window - self.under_way).min(limit - self.begun.len());
            let send = (0..count).map(|_| self.next()).collect();
            self.stream.requests.try_send(ExchangeRequest { send, ..ExchangeRequest::default() })?;
            self.under_way += count;
        }
        Ok(())
    }

    fn next(&mut self) -> Outgoing {
        let tag = self.begun.len() as u64;
        self.begun.push(Some(Instant::now()));
        let message_id = format!("{}{tag}", self.prefix);
        Outgoing {
            tag,
            message_id,
            receiver_id: self.to.clone(),
            payload: self.payload.clone(),
            ..Outgoing::default()
        }
    }
}

/// The stream at the other end that counts what arrives.
struct Subscriber {
    stream: Stream,
    client: Mailbox,
    load: Arc<Load>,
    /// What came, by sender and number: each message comes once.
    seen: Vec<Vec<bool>>,
    /// Messages that came whole.
    whole: usize,
    /// Those that are being fetched.
    fetches: JoinSet<Result<()>>,
    limit: Arc<Semaphore>,
}

impl Subscriber {
    async fn open(address: SocketAddr, load: Arc<Load>) -> Result<Self> {
        let which = Some(subscription::Which::Topic(load.run.clone()));
        let subscription = Subscription { which, sender_id: String::new() };
        let first = ExchangeRequest { subscribe: vec![subscription], ..ExchangeRequest::default() };
        let mut client = mailbox(address);
        let stream = Stream::open(&mut client, first).await?;
        let (seen, limit) = (vec![vec![]; load.senders], Arc::new(Semaphore::new(FETCHES)));
        Ok(Self { stream, client, load, seen, whole: 0, fetches: JoinSet::new(), limit })
    }

    /// Reads until as many came as `sent` will say.
    async fn run(mut self, mut sent: oneshot::Receiver<usize>) -> Result<()> {
        let mut wanted = None;
        while wanted != Some(self.whole) {
            tokio::select! {
                answer = self.stream.answer() => {
                    for message in answer?.received {
                        self.take(message)?;
                    }
                }
                Some(fetched) = self.fetches.join_next() => {
                    fetched??;
                    self.whole += 1;
                }
                count = &mut sent, if wanted.is_none() => wanted = Some(count.context("no sender is left")?),
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Received) -> Result<()> {
        let Received { message_id: id, payload, len, .. } = message;
        self.mark(&id).with_context(|| format!("{id:?} came, which was not sent, or came before"))?;
        ensure!(len == self.load.size as u64, "{id} came with {len} bytes");
        if payload.len() as u64 == len {
            self.whole += 1;
            return Ok(());
        }
        let (mut client, limit) = (self.client.clone(), self.limit.clone());
        self.fetches.spawn(async move {
            let _permit = limit.acquire_owned().await?;
            receive_stream(&mut client, &id).await.map(drop)
        });
        Ok(())
    }

    /// Notes that a message came; none when that cannot be.
    fn mark(&mut self, id: &str) -> Option<()> {
        let (sender, number) = id.strip_prefix(&self.load.run)?.split_once(':')?;
        let (sender, number): (usize, usize) = (sender.parse().ok()?, number.parse().ok()?);
        let seen = self.seen.get_mut(sender)?;
        if seen.len() <= number {
            seen.resize(number + 1, false);
        }
        (!std::mem::replace(&mut seen[number], true)).then_some(())
    }
}

/// Senders with a connection and a stream each, and one subscriber for all that they send.
pub(crate) async fn load(ends: &Ends, load: &Load) -> Result<Done> {
    let (load, ends) = (Arc::new(load.clone()), Arc::new(ends.clone()));
    let subscriber = Subscriber::open(ends.addresses[1], load.clone()).await?;
    let mut tasks = JoinSet::new();
    for n in 0..load.senders {
        tasks.spawn(Sender::connected(ends.clone(), load.clone(), n));
    }
    let connected = all(tasks).await?;
    let (say, sent) = oneshot::channel();
    let (mut sending, mut receiving) = (JoinSet::new(), JoinSet::new());
    let start = Instant::now();
    receiving.spawn(subscriber.run(sent));
    for sender in connected {
        sending.spawn(sender.run(start, load.time));
    }
    let times = all(sending).await?.concat();
    let accepted_in = start.elapsed();
    // A subscriber that is gone has failed, and says so.
    say.send(times.len()).ok();
    all(receiving).await?;
    let (messages, before) = (times.len(), load.senders);
    Ok(Done { times, messages, before, accepted_in, received_in: start.elapsed() })
}

/// A number of messages from each sender, for a peer that is not there; returns when all are accepted.
pub(crate) async fn fill(ends: &Ends, load: &Load, each: usize) -> Result<()> {
    let (load, ends) = (Arc::new(load.clone()), Arc::new(ends.clone()));
    let mut sending = JoinSet::new();
    for n in 0..load.senders {
        let (ends, load) = (ends.clone(), load.clone());
        sending.spawn(async move { Sender::connected(ends, load, n).await?.send_while(|_| each).await });
    }
    all(sending).await.map(drop)
}

/// Subscribes to what [`fill`] sent; returns when `count` messages have come.
pub(crate) async fn drain(ends: &Ends, load: &Load, count: usize) -> Result<()> {
    let (say, sent) = oneshot::channel();
    say.send(count).ok().context("somebody listens")?;
    Subscriber::open(ends.addresses[1], Arc::new(load.clone())).await?.run(sent).await
}
