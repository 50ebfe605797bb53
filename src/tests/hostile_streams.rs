//! What a review from an attacker's point of view found in exchanges: each of these tests failed once.

#[path = "../../storage/tests/sim_disk/mod.rs"]
#[allow(warnings, clippy::all)]
mod sim_disk;

use std::path::Path;

use petnet_storage::{
    Arrival, DeadLetter, DeliveryIdentity, FromSender, Held, Observer, PartyId, Sequence, Store, StoreOptions,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use self::sim_disk::SimDisk;
use super::hostile::channel;
use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::release_request::Which;
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::{ExchangeRequest, ExchangeResponse, Received, ReleaseRequest, Subscription};
use crate::testing::{message_id, until};

/// A gateway with a store on a disk whose syncs can be held.
pub(super) struct RealStoreGateway {
    pub(super) gateway: Gateway,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) disk: SimDisk,
}

impl Drop for RealStoreGateway {
    fn drop(&mut self) {
        self.disk.let_syncs_go("");
    }
}

pub(super) async fn real(observer: impl FnOnce(Arc<NewsHub>) -> Arc<dyn Observer>) -> RealStoreGateway {
    real_with(0, observer).await
}

/// The store has room for `max_bytes`; with 0, for what the disk has.
pub(super) async fn real_with(
    max_bytes: u64,
    observer: impl FnOnce(Arc<NewsHub>) -> Arc<dyn Observer>,
) -> RealStoreGateway {
    let disk = SimDisk::new(Path::new("/data"), None);
    let settings = Settings { max_subscriptions: 10_000, ..settings("a") };
    let hub = NewsHub::new(settings.max_waiting, settings.max_subscriptions);
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        segment_bytes: 4 << 20,
        max_bytes,
        message_ttl: None,
        unread_ttl: None,
        send_ttl: None,
        ..StoreOptions::new("/data")
    };
    let (engine, _) = Store::open(options, observer(hub.clone())).unwrap();
    let (own, down) = ([String::new()], [free_address().to_string()]);
    let peers = ["b", "c", "d", "e"].map(|name| (name, &down[..]));
    let entries: Vec<_> = [("a", &own[..])].into_iter().chain(peers).collect();
    let all = parties(&entries);
    let gateway = Gateway::start_with_engine(settings, all, hub, engine.clone()).await.unwrap();
    RealStoreGateway { gateway, engine, disk }
}

impl RealStoreGateway {
    pub(super) fn deliver(&self, id: &str, number: u64, payload: Bytes) -> tokio::task::JoinHandle<()> {
        let incarnation = Incarnation { started_ms: 1, random: 1 };
        let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
        let arrival = Arrival { sender: Some(party("b")), id: message_id(id), payload, identity };
        let engine = self.engine.clone();
        tokio::spawn(async move {
            drop(engine.store(arrival).await);
        })
    }

    pub(super) async fn is_there(&self, id: &str) -> bool {
        self.engine.read(&FromSender::Any, &message_id(id)).await.unwrap().is_some()
    }
}

struct TimedExchange {
    requests: mpsc::Sender<ExchangeRequest>,
    answers: Streaming<ExchangeResponse>,
}

