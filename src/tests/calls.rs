//! What clients and peers are answered, call by call.

use petnet_storage::{Arrival, DeliveryIdentity};
use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::proto::simple::ServerSimpleSendRequest;
use crate::testing::{Fault, message_id, until};

async fn arrive(gateway: &RunningGateway, sender: Option<&str>, id: &str, payload: &'static [u8]) {
    let arrival = Arrival {
        sender: sender.map(party),
        id: message_id(id),
        payload: Bytes::from_static(payload),
        identity: None,
    };
    gateway.engine.store(arrival).await.unwrap();
}

#[tokio::test]
async fn not_there_yet_has_no_payload_and_an_empty_message_has_an_empty_one() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let nothing = client.receive_with("m", &[], None).await.unwrap();
    assert_eq!((nothing.success, nothing.payload, nothing.error_code), (true, None, None));
    arrive(&a, None, "m", b"").await;
    let empty = client.receive_with("m", &[], None).await.unwrap();
    assert_eq!((empty.success, empty.payload), (true, Some(Bytes::new())));
    a.shutdown().await;
}

#[tokio::test]
async fn reading_does_not_remove_and_the_last_write_wins() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    arrive(&a, Some("b"), "m", b"old").await;
    assert_eq!(client.receive("m").await.unwrap(), "old");
    assert_eq!(client.receive("m").await.unwrap(), "old");
    arrive(&a, Some("b"), "m", b"new").await;
    assert_eq!(client.receive("m").await.unwrap(), "new");
    arrive(&a, Some("c"), "m", b"from c").await;
    assert_eq!(client.receive("m").await.unwrap(), "from c", "the newest, whoever sent it");
    let from_b = client.receive_with("m", &[("petnet-sender", "b")], None).await.unwrap();
    assert_eq!(from_b.payload.unwrap(), "new");
    a.shutdown().await;
}

#[tokio::test]
async fn waiting_receive_is_answered_when_the_message_arrives() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let waiting = tokio::spawn(async move { client.receive("m").await });
    until("it waits", async || a.gateway.waiting() == 1).await;
    let start = Instant::now();
    arrive(&a, None, "m", b"here").await;
    assert_eq!(waiting.await.unwrap().unwrap(), "here");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    a.shutdown().await;
}

#[tokio::test]
async fn cancelled_call_leaves_no_waiter_behind() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let waiting = tokio::spawn(async move { client.receive("m").await });
    until("it waits", async || a.gateway.waiting() == 1).await;
    waiting.abort();
    until("the waiter is gone", async || a.gateway.waiting() == 0).await;
    a.shutdown().await;
}

#[tokio::test]
async fn wait_is_that_of_the_call_and_ends_before_its_deadline() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let wait = |metadata: &'static [(&'static str, &'static str)], deadline| {
        let client = client.clone();
        async move {
            let start = Instant::now();
            (client.receive_with("m", metadata, deadline).await, start.elapsed())
        }
    };
    let (answer, took) = wait(&[("petnet-wait-ms", "300")], None).await;
    assert!(answer.unwrap().payload.is_none());
    assert!(took >= Duration::from_millis(300), "{took:?}");
    let (answer, took) = wait(&[("petnet-wait-ms", "60000")], Some(Duration::from_millis(600))).await;
    assert!(answer.expect("answered before the deadline").payload.is_none());
    assert!(took >= Duration::from_millis(400), "{took:?}");
    let (answer, _) = wait(&[("petnet-wait-ms", "soon")], None).await;
    assert_refused(&answer.unwrap(), 20002, "petnet-wait-ms");
    a.shutdown().await;
}

#[tokio::test]
async fn invalid_sends_are_refused_with_code_and_text() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    assert_refused(&client.send("b", "", "x").await.unwrap(), 20002, "empty");
    assert_refused(
        &client.send("b", &"x".repeat(2000), "x").await.unwrap(),
        20002,
        "2000 bytes; at most 1024",
    );
    assert_refused(&client.send("nobody", "m", "x").await.unwrap(), 30003, "nobody");
    assert_refused(&client.send("a", "m", "x").await.unwrap(), 30003, "\"a\"");
    let answer = client.receive_with(&"x".repeat(1025), &[], None).await.unwrap();
    assert_refused(&answer, 20002, "1025");
    a.shutdown().await;
}

#[tokio::test]
async fn size_limit_is_exact_and_its_error_clear() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let payload = |more: usize| vec![1; MAX_MESSAGE as usize + more];
    assert!(client.send("b", &"x".repeat(1024), payload(0)).await.unwrap().success);
    assert_refused(&client.send("b", "m", payload(1)).await.unwrap(), 30006, &MAX_MESSAGE.to_string());
    let far = client.send("b", "m", payload(1 << 20)).await.unwrap_err();
    assert!(matches!(far.code(), Code::OutOfRange | Code::ResourceExhausted), "{far:?}");
    assert!(client.send("b", "m", "x").await.unwrap().success, "the connection lives on");
    a.shutdown().await;
}

