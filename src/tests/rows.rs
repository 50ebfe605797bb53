//! Who can hold how much, on the wire: programs at one address, peers that announce more than the store has room for, links
//! that are not dealt with, and callers that prove nothing.

use petnet_storage::FromSender;

use super::hostile::{HandmadeLink, channel, offer};
use super::hostile_streams::{real, real_with};
use super::mailbox::TestExchange;
use super::raw::{RawConnection, prefixed, zeros};
use super::shares::begun;
use super::tls::{CallerProof, Member, call, tls_settings};
use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::{ExchangeRequest, Subscription};
use crate::proto::peer::Delivery;
use crate::proto::simple::ServerSimpleSendRequest;
use crate::rules::limits::{least_call_bytes, message_limit};
use crate::testing::{message_id, until};
use crate::tls::client_auth::TlsClientAuth;

/// A connection from the address `from` of this machine.
async fn channel_from(from: &str, to: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).unwrap();
    endpoint.local_address(Some(from.parse().unwrap())).connect().await.unwrap()
}

/// Subscriptions to topics that no message id begins with.
fn subscriptions(count: usize, name: &str) -> ExchangeRequest {
    let which = |n| Some(Wanted::Topic(format!("{name} {n}")));
    let subscribe = (0..count).map(|n| Subscription { which: which(n), ..Subscription::default() }).collect();
    ExchangeRequest { subscribe, ..ExchangeRequest::default() }
}

#[tokio::test]
async fn programs_of_one_address_leave_subscriptions_and_waits_to_those_of_another() {
    let settings = Settings { max_subscriptions: 40, max_waiting: 40, ..settings("a") };
    let a = RunningGateway::alone_with(settings).await;
    // Over several streams and connections.
    let mut hostile = Vec::new();
    for n in 0..4 {
        let exchange = TestExchange::over(MailboxClient::new(channel_from("127.0.0.2", a.addr).await)).await;
        exchange.requests.send(subscriptions(20, &format!("hostile {n}"))).await.unwrap();
        hostile.push(exchange);
    }
    until("it has what it may have", async || a.hub.subscriptions.len() == 30).await;
    let waits: Vec<_> = (0..50)
        .map(|n| {
            tokio::spawn(async move {
                let client =
                    TestClient(SimpleRequestServerClient::new(channel_from("127.0.0.2", a.addr).await));
                client.receive_with(&n.to_string(), &[("petnet-wait-ms", "60000")], None).await
            })
        })
        .collect();
    until("it waits as often as it may", async || a.gateway.waiting() == 30).await;

    let mut good = TestExchange::over(MailboxClient::new(channel_from("127.0.0.3", a.addr).await)).await;
    good.requests.send(subscriptions(9, "good")).await.unwrap();
    good.subscribe(Wanted::MessageId("m".into())).await;
    until("another has subscribed", async || a.hub.subscriptions.len() == 40).await;
    let client = TestClient(SimpleRequestServerClient::new(channel_from("127.0.0.3", a.addr).await));
    let waiting = tokio::spawn(async move { client.receive("m").await });
    until("another waits", async || a.gateway.waiting() == 31).await;
    let sent = a.client().await;
    let mut peer = sent.0.clone();
    let delivery = ServerSimpleSendRequest { message_id: "m".into(), payload: "x".into() };
    assert!(peer.server_simple_send(delivery).await.unwrap().into_inner().success);
    assert_eq!(waiting.await.unwrap(), Some("x".into()));
    assert_eq!(good.received(1).await, ["m"]);
    drop(hostile);
    until("what it had is free", async || a.hub.subscriptions.len() == 10).await;
    waits.iter().for_each(tokio::task::JoinHandle::abort);
    until("it waits no more", async || a.gateway.waiting() == 0).await;
    a.shutdown().await;
}

/// A caller sends beyond the 16 MiB of HTTP/2's windows although nobody has read that much.
#[tokio::test]
async fn a_connection_that_sends_beyond_its_windows_is_cut_and_others_are_served() {
    let call_bytes = least_call_bytes(message_limit(MAX_MESSAGE) as u64);
    let limits = Limits { call_bytes, ..Limits::default() };
    let a = RunningGateway::alone_with(Settings { limits, ..settings("a") }).await;
    let mut hostile = RawConnection::connect(a.addr).await;
    hostile.agree().await;
    let message = prefixed(&ServerSimpleSendRequest { message_id: "h".into(), payload: zeros(MAX_MESSAGE) });
    let mut sent = 0;
    // Never the whole message, so that nothing of it can be dealt with.
    while sent < 50 && hostile.press(2 * sent + 1, "ServerSimpleSend", &message[..message.len() - 9]).await {
        sent += 1;
    }
    assert!(sent < 50 && hostile.is_closed_within(LIMIT).await, "{sent} times 3 MiB were taken");
    let client = TestClient(SimpleRequestServerClient::new(channel_from("127.0.0.3", a.addr).await));
    assert!(client.send("b", "m", zeros(1 << 20)).await.unwrap().success);
    until("its calls are over", async || a.gateway.calls() == 0 && a.gateway.shares().is_empty()).await;
    a.shutdown().await;
}

