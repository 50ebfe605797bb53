//! `petnet.mailbox.v1` on the wire.

use petnet_storage::Tracked;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::release_request::Which;
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::track_response::State;
use crate::proto::mailbox::{
    ExchangeRequest, ExchangeResponse, Outgoing as Sending, ReceiveRequest, ReleaseRequest, SendPiece,
    SendRequest, Subscription, TrackRequest,
};
use crate::testing::until;
use crate::wire::status::ERROR_CODE;

pub(super) type TestMailboxClient = MailboxClient<tonic::transport::Channel>;

async fn client(gateway: &RunningGateway) -> TestMailboxClient {
    let channel = Endpoint::from_shared(format!("http://{}", gateway.addr)).unwrap().connect().await.unwrap();
    MailboxClient::new(channel)
}

fn request(id: &str, wait_ms: u32) -> ReceiveRequest {
    ReceiveRequest { message_id: id.into(), sender_id: String::new(), wait_ms }
}

async fn send(client: &mut TestMailboxClient, id: &str, payload: &'static str) -> Result<u64, Status> {
    let request = SendRequest {
        message_id: id.into(),
        receiver_id: "b".into(),
        payload: payload.into(),
        ..SendRequest::default()
    };
    Ok(client.send(request).await?.into_inner().sequence)
}

