//! What a review from an attacker's point of view found in links, streams and exchanges: each of these tests failed once.

use petnet_storage::{DeliveryIdentity, Outgoing as Message, Payload, Pieces, Sequence, StoreError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;
use crate::proto::mailbox::SendPiece;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::peer::{Answers, Deliveries, Delivery, Part};
use crate::testing::{message_id, until};

pub(super) async fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

/// A peer that speaks the link protocol by hand.
pub(super) struct HandmadeLink {
    frames: mpsc::Sender<Deliveries>,
    pub(super) answers: Streaming<Answers>,
}

impl HandmadeLink {
    async fn of_b(addr: SocketAddr) -> Self {
        Self::open(channel(addr).await, "b").await
    }

    /// Opens a link as any party, over an existing connection.
    pub(super) async fn open(channel: Channel, sender: &str) -> Self {
        let (frames, ready) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(ready));
        request.metadata_mut().insert("petnet-sender", sender.parse().unwrap());
        request.metadata_mut().insert("petnet-link-version", "1".parse().unwrap());
        let answers = PeerLinkClient::new(channel).deliver(request).await.unwrap().into_inner();
        Self { frames, answers }
    }

    pub(super) async fn offer(&self, deliveries: Vec<Delivery>) {
        self.frames.send(Deliveries { deliveries, parts: Vec::new() }).await.unwrap();
    }

    pub(super) async fn part(&self, tag: u64, offset: u64, payload: Bytes) {
        let parts = vec![Part { tag, offset, payload }];
        self.frames.send(Deliveries { deliveries: Vec::new(), parts }).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Answers {
        tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap().unwrap().unwrap()
    }

    pub(super) async fn begins(&mut self, tag: u64) -> Result<u64, i32> {
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

pub(super) fn offer(tag: u64, number: u64, len: u64) -> Delivery {
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

/// Stream A is busy with a part; stream B wants its message, and breaks; then A gives the message up for B, which is gone.
#[tokio::test]
async fn a_message_that_two_streams_let_go_of_is_forgotten_and_its_seat_is_free() {
    let short = Settings { link_resume: Duration::from_millis(100), max_uploads: 1, ..settings("a") };
    let a = RunningGateway::alone_with(short).await;
    let mut first = HandmadeLink::of_b(a.addr).await;
    first.offer(vec![offer(0, 1, 10)]).await;
    assert_eq!(first.begins(0).await, Ok(0));
    a.engine.set_sync_time(Duration::from_millis(600));
    first.part(0, 0, Bytes::from_static(b"abc")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = HandmadeLink::of_b(a.addr).await;
    second.offer(vec![offer(0, 1, 10)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(second);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    drop(first);
    a.engine.set_sync_time(Duration::ZERO);
    // LINK_RESUME is a tenth of a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut other = HandmadeLink::of_b(a.addr).await;
    other.offer(vec![offer(0, 2, 10)]).await;
    let begins = other.begins(0).await;
    assert_eq!((begins, a.gateway.partials().len()), (Ok(0), 1), "the seat is never given back");
    a.shutdown().await;
}

/// Content of which only the beginning can be read.
#[derive(Debug, Default)]
struct BreakingContent(std::sync::atomic::AtomicBool);

#[tonic::async_trait]
impl Pieces for BreakingContent {
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

/// A large message is replaced by a newer one and freed while it is sent (`Gone`), or is damaged.
#[tokio::test]
async fn a_large_message_that_its_sender_gave_up_leaves_nothing_at_the_receiver() {
    let b_addr = free_address();
    let a = RunningGateway::start(
        settings("a"),
        parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]),
    )
    .await;
    let of_b = Settings {
        listen_addr: b_addr,
        link_resume: Duration::from_millis(100),
        max_uploads: 2,
        ..settings("b")
    };
    let b =
        RunningGateway::start(of_b, parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])])).await;
    let contents = [Arc::new(BreakingContent::default()), Arc::new(BreakingContent::default())];
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
    let broke = |content: &Arc<BreakingContent>| content.0.load(std::sync::atomic::Ordering::SeqCst);
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

/// All parts have come and the message is being stored when the link breaks.
#[tokio::test]
async fn a_large_message_that_is_there_whole_is_not_sent_again_when_its_link_breaks() {
    let a = RunningGateway::alone().await;
    let mut first = HandmadeLink::of_b(a.addr).await;
    first.offer(vec![offer(0, 1, 3)]).await;
    assert_eq!(first.begins(0).await, Ok(0));
    a.engine.set_sync_time(Duration::from_millis(500));
    first.part(0, 0, Bytes::from_static(b"abc")).await;
    until("it is being stored", async || a.engine.storing() == 1).await;
    drop(first);
    until("the link is gone", async || a.gateway.calls() == 0).await;
    a.engine.set_sync_time(Duration::ZERO);
    let mut second = HandmadeLink::of_b(a.addr).await;
    second.offer(vec![offer(0, 1, 3)]).await;
    let begins = tokio::time::timeout(Duration::from_secs(2), second.begins(0)).await;
    assert_ne!(begins, Ok(Ok(0)), "it begins anew");
    a.shutdown().await;
}

/// Clients used to be refused for lack of a seat while one peer delivered as usual.
#[tokio::test]
async fn a_peer_that_delivers_does_not_take_every_seat() {
    let a = RunningGateway::alone_with(Settings { max_uploads: 32, ..settings("a") }).await;
    let mut link = HandmadeLink::of_b(a.addr).await;
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

/// A client sends the beginning of a message and then nothing, on a connection that works.
#[tokio::test]
async fn a_client_that_rests_in_the_middle_does_not_keep_a_seat() {
    let limits = Limits { stall_timeout: Duration::from_secs(1), ..Limits::default() };
    let a = RunningGateway::alone_with(Settings { max_uploads: 1, limits, ..settings("a") }).await;
    let (pieces, ready) = mpsc::channel(4);
    let first = SendPiece { message_id: "m".into(), receiver_id: "b".into(), ..SendPiece::default() };
    pieces.send(first).await.unwrap();
    let mut client = MailboxClient::new(channel(a.addr).await);
    let resting = tokio::spawn(async move { client.send_stream(ReceiverStream::new(ready)).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut link = HandmadeLink::of_b(a.addr).await;
    link.offer(vec![offer(0, 1, 10)]).await;
    let begins = link.begins(0).await;
    resting.abort();
    assert_eq!(begins, Ok(0), "five times STALL_TIMEOUT later its seat is taken, and peers are refused");
    a.shutdown().await;
}
