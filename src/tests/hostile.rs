//! What a hostile look at links, streams and exchanges found: each of these failed once.

#[path = "../../storage/tests/sim_disk/mod.rs"]
#[allow(warnings, clippy::all)]
mod sim_disk;

use std::path::Path;
use std::sync::Mutex;

use petnet_storage::{
    Arrival, DeadLetter, DeliveryIdentity, FromSender, Held, MessageId, Observer, Outgoing as Message,
    PartyId, Payload, Pieces, Sequence, Store, StoreError, StoreOptions,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use self::sim_disk::SimDisk;
use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::release_request::Which;
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::{
    ExchangeRequest, ExchangeResponse, Outgoing as Sending, Received, ReleaseRequest, SendPiece, Subscription,
};
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::peer::{Answers, Deliveries, Delivery, Part};
use crate::testing::{message_id, until};

async fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

/// A peer that speaks the link by hand.
struct Link {
    frames: mpsc::Sender<Deliveries>,
    answers: Streaming<Answers>,
}

impl Link {
    async fn of_b(addr: SocketAddr) -> Self {
        let (frames, ready) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(ready));
        request.metadata_mut().insert("petnet-sender", "b".parse().unwrap());
        request.metadata_mut().insert("petnet-link-version", "1".parse().unwrap());
        let answers = PeerLinkClient::new(channel(addr).await).deliver(request).await.unwrap().into_inner();
        Self { frames, answers }
    }

    async fn offer(&self, deliveries: Vec<Delivery>) {
        self.frames.send(Deliveries { deliveries, parts: Vec::new() }).await.unwrap();
    }

    async fn part(&self, tag: u64, offset: u64, payload: Bytes) {
        let parts = vec![Part { tag, offset, payload }];
        self.frames.send(Deliveries { deliveries: Vec::new(), parts }).await.unwrap();
    }

    async fn next(&mut self) -> Answers {
        tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap().unwrap().unwrap()
    }

    async fn begins(&mut self, tag: u64) -> Result<u64, i32> {
        loop {
            let answers = self.next().await;
            if let Some(refused) = answers.refused.iter().find(|refused| refused.tag == tag) {
                return Err(refused.error_code);
            }
            if let Some(progress) = answers.progress.iter().find(|progress| progress.tag == tag) {
                return Ok(progress.bytes);
            }
        }
    }
}

fn offer(tag: u64, number: u64, len: u64) -> Delivery {
    Delivery {
        tag,
        message_id: format!("m{number}"),
        payload: Bytes::new(),
        started_ms: 1,
        random: 2,
        number,
        low_water: 1,
        len: Some(len),
    }
}

