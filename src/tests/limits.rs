//! Hostile and broken callers can do nothing to others.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use super::raw::{RawConnection, prefixed, zeros};
use super::tls::{CallerProof, Member, call, tls_settings};
use super::*;
use crate::rules::limits::{least_call_bytes, message_limit};
use crate::testing::until;
use crate::tls::client_auth::TlsClientAuth;

/// A limit that a test waits for.
const SOON: Duration = Duration::from_millis(500);
/// A limit that a test must not run into by being slow itself.
const LATER: Duration = Duration::from_secs(3);
/// A grace time that nothing may need.
const LONG_GRACE: Duration = Duration::from_mins(1);

async fn limited(limits: Limits) -> RunningGateway {
    let entries = parties(&[("a", &[String::new()]), ("b", &[free_address().to_string()])]);
    RunningGateway::start(Settings { limits, ..settings("a") }, entries).await
}

/// A gateway with room for the largest message once.
async fn tight() -> RunningGateway {
    let call_bytes = least_call_bytes(message_limit(MAX_MESSAGE) as u64);
    limited(Limits { call_bytes, ..Limits::default() }).await
}

fn send(payload: Bytes) -> Vec<u8> {
    prefixed(&ClientSimpleSendRequest { message_id: "m".into(), receiver_id: "b".into(), payload })
}

#[tokio::test]
async fn silent_connections_make_room_for_one_that_speaks() {
    for limits in [
        Limits { connections: 4, ..Limits::default() },
        Limits { connections_per_address: 4, ..Limits::default() },
    ] {
        let a = limited(limits).await;
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(TcpStream::connect(a.addr).await.unwrap());
        }
        let client = a.client().await;
        for n in 0..10 {
            assert!(client.send("b", &n.to_string(), "x").await.unwrap().success);
            silent.push(TcpStream::connect(a.addr).await.unwrap());
        }
        let first = tokio::time::timeout(LIMIT, silent[0].read_to_end(&mut Vec::new())).await;
        assert!(first.is_ok(), "the oldest silent one is closed");
        a.shutdown().await;
    }
}

async fn with_tls(member: &Member, folder: &Path, limits: Limits) -> RunningGateway {
    let settings = tls_settings("a", folder, &member.gateway(), TlsClientAuth::Required);
    let parties = Parties { parties: [member.entry("localhost:1", &["*"])].into() };
    RunningGateway::start(Settings { limits, shutdown_grace: LONG_GRACE, ..settings }, parties).await
}

async fn half_a_handshake(addr: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    socket
}

/// Found by a flood of such handshakes: HTTP/2 writes first, and that write waited for the handshake for ever.
#[tokio::test]
async fn a_handshake_that_stops_half_way_is_closed_in_time() {
    let (member, folder) = (Member::new("a"), tempfile::tempdir().unwrap());
    let limits = Limits { handshake_timeout: SOON, ..Limits::default() };
    let a = with_tls(&member, folder.path(), limits).await;
    for mut half in [half_a_handshake(a.addr).await, TcpStream::connect(a.addr).await.unwrap()] {
        let closed = tokio::time::timeout(LIMIT, half.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok());
    }
    a.shutdown().await;
}

#[tokio::test]
async fn half_handshakes_make_room_for_a_whole_one_and_do_not_hold_up_shutdown() {
    let (member, folder) = (Member::new("a"), tempfile::tempdir().unwrap());
    let a = with_tls(&member, folder.path(), Limits { connections: 4, ..Limits::default() }).await;
    let mut all = Vec::new();
    for _ in 0..50 {
        all.push(half_a_handshake(a.addr).await);
    }
    let program = member.program();
    let connecting = call(a.addr, &member, CallerProof::Certificate(&program));
    let channel = tokio::time::timeout(LIMIT, connecting).await.unwrap().unwrap();
    let mut client = SimpleRequestServerClient::new(channel);
    let request = ClientSimpleRecvRequest { message_id: "m".into() };
    assert!(client.client_simple_recv(request).await.unwrap().into_inner().success);
    a.shutdown().await;
}

#[tokio::test]
async fn an_address_whose_connections_all_work_gets_no_further_one() {
    let a = limited(Limits { connections_per_address: 2, ..Limits::default() }).await;
    let (one, two) = (a.client().await, a.client().await);
    let waiting = [one, two].map(|client| tokio::spawn(async move { client.receive("m").await }));
    until("both wait", async || a.gateway.waiting() == 2).await;
    let mut third = TcpStream::connect(a.addr).await.unwrap();
    let closed = tokio::time::timeout(LIMIT, third.read(&mut [0])).await.expect("it is closed");
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert!(waiting.iter().all(|one| !one.is_finished()));
    a.shutdown().await;
}