impl TimedExchange {
    async fn open(addr: SocketAddr) -> Self {
        let (requests, ready) = mpsc::channel(1);
        let mut client = MailboxClient::new(channel(addr).await).max_decoding_message_size(1 << 30);
        let answers = client.exchange(ReceiverStream::new(ready)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn subscribe(&self, which: Wanted) {
        let subscribe = vec![Subscription { which: Some(which), sender_id: String::new() }];
        self.requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
    }

    /// The messages that come within that time.
    async fn received_within(&mut self, time: Duration) -> Vec<Received> {
        let mut received = Vec::new();
        let all = async {
            while let Ok(Some(answer)) = self.answers.message().await {
                received.extend(answer.received);
            }
        };
        drop(tokio::time::timeout(time, all).await);
        received
    }
}

fn named(received: &[Received], id: &str) -> Vec<Bytes> {
    received.iter().filter(|received| received.message_id == id).map(|r| r.payload.clone()).collect()
}

/// A newer message is queued (its notification has gone out) when a client subscribes; the look finds the older one.
#[tokio::test]
async fn a_subscription_to_an_id_does_not_miss_what_is_queued() {
    let a = real(|hub| hub).await;
    a.deliver("m", 1, "older".into()).await.unwrap();
    a.disk.hold_syncs_of("");
    let one = a.deliver("first", 2, "x".into());
    until("the first is written", async || a.engine.stats().appends >= 2).await;
    let two = a.deliver("m", 3, "newer".into());
    let after = a.deliver("after", 4, "x".into());
    until("all are queued", async || a.is_there("after").await).await;
    let mut exchange = TimedExchange::open(a.gateway.local_addr()).await;
    exchange.subscribe(Wanted::MessageId("m".into())).await;
    let before = exchange.received_within(Duration::from_millis(500)).await;
    a.disk.let_syncs_go("");
    for task in [one, two, after] {
        task.await.unwrap();
    }
    let then = exchange.received_within(Duration::from_secs(2)).await;
    let all = [named(&before, "m"), named(&then, "m")].concat();
    assert_eq!(all.last(), Some(&Bytes::from("newer")), "{all:?}");
}

/// What does not fit into the inbox is read from the store; while it is queued, that finds the older message under its id.
#[tokio::test]
async fn a_subscription_does_not_drop_what_is_queued_when_the_inbox_is_full() {
    let a = real(|hub| hub).await;
    a.deliver("t:m", 1, "older".into()).await.unwrap();
    let mut exchange = TimedExchange::open(a.gateway.local_addr()).await;
    exchange.subscribe(Wanted::Topic("t:".into())).await;
    assert_eq!(named(&exchange.received_within(Duration::from_millis(500)).await, "t:m"), ["older"]);
    a.disk.hold_syncs_of("");
    let first = a.deliver("first", 2, "x".into());
    until("the first is written", async || a.engine.stats().appends >= 2).await;
    let incarnation = Incarnation { started_ms: 1, random: 1 };
    let arrival = |id: &str, number, payload: Vec<u8>| Arrival {
        sender: Some(party("b")),
        id: message_id(id),
        payload: payload.into(),
        identity: Some(DeliveryIdentity { incarnation, number, low_water: 1 }),
    };
    let mut arrivals: Vec<_> = (0..60).map(|n| arrival(&format!("t:{n}"), 3 + n, vec![1; 60_000])).collect();
    arrivals.push(arrival("t:m", 100, vec![2; 64_000]));
    let engine = a.engine.clone();
    // Before the stream runs: more than the inbox keeps payloads of.
    let many = tokio::spawn(async move { engine.store_many(arrivals).await });
    let before = exchange.received_within(Duration::from_secs(2)).await;
    a.disk.let_syncs_go("");
    first.await.unwrap();
    assert!(many.await.unwrap().iter().all(Result::is_ok));
    let then = exchange.received_within(Duration::from_secs(2)).await;
    assert_eq!(before.len() + then.len(), 61, "one was dropped");
    assert_eq!([named(&before, "t:m"), named(&then, "t:m")].concat().len(), 1);
}

/// An observer that is told of arrivals late, as by a thread that was preempted between the lock and the notification.
struct LateObserver(Arc<NewsHub>);

impl Observer for LateObserver {
    fn arrived(&self, message: &Held) {
        std::thread::sleep(Duration::from_millis(700));
        self.0.arrived(message);
    }

    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64) {
        self.0.pending(peer, sequence, len);
    }

    fn died(&self, letter: &DeadLetter) {
        self.0.died(letter);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_subscription_gives_a_message_once_though_its_news_comes_after_the_look() {
    let a = real(|hub| Arc::new(LateObserver(hub))).await;
    let stored = a.deliver("m", 1, "x".into());
    until("it is visible", async || a.is_there("m").await).await;
    let mut exchange = TimedExchange::open(a.gateway.local_addr()).await;
    exchange.subscribe(Wanted::MessageId("m".into())).await;
    let received = exchange.received_within(Duration::from_secs(2)).await;
    stored.await.unwrap();
    assert_eq!(named(&received, "m").len(), 1);
}

/// The disk hangs, and a client goes on releasing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_is_not_read_on_when_its_releases_are_not_dealt_with() {
    let a = real(|hub| hub).await;
    a.disk.hold_syncs_of("");
    let first = a.deliver("first", 1, "x".into());
    until("the first is written", async || a.engine.stats().appends >= 1).await;
    let exchange = TimedExchange::open(a.gateway.local_addr()).await;
    let topic = "t".repeat(1000);
    let release =
        |_| ReleaseRequest { which: Some(Which::Topic(topic.clone())), ..ReleaseRequest::default() };
    let mut sent = 0;
    // 100 KB each; the window of the connection is 16 MiB.
    for _ in 0..600 {
        let request =
            ExchangeRequest { release: (0..100).map(release).collect(), ..ExchangeRequest::default() };
        if tokio::time::timeout(Duration::from_secs(3), exchange.requests.send(request)).await.is_err() {
            break;
        }
        sent += 1;
    }
    a.disk.let_syncs_go("");
    first.await.unwrap();
    assert!(sent < 600, "{sent} requests of 100 releases each were read and none is dealt with");
}

/// More came than an inbox keeps, and its reader never quite catches up: it was not told of the loss.
#[test]
fn an_inbox_that_lost_a_message_says_so_while_more_comes() {
    use crate::mailbox::subscriptions::{Coverage, Subscriptions};
    let all = Subscriptions::new(2);
    let inbox = all.inbox(1);
    let _subscription = all.subscribe(Coverage::Topic(String::new()), FromSender::Any, &inbox).unwrap();
    let look = inbox.next_look().unwrap();
    inbox.page(look, Vec::new(), true);
    let arrive = |n: u64| {
        let message = Held {
            sender: Some(party("b")),
            id: message_id("m"),
            sequence: Sequence(n),
            payload: Bytes::new().into(),
            unread: true,
            age: 0,
        };
        all.arrived(&message);
    };
    let kept = 65_536;
    for n in 0..=kept {
        arrive(n);
    }
    // The last message was lost. From here on the reader is as fast as what comes.
    let mut last = None;
    for n in kept + 1..4 * kept {
        let Ok(ticket) = inbox.take() else { return };
        let sequence = ticket.unwrap().message.sequence.0;
        assert!(
            last.is_none_or(|last| last + 1 == sequence),
            "after {last:?} comes {sequence}, and not a word about the one between"
        );
        last = Some(sequence);
        arrive(n);
    }
}

/// Two senders have a message under the id. A topic finds both.
#[tokio::test]
async fn a_subscription_to_an_id_gives_those_of_all_senders() {
    let a = RunningGateway::alone().await;
    for (number, sender) in [(1, "b"), (2, "c")] {
        let incarnation = Incarnation { started_ms: number, random: 1 };
        let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
        let arrival =
            Arrival { sender: Some(party(sender)), id: message_id("m"), payload: "x".into(), identity };
        a.engine.store(arrival).await.unwrap();
    }
    let mut exchange = TimedExchange::open(a.addr).await;
    exchange.subscribe(Wanted::Topic("m".into())).await;
    assert_eq!(exchange.received_within(Duration::from_millis(500)).await.len(), 2);
    let mut exchange = TimedExchange::open(a.addr).await;
    exchange.subscribe(Wanted::MessageId("m".into())).await;
    assert_eq!(exchange.received_within(Duration::from_millis(500)).await.len(), 2);
}