/// Stream A is busy with a part; stream B wants its message, and breaks; then A gives it up for B, who is gone.
#[tokio::test]
async fn a_message_that_two_streams_let_go_of_is_forgotten_and_its_seat_is_free() {
    let short = Settings { link_resume: Duration::from_millis(100), max_uploads: 1, ..settings("a") };
    let a = Running::alone_with(short).await;
    let mut first = Link::of_b(a.addr).await;
    first.offer(vec![offer(0, 1, 10)]).await;
    assert_eq!(first.begins(0).await, Ok(0));
    a.engine.set_sync_time(Duration::from_millis(600));
    first.part(0, 0, Bytes::from_static(b"abc")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = Link::of_b(a.addr).await;
    second.offer(vec![offer(0, 1, 10)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(second);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    drop(first);
    a.engine.set_sync_time(Duration::ZERO);
    // LINK_RESUME is a tenth of a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut other = Link::of_b(a.addr).await;
    other.offer(vec![offer(0, 2, 10)]).await;
    let begins = other.begins(0).await;
    assert_eq!((begins, a.gateway.partials().len()), (Ok(0), 1), "the seat is never given back");
    a.shutdown().await;
}

/// Content whose beginning can be read.
#[derive(Debug, Default)]
struct Breaks(std::sync::atomic::AtomicBool);

#[tonic::async_trait]
impl Pieces for Breaks {
    fn len(&self) -> u64 {
        1 << 20
    }

    async fn piece(&self, at: u64) -> petnet_storage::Result<Bytes> {
        if at == 0 {
            return Ok(Bytes::from(vec![7; 256 << 10]));
        }
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        Err(StoreError::Gone { id: "large".into() })
    }
}

/// A large message that is replaced by a newer one and given back while it is sent (`Gone`), or is damaged.
#[tokio::test]
async fn a_large_message_that_its_sender_gave_up_leaves_nothing_at_the_receiver() {
    let b_addr = free_address();
    let a = Running::start(settings("a"), parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]))
        .await;
    let of_b = Settings {
        listen_addr: b_addr,
        link_resume: Duration::from_millis(100),
        max_uploads: 2,
        ..settings("b")
    };
    let b = Running::start(of_b, parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])])).await;
    let contents = [Arc::new(Breaks::default()), Arc::new(Breaks::default())];
    for number in 1..=2 {
        a.engine.show(Message {
            receiver: party("b"),
            id: message_id(&format!("large{number}")),
            payload: Payload::Pieces(contents[number as usize - 1].clone()),
            sequence: Sequence(1000 + number),
            identity: DeliveryIdentity {
                incarnation: Incarnation { started_ms: 1, random: 1 },
                number,
                low_water: 1,
            },
        });
    }
    let broke = |content: &Arc<Breaks>| content.0.load(std::sync::atomic::Ordering::SeqCst);
    until("both are given up", async || contents.iter().all(broke)).await;
    until("nothing of them is left", async || b.gateway.partials().len() == 0).await;
    let left = b.gateway.partials().len();
    let piece = SendPiece {
        message_id: "m".into(),
        receiver_id: "a".into(),
        last: true,
        payload: "x".into(),
        ..SendPiece::default()
    };
    let sent = MailboxClient::new(channel(b.addr).await).send_stream(tokio_stream::iter([piece])).await;
    assert!(left == 0 && sent.is_ok(), "{left} are left, and a client is told {sent:?}");
    a.shutdown().await;
    b.shutdown().await;
}

/// All parts are there and the message is being stored when the link breaks.
#[tokio::test]
async fn a_large_message_that_is_there_whole_is_not_sent_again_when_its_link_breaks() {
    let a = Running::alone().await;
    let mut first = Link::of_b(a.addr).await;
    first.offer(vec![offer(0, 1, 3)]).await;
    assert_eq!(first.begins(0).await, Ok(0));
    a.engine.set_sync_time(Duration::from_millis(500));
    first.part(0, 0, Bytes::from_static(b"abc")).await;
    until("it is being stored", async || a.engine.storing() == 1).await;
    drop(first);
    until("the link is gone", async || a.gateway.calls() == 0).await;
    a.engine.set_sync_time(Duration::ZERO);
    let mut second = Link::of_b(a.addr).await;
    second.offer(vec![offer(0, 1, 3)]).await;
    let begins = tokio::time::timeout(Duration::from_secs(2), second.begins(0)).await;
    assert_ne!(begins, Ok(Ok(0)), "it begins anew");
    a.shutdown().await;
}

/// A store on a disk whose syncs can be held, with a gateway.
struct Real {
    gateway: Gateway,
    engine: Arc<dyn Engine>,
    disk: SimDisk,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.disk.let_syncs_go("");
    }
}

async fn real(observer: impl FnOnce(Arc<Hub>) -> Arc<dyn Observer>) -> Real {
    let disk = SimDisk::new(Path::new("/data"), None);
    let settings = Settings { max_subscriptions: 10_000, ..settings("a") };
    let hub = Hub::new(settings.max_waiting, settings.max_subscriptions);
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        segment_bytes: 4 << 20,
        message_ttl: None,
        send_ttl: None,
        ..StoreOptions::new("/data")
    };
    let (engine, report) = Store::open(options, observer(hub.clone())).unwrap();
    let all = parties(&[("a", &[String::new()]), ("b", &[free_address().to_string()])]);
    let gateway = Gateway::start_with_engine(settings, all, hub, engine.clone(), report).await.unwrap();
    Real { gateway, engine, disk }
}

impl Real {
    fn deliver(&self, id: &str, number: u64, payload: Bytes) -> tokio::task::JoinHandle<()> {
        let incarnation = Incarnation { started_ms: 1, random: 1 };
        let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
        let arrival = Arrival { sender: Some(party("b")), id: message_id(id), payload, identity };
        let engine = self.engine.clone();
        tokio::spawn(async move {
            drop(engine.store(arrival).await);
        })
    }