/// Sends `payload` in pieces, the first with `len`.
async fn stream(
    client: &mut TestMailboxClient,
    id: &str,
    len: Option<u64>,
    pieces: &[&'static [u8]],
) -> Result<u64, Status> {
    let piece = |(n, bytes): (usize, &&'static [u8])| SendPiece {
        message_id: if n == 0 { id.into() } else { String::new() },
        receiver_id: if n == 0 { "b".into() } else { String::new() },
        payload: Bytes::from_static(bytes),
        len: len.filter(|_| n == 0),
        last: len.is_none() && n + 1 == pieces.len(),
        key: Bytes::new(),
    };
    let pieces: Vec<_> = pieces.iter().enumerate().map(piece).collect();
    Ok(client.send_stream(tokio_stream::iter(pieces)).await?.into_inner().sequence)
}

fn number(status: &Status) -> &str {
    status.metadata().get(ERROR_CODE).map_or("", |number| number.to_str().unwrap())
}

#[tokio::test]
async fn what_is_sent_is_received_by_whoever_waits_with_its_sender() {
    let (a, b) = pair().await;
    let (mut at_a, mut at_b) = (client(&a).await, client(&b).await);
    let mut waiting = at_b.clone();
    let waiting = tokio::spawn(async move { waiting.receive(request("m", 10_000)).await });
    until("it waits", async || b.gateway.waiting() == 1).await;
    let sequence = send(&mut at_a, "m", "hello").await.unwrap();
    assert!(sequence > 0);
    let received = waiting.await.unwrap().unwrap().into_inner().message.unwrap();
    assert_eq!((received.sender_id.as_str(), &received.payload[..], received.len), ("a", &b"hello"[..], 5));
    let none = at_b.receive(request("none", 0)).await.unwrap().into_inner();
    assert!(none.message.is_none());
    let other = ReceiveRequest { sender_id: "c".into(), ..request("m", 0) };
    assert!(at_b.receive(other).await.unwrap().into_inner().message.is_none());
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_refusal_is_a_status_with_the_number_that_old_clients_know() {
    let small = Settings { max_message_bytes: 4, max_stream_bytes: 6, ..settings("a") };
    let a = RunningGateway::alone_with(small).await;
    let mut client = client(&a).await;
    let refused = send(&mut client, "m", "12345").await.unwrap_err();
    assert_eq!((refused.code(), number(&refused)), (Code::OutOfRange, "30006"));
    let refused = stream(&mut client, "m", None, &[b"1234", b"567"]).await.unwrap_err();
    assert_eq!((refused.code(), number(&refused)), (Code::OutOfRange, "30006"));
    let refused = send(&mut client, "", "").await.unwrap_err();
    assert_eq!((refused.code(), number(&refused)), (Code::InvalidArgument, "20002"));
    let nobody = SendRequest { receiver_id: "z".into(), message_id: "m".into(), ..SendRequest::default() };
    let refused = client.send(nobody).await.unwrap_err();
    assert_eq!((refused.code(), number(&refused)), (Code::NotFound, "30003"));
    a.engine.set_fault(crate::testing::Fault::Full);
    let refused = send(&mut client, "m", "1").await.unwrap_err();
    assert_eq!((refused.code(), number(&refused)), (Code::ResourceExhausted, "30005"));
    let refused = stream(&mut client, "m", Some(5), &[b"12345"]).await.unwrap_err();
    assert_eq!((refused.code(), number(&refused)), (Code::ResourceExhausted, "30005"));
    a.shutdown().await;
}

#[tokio::test]
async fn a_stream_is_accepted_whole_or_not_at_all() {
    let (a, b) = pair().await;
    let (mut at_a, mut at_b) = (client(&a).await, client(&b).await);
    for (len, pieces) in [(Some(5), &[&b"1234"[..]][..]), (Some(3), &[b"1234"]), (None, &[])] {
        let refused = stream(&mut at_a, "m", len, pieces).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let unfinished = SendPiece { message_id: "m".into(), receiver_id: "b".into(), ..SendPiece::default() };
    let refused = at_a.send_stream(tokio_stream::iter([unfinished])).await.unwrap_err();
    assert!(refused.message().contains("whole"), "{refused}");
    assert_eq!(a.engine.pending_count(), 0);
    stream(&mut at_a, "m", Some(6), &[b"12", b"", b"345", b"6"]).await.unwrap();
    stream(&mut at_a, "empty", None, &[b""]).await.unwrap();
    let mut pieces = at_b.receive_stream(request("m", 5000)).await.unwrap().into_inner();
    let first = pieces.message().await.unwrap().unwrap();
    assert_eq!((first.message_id.as_str(), first.sender_id.as_str(), first.len), ("m", "a", 6));
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        all.extend_from_slice(&piece.payload);
    }
    assert_eq!(all, b"123456");
    let mut empty = at_b.receive_stream(request("empty", 5000)).await.unwrap().into_inner();
    assert_eq!(empty.message().await.unwrap().unwrap().len, 0);
    assert!(empty.message().await.unwrap().is_none());
    let mut none = at_b.receive_stream(request("none", 0)).await.unwrap().into_inner();
    assert!(none.message().await.unwrap().is_none());
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn no_more_streams_than_max_uploads_and_a_broken_one_leaves_nothing() {
    let a = RunningGateway::alone_with(Settings { max_uploads: 1, ..settings("a") }).await;
    let mut client = client(&a).await;
    let (pieces, ready) = mpsc::channel(4);
    let first = SendPiece {
        message_id: "m".into(),
        receiver_id: "b".into(),
        payload: "x".into(),
        ..SendPiece::default()
    };
    pieces.send(first).await.unwrap();
    let mut other = client.clone();
    let hanging = tokio::spawn(async move { other.send_stream(ReceiverStream::new(ready)).await });
    until("it has the seat", async || {
        let refused = stream(&mut client, "n", None, &[b"1"]).await;
        refused.is_err_and(|refused| refused.code() == Code::ResourceExhausted)
    })
    .await;
    hanging.abort();
    assert!(hanging.await.is_err());
    drop(pieces);
    until("the seat is free", async || stream(&mut client, "n", None, &[b"1"]).await.is_ok()).await;
    assert_eq!(a.engine.pending_count(), 1, "nothing came of the first");
    a.shutdown().await;
}

/// A field that a program forgot to set must not end every message in the mailbox.
async fn assert_all_must_be_said(at_a: &mut TestMailboxClient, at_b: &mut TestMailboxClient) {
    send(at_a, "kept", "x").await.unwrap();
    at_b.receive(request("kept", 5000)).await.unwrap();
    let release = |which, sender: &str| ReleaseRequest {
        which: Some(which),
        sender_id: sender.into(),
        ..ReleaseRequest::default()
    };
    for which in [Which::Topic(String::new()), Which::All(false)] {
        let refused = at_b.release(release(which, "")).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.metadata().get("petnet-error-code").unwrap(), "20002");
        assert!(refused.message().contains("all"), "{refused:?}");
    }
    assert_eq!(at_b.release(release(Which::All(true), "c")).await.unwrap().into_inner().released, 0);
    assert_eq!(at_b.release(release(Which::All(true), "a")).await.unwrap().into_inner().released, 1);
}

#[tokio::test]
async fn release_and_track_say_what_there_was() {
    let (a, b) = pair().await;
    let (mut at_a, mut at_b) = (client(&a).await, client(&b).await);
    for id in ["job:1", "job:2", "other"] {
        send(&mut at_a, id, "x").await.unwrap();
        at_b.receive(request(id, 5000)).await.unwrap();
    }
    let track = |id: &str| TrackRequest { message_id: id.into(), ..TrackRequest::default() };
    let held = at_b.track(track("job:1")).await.unwrap().into_inner();
    assert_eq!((held.state(), held.len, held.sender_id.as_str()), (State::Held, 1, "a"));
    let release = |which| ReleaseRequest { which: Some(which), ..ReleaseRequest::default() };
    let released = async |client: &mut TestMailboxClient, which| {
        client.release(release(which)).await.unwrap().into_inner().released
    };
    assert_eq!(released(&mut at_b, Which::Topic("job:".into())).await, 2);
    assert_eq!(released(&mut at_b, Which::MessageId("other".into())).await, 1);
    assert_eq!(released(&mut at_b, Which::MessageId("other".into())).await, 0);
    let nothing = at_b.release(ReleaseRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    assert_all_must_be_said(&mut at_a, &mut at_b).await;
    let sent = TrackRequest { receiver_id: "b".into(), ..track("never") };
    assert_eq!(at_a.track(sent).await.unwrap().into_inner().state(), State::Unknown);
    assert!(matches!(
        a.engine.track_sent(&party("b"), &crate::testing::message_id("never")).await,
        Ok(Tracked::Unknown)
    ));
    a.shutdown().await;
    b.shutdown().await;
}

/// A stream of Exchange.
pub(super) struct TestExchange {
    pub(super) requests: mpsc::Sender<ExchangeRequest>,
    answers: Streaming<ExchangeResponse>,
}

impl TestExchange {
    pub(super) async fn open(gateway: &RunningGateway) -> Self {
        Self::over(client(gateway).await).await
    }

    pub(super) async fn over(mut client: TestMailboxClient) -> Self {
        let (requests, ready) = mpsc::channel(16);
        let answers = client.exchange(ReceiverStream::new(ready)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    pub(super) async fn send(&self, messages: &[(u64, &str, &'static str)]) {
        let message = |(tag, id, payload): &(u64, &str, &'static str)| Sending {
            tag: *tag,
            message_id: (*id).into(),
            receiver_id: "b".into(),
            payload: Bytes::from_static(payload.as_bytes()),
            ..Sending::default()
        };
        let send = messages.iter().map(message).collect();
        self.requests.send(ExchangeRequest { send, ..ExchangeRequest::default() }).await.unwrap();
    }

    pub(super) async fn subscribe(&self, which: Wanted) {
        let subscribe = vec![Subscription { which: Some(which), sender_id: String::new() }];
        self.requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> ExchangeResponse {
        tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap().unwrap().unwrap()
    }

    /// Ids of the next messages.
    pub(super) async fn received(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(self.next().await.received.into_iter().map(|received| received.message_id));
        }
        ids.sort();
        ids
    }
}

#[tokio::test]
async fn an_exchange_accepts_each_message_for_itself_with_its_sequence() {
    let a = RunningGateway::alone().await;
    let mut exchange = TestExchange::open(&a).await;
    exchange.send(&[(7, "one", "x"), (8, "", "no id"), (9, "two", "y")]).await;
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    while accepted.len() + refused.len() < 3 {
        let answer = exchange.next().await;
        accepted.extend(answer.accepted.into_iter().zip(answer.sequences));
        refused.extend(answer.refused.into_iter().map(|refused| (refused.tag, refused.error_code)));
    }
    accepted.sort_unstable();
    assert_eq!((accepted[0].0, accepted[1].0), (7, 9));
    assert!(accepted[0].1 > 0 && accepted[1].1 > accepted[0].1);
    assert_eq!(refused, [(8, 20002)]);
    a.shutdown().await;
}

#[tokio::test]
async fn an_acceptance_over_an_exchange_waits_for_its_sync() {
    let a = RunningGateway::alone().await;
    a.engine.set_sync_time(Duration::from_millis(200));
    let mut exchange = TestExchange::open(&a).await;
    let start = tokio::time::Instant::now();
    exchange.send(&[(1, "m", "x")]).await;
    assert_eq!(exchange.next().await.accepted, [1]);
    assert!(start.elapsed() >= Duration::from_millis(200));
    // Shutdown still answers what is under way.
    exchange.send(&[(2, "n", "x")]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (answer, ()) = tokio::join!(exchange.next(), a.shutdown());
    assert_eq!(answer.accepted, [2]);
}

#[tokio::test]
async fn a_subscription_gives_what_was_there_and_what_comes_once_each() {
    let (a, b) = pair().await;
    let mut at_a = client(&a).await;
    for id in ["job:1", "job:2", "other"] {
        send(&mut at_a, id, "before").await.unwrap();
        client(&b).await.receive(request(id, 5000)).await.unwrap();
    }
    let mut exchange = TestExchange::open(&b).await;
    exchange.subscribe(Wanted::Topic("job:".into())).await;
    assert_eq!(exchange.received(2).await, ["job:1", "job:2"]);
    for id in ["job:3", "other2", "job:4"] {
        send(&mut at_a, id, "after").await.unwrap();
    }
    assert_eq!(exchange.received(2).await, ["job:3", "job:4"]);
    exchange.subscribe(Wanted::MessageId("other".into())).await;
    assert_eq!(exchange.received(1).await, ["other"]);
    // The subscription is withdrawn.
    let unsubscribe =
        vec![Subscription { which: Some(Wanted::Topic("job:".into())), sender_id: String::new() }];
    exchange.requests.send(ExchangeRequest { unsubscribe, ..ExchangeRequest::default() }).await.unwrap();
    // This is refused, and the refusal shows that the request before it was dealt with.
    exchange.subscribe(Wanted::MessageId(String::new())).await;
    assert_eq!(exchange.next().await.refused[0].tag, 0);
    send(&mut at_a, "job:5", "x").await.unwrap();
    send(&mut at_a, "other", "again").await.unwrap();
    assert_eq!(exchange.received(1).await, ["other"]);
    // Releases over the stream.
    let release = |which| vec![ReleaseRequest { which: Some(which), ..ReleaseRequest::default() }];
    let empty =
        ExchangeRequest { release: release(Which::Topic(String::new())), ..ExchangeRequest::default() };
    exchange.requests.send(empty).await.unwrap();
    assert_eq!(exchange.next().await.refused[0].error_code, 20002, "an empty topic");
    let release = release(Which::All(true));
    exchange.requests.send(ExchangeRequest { release, ..ExchangeRequest::default() }).await.unwrap();
    until("all are released", async || {
        b.engine
            .topic(&petnet_storage::FromSender::Any, "", petnet_storage::Sequence(0), 9)
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn releases_over_an_exchange_are_answered_by_their_tags() {
    let (a, b) = pair().await;
    let mut at_a = client(&a).await;
    for id in ["job:1", "job:2", "other"] {
        send(&mut at_a, id, "x").await.unwrap();
        client(&b).await.receive(request(id, 5000)).await.unwrap();
    }
    let mut exchange = TestExchange::open(&b).await;
    let release = |tag, which| ReleaseRequest { which, tag, ..ReleaseRequest::default() };
    let release = vec![
        release(7, Some(Which::Topic("job:".into()))),
        // This one is not answered.
        release(0, Some(Which::MessageId("other".into()))),
        release(8, Some(Which::MessageId("never".into()))),
        release(9, None),
    ];
    exchange.requests.send(ExchangeRequest { release, ..ExchangeRequest::default() }).await.unwrap();
    let (mut released, mut refused) = (Vec::new(), Vec::new());
    while released.len() + refused.len() < 3 {
        let answer = exchange.next().await;
        released.extend(answer.released.into_iter().map(|released| (released.tag, released.messages)));
        refused.extend(answer.refused.into_iter().map(|refused| refused.tag));
    }
    released.sort_unstable();
    assert_eq!((released, refused), (vec![(7, 2), (8, 0)], vec![9]));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn no_more_subscriptions_than_there_may_be_and_they_end_with_their_stream() {
    let a = RunningGateway::alone_with(Settings { max_subscriptions: 1, ..settings("a") }).await;
    let mut first = TestExchange::open(&a).await;
    first.subscribe(Wanted::Topic("x".into())).await;
    first.subscribe(Wanted::Topic("y".into())).await;
    let refused = first.next().await.refused;
    assert!(refused[0].error_msg.contains("MAX_SUBSCRIPTIONS"), "{refused:?}");
    drop(first);
    until("another stream may subscribe", async || {
        let mut other = TestExchange::open(&a).await;
        other.subscribe(Wanted::Topic("x".into())).await;
        other.send(&[(1, "m", "x")]).await;
        other.next().await.refused.is_empty()
    })
    .await;
    a.shutdown().await;
}

#[tokio::test]
async fn a_request_of_too_many_entries_or_bytes_ends_the_exchange() {
    let a = RunningGateway::alone().await;
    let end = async |request: ExchangeRequest| {
        let mut exchange = TestExchange::open(&a).await;
        exchange.requests.send(request).await.unwrap();
        loop {
            match tokio::time::timeout(LIMIT, exchange.answers.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends without a word"),
                Err(status) => return status.code(),
            }
        }
    };
    let send = vec![Sending::default(); 16_385];
    assert_eq!(end(ExchangeRequest { send, ..ExchangeRequest::default() }).await, Code::InvalidArgument);
    let large = Sending { payload: vec![0; 5 << 20].into(), ..Sending::default() };
    let request = ExchangeRequest { send: vec![large], ..ExchangeRequest::default() };
    assert_eq!(end(request).await, Code::OutOfRange);
    a.shutdown().await;
}

/// A request as it is on the wire, with its texts as bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyText {
    #[prost(bytes = "vec", tag = "1")]
    message_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    receiver_id: Vec<u8>,
}

/// It used to be INTERNAL without a number, so programs took it for our fault and tried again for ever.
#[tokio::test]
async fn an_id_that_is_no_text_is_the_callers_mistake_in_every_service() {
    let (a, b) = pair().await;
    let bad = || AnyText { message_id: b"\xff\xfe".to_vec(), receiver_id: b"b".to_vec() };
    let channel = Endpoint::from_shared(format!("http://{}", a.addr)).unwrap().connect().await.unwrap();
    for path in [
        "/petnet.mailbox.v1.Mailbox/Send",
        "/petnet.mailbox.v1.Mailbox/Receive",
        "/petnet.mailbox.v1.Mailbox/Release",
        "/petnet.mailbox.v1.Mailbox/Track",
        "/petnet.simple.v1.SimpleRequestServer/ClientSimpleSend",
        "/petnet.simple.v1.SimpleRequestServer/ClientSimpleRecv",
        "/petnet.simple.v1.SimpleRequestServer/ServerSimpleSend",
        "/grpc.health.v1.Health/Check",
    ] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<AnyText, AnyText>::default();
        let refused = grpc.unary(tonic::Request::new(bad()), path.parse().unwrap(), codec).await.unwrap_err();
        if path.starts_with("/grpc.health") {
            // This is tonic's own service.
            continue;
        }
        assert_eq!(refused.code(), Code::InvalidArgument, "{path}: {refused:?}");
        assert_eq!(refused.metadata().get("petnet-error-code").unwrap(), "20002", "{path}");
    }
    // The same where requests are streams.
    for path in ["/petnet.mailbox.v1.Mailbox/SendStream", "/petnet.mailbox.v1.Mailbox/Exchange"] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<AnyText, AnyText>::default();
        let pieces = tokio_stream::iter([bad()]);
        let answer = grpc.streaming(tonic::Request::new(pieces), path.parse().unwrap(), codec).await;
        let refused = match answer {
            Ok(mut answers) => answers.get_mut().message().await.unwrap_err(),
            Err(refused) => refused,
        };
        assert_eq!(refused.code(), Code::InvalidArgument, "{path}: {refused:?}");
        assert_eq!(refused.metadata().get("petnet-error-code").unwrap(), "20002", "{path}");
    }
    a.shutdown().await;
    b.shutdown().await;
}
