//! Keys of sends on the wire, on a store with files.

use std::path::Path;

use petnet_storage::{Sequence, Store, StoreOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::mailbox::TestMailboxClient;
use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::{ExchangeRequest, Outgoing as Sending, SendPiece, SendRequest};
use crate::wire::status::ERROR_CODE;

async fn start(folder: &Path) -> (Gateway, Arc<dyn Engine>, TestMailboxClient) {
    let settings = settings("a");
    let hub = NewsHub::new(settings.max_waiting, settings.max_subscriptions);
    let (engine, _) = Store::open(StoreOptions::new(folder), hub.clone()).unwrap();
    let parties = parties(&[("a", &[String::new()]), ("b", &[free_address().to_string()])]);
    let gateway = Gateway::start_with_engine(settings, parties, hub, engine.clone()).await.unwrap();
    let address = format!("http://{}", gateway.local_addr());
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    (gateway, engine, MailboxClient::new(channel))
}

fn request(payload: &'static str, key: &'static [u8]) -> SendRequest {
    let (message_id, receiver_id) = ("m".into(), "b".into());
    SendRequest { message_id, receiver_id, payload: payload.into(), key: Bytes::from_static(key) }
}

async fn send(
    client: &mut TestMailboxClient,
    payload: &'static str,
    key: &'static [u8],
) -> Result<u64, Status> {
    Ok(client.send(request(payload, key)).await?.into_inner().sequence)
}

/// Sends the first piece of a stream that does not continue.
async fn begin(
    client: &mut TestMailboxClient,
    payload: &'static str,
    key: &'static [u8],
) -> Result<u64, Status> {
    let (pieces, ready) = mpsc::channel(1);
    let SendRequest { message_id, receiver_id, payload, key } = request(payload, key);
    let first = SendPiece { message_id, receiver_id, payload, key, ..SendPiece::default() };
    pieces.send(first).await.unwrap();
    let sent = client.send_stream(ReceiverStream::new(ready));
    Ok(tokio::time::timeout(LIMIT, sent).await.expect("it is answered at once")?.into_inner().sequence)
}

/// The sequence, or the number of the refusal.
async fn exchange(
    client: &mut TestMailboxClient,
    payload: &'static str,
    key: &'static [u8],
) -> Result<u64, i32> {
    let SendRequest { message_id, receiver_id, payload, key } = request(payload, key);
    let send = vec![Sending { tag: 7, message_id, receiver_id, payload, key }];
    let requests = tokio_stream::iter([ExchangeRequest { send, ..ExchangeRequest::default() }]);
    let mut answers = client.exchange(requests).await.unwrap().into_inner();
    let answer = tokio::time::timeout(LIMIT, answers.message()).await.unwrap().unwrap().unwrap();
    match answer.refused.first() {
        Some(refused) => Err(refused.error_code),
        None => Ok(answer.sequences[0]),
    }
}

fn number(status: &Status) -> &str {
    status.metadata().get(ERROR_CODE).map_or("", |number| number.to_str().unwrap())
}

#[tokio::test]
async fn a_send_with_its_key_is_one_acceptance_in_every_call_and_over_a_restart() {
    const KEY: &[u8] = b"sixteen bytes, 1";
    let folder = tempfile::tempdir().unwrap();
    let (gateway, engine, mut client) = start(folder.path()).await;
    let first = send(&mut client, "hello", KEY).await.unwrap();
    let check = async |client: &mut TestMailboxClient, engine: &Arc<dyn Engine>| {
        assert_eq!(send(client, "hello", KEY).await.unwrap(), first);
        assert_eq!(begin(client, "hel", KEY).await.unwrap(), first, "its bytes are not waited for");
        assert_eq!(exchange(client, "hello", KEY).await, Ok(first));
        let pending = engine.pending(&party("b"), Sequence(0), 10).await.unwrap();
        assert_eq!(pending.len(), 1);
    };
    check(&mut client, &engine).await;
    gateway.shutdown().await.unwrap();
    drop(engine);
    let (gateway, engine, mut client) = start(folder.path()).await;
    check(&mut client, &engine).await;
    gateway.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_key_of_another_message_or_of_another_length_is_refused() {
    const KEY: &[u8] = b"sixteen bytes, 1";
    let folder = tempfile::tempdir().unwrap();
    let (gateway, engine, mut client) = start(folder.path()).await;
    send(&mut client, "hello", KEY).await.unwrap();
    let status = send(&mut client, "other", KEY).await.unwrap_err();
    assert_eq!((status.code(), number(&status)), (Code::InvalidArgument, "20002"), "{status:?}");
    assert!(status.message().contains("other bytes"), "{status:?}");
    assert_eq!(exchange(&mut client, "other", KEY).await, Err(20002));
    for key in [&b"short"[..], b"seventeen bytes, 1"] {
        let refused = [send(&mut client, "x", key).await, begin(&mut client, "x", key).await];
        for status in refused.map(Result::unwrap_err) {
            assert_eq!((status.code(), number(&status)), (Code::InvalidArgument, "20002"), "{status:?}");
            assert!(status.message().contains("16 bytes"), "{status:?}");
        }
        assert_eq!(exchange(&mut client, "x", key).await, Err(20002));
    }
    assert_eq!(engine.pending(&party("b"), Sequence(0), 10).await.unwrap().len(), 1);
    gateway.shutdown().await.unwrap();
}