    async fn is_there(&self, id: &str) -> bool {
        self.engine.read(&FromSender::Any, &message_id(id)).await.unwrap().is_some()
    }
}

struct Exchange {
    requests: mpsc::Sender<ExchangeRequest>,
    answers: Streaming<ExchangeResponse>,
}

impl Exchange {
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

    /// What comes within that time.
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

/// A newer message is queued (its news went out) when somebody subscribes; the look gives the older one.
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
    let mut exchange = Exchange::open(a.gateway.local_addr()).await;
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

/// What has no room in the inbox is read from the store; while it is queued that gives the older one under its id.
#[tokio::test]
async fn a_subscription_does_not_drop_what_is_queued_when_the_inbox_is_full() {
    let a = real(|hub| hub).await;
    a.deliver("t:m", 1, "older".into()).await.unwrap();
    let mut exchange = Exchange::open(a.gateway.local_addr()).await;
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
    // Before the stream runs: more than its inbox keeps payloads of.
    let many = tokio::spawn(async move { engine.store_many(arrivals).await });
    let before = exchange.received_within(Duration::from_secs(2)).await;
    a.disk.let_syncs_go("");
    first.await.unwrap();
    assert!(many.await.unwrap().iter().all(Result::is_ok));
    let then = exchange.received_within(Duration::from_secs(2)).await;
    assert_eq!(before.len() + then.len(), 61, "one was dropped");
    assert_eq!([named(&before, "t:m"), named(&then, "t:m")].concat().len(), 1);
}

/// An observer whose news of arrivals comes late, as from a thread that was preempted between the lock and the news.
struct Late(Arc<Hub>);

impl Observer for Late {
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
    let a = real(|hub| Arc::new(Late(hub))).await;
    let stored = a.deliver("m", 1, "x".into());
    until("it is visible", async || a.is_there("m").await).await;
    let mut exchange = Exchange::open(a.gateway.local_addr()).await;
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
    let exchange = Exchange::open(a.gateway.local_addr()).await;
    let topic = "t".repeat(1000);
    let release = |_| ReleaseRequest { which: Some(Which::Topic(topic.clone())), sender_id: String::new() };
    let mut sent = 0;
    // 100 KB each; the connection's window is 16 MiB.
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

/// Resident memory in MiB.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4 / 1024
}

/// `SendRequest` with a field that the gateway does not know.
#[derive(Clone, PartialEq, prost::Message)]
struct Padded {
    #[prost(string, tag = "1")]
    message_id: String,
    #[prost(string, tag = "2")]
    receiver_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
    #[prost(bytes = "bytes", tag = "99")]
    padding: Bytes,
}

/// 4 KiB of payload keep the whole buffer alive that they came in, for as long as they are cached or pending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_keeps_no_more_memory_than_its_own() {
    let a = real(|hub| hub).await;
    let padding = Bytes::from(vec![0; 2 << 20]);
    let mut client = tonic::client::Grpc::new(channel(a.gateway.local_addr()).await);
    let before = resident();
    for n in 0..300 {
        client.ready().await.unwrap();
        let message = Padded {
            message_id: format!("m{n}"),
            receiver_id: "b".into(),
            payload: Bytes::from(vec![1; 4096]),
            padding: padding.clone(),
        };
        let codec = tonic_prost::ProstCodec::<Padded, crate::proto::mailbox::Accepted>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/petnet.mailbox.v1.Mailbox/Send");
        client.unary(Request::new(message), path, codec).await.unwrap();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 200, "300 messages of 4 KiB take {grown} MiB");
}

