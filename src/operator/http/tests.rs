//! The HTTP server over real sockets, with a made-up gateway behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fake::{AWKWARD, FakeSource};
use super::server::{Http, HttpBounds};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

struct ServedHttp {
    http: Http,
    addr: SocketAddr,
    source: Arc<FakeSource>,
    draining: CancellationToken,
}

async fn served_within(bounds: HttpBounds) -> ServedHttp {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (source, draining) = (Arc::new(FakeSource::default()), CancellationToken::new());
    let http = Http::start(listener, source.clone(), draining.clone(), bounds);
    ServedHttp { http, addr, source, draining }
}

async fn served() -> ServedHttp {
    served_within(HttpBounds::default()).await
}

#[derive(Debug)]
struct ReadAnswer {
    status: u16,
    head: String,
    body: String,
}

impl ServedHttp {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn ask(&self, request: &str) -> ReadAnswer {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        answer(socket).await
    }

    async fn get(&self, path: &str) -> ReadAnswer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await
    }
}

async fn answer(mut socket: TcpStream) -> ReadAnswer {
    let mut text = String::new();
    timeout(DEADLINE, socket.read_to_string(&mut text)).await.expect("an answer in time").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    ReadAnswer { status, head: head.to_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn every_path_answers_and_carries_the_headers() {
    let served = served().await;
    let json = served.get("/status.json").await;
    let told: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(told["status"]["peers"][1]["party"], AWKWARD);
    assert_eq!(told["dead_letters"].as_array().unwrap().len(), super::answers::LETTERS);
    assert_eq!(told["history"]["every_seconds"], 10);
    let page = served.get("/").await;
    assert!(
        page.head.contains("content-type: text/html") && page.head.contains("script-src 'nonce-"),
        "{}",
        page.head
    );
    for path in ["/", "/metrics", "/healthz", "/readyz", "/status.json", "/nothing"] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{path} lacks {header}: {}", answer.head);
        }
    }
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let served = served().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = served.ask(&format!("{method} / HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    }
    let head = served.ask("HEAD /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_page_of_another_name_that_leads_to_loopback_reads_nothing() {
    let served = served().await;
    for request in [
        "GET /status.json HTTP/1.1\r\nhost: evil.example:1236\r\n\r\n",
        "GET /status.json HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        "GET http://evil.example/status.json HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let answer = served.ask(request).await;
        assert_eq!(answer.status, 421, "{request}");
        assert!(!answer.body.contains("party_a"));
    }
    let here = format!("GET /readyz HTTP/1.1\r\nhost: {}\r\n\r\n", served.addr);
    assert_eq!(served.ask(&here).await.status, 200);
    assert_eq!(served.ask("GET /readyz HTTP/1.0\r\n\r\n").await.status, 200, "no browser omits the host");
}

#[tokio::test]
async fn ready_only_while_it_serves_and_alive_throughout() {
    let served = served().await;
    assert_eq!(served.get("/readyz").await.body, "serving\n");
    served.source.poisoned.store(true, Ordering::Relaxed);
    let poisoned = served.get("/readyz").await;
    assert_eq!((poisoned.status, poisoned.body.as_str()), (503, "poisoned: sync of 1.log failed\n"));
    served.source.poisoned.store(false, Ordering::Relaxed);
    served.draining.cancel();
    let draining = served.get("/readyz").await;
    assert_eq!(draining.status, 503);
    assert!(draining.body.starts_with("draining"), "{}", draining.body);
    assert_eq!(served.get("/healthz").await.body, "alive\n");
}

#[tokio::test]
async fn a_store_that_does_not_answer_costs_an_error_and_not_health() {
    let served =
        served_within(HttpBounds { answer_time: Duration::from_millis(50), ..HttpBounds::default() }).await;
    served.source.hangs.store(true, Ordering::Relaxed);
    let metrics = served.get("/metrics").await;
    assert_eq!(metrics.status, 503);
    assert!(metrics.body.contains("did not say"), "{}", metrics.body);
    assert_eq!(served.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn silent_connections_make_room_after_their_time() {
    let head_time = Duration::from_millis(200);
    let served = served_within(HttpBounds { connections: 2, head_time, ..HttpBounds::default() }).await;
    let mut silent = served.connect().await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    // Both seats are taken: this request waits until the time for their heads has expired.
    assert_eq!(served.get("/healthz").await.status, 200);
    for socket in [&mut silent, &mut slow] {
        timeout(DEADLINE, socket.read_to_end(&mut Vec::new())).await.expect("it was closed").unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_hangs_gives_its_seat_back_after_the_time_of_a_connection() {
    let bounds =
        HttpBounds { connections: 1, connection_time: Duration::from_millis(200), ..HttpBounds::default() };
    let served = served_within(bounds).await;
    served.source.hangs.store(true, Ordering::Relaxed);
    let mut hanging = served.connect().await;
    hanging.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(served.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn nobody_holds_up_the_end() {
    let served = served().await;
    served.source.hangs.store(true, Ordering::Relaxed);
    let mut silent = served.connect().await;
    let mut hanging = served.connect().await;
    hanging.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // This is answered only after the others were accepted.
    assert_eq!(served.get("/healthz").await.status, 200);
    timeout(DEADLINE, served.http.stop()).await.expect("it stops");
    for socket in [&mut silent, &mut hanging] {
        let ended = timeout(DEADLINE, socket.read_to_end(&mut Vec::new())).await.expect("it was closed");
        drop(ended);
    }
    assert!(TcpStream::connect(served.addr).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = served().await;
    let long = "x".repeat(64 << 10);
    let mut socket = served.connect().await;
    // The server may no longer take the rest.
    drop(socket.write_all(format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await);
    let mut text = Vec::new();
    drop(timeout(DEADLINE, socket.read_to_end(&mut text)).await.expect("an end"));
    let text = String::from_utf8_lossy(&text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
}

#[tokio::test]
async fn metrics_are_openmetrics_and_name_no_message() {
    let served = served().await;
    served.source.syncs.note(0.001);
    let answer = served.get("/metrics").await;
    assert!(
        answer.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{}",
        answer.head
    );
    let text = &answer.body;
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("secret-id"), "a message id is in the metrics");
    assert!(text.contains("petnet_dead_messages_total{reason=\"expired\"} 1\n"), "{text}");
    assert!(text.contains("petnet_pending_messages{peer=\"party_b\"} 1000000.0\n"), "{text}");
    assert!(text.contains("petnet_peer_state{peer=\"party_b\",state=\"down\"} 1.0\n"), "{text}");
    assert!(text.contains("petnet_reload_refused{what=\"party_file\"} 0.0\n"), "{text}");
    assert!(text.contains("petnet_reload_refused{what=\"certificates\"} 1.0\n"), "{text}");
    assert!(text.contains("petnet_store_sync_seconds_bucket{le=\"+Inf\"} 1\n"), "{text}");
    assert!(text.contains(r#"{peer="<img src=x onerror=alert(1)> \"\\"}"#), "labels are not escaped: {text}");
    assert_every_sample_is_described(text);
    let ids = text.lines().filter(|line| line.contains("message_id=") || line.contains("id=\""));
    assert_eq!(ids.count(), 0);
}

#[tokio::test]
async fn scrapers_that_know_only_the_old_format_get_it() {
    let served = served().await;
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: text/plain\r\n\r\n";
    let answer = served.ask(request).await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.body.contains("# TYPE petnet_accepted_messages_total counter\n"));
}

/// Asserts that each sample belongs to the metric described last, which has a help text and a type, and that it comes only
/// once.
fn assert_every_sample_is_described(text: &str) {
    let mut family = "";
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(seen.insert(name), "{name} is there twice");
            assert!(help.len() > 5, "{line}");
            family = name;
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            assert_eq!(typed.split(' ').next(), Some(family), "{line}");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            assert!(["", "_total", "_info", "_sum", "_count", "_bucket"].contains(&suffix), "{line}");
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

#[tokio::test]
async fn connections_that_say_nothing_make_room_for_one_that_asks() {
    let long = Duration::from_secs(3600);
    let bounds =
        HttpBounds { connections: 8, head_time: long, connection_time: long, ..HttpBounds::default() };
    let served = served_within(bounds).await;
    let mut silent = Vec::new();
    for n in 0..3 {
        for _ in 0..20 {
            silent.push(served.connect().await);
        }
        // Half a request does not count as a request.
        silent.last_mut().unwrap().write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(
            timeout(DEADLINE, served.get("/metrics")).await.expect("it is answered").status,
            200,
            "{n}"
        );
    }
    let first = timeout(DEADLINE, silent[0].read(&mut [0])).await.expect("the oldest is closed");
    assert!(matches!(first, Ok(0) | Err(_)));
    served.http.stop().await;
}
