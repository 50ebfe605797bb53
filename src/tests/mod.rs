//! Whole gateways in one process over engines in memory: what clients and peers see on the wire.

mod access;
mod admin;
mod calls;
mod certificates;
mod delivery;
mod doctor;
mod given_up;
mod health;
mod hostile;
mod hostile_streams;
mod keys;
mod limits;
mod link;
mod mailbox;
mod passing;
mod raw;
mod reading;
#[cfg(feature = "redis")]
mod redis;
mod rows;
mod shares;
mod shutdown;
mod subscriptions;
mod tls;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{Engine, IdReuse, Incarnation};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::config::Settings;
use crate::gateway::lifecycle::Gateway;
use crate::gateway::news::NewsHub;
use crate::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use crate::proto::simple::{ClientSimpleRecvRequest, ClientSimpleSendRequest, Response};
use crate::rules::limits::Limits;
use crate::rules::parties::{Connection, ConnectionType, Parties};
use crate::testing::{FakeEngine, party};

/// No step of a test takes longer, even on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);
const MAX_MESSAGE: u64 = 3 << 20;

fn settings(name: &str) -> Settings {
    Settings {
        party: party(name),
        listen_addr: "127.0.0.1:0".parse().unwrap(),
        http_listen_addr: None,
        http_required: false,
        party_file: "unused".into(),
        pem_path: "unused".into(),
        own_certificate: None,
        tls_client_auth: crate::tls::client_auth::TlsClientAuth::Required,
        // Never created, because it has no parent.
        data_dir: "/nowhere/unused".into(),
        message_ttl: None,
        unread_ttl: None,
        send_ttl: None,
        recv_wait: Duration::from_millis(50),
        max_message_bytes: MAX_MESSAGE,
        store_max_bytes: 0,
        dead_letter_max_bytes: 0,
        id_reuse: IdReuse::Replace,
        shutdown_grace: Duration::from_secs(5),
        limits: Limits::default(),
        max_in_flight: 16,
        max_in_flight_bytes: 16 << 20,
        link_stall: Duration::from_secs(5),
        link_window: 1 << 20,
        link_resume: Duration::from_secs(60),
        max_stream_bytes: 0,
        max_uploads: 8,
        retry_cap: Duration::from_millis(500),
        max_waiting: 2000,
        max_subscriptions: 100,
        #[cfg(feature = "redis")]
        redis: None,
    }
}

/// A party file with `entries`: each is a party and its urls.
fn parties(entries: &[(&str, &[String])]) -> Parties {
    let connection = |url: &String| Connection {
        kind: ConnectionType::Direct,
        url: url.clone(),
        certificates: String::new(),
        whitelist: vec!["*".into()],
    };
    Parties {
        parties: entries
            .iter()
            .map(|(name, urls)| (party(name), urls.iter().map(connection).collect()))
            .collect(),
    }
}

/// An address on which nothing listens.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

struct RunningGateway {
    gateway: Gateway,
    hub: Arc<NewsHub>,
    engine: Arc<FakeEngine>,
    addr: SocketAddr,
}

impl RunningGateway {
    async fn start(settings: Settings, parties: Parties) -> Self {
        let hub = NewsHub::new(settings.max_waiting, settings.max_subscriptions);
        let engine = FakeEngine::new(hub.clone());
        Self::with(engine, hub, settings, parties).await
    }

    /// A gateway that starts on what another one kept. Arrivals wake nobody.
    async fn over(engine: Arc<FakeEngine>, settings: Settings, parties: Parties) -> Self {
        let hub = NewsHub::new(settings.max_waiting, settings.max_subscriptions);
        Self::with(engine, hub, settings, parties).await
    }

    async fn with(engine: Arc<FakeEngine>, hub: Arc<NewsHub>, settings: Settings, parties: Parties) -> Self {
        let as_trait: Arc<dyn Engine> = engine.clone();
        let gateway = Gateway::start_with_engine(settings, parties, hub.clone(), as_trait).await.unwrap();
        let addr = gateway.local_addr();
        Self { gateway, hub, engine, addr }
    }

    /// Gateway `a` alone, with a party `b` for which nobody answers.
    async fn alone() -> Self {
        Self::alone_with(settings("a")).await
    }

    async fn alone_with(settings: Settings) -> Self {
        Self::start(settings, parties(&[("a", &[String::new()]), ("b", &[free_address().to_string()])])).await
    }

    async fn client(&self) -> TestClient {
        TestClient::connect(self.addr).await
    }

    async fn shutdown(self) {
        tokio::time::timeout(LIMIT, self.gateway.shutdown()).await.unwrap().unwrap();
    }
}

/// Two gateways that know each other.
async fn pair() -> (RunningGateway, RunningGateway) {
    let b_addr = free_address();
    let a = RunningGateway::start(
        settings("a"),
        parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]),
    )
    .await;
    let b = start_b(b_addr, a.addr).await;
    (a, b)
}

async fn start_b(addr: SocketAddr, a: SocketAddr) -> RunningGateway {
    let settings = Settings { listen_addr: addr, ..settings("b") };
    RunningGateway::start(settings, parties(&[("a", &[a.to_string()]), ("b", &[String::new()])])).await
}

#[derive(Clone)]
struct TestClient(SimpleRequestServerClient<Channel>);

impl TestClient {
    async fn connect(addr: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        let limit = 64 << 20;
        Self(
            SimpleRequestServerClient::new(channel)
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
    }

    async fn send(&self, to: &str, id: &str, payload: impl Into<Bytes>) -> Result<Response, Status> {
        let request = ClientSimpleSendRequest {
            message_id: id.into(),
            receiver_id: to.into(),
            payload: payload.into(),
        };
        let mut client = self.0.clone();
        let answer = tokio::time::timeout(LIMIT, client.client_simple_send(request)).await.unwrap();
        answer.map(tonic::Response::into_inner)
    }

    /// Receives with metadata and a deadline.
    async fn receive_with(
        &self,
        id: &str,
        metadata: &[(&'static str, &str)],
        deadline: Option<Duration>,
    ) -> Result<Response, Status> {
        let mut request = Request::new(ClientSimpleRecvRequest { message_id: id.into() });
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let mut client = self.0.clone();
        let answer = tokio::time::timeout(LIMIT, client.client_simple_recv(request)).await.unwrap();
        answer.map(tonic::Response::into_inner)
    }

    /// Waits for a message up to the limit.
    async fn receive(&self, id: &str) -> Option<Bytes> {
        let response = self.receive_with(id, &[("petnet-wait-ms", "50000")], None).await.unwrap();
        assert!(response.success, "{response:?}");
        response.payload
    }
}

#[track_caller]
fn assert_refused(response: &Response, code: i32, text: &str) {
    assert!(!response.success, "{response:?}");
    assert_eq!(response.error_code, Some(code), "{response:?}");
    assert!(response.error_msg.as_ref().is_some_and(|words| words.contains(text)), "{response:?}");
}