#[tokio::test]
async fn malformed_protobuf_gets_an_error_and_hurts_nobody() {
    let a = RunningGateway::alone().await;
    let channel = Endpoint::from_shared(format!("http://{}", a.addr)).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    // Field 2 holds bytes in this request and text in the one that the method expects.
    let garbage =
        ServerSimpleSendRequest { message_id: "m".into(), payload: Bytes::from_static(&[0xff, 0xfe]) };
    let path = "/petnet.simple.v1.SimpleRequestServer/ClientSimpleSend".parse().unwrap();
    let codec: tonic_prost::ProstCodec<_, Response> = tonic_prost::ProstCodec::default();
    let status = grpc.unary(Request::new(garbage), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.metadata().get("petnet-error-code").unwrap(), "20002");
    assert!(a.client().await.send("b", "m", "x").await.unwrap().success);
    a.shutdown().await;
}

#[tokio::test]
async fn store_errors_reach_the_client_as_what_they_are() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    a.engine.set_fault(Fault::Full);
    assert_refused(&client.send("b", "m", "x").await.unwrap(), 30005, "full");
    a.engine.set_fault(Fault::Io);
    let passes = client.send("b", "m", "x").await.unwrap_err();
    assert_eq!(passes.code(), Code::Unavailable);
    assert!(passes.message().contains("a test"), "{passes:?}");
    a.engine.set_fault(Fault::None);
    a.engine.set_id_reuse(IdReuse::Reject);
    assert!(client.send("b", "m", "x").await.unwrap().success);
    assert!(client.send("b", "m", "x").await.unwrap().success, "the same bytes again are fine");
    assert_refused(&client.send("b", "m", "y").await.unwrap(), 30007, "\"m\"");
    a.engine.set_fault(Fault::Poisoned);
    let status = client.send("b", "n", "x").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("a sync failed"), "{status:?}");
    let why = tokio::time::timeout(LIMIT, a.gateway.failed()).await.unwrap();
    assert_eq!(why, "a sync failed");
    a.shutdown().await;
}

#[tokio::test]
async fn success_is_answered_only_after_the_sync() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    a.engine.set_sync_time(Duration::from_millis(300));
    let start = Instant::now();
    assert!(client.send("b", "m", "x").await.unwrap().success);
    assert!(start.elapsed() >= Duration::from_millis(300));
    a.shutdown().await;
}

async fn deliver(client: &TestClient, metadata: &[(&'static str, &str)]) -> Response {
    let mut request =
        Request::new(ServerSimpleSendRequest { message_id: "m".into(), payload: Bytes::from_static(b"x") });
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    let mut client = client.0.clone();
    tokio::time::timeout(LIMIT, client.server_simple_send(request)).await.unwrap().unwrap().into_inner()
}

#[tokio::test]
async fn delivery_names_a_known_sender_or_none() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let incarnation = ("petnet-incarnation", "0123456789abcdef0123456789abcdef");
    let identity = [("petnet-sender", "b"), incarnation, ("petnet-number", "5"), ("petnet-low-water", "1")];
    assert!(deliver(&client, &[]).await.success, "a Python peer");
    assert!(deliver(&client, &[("petnet-sender", "b")]).await.success);
    assert_refused(&deliver(&client, &[("petnet-sender", "a")]).await, 30004, "itself");
    assert_refused(&deliver(&client, &[("petnet-sender", "z")]).await, 30004, "\"z\"");
    assert!(deliver(&client, &identity).await.success);
    assert!(deliver(&client, &identity).await.success, "a repetition is acknowledged");
    assert_eq!(a.engine.stats().repeated, 1);
    assert_refused(&deliver(&client, &identity[..3]).await, 20002, "go together");
    assert_refused(&deliver(&client, &identity[1..]).await, 20002, "petnet-sender");
    a.shutdown().await;
}

#[tokio::test]
async fn late_delivery_of_an_older_message_replaces_nothing() {
    let a = RunningGateway::alone().await;
    let incarnation = petnet_storage::Incarnation { started_ms: 5, random: 5 };
    for (number, payload) in [(2, "newer"), (1, "older")] {
        let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
        let payload = Bytes::from(payload);
        let arrival = Arrival { sender: Some(party("b")), id: message_id("m"), payload, identity };
        a.engine.store(arrival).await.unwrap();
    }
    assert_eq!(a.client().await.receive("m").await.unwrap(), "newer");
    a.shutdown().await;
}
