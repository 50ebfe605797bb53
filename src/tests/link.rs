//! The peer link on the wire: many deliveries on one stream.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::peer::{Answers, Deliveries, Delivery, Part};

/// A peer that speaks the link protocol by hand.
struct TrackingLink {
    frames: mpsc::Sender<Deliveries>,
    answers: Streaming<Answers>,
    /// Tags that were answered.
    known: BTreeSet<u64>,
}

impl TrackingLink {
    async fn open(addr: SocketAddr, metadata: &[(&'static str, &str)]) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        let (frames, ready) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(ready));
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let mut client = PeerLinkClient::new(channel);
        let answers = tokio::time::timeout(LIMIT, client.deliver(request)).await.unwrap()?.into_inner();
        Ok(Self { frames, answers, known: BTreeSet::new() })
    }

    async fn of_b(gateway: &RunningGateway) -> Self {
        Self::open(gateway.addr, &[("petnet-sender", "b"), ("petnet-link-version", "1")]).await.unwrap()
    }

    async fn send(&self, deliveries: Vec<Delivery>) {
        self.frames.send(Deliveries { deliveries, parts: Vec::new() }).await.unwrap();
    }

    async fn next(&mut self) -> Answers {
        tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap().unwrap().unwrap()
    }

    /// Reads until `count` deliveries are answered; returns the tags of those kept, and those refused with their codes.
    async fn answered(&mut self, count: usize) -> (Vec<u64>, Vec<(u64, i32)>) {
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        while kept.len() + refused.len() < count {
            let answers = self.next().await;
            refused.extend(answers.refused.into_iter().map(|r| (r.tag, r.error_code)));
            self.known.extend(refused.iter().map(|(tag, _)| *tag));
            let below = (0..answers.answered_below).chain(answers.kept);
            let new: Vec<u64> = below.filter(|tag| self.known.insert(*tag)).collect();
            kept.extend(new);
        }
        kept.sort_unstable();
        (kept, refused)
    }
}

fn delivery(tag: u64, id: &str, number: u64, payload: &'static [u8]) -> Delivery {
    let payload = Bytes::from_static(payload);
    Delivery {
        tag,
        message_id: id.into(),
        payload,
        started_ms: 1,
        random: 2,
        number,
        low_water: 1,
        len: None,
    }
}

#[tokio::test]
async fn each_delivery_on_a_stream_is_answered_for_itself() {
    let a = RunningGateway::alone().await;
    let mut link = TrackingLink::of_b(&a).await;
    link.send(vec![delivery(0, "m", 1, b"one"), delivery(1, "", 2, b"no id"), delivery(2, "n", 3, b"")])
        .await;
    assert_eq!(link.answered(3).await, (vec![0, 2], vec![(1, 20002)]));
    // The same deliveries again, and one with an impossible number: numbers count from 1.
    link.send(vec![delivery(3, "m", 1, b"other bytes"), delivery(4, "z", 0, b"")]).await;
    assert_eq!(link.answered(2).await, (vec![3], vec![(4, 20002)]));
    let client = a.client().await;
    assert_eq!(client.receive("m").await.unwrap(), "one");
    assert_eq!(client.receive("n").await.unwrap(), "");
    a.shutdown().await;
}

fn offer(tag: u64, id: &str, number: u64, len: u64) -> Delivery {
    Delivery { len: Some(len), ..delivery(tag, id, number, b"") }
}

impl TrackingLink {
    async fn parts(&self, tag: u64, from: usize, bytes: &'static [u8]) {
        let part = |n: usize| {
            let payload = Bytes::from_static(&bytes[n..bytes.len().min(n + 3)]);
            Part { tag, offset: n as u64, payload }
        };
        let parts = (from..bytes.len()).step_by(3).map(part).collect();
        self.frames.send(Deliveries { deliveries: Vec::new(), parts }).await.unwrap();
    }

    /// Where the parts of the last offer begin.
    async fn begins(&mut self, tag: u64) -> u64 {
        loop {
            let answers = self.next().await;
            if let Some(progress) = answers.progress.iter().find(|progress| progress.tag == tag) {
                return progress.bytes;
            }
        }
    }
}

#[tokio::test]
async fn a_large_message_comes_in_parts_and_small_ones_pass_it() {
    let a = RunningGateway::alone().await;
    let mut link = TrackingLink::of_b(&a).await;
    link.send(vec![offer(0, "large", 1, 10)]).await;
    assert_eq!(link.begins(0).await, 0);
    link.parts(0, 0, b"012345").await;
    link.send(vec![delivery(1, "small", 2, b"x")]).await;
    assert_eq!(link.answered(1).await.0, [1]);
    link.parts(0, 6, b"0123456789").await;
    assert_eq!(link.answered(1).await.0, [0]);
    let client = a.client().await;
    assert_eq!(client.receive("large").await.unwrap(), "0123456789");
    assert_eq!(a.gateway.partials().len(), 0);
    // Offered again: it is known, and nothing of it has to come.
    link.send(vec![offer(2, "large", 1, 10)]).await;
    assert_eq!(link.answered(1).await.0, [2]);
    a.shutdown().await;
}

#[tokio::test]
async fn a_large_message_goes_on_where_it_was_when_its_stream_broke() {
    let a = RunningGateway::alone().await;
    let mut first = TrackingLink::of_b(&a).await;
    first.send(vec![offer(0, "large", 1, 10)]).await;
    assert_eq!(first.begins(0).await, 0);
    first.parts(0, 0, b"012").await;
    // A second stream takes it over from one that hangs.
    let mut second = TrackingLink::of_b(&a).await;
    crate::testing::until("the part is there", async || {
        second = TrackingLink::of_b(&a).await;
        second.send(vec![offer(0, "large", 1, 10)]).await;
        second.begins(0).await == 3
    })
    .await;
    second.parts(0, 3, b"012345").await;
    assert_eq!(second.begins(0).await, 6, "told of what is durable");
    drop(second);
    let mut third = TrackingLink::of_b(&a).await;
    crate::testing::until("the next part is there", async || {
        third = TrackingLink::of_b(&a).await;
        third.send(vec![offer(0, "large", 1, 10)]).await;
        third.begins(0).await == 6
    })
    .await;
    third.parts(0, 6, b"0123456789").await;
    assert_eq!(third.answered(1).await.0, [0]);
    assert_eq!(a.client().await.receive("large").await.unwrap(), "0123456789");
    a.shutdown().await;
}

#[tokio::test]
async fn an_interrupted_message_is_forgotten_after_link_resume_and_its_seat_is_free() {
    let short = Settings { link_resume: Duration::from_millis(100), max_uploads: 1, ..settings("a") };
    let a = RunningGateway::alone_with(short).await;
    let mut link = TrackingLink::of_b(&a).await;
    link.send(vec![offer(0, "large", 1, 10)]).await;
    assert_eq!(link.begins(0).await, 0);
    link.send(vec![offer(1, "other", 2, 10)]).await;
    // MAX_UPLOADS is 1: the message waits, and holds up nothing.
    link.send(vec![delivery(2, "small", 3, b"x")]).await;
    assert_eq!(link.answered(1).await.0, [2]);
    drop(link);
    crate::testing::until("it is forgotten", async || a.gateway.partials().len() == 0).await;
    let mut link = TrackingLink::of_b(&a).await;
    link.send(vec![offer(0, "other", 2, 3)]).await;
    assert_eq!(link.begins(0).await, 0);
    link.parts(0, 0, b"abc").await;
    assert_eq!(link.answered(1).await.0, [0]);
    a.shutdown().await;
}

#[tokio::test]
async fn parts_that_do_not_fit_and_frames_that_break_the_rules_are_refused() {
    let large = Settings { max_stream_bytes: 100, ..settings("a") };
    let a = RunningGateway::alone_with(large).await;
    let mut link = TrackingLink::of_b(&a).await;
    link.send(vec![offer(0, "m", 1, 101), offer(1, "n", 2, 10)]).await;
    assert_eq!(link.answered(1).await.1, [(0, 30006)], "MAX_STREAM_BYTES");
    link.parts(1, 3, b"012345").await;
    assert_eq!(link.answered(1).await.1, [(1, 20002)], "a gap");
    // Parts that belong to no message are ignored: the message may have been refused a moment ago.
    link.parts(77, 0, b"012345").await;
    link.send(vec![delivery(2, "small", 3, b"x")]).await;
    assert_eq!(link.answered(1).await.0, [2]);
    link.send(vec![delivery(9, "small", 4, b"x")]).await;
    let end = tokio::time::timeout(LIMIT, link.answers.message()).await.unwrap().unwrap_err();
    assert!(end.code() == Code::InvalidArgument && end.message().contains("tag 9"), "{end}");
    a.shutdown().await;
}

#[tokio::test]
async fn a_link_is_opened_by_a_known_party_in_a_known_version_only() {
    let a = RunningGateway::alone().await;
    let code = async |metadata: &[(&'static str, &str)]| {
        TrackingLink::open(a.addr, metadata).await.err().map(|status| status.code())
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
    let a = RunningGateway::alone().await;
    a.engine.set_sync_time(Duration::from_millis(300));
    let mut link = TrackingLink::of_b(&a).await;
    link.send((1..=20).map(|n| delivery(n - 1, &n.to_string(), n, b"x")).collect()).await;
    crate::testing::until("they are being stored", async || a.engine.storing() == 20).await;
    let (answered, ()) = tokio::join!(link.answered(20), a.shutdown());
    assert_eq!(answered.0.len(), 20);
    let end = tokio::time::timeout(LIMIT, link.answers.message()).await.unwrap();
    assert!(end.is_err() || end.unwrap().is_none());
}
