//! A read error that passes, on the wire: callers are to try again, and nothing becomes a dead letter.

#[path = "../../storage/tests/flaky_disk/mod.rs"]
mod flaky_disk;

use petnet_storage::{Arrival, Sequence, Store, StoreOptions};
use tonic::Code;

use self::flaky_disk::FlakyDisk;
use super::hostile::channel;
use super::*;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::mailbox::{ReceivePiece, ReceiveRequest};
use crate::testing::{message_id, until};

fn options(folder: &std::path::Path, disk: &FlakyDisk) -> StoreOptions {
    StoreOptions { disk: Arc::new(disk.clone()), segment_bytes: 4 << 20, ..StoreOptions::new(folder) }
}

/// A gateway with a store that has none of its messages in memory: one message of each size, to `b` or from it.
async fn filled(
    folder: &std::path::Path,
    disk: &FlakyDisk,
    to_b: bool,
    b: SocketAddr,
) -> (Gateway, Arc<dyn Engine>) {
    let (store, _) = Store::open(options(folder, disk), Arc::new(petnet_storage::NoObserver)).unwrap();
    for (name, len) in SIZES {
        let (id, payload) = (message_id(name), Bytes::from(vec![7; len]));
        if to_b {
            store.accept(&party("b"), &id, payload).await.unwrap();
        } else {
            let arrival = Arrival { sender: Some(party("b")), id, payload, identity: None };
            store.store(arrival).await.unwrap();
        }
    }
    store.close().await.unwrap();
    drop(store);
    let settings = settings("a");
    let hub = NewsHub::new(settings.max_waiting, settings.max_subscriptions);
    let (store, _) = Store::open(options(folder, disk), hub.clone()).unwrap();
    let all = parties(&[("a", &[String::new()]), ("b", &[b.to_string()])]);
    let gateway = Gateway::start_with_engine(settings, all, hub, store.clone()).await.unwrap();
    (gateway, store)
}

const SIZES: [(&str, usize); 3] = [("small", 100), ("medium", 100_000), ("large", 2 << 20)];

async fn receive_stream(client: &mut MailboxClient<Channel>, id: &str) -> Result<Vec<u8>, Status> {
    let request = ReceiveRequest { message_id: id.into(), sender_id: "b".into(), wait_ms: 0 };
    let mut pieces = client.receive_stream(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(ReceivePiece { payload, .. }) = pieces.message().await? {
        all.extend(payload);
    }
    Ok(all)
}

async fn unharmed(store: &Arc<dyn Engine>) {
    assert!(store.dead_letters(Sequence(0), 10).await.unwrap().is_empty());
    assert_eq!(store.stats().damaged, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_reading_that_passes_is_told_as_that_and_the_next_read_gives_the_message() {
    let (folder, disk) = (tempfile::tempdir().unwrap(), FlakyDisk::default());
    let (gateway, store) = filled(folder.path(), &disk, false, free_address()).await;
    let addr = gateway.local_addr();
    let (client, mut mailbox) = (TestClient::connect(addr).await, MailboxClient::new(channel(addr).await));
    let from_b = [("petnet-sender", "b")];
    for (id, len) in SIZES {
        disk.fail_reads(1);
        let status = client.receive_with(id, &from_b, None).await.expect_err(id);
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let request = ReceiveRequest { message_id: id.into(), sender_id: "b".into(), wait_ms: 0 };
        disk.fail_reads(1);
        let status = mailbox.receive(request).await.expect_err(id);
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        disk.fail_reads(1);
        let status = receive_stream(&mut mailbox, id).await.expect_err(id);
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let whole = client.receive_with(id, &from_b, None).await.unwrap();
        assert_eq!(whole.payload.map(|payload| payload.len()), Some(len));
        assert_eq!(receive_stream(&mut mailbox, id).await.unwrap(), vec![7; len]);
    }
    unharmed(&store).await;
    gateway.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_could_not_be_read_for_its_delivery_is_delivered_and_no_dead_letter() {
    let (folder, disk) = (tempfile::tempdir().unwrap(), FlakyDisk::default());
    let b_addr = free_address();
    let (gateway, store) = filled(folder.path(), &disk, true, b_addr).await;
    // Whichever read it is that fails.
    disk.fail_reads(5);
    let b = start_b(b_addr, gateway.local_addr()).await;
    for (id, len) in SIZES {
        assert_eq!(b.client().await.receive(id).await, Some(vec![7; len].into()), "{id}");
    }
    assert_eq!(disk.left(), 0, "they failed");
    let is_settled = async || store.pending(&party("b"), Sequence(0), 1).await.unwrap().is_empty();
    until("all is settled", is_settled).await;
    unharmed(&store).await;
    gateway.shutdown().await.unwrap();
    b.shutdown().await;
}
