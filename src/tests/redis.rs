//! Gateways on a real Redis: what clients see of an outage, and that streams miss nothing and get nothing twice.

use std::collections::BTreeSet;

use petnet_redis_servers::{Options, RedisServer};
use petnet_storage::redis::RedisOptions;
use petnet_storage::{Arrival, DeliveryIdentity, Incarnation, StoreState};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb as health;

use super::*;
use crate::proto::admin::{ListPendingRequest, StatusRequest};
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::subscription::Which as Wanted;
use crate::proto::mailbox::{ExchangeRequest, ReceiveRequest, SendRequest, Subscription};
use crate::testing::{message_id, until};
use crate::wire::admin_socket::connect;
use crate::wire::status::code;

/// A gateway of `b` on a Redis that it gives up on after a moment.
async fn start(server: &RedisServer) -> Gateway {
    start_with(server, settings("b")).await
}

async fn start_with(server: &RedisServer, settings: Settings) -> Gateway {
    let redis = RedisOptions::new(&server.url(), party("b")).unwrap();
    let redis = RedisOptions { timeout: Duration::from_millis(500), ..redis };
    let settings = Settings { redis: Some(redis), ..settings };
    let peer = free_address().to_string();
    Gateway::start(settings, parties(&[("a", &[peer]), ("b", &[String::new()])])).await.unwrap()
}

async fn deliver(gateway: &Gateway, id: &str, number: u64) {
    let incarnation = Incarnation { started_ms: 1, random: 1 };
    let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
    let arrival = || Arrival {
        sender: Some(party("a")),
        id: message_id(id),
        payload: Bytes::copy_from_slice(id.as_bytes()),
        identity,
    };
    until("it is taken", async || gateway.engine().store(arrival()).await.is_ok()).await;
}

async fn until_away(gateway: &Gateway) {
    let mut state = gateway.engine().state();
    let away = |state: &StoreState| matches!(state, StoreState::Unavailable(_));
    tokio::time::timeout(LIMIT, state.wait_for(away)).await.unwrap().unwrap();
}

