//! The access table on the wire: every kind of caller against every method.

use std::fmt::Write;

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb as standard;

use super::tls::{CallerProof, Member, call, tls_settings};
use super::*;
use crate::proto::health as own_health;
use crate::proto::peer::Deliveries;
use crate::proto::peer::peer_link_client::PeerLinkClient;
use crate::proto::simple::ServerSimpleSendRequest;
use crate::tls::client_auth::TlsClientAuth;
use crate::wire::status::code;

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallResult {
    /// It was served.
    Yes,
    /// It was refused: the caller is not allowed.
    No,
    /// There was no connection to call over.
    Out,
}

fn of<T>(answer: Result<T, Status>) -> CallResult {
    match answer {
        Ok(_) => CallResult::Yes,
        Err(status) if status.code() == Code::PermissionDenied => CallResult::No,
        // The client's end of the handshake finished before the server refused.
        Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal) => {
            CallResult::Out
        }
        Err(status) => panic!("{status:?}"),
    }
}

fn of_response(answer: Result<tonic::Response<Response>, Status>) -> CallResult {
    match answer.map(tonic::Response::into_inner) {
        Ok(Response { success: true, .. }) => CallResult::Yes,
        Ok(response) if response.error_code == Some(code::ACCESS_DENIED) => CallResult::No,
        Ok(response) => panic!("{response:?}"),
        Err(status) => of(Err::<(), _>(status)),
    }
}

const METHODS: [&str; 8] = ["send", "recv", "deliver", "link", "check", "watch", "own check", "own watch"];

async fn tried(channel: &Channel, method: &str) -> CallResult {
    let mut simple = SimpleRequestServerClient::new(channel.clone());
    let mut standard_health = standard::health_client::HealthClient::new(channel.clone());
    let mut own = own_health::health_client::HealthClient::new(channel.clone());
    let (id, payload) = ("m".to_owned(), Bytes::from_static(b"x"));
    match method {
        "send" => {
            let request = ClientSimpleSendRequest { message_id: id, receiver_id: "b".into(), payload };
            of_response(simple.client_simple_send(request).await)
        }
        "recv" => {
            let mut request = Request::new(ClientSimpleRecvRequest { message_id: "not there".into() });
            request.metadata_mut().insert("petnet-wait-ms", "0".parse().unwrap());
            of_response(simple.client_simple_recv(request).await)
        }
        "deliver" => {
            of_response(simple.server_simple_send(ServerSimpleSendRequest { message_id: id, payload }).await)
        }
        "link" => {
            let mut request = Request::new(tokio_stream::iter([Deliveries::default()]));
            request.metadata_mut().insert("petnet-sender", "b".parse().unwrap());
            request.metadata_mut().insert("petnet-link-version", "1".parse().unwrap());
            of(PeerLinkClient::new(channel.clone()).deliver(request).await)
        }
        "check" => of(standard_health.check(standard::HealthCheckRequest::default()).await),
        "own check" => of(own.check(own_health::HealthCheckRequest::default()).await),
        "watch" => match standard_health.watch(standard::HealthCheckRequest::default()).await {
            Ok(answers) => of(answers.into_inner().next().await.unwrap()),
            refused => of(refused),
        },
        "own watch" => match own.watch(own_health::HealthCheckRequest::default()).await {
            Ok(answers) => of(answers.into_inner().next().await.unwrap()),
            refused => of(refused),
        },
        other => panic!("{other}"),
    }
}

/// One row of the table: the result for each method. A missing connection shows at once or with the first call.
async fn row(a: &RunningGateway, server: &Member, shows: CallerProof<'_>) -> [CallResult; METHODS.len()] {
    let mut row = [CallResult::Out; METHODS.len()];
    for (method, came) in METHODS.iter().zip(&mut row) {
        // A new connection for each: one that the server ended must not affect the next.
        if let Ok(channel) = tokio::time::timeout(LIMIT, call(a.addr, server, shows)).await.unwrap() {
            *came = tokio::time::timeout(LIMIT, tried(&channel, method)).await.unwrap();
        }
    }
    row
}

/// The table for people to read, in case it differs.
fn printed(table: &[(&str, [CallResult; METHODS.len()])]) -> String {
    let mut text = String::new();
    for (name, row) in table {
        write!(text, "\n{name:>24}:").unwrap();
        for (method, came) in METHODS.iter().zip(row) {
            write!(text, "  {method} {came:?}").unwrap();
        }
    }
    text
}

use CallResult::{No, Out, Yes};