/// Room in the store is taken by what has come, not by what was announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_that_announce_more_than_the_store_has_room_for_take_none_of_it() {
    let a = real_with(64 << 20, |hub| hub).await;
    let mut hostile = Vec::new();
    for name in ["c", "d", "e"] {
        let mut link = HandmadeLink::open(channel(a.gateway.local_addr()).await, name).await;
        // With its first part, so that the upload is kept.
        link.offer((0..2).map(|n| offer(n, n + 1, 40 << 20)).collect()).await;
        for tag in begun(&mut link, 2).await {
            link.part(tag, 0, Bytes::from_static(b"abc")).await;
        }
        hostile.push(link);
    }
    until("they are under way", async || a.gateway.partials().len() == 6).await;
    let client = TestClient::connect(a.gateway.local_addr()).await;
    for n in 0..10 {
        assert!(client.send("b", &format!("sent {n}"), vec![1; 2 << 20]).await.unwrap().success, "{n}");
        a.deliver(&format!("delivered {n}"), n + 1, vec![2; 100_000].into()).await.unwrap();
        assert!(a.is_there(&format!("delivered {n}")).await);
    }
    assert_eq!(a.gateway.partials().len(), 6, "they announce it all the while");
    drop(hostile);
}

/// The disk hangs, and a peer goes on delivering.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_not_read_on_when_its_deliveries_are_not_stored() {
    let a = real(|hub| hub).await;
    a.disk.hold_syncs_of("");
    let first = a.deliver("first", 1, "x".into());
    until("the first is written", async || a.engine.stats().appends >= 1).await;
    let hostile = HandmadeLink::open(channel(a.gateway.local_addr()).await, "c").await;
    let delivery =
        |tag: u64| Delivery { payload: vec![1; 60_000].into(), len: None, ..offer(tag, tag + 1, 0) };
    let mut sent = 0;
    // One megabyte each; 32 MiB are under way, and the windows are 16 MiB.
    while sent < 200 {
        let frame = (0..16).map(|n| delivery(16 * sent + n)).collect();
        if tokio::time::timeout(Duration::from_secs(3), hostile.offer(frame)).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 100, "{sent} megabytes were read and nothing of them is stored");
    // A delivery of another peer still has its place, behind what is under way.
    let good = a.deliver("good", 2, "x".into());
    a.disk.let_syncs_go("");
    first.await.unwrap();
    tokio::time::timeout(LIMIT, good).await.expect("it is stored").unwrap();
    assert!(a.is_there("good").await);
}

/// An identity that such callers claim is not believed: nothing of what they say is remembered of a party.
#[tokio::test]
async fn callers_without_a_certificate_leave_no_memory_of_deliveries() {
    let (member, other) = (Member::new("a"), Member::new("b"));
    let folder = tempfile::tempdir().unwrap();
    let settings = tls_settings("a", folder.path(), &member.gateway(), TlsClientAuth::Optional);
    let all = [&member, &other].map(|of| of.entry("localhost:1", &["*"]));
    let a = RunningGateway::start(settings, Parties { parties: all.into() }).await;
    let mut hostile =
        SimpleRequestServerClient::new(call(a.addr, &member, CallerProof::Nothing).await.unwrap());
    let identity = |started_ms| {
        let incarnation = Incarnation { started_ms, random: 1 };
        petnet_storage::DeliveryIdentity { incarnation, number: 1, low_water: 1 }
    };
    for start in 0..20 {
        let message = ServerSimpleSendRequest { message_id: format!("{start}"), payload: "x".into() };
        let mut request = Request::new(message);
        crate::wire::metadata::write_delivery(request.metadata_mut(), &party("b"), &identity(start));
        request.metadata_mut().remove("petnet-sender");
        let answer = hostile.server_simple_send(request).await.unwrap().into_inner();
        assert!(answer.success, "{answer:?}");
        assert!(!a.engine.knows(&party("b"), &identity(start)).await.unwrap(), "start {start}");
    }
    // What the party delivers is new, whatever the unnamed callers said before.
    let pair = other.gateway();
    let channel = call(a.addr, &member, CallerProof::Certificate(&pair)).await.unwrap();
    let mut good = HandmadeLink::open(channel, "b").await;
    good.offer(vec![Delivery { payload: "y".into(), len: None, started_ms: 3, random: 1, ..offer(0, 1, 0) }])
        .await;
    until("it is kept", async || good.next().await.answered_below == 1).await;
    let held = a.engine.read(&FromSender::Party(party("b")), &message_id("m1")).await.unwrap();
    assert_eq!(held.map(|held| held.payload), Some("y".into()));
    a.shutdown().await;
}