#[tokio::test]
async fn a_connection_has_so_many_calls_at_a_time_and_further_ones_wait() {
    let a = limited(Limits { streams: 2, ..Limits::default() }).await;
    let client = a.client().await;
    // Only its first call shows the limit.
    assert!(client.send("b", "m", "x").await.unwrap().success);
    let receive = |n: u32| {
        let client = client.clone();
        tokio::spawn(
            async move { client.receive_with(&n.to_string(), &[("petnet-wait-ms", "300")], None).await },
        )
    };
    let all: Vec<_> = (0..6).map(receive).collect();
    let mut most = 0;
    for one in all {
        while !one.is_finished() {
            most = most.max(a.gateway.calls());
            tokio::task::yield_now().await;
        }
        assert!(one.await.unwrap().unwrap().success);
    }
    assert_eq!(most, 2);
    a.shutdown().await;
}

#[tokio::test]
async fn headers_beyond_their_limit_are_refused_and_the_next_call_is_served() {
    let a = limited(Limits { header_bytes: 8 << 10, ..Limits::default() }).await;
    let client = a.client().await;
    let long = "x".repeat(20 << 10);
    let refused = client.receive_with("m", &[("x-much", &long)], None).await.unwrap_err();
    assert!(!matches!(refused.code(), Code::Ok | Code::Unimplemented), "{refused:?}");
    assert!(client.send("b", "m", "x").await.unwrap().success);
    a.shutdown().await;
}

#[tokio::test]
async fn a_large_message_waits_for_room_and_small_ones_pass() {
    let a = tight().await;
    a.engine.set_sync_time(SOON);
    let client = a.client().await;
    let send = |n: u32| {
        let client = client.clone();
        tokio::spawn(async move { client.send("b", &n.to_string(), zeros(MAX_MESSAGE)).await })
    };
    let all: Vec<_> = (0..4).map(send).collect();
    until("all of them run", async || a.gateway.calls() == 4).await;
    let small = client.send("b", "small", "x").await.unwrap();
    assert!(
        small.success && all.iter().filter(|one| !one.is_finished()).count() >= 2,
        "it waited for large ones"
    );
    for one in all {
        assert!(one.await.unwrap().unwrap().success);
    }
    assert_eq!(a.engine.pending_count(), 5);
    a.shutdown().await;
}

/// A request that was read needs no room any longer: otherwise callers that wait for messages would keep out those that
/// bring them.
#[tokio::test]
async fn any_number_of_waiting_receives_leaves_room_for_sends() {
    let a = tight().await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let client = a.client().await;
        for n in 0..200 {
            let client = client.clone();
            waiting.push(tokio::spawn(async move { client.receive(&n.to_string()).await }));
        }
    }
    until("all wait", async || a.gateway.waiting() == waiting.len()).await;
    assert!(a.client().await.send("b", "m", "x").await.unwrap().success);
    assert!(waiting.iter().all(|one| !one.is_finished()));
    a.shutdown().await;
}

#[tokio::test]
async fn an_announced_message_that_never_comes_holds_its_room_for_the_stall_timeout_only() {
    let call_bytes = least_call_bytes(message_limit(MAX_MESSAGE) as u64);
    let a = limited(Limits { stall_timeout: LATER, call_bytes, ..Limits::default() }).await;
    let mut hostile = RawConnection::connect(a.addr).await;
    hostile.call(1, "ClientSimpleSend").await;
    hostile.data(1, &send(zeros(MAX_MESSAGE))[..1000], false).await;
    until("its call runs", async || a.gateway.calls() == 1).await;
    let client = a.client().await;
    assert!(client.send("b", "m", zeros(MAX_MESSAGE)).await.unwrap().success);
    assert!(hostile.is_closed_within(LIMIT).await);
    assert_eq!((a.gateway.calls(), a.engine.pending_count()), (0, 1));
    a.shutdown().await;
}

