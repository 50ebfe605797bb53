//! Calls that are given up end only themselves, however many at once; a flood of them ends its own connection and no other.

use petnet_storage::Arrival;

use super::raw::{RawConnection, prefixed};
use super::*;
use crate::proto::mailbox::SendPiece;
use crate::testing::{message_id, until};

/// Numbers of a client's streams, which are odd.
fn streams(from: u32, count: u32) -> impl Iterator<Item = u32> {
    (from..from + count).map(|n| 2 * n + 1)
}

fn receive(id: &str) -> Vec<u8> {
    prefixed(&ClientSimpleRecvRequest { message_id: id.into() })
}

async fn arrives(a: &RunningGateway, id: &str) {
    let payload = Bytes::from_static(b"here");
    a.engine.store(Arrival { sender: None, id: message_id(id), payload, identity: None }).await.unwrap();
}

#[tokio::test]
async fn all_other_calls_of_a_connection_are_given_up_at_once_and_one_goes_on() {
    let a = RunningGateway::alone().await;
    let mut raw = RawConnection::connect(a.addr).await;
    raw.call(1, "ClientSimpleRecv").await;
    raw.data(1, &receive("kept"), true).await;
    until("it waits", async || a.gateway.waiting() == 1).await;
    let others = Limits::default().streams - 1;
    for round in 0..3 {
        // Twice in the same moment, like a program that starts again at once what it has given up.
        for half in 0..2 {
            let first = 1 + (2 * round + half) * others;
            assert!(raw.give_up(streams(first, others), "ClientSimpleRecv", &receive("never")).await);
        }
        until("they are over", async || a.gateway.calls() == 1).await;
    }
    arrives(&a, "kept").await;
    let answer = raw.answer(1).await;
    assert!(answer.windows(4).any(|bytes| bytes == b"here"), "{answer:?}");
    a.shutdown().await;
}

/// Bytes of refused uploads that were on their way arrive after HTTP/2 has forgotten the uploads.
#[tokio::test]
async fn late_bytes_of_refused_uploads_leave_the_other_calls_of_their_connection_alone() {
    let a = RunningGateway::alone().await;
    let mut raw = RawConnection::connect(a.addr).await;
    raw.call(1, "ClientSimpleRecv").await;
    raw.data(1, &receive("kept"), true).await;
    until("it waits", async || a.gateway.waiting() == 1).await;
    let nobody = SendPiece { receiver_id: "nobody".into(), message_id: "m".into(), ..SendPiece::default() };
    let uploads: Vec<u32> = streams(1, 100).collect();
    for stream in &uploads {
        raw.call_path(*stream, "/petnet.mailbox.v1.Mailbox/SendStream").await;
        raw.data(*stream, &prefixed(&nobody), false).await;
    }
    until("they are refused", async || a.gateway.calls() == 1).await;
    for stream in &uploads {
        for _ in 0..30 {
            raw.data(*stream, &[0; 100], false).await;
        }
    }
    arrives(&a, "kept").await;
    let answer = raw.answer(1).await;
    assert!(answer.windows(4).any(|bytes| bytes == b"here"), "{answer:?}");
    a.shutdown().await;
}

#[tokio::test]
async fn a_flood_of_calls_that_are_given_up_is_cut_and_others_are_served() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    let mut flood = RawConnection::connect(a.addr).await;
    // False means that it is cut before all of it was taken.
    flood.give_up(streams(0, 20_000), "ClientSimpleRecv", &receive("never")).await;
    assert!(client.send("b", "m", "x").await.unwrap().success);
    assert!(flood.is_told_to_calm_down().await);
    until("nothing of it is left", async || a.gateway.calls() == 0 && a.gateway.waiting() == 0).await;
    assert!(client.send("b", "n", "x").await.unwrap().success);
    a.shutdown().await;
}
