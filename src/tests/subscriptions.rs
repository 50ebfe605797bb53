//! Subscriptions of a stream: what is in the mailbox is handed out, whatever else the stream asked for.

use petnet_storage::{Arrival, DeliveryIdentity};

use super::mailbox::TestExchange;
use super::*;
use crate::proto::mailbox::subscription::Which;
use crate::proto::mailbox::{ExchangeRequest, Outgoing, Subscription};
use crate::testing::message_id;

async fn gateway() -> RunningGateway {
    RunningGateway::alone_with(Settings { max_subscriptions: 10_000, ..settings("a") }).await
}

async fn arrive(gateway: &RunningGateway, id: &str, number: u64) {
    let incarnation = Incarnation { started_ms: 1, random: 1 };
    let identity = Some(DeliveryIdentity { incarnation, number, low_water: 1 });
    let arrival = Arrival { sender: Some(party("b")), id: message_id(id), payload: "x".into(), identity };
    gateway.engine.store(arrival).await.unwrap();
}

fn to_id(id: &str) -> Subscription {
    Subscription { which: Some(Which::MessageId(id.into())), sender_id: String::new() }
}

/// Looks that find nothing come before the one that finds the message, and nothing else happens on the stream.
#[tokio::test]
async fn a_message_is_handed_out_however_many_absent_ones_were_subscribed_to_before_it() {
    let a = gateway().await;
    arrive(&a, "here", 1).await;
    for absent in [1, 20, 100, 1000] {
        let mut exchange = TestExchange::open(&a).await;
        let before = (0..absent).map(|n| to_id(&format!("absent {n}")));
        let subscribe = before.chain([to_id("here")]).collect();
        exchange.requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
        assert_eq!(exchange.received(1).await, ["here"], "behind {absent}");
    }
    a.shutdown().await;
}

#[tokio::test]
async fn a_message_is_handed_out_when_subscriptions_before_it_were_taken_back() {
    let a = gateway().await;
    arrive(&a, "here", 1).await;
    arrive(&a, "not asked for any more", 2).await;
    let gone = ["gone", "not asked for any more", "gone, too"].map(to_id);
    let mut exchange = TestExchange::open(&a).await;
    let subscribe = gone.iter().cloned().chain([to_id("here")]).collect();
    let both = ExchangeRequest { subscribe, unsubscribe: gone.to_vec(), ..ExchangeRequest::default() };
    exchange.requests.send(both).await.unwrap();
    assert_eq!(exchange.received(1).await, ["here"]);
    // After a new subscription it is handed out again.
    let unsubscribe = vec![to_id("here")];
    exchange.requests.send(ExchangeRequest { unsubscribe, ..ExchangeRequest::default() }).await.unwrap();
    exchange.subscribe(Which::MessageId("here".into())).await;
    assert_eq!(exchange.received(1).await, ["here"]);
    a.shutdown().await;
}

/// There is very much to be handed out, and the reader takes its time: what it sends is accepted meanwhile.
#[tokio::test]
async fn what_is_sent_over_a_stream_does_not_wait_for_all_that_it_is_handed() {
    let a = gateway().await;
    for number in 1..=10_000 {
        arrive(&a, &number.to_string(), number).await;
    }
    let mut exchange = TestExchange::open(&a).await;
    let subscribe =
        vec![Subscription { which: Some(Which::Topic(String::new())), ..Subscription::default() }];
    exchange.requests.send(ExchangeRequest { subscribe, ..ExchangeRequest::default() }).await.unwrap();
    let message = Outgoing { tag: 7, message_id: "m".into(), receiver_id: "b".into(), ..Outgoing::default() };
    let send = vec![message];
    exchange.requests.send(ExchangeRequest { send, ..ExchangeRequest::default() }).await.unwrap();
    let mut received = 0;
    loop {
        let answer = exchange.next().await;
        received += answer.received.len();
        if !answer.accepted.is_empty() {
            break;
        }
    }
    assert!(received < 9000, "{received} were handed out before one was accepted");
    a.shutdown().await;
}

/// Redis was busy for a moment, its session continues, and nothing reports that it can be asked again.
#[tokio::test]
async fn a_receive_that_waits_looks_again_though_its_look_was_refused() {
    let a = gateway().await;
    arrive(&a, "here", 1).await;
    for refused in [1, 2] {
        a.engine.refuse_looks(refused);
        assert_eq!(a.client().await.receive("here").await, Some("x".into()), "{refused} looks refused");
    }
    a.shutdown().await;
}