/// Empty messages take two bytes on the wire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_takes_little_more_memory_than_it_has_bytes() {
    let a = real(|hub| hub).await;
    let mut exchange = Exchange::open(a.gateway.local_addr()).await;
    let over = Arc::new(Mutex::new(0));
    let watch = std::thread::spawn({
        let over = over.clone();
        move || {
            while Arc::strong_count(&over) > 1 {
                let mut most = over.lock().unwrap();
                *most = resident().max(*most);
                drop(most);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // A million of them are 2 MB on the wire (and 88 MB here, before they are sent, which are gone then).
    let send = vec![Sending::default(); 1_000_000];
    let before = resident();
    exchange.requests.send(ExchangeRequest { send, ..ExchangeRequest::default() }).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(60), exchange.answers.message()).await.unwrap();
    let most = *over.lock().unwrap();
    drop(over);
    watch.join().unwrap();
    let told = answer.map(|answer| answer.map(|answer| prost::Message::encoded_len(&answer)));
    let grown = most.saturating_sub(before);
    assert!(grown < 100, "2 MB of requests take {grown} MiB, and are answered with {told:?} bytes");
}

/// Many subscriptions to overlapping topics: everything that was there is kept in memory for each of them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_is_not_all_in_memory_for_each_subscription() {
    let a = Running::alone_with(Settings { max_subscriptions: 16_384, ..settings("a") }).await;
    let long = "t".repeat(990);
    for n in 0..5000 {
        let incarnation = Incarnation { started_ms: 1, random: 1 };
        let identity = Some(DeliveryIdentity { incarnation, number: n + 1, low_water: 1 });
        let id = MessageId::new(format!("{long}{n}")).unwrap();
        let arrival = Arrival { sender: Some(party("b")), id, payload: Bytes::new(), identity };
        a.engine.store(arrival).await.unwrap();
    }
    let exchange = Exchange::open(a.addr).await;
    let before = resident();
    let topic = |n: usize| Subscription {
        which: Some(Wanted::Topic(long[..n].to_owned())),
        sender_id: String::new(),
    };
    let subscribe = (0..900).map(topic).collect();
    exchange.requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 200, "5 MB of ids in the mailbox, 900 subscriptions of one stream: {grown} MiB");
}

/// Two gateways with the default windows and seats: what a sender has under way by itself is more than the receiver has
/// seats for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_has_no_more_under_way_than_its_receiver_takes() {
    let mut took = Vec::new();
    for max_uploads in [1024, 64] {
        let defaults = |name| Settings {
            max_in_flight: 2048,
            max_in_flight_bytes: 64 << 20,
            link_window: 8 << 20,
            retry_cap: Duration::from_secs(30),
            max_uploads,
            ..settings(name)
        };
        let b_addr = free_address();
        let a =
            Running::start(defaults("a"), parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]))
                .await;
        let of_b = Settings { listen_addr: b_addr, ..defaults("b") };
        let payload = Bytes::from(vec![1; 260 << 10]);
        for n in 0..600 {
            a.engine.accept(&party("b"), &message_id(&n.to_string()), payload.clone()).await.unwrap();
        }
        let start = std::time::Instant::now();
        let b = Running::start(of_b, parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])])).await;
        b.engine.set_sync_time(Duration::from_millis(20));
        while a.engine.pending_count() > 0 && start.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        took.push((max_uploads, start.elapsed(), a.engine.pending_count()));
        a.shutdown().await;
        b.shutdown().await;
    }
    println!("{took:?}");
    assert!(took[1].1 < 2 * took[0].1, "{took:?}");
}

/// A code that the peer's refusal of a seat must not have: clients are refused while one peer delivers as usual.
#[tokio::test]
async fn a_peer_that_delivers_does_not_take_every_seat() {
    let a = Running::alone().await;
    let mut link = Link::of_b(a.addr).await;
    link.offer((0..8).map(|n| offer(n, n + 1, 300_000)).collect()).await;
    assert_eq!(link.begins(7).await, Ok(0));
    let piece = SendPiece {
        message_id: "m".into(),
        receiver_id: "b".into(),
        last: true,
        payload: "x".into(),
        ..SendPiece::default()
    };
    let sent = MailboxClient::new(channel(a.addr).await).send_stream(tokio_stream::iter([piece])).await;
    assert!(!sent.as_ref().is_err_and(|e| e.code() == Code::ResourceExhausted), "{sent:?}");
    a.shutdown().await;
}

