//! Junk on the listeners of real gateways, in the clear and with TLS: nobody panics, nothing grows, nothing is wrong
//! afterwards.
//!
//! `PETNET_SEED=n` replays the strings, `PETNET_JUNK=n` says how many go to each listener.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::secure::{client, place as with_certificates, serve as serve_tls};
use common::{DEADLINE, Place, Running, petnet, run};
use petnet::proto::peer::{Deliveries, Delivery, Part};
use petnet_storage::fuzzing::Dice;
use prost::Message;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Strings into each listener.
const STRINGS: u64 = 100_000;
/// Memory that a gateway may have more of afterwards than after the first tenth: buffers of the allocator.
const GROWTH: u64 = 48 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What a client of HTTP/2 (RFC 9113) sends for one call, as bytes.
fn call(path: &str, body: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "petnet"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("petnet-wait-ms", "0"),
        ("petnet-sender", "party_a"),
        ("petnet-link-version", "1"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let message = [&[0], (body.len() as u32).to_be_bytes().as_slice(), body].concat();
    for (kind, flags, stream, payload) in [(4, 0, 0, &[][..]), (1, 4, 1, &block), (0, 1, 1, &message)] {
        bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        bytes.extend([kind, flags]);
        bytes.extend(u32::to_be_bytes(stream));
        bytes.extend(payload);
    }
    bytes
}

/// Calls of which none leaves a message behind.
fn calls() -> Vec<Vec<u8>> {
    let simple =
        |method: &str, body: &[u8]| call(&format!("/petnet.simple.v1.SimpleRequestServer/{method}"), body);
    // Twice refused: without an id, and with a number that none has.
    let delivery = |tag| Delivery { tag, payload: "hello".into(), ..Delivery::default() };
    let large = Delivery { tag: 3, len: Some(1 << 40), ..Delivery::default() };
    let deliveries = vec![delivery(0), delivery(1), delivery(2), large];
    let parts = vec![Part { tag: 3, offset: 0, payload: "hello".into() }];
    let frame = Deliveries { deliveries, parts }.encode_to_vec();
    vec![
        simple("ClientSimpleRecv", b"\x0a\x01m"),
        simple("ServerSimpleSend", b"\x12\x05hello"),
        call("/petnet.health.v1.Health/Check", b""),
        call("/grpc.health.v1.Health/Watch", b""),
        call("/no.such.Service/Method", b"x"),
        call("/petnet.peer.v1.PeerLink/Deliver", &frame),
    ]
}

fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// One string on a connection of its own; sometimes its answer is read.
fn feed(address: SocketAddr, bytes: &[u8], reads: bool) {
    // A full backlog refuses for a moment.
    let deadline = Instant::now() + DEADLINE;
    let mut socket = loop {
        match TcpStream::connect(address) {
            Ok(socket) => break socket,
            Err(why) => assert!(Instant::now() < deadline, "{why}"),
        }
    };
    // Else thousands of ports wait for stragglers.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // The gateway may have hung up.
    if socket.write_all(bytes).is_ok() && reads {
        drop(socket.shutdown(Shutdown::Write));
        drop(socket.read(&mut [0; 1024]));
    }
}

/// Resident bytes, and open files.
fn taken(pid: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    (kib << 10, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

/// Throws junk at gateway b while a delivers to it.
fn besiege(what: &str, place: &Place, gateways: [Running; 2], certs: [Option<&str>; 2], samples: &[Vec<u8>]) {
    let (seed, count) = (number("PETNET_SEED", 1), number("PETNET_JUNK", STRINGS));
    let address: SocketAddr = place.address(1).parse().unwrap();
    let deliver = |id: &str| {
        let (code, _, err) =
            client(place, 0, certs[0], &["send", "--to", "party_b", "--id", id], id.as_bytes());
        assert_eq!(code, Some(0), "{err}");
    };
    let read = |id: &str| {
        let (code, out, err) = client(place, 1, certs[1], &["recv", "--id", id], b"");
        assert_eq!((code, out.as_slice()), (Some(0), id.as_bytes()), "{err}");
    };
    deliver("before");
    read("before");
    let pid = gateways[1].id();
    let mut dice = Dice::new(seed);
    let mut start = (0, 0);
    for n in 0..count {
        if n == count / 10 {
            start = taken(pid);
        }
        let bytes = if n % 10 == 0 { dice.bytes(2000) } else { dice.mutated(samples) };
        feed(address, &bytes, dice.below(8) == 0);
    }
    deliver("after");
    read("after");
    read("before");
    let end = Instant::now() + DEADLINE;
    while taken(pid).1 > start.1 + 8 {
        assert!(Instant::now() < end, "{:?} files are open, it were {}", taken(pid).1, start.1);
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = taken(pid).0.saturating_sub(start.0);
    assert!(grown < GROWTH, "it has {grown} bytes more than after a tenth of the strings");
    for gateway in gateways {
        gateway.signal("TERM");
        let (status, log) = gateway.end();
        assert!(status.success() && !log.contains("panicked"), "{log}");
    }
    let (code, out, err) = run(petnet(&["verify", "--json"]).arg(place.path("party_b")));
    let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(code, Some(0), "{err}");
    let counts = ["mailbox", "pending", "dead_letters"].map(|name| found[name].as_u64().unwrap());
    assert_eq!(counts, [2, 0, 0], "before and after, and nothing that was never sent");
    println!(
        "junk: {count} strings into the listener {what}, {grown} bytes more, PETNET_SEED={seed} replays it"
    );
}

#[test]
fn junk_on_a_listener_in_the_clear_harms_nobody() {
    let place = Place::new();
    let gateways = [0, 1].map(|n| Running::serving(place.serve(n)));
    besiege("in the clear", &place, gateways, [None, None], &calls());
}

#[test]
fn junk_on_a_listener_with_tls_harms_nobody() {
    let place = with_certificates();
    let gateways = [0, 1].map(|n| serve_tls(&place, n));
    let hello = client_hello();
    let mut samples = calls();
    // Most of the strings are to get into the handshake.
    samples.extend(std::iter::repeat_n(hello, 3 * samples.len()));
    besiege("with TLS", &place, gateways, [Some("party_a"), Some("party_b")], &samples);
}