#[tokio::test]
async fn a_request_that_keeps_coming_is_not_cut_however_slow() {
    let a = limited(Limits { stall_timeout: LATER, ..Limits::default() }).await;
    let mut slow = RawConnection::connect(a.addr).await;
    slow.call(1, "ClientSimpleSend").await;
    let request = send(zeros(40 << 10));
    let (steps, pause) = (30, LATER / 10);
    for (n, some) in request.chunks(request.len().div_ceil(steps)).enumerate() {
        slow.data(1, some, n + 1 == steps).await;
        tokio::time::sleep(pause).await;
    }
    until("it is accepted", async || a.engine.pending_count() == 1).await;
    a.shutdown().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut() {
    let (a, b) = pair().await;
    let client = a.client().await;
    assert!(client.send("b", "m", zeros(MAX_MESSAGE)).await.unwrap().success);
    let b_client = b.client().await;
    assert!(b_client.receive("m").await.is_some());
    let (addr, engine) = (b.addr, b.engine.clone());
    b.shutdown().await;
    drop(b_client);

    let entries = parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])]);
    let limits = Limits { stall_timeout: SOON, ..Limits::default() };
    let b =
        RunningGateway::over(engine, Settings { limits, listen_addr: addr, ..settings("b") }, entries).await;
    let mut lazy = RawConnection::connect(b.addr).await;
    lazy.call(1, "ClientSimpleRecv").await;
    lazy.data(1, &prefixed(&ClientSimpleRecvRequest { message_id: "m".into() }), true).await;
    until("its call runs", async || b.gateway.calls() == 1).await;
    lazy.is_gone().await;
    until("its call is over", async || b.gateway.calls() == 0).await;
    b.shutdown().await;
    a.shutdown().await;
}

#[tokio::test]
async fn a_waiting_receive_is_no_stalled_one() {
    let a = limited(Limits { stall_timeout: SOON, ..Limits::default() }).await;
    let client = a.client().await;
    let wait = 3 * SOON;
    let start = tokio::time::Instant::now();
    let wait = wait.as_millis().to_string();
    let answer = client.receive_with("m", &[("petnet-wait-ms", &wait)], None).await.unwrap();
    assert!(answer.success && answer.payload.is_none() && start.elapsed() >= 3 * SOON, "{answer:?}");
    a.shutdown().await;
}

#[tokio::test]
async fn a_connection_whose_other_side_is_gone_is_closed() {
    let limits = Limits { keepalive_interval: SOON / 5, keepalive_timeout: SOON / 5, ..Limits::default() };
    let a = limited(limits).await;
    // This connection never answers a ping.
    let mut dead = RawConnection::connect(a.addr).await;
    assert!(dead.is_closed_within(LIMIT).await);
    a.shutdown().await;
}

#[tokio::test]
async fn an_old_connection_ends_and_calls_go_on_over_a_new_one() {
    let a = limited(Limits { connection_age: SOON, ..Limits::default() }).await;
    let mut old = RawConnection::connect(a.addr).await;
    // This call lasts longer than that.
    old.call(1, "ClientSimpleRecv").await;
    old.data(1, &prefixed(&ClientSimpleRecvRequest { message_id: "m".into() }), true).await;
    let client = a.client().await;
    assert!(old.is_closed_within(LIMIT / 2).await, "before its call ends");
    for n in 0..10 {
        assert!(client.send("b", &n.to_string(), "x").await.unwrap().success);
    }
    a.shutdown().await;
}

#[tokio::test]
async fn delivering_goes_on_while_links_grow_old() {
    let b_addr = free_address();
    let limits = Limits { connection_age: SOON, ..Limits::default() };
    let entries = parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]);
    let a = RunningGateway::start(Settings { limits: limits.clone(), ..settings("a") }, entries).await;
    let entries = parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])]);
    let b = RunningGateway::start(Settings { limits, listen_addr: b_addr, ..settings("b") }, entries).await;
    // Their own connections reach their age, too.
    let (sender, receiver) = (a.client().await, b.client().await);
    let end = tokio::time::Instant::now() + 6 * SOON;
    let mut sent = 0;
    while tokio::time::Instant::now() < end {
        let id = sent.to_string();
        until("it is accepted", async || sender.send("b", &id, "x").await.is_ok()).await;
        until("it is received", async || {
            receiver.receive_with(&id, &[], None).await.is_ok_and(|answer| answer.payload.is_some())
        })
        .await;
        sent += 1;
    }
    until("all is settled", async || a.engine.pending_count() == 0).await;
    assert!(a.engine.letters().is_empty() && sent > 0);
    b.shutdown().await;
    a.shutdown().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_any_number_of_silent_connections() {
    let entries = parties(&[("a", &[String::new()])]);
    let a = RunningGateway::start(Settings { shutdown_grace: LONG_GRACE, ..settings("a") }, entries).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(a.addr).await.unwrap());
    }
    let half = RawConnection::connect(a.addr).await;
    a.shutdown().await;
    drop(half);
}
