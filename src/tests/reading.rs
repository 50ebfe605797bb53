//! What counts as reading a message, and what receives that name no sender are handed.

use petnet_storage::{Arrival, FromSender};

use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::release_request::Which;
use crate::proto::mailbox::{ReceiveRequest, ReleaseRequest};
use crate::testing::message_id;

async fn bring(gateway: &RunningGateway, sender: &str, id: &str, payload: Bytes) {
    let arrival = Arrival { sender: Some(party(sender)), id: message_id(id), payload, identity: None };
    gateway.engine.store(arrival).await.unwrap();
}

async fn is_unread(gateway: &RunningGateway, sender: &str, id: &str) -> bool {
    gateway.engine.open(&FromSender::Party(party(sender)), &message_id(id)).await.unwrap().unwrap().unread
}

fn of(sender: &str, id: &str) -> ReceiveRequest {
    ReceiveRequest { message_id: id.into(), sender_id: sender.into(), wait_ms: 0 }
}

#[tokio::test]
async fn two_unread_messages_are_refused_to_old_clients_with_both_names() {
    let b = RunningGateway::alone_with(settings("b")).await;
    bring(&b, "a", "m", "of a".into()).await;
    bring(&b, "c", "m", "of c".into()).await;
    let client = b.client().await;
    let ask = async |named: &[(&'static str, &str)]| client.receive_with("m", named, None).await.unwrap();
    assert_refused(&ask(&[]).await, 30007, "petnet-sender");
    assert_eq!(ask(&[("petnet-sender", "c")]).await.payload.as_deref(), Some(&b"of c"[..]));
    assert_eq!(ask(&[]).await.payload.as_deref(), Some(&b"of a"[..]), "nobody had read it");
    b.shutdown().await;
}

#[tokio::test]
async fn a_message_is_read_when_it_was_answered_and_a_stream_when_its_last_piece_was_taken() {
    let b = RunningGateway::alone_with(settings("b")).await;
    let large = Bytes::from(vec![7; 8 << 20]);
    for id in ["small", "asked for", "large"] {
        bring(&b, "a", id, if id == "large" { large.clone() } else { "x".into() }).await;
    }
    let channel = Endpoint::from_shared(format!("http://{}", b.addr)).unwrap().connect().await.unwrap();
    let mut client = MailboxClient::new(channel);
    assert!(client.receive(of("c", "asked for")).await.unwrap().into_inner().message.is_none());
    assert!(is_unread(&b, "a", "asked for").await && is_unread(&b, "a", "small").await);
    client.receive(of("", "small")).await.unwrap();
    assert!(!is_unread(&b, "a", "small").await);
    let mut pieces = client.receive_stream(of("", "large")).await.unwrap().into_inner();
    pieces.message().await.unwrap().unwrap();
    drop(pieces);
    let mut pieces = client.receive_stream(of("", "large")).await.unwrap().into_inner();
    assert!(is_unread(&b, "a", "large").await, "who broke off has not got it");
    while pieces.message().await.unwrap().is_some() {}
    assert!(!is_unread(&b, "a", "large").await);
    b.shutdown().await;
}

/// It used to end what another party had sent under the id, which nobody had read, and to report it as one message.
#[tokio::test]
async fn a_release_without_a_sender_ends_what_was_read_and_never_what_nobody_has_read_beside_it() {
    let b = RunningGateway::alone_with(settings("b")).await;
    bring(&b, "a", "m", "of a".into()).await;
    bring(&b, "c", "m", "of c".into()).await;
    let channel = Endpoint::from_shared(format!("http://{}", b.addr)).unwrap().connect().await.unwrap();
    let mut client = MailboxClient::new(channel);
    let release =
        || ReleaseRequest { which: Some(Which::MessageId("m".into())), ..ReleaseRequest::default() };
    let refused = client.release(release()).await.unwrap_err();
    assert!(refused.message().contains("\"a\"") && refused.message().contains("\"c\""), "{refused}");
    client.receive(of("a", "m")).await.unwrap();
    assert_eq!(client.release(release()).await.unwrap().into_inner().released, 1);
    assert!(is_unread(&b, "c", "m").await, "that of c is there");
    assert_eq!(client.release(release()).await.unwrap().into_inner().released, 1, "the only one");
    assert_eq!(client.release(release()).await.unwrap().into_inner().released, 0);
    b.shutdown().await;
}
