//! The peer link on the wire: many deliveries on one stream.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::peer::{Answers, Deliveries, Delivery};

/// A peer that speaks the link by hand.
struct Link {
    frames: mpsc::Sender<Deliveries>,
    answers: Streaming<Answers>,
}

impl Link {
    async fn open(addr: SocketAddr, metadata: &[(&'static str, &str)]) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        let (frames, ready) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(ready));
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let mut client = PeerLinkClient::new(channel);
        let answers = tokio::time::timeout(LIMIT, client.deliver(request)).await.unwrap()?.into_inner();
        Ok(Self { frames, answers })
    }

    async fn of_b(gateway: &Running) -> Self {
        Self::open(gateway.addr, &[("petnet-sender", "b"), ("petnet-link-version", "1")]).await.unwrap()
    }

    async fn send(&self, deliveries: Vec<Delivery>) {
        self.frames.send(Deliveries { deliveries }).await.unwrap();
    }

    /// Reads until `count` deliveries are answered: tags kept, and tags refused with their codes.
    async fn answered(&mut self, count: usize) -> (Vec<u64>, Vec<(u64, i32)>) {
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        while kept.len() + refused.len() < count {
            let answers =
                tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap().unwrap().unwrap();
            kept.extend(answers.kept);
            refused.extend(answers.refused.into_iter().map(|r| (r.tag, r.error_code)));
        }
        kept.sort_unstable();
        (kept, refused)
    }
}

fn delivery(tag: u64, id: &str, number: u64, payload: &'static [u8]) -> Delivery {
    let payload = Bytes::from_static(payload);
    Delivery { tag, message_id: id.into(), payload, started_ms: 1, random: 2, number, low_water: 1 }
}

#[tokio::test]
async fn each_delivery_on_a_stream_is_answered_for_itself() {
    let a = Running::alone().await;
    let mut link = Link::of_b(&a).await;
    link.send(vec![delivery(1, "m", 1, b"one"), delivery(2, "", 2, b"no id"), delivery(3, "n", 3, b"")])
        .await;
    assert_eq!(link.answered(3).await, (vec![1, 3], vec![(2, 20002)]));
    // The same deliveries again, and one that cannot be: numbers count from 1.
    link.send(vec![delivery(4, "m", 1, b"other bytes"), delivery(5, "z", 0, b"")]).await;
    assert_eq!(link.answered(2).await, (vec![4], vec![(5, 20002)]));
    let client = a.client().await;
    assert_eq!(client.receive("m").await.unwrap(), "one");
    assert_eq!(client.receive("n").await.unwrap(), "");
    a.shutdown().await;
}

#[tokio::test]
async fn a_link_is_opened_by_a_known_party_in_a_known_version_only() {
    let a = Running::alone().await;
    let code = async |metadata: &[(&'static str, &str)]| {
        Link::open(a.addr, metadata).await.err().map(|status| status.code())
    };
    assert_eq!(
        code(&[("petnet-sender", "b"), ("petnet-link-version", "2")]).await,
        Some(Code::Unimplemented)
    );
    assert_eq!(code(&[("petnet-sender", "b")]).await, Some(Code::Unimplemented));
    assert_eq!(code(&[("petnet-link-version", "1")]).await, Some(Code::Unimplemented));
    for sender in ["stranger", "a"] {
        let denied = code(&[("petnet-sender", sender), ("petnet-link-version", "1")]).await;
        assert_eq!(denied, Some(Code::PermissionDenied), "{sender}");
    }
    a.shutdown().await;
}

#[tokio::test]
async fn shutdown_answers_what_is_under_way_and_ends_the_link() {
    let a = Running::alone().await;
    a.engine.set_sync_time(Duration::from_millis(300));
    let mut link = Link::of_b(&a).await;
    link.send((1..=20).map(|n| delivery(n, &n.to_string(), n, b"x")).collect()).await;
    crate::testing::until("they are being stored", async || a.engine.storing() == 20).await;
    let (answered, ()) = tokio::join!(link.answered(20), a.shutdown());
    assert_eq!(answered.0.len(), 20);
    let end = tokio::time::timeout(LIMIT, link.answers.message()).await.unwrap();
    assert!(end.is_err() || end.unwrap().is_none());
}