/// Results for mailbox (twice), deliver, link, health (four times).
const CLIENT: [CallResult; 8] = [Yes, Yes, No, No, Yes, Yes, Yes, Yes];
const PEER: [CallResult; 8] = [No, No, Yes, Yes, Yes, Yes, Yes, Yes];
const UNNAMED: [CallResult; 8] = [No, No, Yes, No, No, No, No, No];
const NOBODY: [CallResult; 8] = [Out; 8];

async fn check_table(
    auth: TlsClientAuth,
    whitelist: &[&str],
    without: [CallResult; 8],
    peer: [CallResult; 8],
) {
    let (a, b, c) = (Member::new("a"), Member::new("b"), Member::new("c"));
    let folder = tempfile::tempdir().unwrap();
    let settings = tls_settings("a", folder.path(), &a.gateway(), auth);
    let parties = Parties {
        parties: [
            a.entry("a.example:1", whitelist),
            b.entry(&format!("b.example:{}", free_address().port()), &["*"]),
            c.entry("c.example:1", &["*"]),
        ]
        .into(),
    };
    let gateway = RunningGateway::start(settings, parties).await;
    let expired = {
        let from = time::OffsetDateTime::now_utc() - time::Duration::days(3);
        b.with(
            vec![rcgen::SanType::URI("petnet://party/b".try_into().unwrap())],
            from,
            from + time::Duration::DAY,
        )
    };
    let callers = [
        ("client", a.program(), CLIENT),
        ("client: our gateway's", a.gateway(), CLIENT),
        ("client by host", a.with_names(&["a.example"]), CLIENT),
        ("peer", b.gateway(), peer),
        ("peer's program", b.program(), peer),
        ("peer by id as DNS name", b.with_names(&["b"]), peer),
        ("peer by host", b.with_names(&["b.example", "other.example"]), peer),
        ("peer, two SANs for one", b.with_names(&["petnet://party/b", "b.example"]), peer),
        ("peer, URI before DNS", b.with_names(&["petnet://party/b", "a.example"]), peer),
        ("unknown CA", Member::new("b").gateway(), NOBODY),
        ("our id by another's CA", b.with_names(&["petnet://party/a"]), NOBODY),
        ("our host by another's CA", b.with_names(&["a.example"]), NOBODY),
        ("peer's id by our CA", a.with_names(&["petnet://party/b"]), NOBODY),
        ("peer's id by a third's CA", c.with_names(&["petnet://party/b"]), NOBODY),
        ("wrong SAN", b.with_names(&["elsewhere.example"]), NOBODY),
        ("SAN of a stranger", b.with_names(&["petnet://party/z"]), NOBODY),
        ("SAN that is no party", b.with_names(&["petnet://party/"]), NOBODY),
        ("no SAN", b.with_names(&[]), NOBODY),
        ("two SANs", b.with_names(&["petnet://party/a", "petnet://party/b"]), NOBODY),
        ("two SANs by DNS", b.with_names(&["a.example", "b.example"]), NOBODY),
        ("expired", expired, NOBODY),
    ];
    let (mut found, mut wanted) = (Vec::new(), Vec::new());
    for (name, pair, expected) in &callers {
        found.push((*name, row(&gateway, &a, CallerProof::Certificate(pair)).await));
        wanted.push((*name, *expected));
    }
    for (name, shows, expected) in
        [("no certificate", CallerProof::Nothing, without), ("plain TCP", CallerProof::Plain, NOBODY)]
    {
        found.push((name, row(&gateway, &a, shows).await));
        wanted.push((name, expected));
    }
    assert_eq!(found, wanted, "{}", printed(&found));
    gateway.shutdown().await;
}

#[tokio::test]
async fn with_certificates_required_each_caller_has_its_row_and_nobody_else_any() {
    check_table(TlsClientAuth::Required, &["*"], NOBODY, PEER).await;
}

#[tokio::test]
async fn with_certificates_optional_one_without_may_only_deliver() {
    check_table(TlsClientAuth::Optional, &["*"], UNNAMED, PEER).await;
}

#[tokio::test]
async fn the_whitelist_of_our_own_entry_decides_who_delivers() {
    let peer = [No, No, No, No, Yes, Yes, Yes, Yes];
    let unnamed = [No; 8];
    check_table(TlsClientAuth::Optional, &["c"], unnamed, peer).await;
    // A named caller may call, and one without a name may not.
    check_table(TlsClientAuth::Optional, &["b"], unnamed, PEER).await;
}

#[tokio::test]
async fn without_tls_everybody_may_everything_but_what_is_not_served() {
    let a = RunningGateway::alone().await;
    let channel = call(a.addr, &Member::new("a"), CallerProof::Plain).await.unwrap();
    for method in METHODS {
        assert_eq!(tried(&channel, method).await, Yes, "{method}");
    }
    a.shutdown().await;
}
