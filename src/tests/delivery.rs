//! From gateway to gateway.

use super::*;
use crate::testing::until;

#[tokio::test]
async fn two_gateways_exchange_messages_both_ways() {
    let (a, b) = pair().await;
    let (at_a, at_b) = (a.client().await, b.client().await);
    let big = Bytes::from(vec![7; MAX_MESSAGE as usize]);
    assert!(at_a.send("b", "topic:0", "to b").await.unwrap().success);
    assert!(at_b.send("a", "topic:0", "to a").await.unwrap().success);
    assert!(at_a.send("b", "empty", "").await.unwrap().success);
    assert!(at_a.send("b", "big", big.clone()).await.unwrap().success);
    assert_eq!(at_b.receive("topic:0").await.unwrap(), "to b");
    assert_eq!(at_a.receive("topic:0").await.unwrap(), "to a");
    assert_eq!(at_b.receive("empty").await.unwrap(), "");
    assert!(at_b.receive("big").await.unwrap() == big, "the same bytes");
    until("both settled", async || a.engine.pending_count() + b.engine.pending_count() == 0).await;
    let named = at_b.receive_with("topic:0", &[("petnet-sender", "a")], None).await.unwrap();
    assert_eq!(named.payload.unwrap(), "to b", "the sender is known by name");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn messages_wait_for_a_peer_that_is_down_and_the_last_write_wins() {
    let b_addr = free_address();
    let entries = parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]);
    let a = RunningGateway::start(settings("a"), entries).await;
    let client = a.client().await;
    for n in 0..50 {
        assert!(client.send("b", &n.to_string(), format!("message {n}")).await.unwrap().success);
    }
    for version in ["one", "two", "three"] {
        assert!(client.send("b", "versioned", version).await.unwrap().success);
    }
    let b = start_b(b_addr, a.addr).await;
    let at_b = b.client().await;
    for n in 0..50 {
        assert_eq!(at_b.receive(&n.to_string()).await.unwrap(), format!("message {n}"));
    }
    until("all settled", async || a.engine.pending_count() == 0).await;
    assert_eq!(at_b.receive("versioned").await.unwrap(), "three");

    // The gateway stops and comes back at the same address, with the connection broken.
    b.shutdown().await;
    assert!(client.send("b", "after", "the break").await.unwrap().success);
    let b = start_b(b_addr, a.addr).await;
    assert_eq!(b.client().await.receive("after").await.unwrap(), "the break");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn next_connection_is_used_when_one_fails() {
    let b_addr = free_address();
    let urls = [free_address().to_string(), b_addr.to_string()];
    let a = RunningGateway::start(settings("a"), parties(&[("a", &[String::new()]), ("b", &urls)])).await;
    let b = start_b(b_addr, a.addr).await;
    assert!(a.client().await.send("b", "m", "x").await.unwrap().success);
    assert_eq!(b.client().await.receive("m").await.unwrap(), "x");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn message_above_the_peers_limit_becomes_a_dead_letter_and_blocks_no_other() {
    let b_addr = free_address();
    let entries = || parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]);
    let a = RunningGateway::start(settings("a"), entries()).await;
    let b_settings =
        Settings { listen_addr: b_addr, max_message_bytes: 100, max_stream_bytes: 100, ..settings("b") };
    let b = RunningGateway::start(b_settings, entries()).await;
    let client = a.client().await;
    for (id, len) in [("slightly", 200), ("far", 1 << 20)] {
        assert!(client.send("b", id, vec![1; len]).await.unwrap().success);
    }
    assert!(client.send("b", "fine", "x").await.unwrap().success);
    assert_eq!(b.client().await.receive("fine").await.unwrap(), "x");
    until("the others are dead letters", async || a.engine.letters().len() == 2).await;
    for letter in a.engine.letters() {
        assert!(letter.reason.to_string().contains("refused by the peer"), "{letter:?}");
    }
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn full_peer_is_asked_again_until_it_has_room() {
    let (a, b) = pair().await;
    b.engine.set_fault(crate::testing::Fault::Full);
    assert!(a.client().await.send("b", "m", "x").await.unwrap().success);
    let refused = b.client().await.receive_with("m", &[("petnet-wait-ms", "300")], None).await.unwrap();
    assert!(refused.payload.is_none());
    b.engine.set_fault(crate::testing::Fault::None);
    assert_eq!(b.client().await.receive("m").await.unwrap(), "x");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn peer_that_swallows_deliveries_is_given_up_in_time_and_tried_anew() {
    let b_addr = free_address();
    let tarpit = tokio::net::TcpListener::bind(b_addr).await.unwrap();
    let short = Settings { link_stall: Duration::from_millis(300), ..settings("a") };
    let a =
        RunningGateway::start(short, parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])])).await;
    assert!(a.client().await.send("b", "m", "x").await.unwrap().success);
    // It accepts, then says nothing on each connection; a second connection shows that the first was given up.
    let first = tokio::time::timeout(LIMIT, tarpit.accept()).await.unwrap().unwrap();
    let second = tokio::time::timeout(LIMIT, tarpit.accept()).await.unwrap().unwrap();
    drop((tarpit, first, second));
    let b = start_b(b_addr, a.addr).await;
    assert_eq!(b.client().await.receive("m").await.unwrap(), "x");
    a.shutdown().await;
    b.shutdown().await;
}