/// A client that says the first word of a message and then nothing, on a connection that is well.
#[tokio::test]
async fn a_client_that_rests_in_the_middle_does_not_keep_a_seat() {
    let limits = Limits { stall_timeout: Duration::from_secs(1), ..Limits::default() };
    let a = Running::alone_with(Settings { max_uploads: 1, limits, ..settings("a") }).await;
    let (pieces, ready) = mpsc::channel(4);
    let first = SendPiece { message_id: "m".into(), receiver_id: "b".into(), ..SendPiece::default() };
    pieces.send(first).await.unwrap();
    let mut client = MailboxClient::new(channel(a.addr).await);
    let resting = tokio::spawn(async move { client.send_stream(ReceiverStream::new(ready)).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut link = Link::of_b(a.addr).await;
    link.offer(vec![offer(0, 1, 10)]).await;
    let begins = link.begins(0).await;
    resting.abort();
    assert_eq!(begins, Ok(0), "five times STALL_TIMEOUT later its seat is taken, and peers are refused");
    a.shutdown().await;
}

/// One request of one client: a thousand subscriptions, each of which looks at the whole mailbox at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_looks_of_one_stream_hold_up_no_other_client() {
    let a = real(|hub| hub).await;
    let incarnation = Incarnation { started_ms: 1, random: 1 };
    let arrival = |n: u64| Arrival {
        sender: Some(party("b")),
        id: message_id(&format!("{n}")),
        payload: vec![0; 30_000].into(),
        identity: Some(DeliveryIdentity { incarnation, number: n + 1, low_water: 1 }),
    };
    // More than the cache holds (32 MiB): the first ones have to be read.
    for from in (0..4000).step_by(100) {
        for stored in a.engine.store_many((from..from + 100).map(arrival).collect()).await {
            stored.unwrap();
        }
    }
    let exchange = Exchange::open(a.gateway.local_addr()).await;
    let topic =
        |n: usize| Subscription { which: Some(Wanted::Topic(format!("x{n}"))), sender_id: String::new() };
    let subscribe = (0..5000).map(topic).collect();
    exchange.requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let client = Client::connect(a.gateway.local_addr()).await;
    let start = std::time::Instant::now();
    let read = tokio::time::timeout(Duration::from_secs(60), client.receive_with("1", &[], None)).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "another client's receive took {took:?}: {:?}", read.is_ok());
}

/// More came than an inbox keeps, and its reader never catches up quite: it is not told.
#[test]
fn an_inbox_that_lost_a_message_says_so_while_more_comes() {
    use crate::subscriptions::{Subscriptions, Which};
    let all = Subscriptions::new(1);
    let inbox = all.inbox();
    let _subscription = all.subscribe(Which::Topic(String::new()), FromSender::Any, &inbox).unwrap();
    let arrive = |n: u64| {
        let message = Held {
            sender: Some(party("b")),
            id: message_id("m"),
            sequence: Sequence(n),
            payload: Bytes::new().into(),
        };
        all.arrived(&message);
    };
    let kept = 65_536;
    for n in 0..=kept {
        arrive(n);
    }
    // The last one was lost. From here on the reader is as fast as what comes.
    let mut last = None;
    for n in kept + 1..4 * kept {
        let Ok(ticket) = inbox.take() else { return };
        let sequence = ticket.unwrap().sequence.0;
        assert!(
            last.is_none_or(|last| last + 1 == sequence),
            "after {last:?} comes {sequence}, and not a word about the one between"
        );
        last = Some(sequence);
        arrive(n);
    }
}

/// Two senders have a message under the id. A topic gives both.
#[tokio::test]
async fn a_subscription_to_an_id_gives_those_of_all_senders() {
    let a = Running::alone().await;
    for (number, sender) in [(1, "b"), (2, "c")] {
        let incarnation = Incarnation { started_ms: number, random: 1 };
        let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
        let arrival =
            Arrival { sender: Some(party(sender)), id: message_id("m"), payload: "x".into(), identity };
        a.engine.store(arrival).await.unwrap();
    }
    let mut exchange = Exchange::open(a.addr).await;
    exchange.subscribe(Wanted::Topic("m".into())).await;
    assert_eq!(exchange.received_within(Duration::from_millis(500)).await.len(), 2);
    let mut exchange = Exchange::open(a.addr).await;
    exchange.subscribe(Wanted::MessageId("m".into())).await;
    assert_eq!(exchange.received_within(Duration::from_millis(500)).await.len(), 2);
}