async fn stop(gateway: Gateway) {
    tokio::time::timeout(LIMIT, gateway.shutdown()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_waits_at_one_gateway_for_what_comes_to_another_also_through_an_outage() {
    let server = RedisServer::start(Options::default());
    let (one, two) = (start(&server).await, start(&server).await);
    let client = TestClient::connect(one.local_addr()).await;
    for (id, outage) in [("first", false), ("second", true)] {
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.receive(id).await }
        });
        until("it waits", async || one.waiting() == 1).await;
        if outage {
            server.kill();
            until_away(&one).await;
            server.restart();
        }
        deliver(&two, id, if outage { 2 } else { 1 }).await;
        assert_eq!(waiting.await.unwrap().unwrap(), id);
    }
    stop(one).await;
    stop(two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_sends_are_refused_receives_may_be_tried_again_and_health_says_so() {
    let server = RedisServer::start(Options::default());
    let gateway = start(&server).await;
    let client = TestClient::connect(gateway.local_addr()).await;
    assert!(client.send("a", "before", "x").await.unwrap().success);
    let channel = Endpoint::from_shared(format!("http://{}", gateway.local_addr())).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut asked = health::health_client::HealthClient::new(channel.clone());
    let check = || health::HealthCheckRequest { service: String::new() };
    assert_eq!(asked.check(check()).await.unwrap().into_inner().status, 1);
    server.kill();
    until_away(&gateway).await;
    let refused = client.send("a", "refused", "x").await.unwrap();
    assert_refused(&refused, code::REDIS, "nothing was kept");
    assert_eq!(asked.check(check()).await.unwrap().into_inner().status, 2);
    for wait in ["0", "100"] {
        let status = client.receive_with("m", &[("petnet-wait-ms", wait)], None).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let mut new = MailboxClient::new(channel);
    let request = SendRequest { message_id: "m".into(), receiver_id: "a".into(), ..SendRequest::default() };
    let status = new.send(request).await.unwrap_err();
    let number = status.metadata().get(crate::wire::status::ERROR_CODE).unwrap().to_str().unwrap();
    assert_eq!((status.code(), number), (Code::Unavailable, "10002"));
    let request = ReceiveRequest { message_id: "m".into(), sender_id: String::new(), wait_ms: 10 };
    assert_eq!(new.receive(request).await.unwrap_err().code(), Code::Unavailable);
    server.restart();
    until("it serves again", async || asked.check(check()).await.unwrap().into_inner().status == 1).await;
    assert!(client.send("a", "after", "x").await.unwrap().success);
    let pending = gateway.engine().pending(&party("a"), petnet_storage::Sequence(0), 9).await.unwrap();
    assert_eq!(pending.len(), 2, "nothing of the refused ones");
    stop(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_full_and_healthy_and_says_why() {
    let server = RedisServer::start(Options::default());
    let folder = tempfile::tempdir().unwrap();
    let gateway = start_with(&server, Settings { data_dir: folder.path().into(), ..settings("b") }).await;
    deliver(&gateway, "there", 1).await;
    server.config_set("maxmemory", "1");
    let mut state = gateway.engine().state();
    let full = state.wait_for(|state| matches!(state, StoreState::Full(_)));
    drop(tokio::time::timeout(LIMIT, full).await.unwrap().unwrap());
    let mut admin = connect(folder.path()).await.unwrap();
    let shown = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.state, "full");
    assert!(shown.state_reason.contains("OOM") && shown.state_reason.contains("maxmemory"), "{shown:?}");
    let channel = Endpoint::from_shared(format!("http://{}", gateway.local_addr())).unwrap();
    let mut asked = health::health_client::HealthClient::new(channel.connect().await.unwrap());
    for (service, wanted) in
        [("", 1), (crate::server::health_service::RECEIVE, 1), (crate::server::health_service::SEND, 2)]
    {
        let check = health::HealthCheckRequest { service: service.into() };
        assert_eq!(asked.check(check).await.unwrap().into_inner().status, wanted, "{service:?}");
    }
    let client = TestClient::connect(gateway.local_addr()).await;
    assert_refused(&client.send("a", "refused", "x").await.unwrap(), code::REDIS, "OOM");
    assert_eq!(client.receive("there").await.unwrap(), "there");
    server.config_set("maxmemory", "0");
    let serving = state.wait_for(|state| *state == StoreState::Serving);
    drop(tokio::time::timeout(LIMIT, serving).await.unwrap().unwrap());
    assert!(client.send("a", "after", "x").await.unwrap().success);
    stop(gateway).await;
}

/// One gateway delivers to a peer; the operator sees what is pending for it at every gateway.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_listed_the_same_at_every_gateway() {
    let server = RedisServer::start(Options::default());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut gateways = Vec::new();
    for folder in &folders {
        let settings = Settings { data_dir: folder.path().into(), ..settings("b") };
        gateways.push(start_with(&server, settings).await);
    }
    let client = TestClient::connect(gateways[0].local_addr()).await;
    for id in ["m1", "m2"] {
        assert!(client.send("a", id, "x").await.unwrap().success);
    }
    for folder in &folders {
        let mut admin = connect(folder.path()).await.unwrap();
        for peer in ["", "a"] {
            let request = ListPendingRequest { peer: peer.into(), ..Default::default() };
            let found = admin.list_pending(request).await.unwrap().into_inner().messages;
            let ids: Vec<_> = found.iter().map(|message| message.message_id.as_str()).collect();
            assert_eq!(ids, ["m1", "m2"], "{peer:?}");
        }
    }
    for gateway in gateways {
        stop(gateway).await;
    }
}

/// Connections for news are cut again and again, and Redis is killed once: whatever comes in between is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_gets_everything_once_though_news_are_lost() {
    let server = RedisServer::start(Options::default());
    let (one, two) = (start(&server).await, start(&server).await);
    for n in 0..5 {
        deliver(&two, &format!("job:early{n}"), 5000 + n).await;
    }
    let channel = Endpoint::from_shared(format!("http://{}", one.local_addr())).unwrap();
    let mut client = MailboxClient::new(channel.connect().await.unwrap());
    let (requests, stream) = mpsc::channel(8);
    let wanted = |which| Subscription { which: Some(which), sender_id: String::new() };
    let subscribe = vec![wanted(Wanted::Topic("job:".into())), wanted(Wanted::MessageId("one".into()))];
    requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
    let mut answers = client.exchange(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let sending = tokio::task::spawn_blocking({
        let runtime = tokio::runtime::Handle::current();
        move || {
            for n in 0..200u64 {
                if n % 10 == 0 {
                    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                }
                if n == 100 {
                    server.kill_and_restart();
                }
                let id = if n == 150 { "one".to_owned() } else { format!("job:{n}") };
                runtime.block_on(deliver(&two, &id, 1 + n));
            }
            (server, two)
        }
    });
    let mut found = BTreeSet::new();
    while found.len() < 205 {
        let answer = tokio::time::timeout(LIMIT, answers.message()).await;
        let answer = answer.unwrap_or_else(|_| panic!("nothing comes after {found:?}")).unwrap().unwrap();
        assert!(answer.refused.is_empty(), "{answer:?}");
        for received in answer.received {
            assert_eq!(received.payload, received.message_id.as_bytes());
            assert!(found.insert(received.message_id.clone()), "{} came twice", received.message_id);
        }
    }
    let (server, two) = sending.await.unwrap();
    // Nothing comes a second time.
    deliver(&two, "job:last", 1000).await;
    let answer = tokio::time::timeout(LIMIT, answers.message()).await.unwrap().unwrap().unwrap();
    let ids: Vec<_> = answer.received.iter().map(|received| received.message_id.as_str()).collect();
    assert_eq!(ids, ["job:last"]);
    drop((requests, answers));
    stop(one).await;
    stop(two).await;
    drop(server);
}
