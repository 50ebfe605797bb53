//! Clients: one call, and a load of many senders at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use petnet_protos::simple::simple_request_server_client::SimpleRequestServerClient;
use petnet_protos::simple::{ClientSimpleRecvRequest, ClientSimpleSendRequest};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::DEADLINE;
use crate::ledger::{Answer, Key, Ledger, Party};
use crate::random::Random;

/// Pause of a client after a call that failed, as a patient program makes it.
const PAUSE: Duration = Duration::from_millis(10);
/// HTTP/2 windows, as a program has them that sends large messages.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How many ids a writer goes on using.
const IDS_IN_USE: u64 = 16;

/// An endpoint at a gateway, not connected yet.
pub fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// A client of one gateway. It connects when it needs to, and again after a break. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    calls: SimpleRequestServerClient<Channel>,
    /// Longest wait for the answer to a send.
    pub patience: Duration,
}

impl Client {
    /// A client of the gateway at an address.
    pub fn of(address: &str) -> Self {
        let calls = SimpleRequestServerClient::new(endpoint(address).connect_lazy())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { calls, patience: DEADLINE }
    }

    /// Sends bytes that no ledger knows; they must be accepted.
    pub async fn send_bytes(&mut self, id: &str, receiver: &str, payload: Bytes) {
        let (message_id, receiver_id) = (id.to_owned(), receiver.to_owned());
        let request = ClientSimpleSendRequest { message_id, receiver_id, payload };
        let answer = self.calls.client_simple_send(request).await.unwrap().into_inner();
        assert!(answer.success, "{answer:?}");
    }

    /// Sends the next attempt of a message and notes the answer.
    pub async fn send(&mut self, ledger: &Ledger, key: &Key, len: usize) -> Answer {
        let (attempt, payload) = ledger.begin(key, len);
        let mut request = Request::new(ClientSimpleSendRequest {
            message_id: key.id.clone(),
            receiver_id: key.from.other().name().into(),
            payload,
        });
        request.set_timeout(self.patience);
        let answer = match self.calls.client_simple_send(request).await.map(tonic::Response::into_inner) {
            Ok(response) if response.success => Answer::Accepted,
            Ok(response) => Answer::Refused(
                response.error_code.unwrap_or_default(),
                response.error_msg.unwrap_or_default(),
            ),
            Err(status) => Answer::Unknown(status.code(), status.message().into()),
        };
        ledger.answered(key, attempt, &answer);
        answer
    }

    /// What there is for a key, after at most `wait`.
    pub async fn receive(&mut self, key: &Key, wait: Duration) -> Result<Option<Bytes>, Status> {
        let mut request = Request::new(ClientSimpleRecvRequest { message_id: key.id.clone() });
        let metadata = request.metadata_mut();
        metadata.insert("petnet-wait-ms", wait.as_millis().to_string().parse().unwrap());
        metadata.insert("petnet-sender", key.from.name().parse().unwrap());
        request.set_timeout(wait + DEADLINE);
        let response = self.calls.client_simple_recv(request).await?.into_inner();
        if response.success {
            return Ok(response.payload);
        }
        Err(Status::unknown(format!("{:?}: {:?}", response.error_code, response.error_msg)))
    }
}

/// How much is sent, and in what sizes.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Senders at a time, each with one call under way.
    pub writers: usize,
    /// One message in so many is large.
    pub large_every: u64,
    /// Bytes of a large one, at most; others have at most 4 KiB.
    pub large: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self { writers: 6, large_every: 40, large: 700 << 10 }
    }
}

/// Writers that send until they are stopped, whatever becomes of their gateway.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts writers at the gateways of a party: each message goes to any of them. `name` keeps their ids apart from those
    /// of other loads.
    pub fn start(
        clients: &[Client],
        from: Party,
        name: &str,
        mix: Mix,
        ledger: &Arc<Ledger>,
        random: &mut Random,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..mix.writers {
            let name = format!("{name}/{writer}");
            writers.spawn(write(
                clients.to_vec(),
                from,
                name,
                mix,
                ledger.clone(),
                random.fork(),
                stop.clone(),
            ));
        }
        Self { stop, writers }
    }

    /// Lets calls under way end, and begins no more.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
    }
}

/// One writer: an old id now and then, mostly new ones.
async fn write(
    mut clients: Vec<Client>,
    from: Party,
    name: String,
    mix: Mix,
    ledger: Arc<Ledger>,
    mut random: Random,
    stop: Arc<AtomicBool>,
) {
    let mut newest = 0;
    while !stop.load(Ordering::Relaxed) {
        let again = newest > 0 && random.below(5) == 0;
        let number = if again {
            newest - random.below(newest.min(IDS_IN_USE))
        } else {
            newest += 1;
            newest
        };
        let most = if random.below(mix.large_every) == 0 { mix.large } else { 4 << 10 };
        let len = 40 + random.below(most) as usize;
        let key = Key { from, id: format!("{name}/{number}") };
        let at = if clients.len() > 1 { random.below(clients.len() as u64) as usize } else { 0 };
        match clients[at].send(&ledger, &key, len).await {
            Answer::Accepted => {}
            // It may still be under way, and must not meet a later attempt of the same id.
            Answer::Unknown(Code::DeadlineExceeded | Code::Cancelled, _) => newest += IDS_IN_USE,
            Answer::Refused(..) | Answer::Unknown(..) => tokio::time::sleep(PAUSE).await,
        }
    }
}
