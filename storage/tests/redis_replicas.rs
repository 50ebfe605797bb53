//! With `REDIS_WAIT_REPLICAS`, every change that somebody was told of is at the replicas: no failover undoes it.
#![cfg(feature = "redis")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use petnet_redis_servers::{Options, RedisServer};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{DeadReason, Engine, FromSender, NoObserver, Outcome, Sequence, StoreError, StoreState};

/// A primary, and a replica that follows it.
fn replicated() -> (RedisServer, RedisServer) {
    let (primary, replica) = (RedisServer::start(Options::default()), RedisServer::start(Options::default()));
    replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    (primary, replica)
}

async fn opened(server: &RedisServer) -> Arc<dyn Engine> {
    let options = RedisOptions::new(&server.url(), party("party_own")).expect("a URL");
    let options = RedisOptions { timeout: Duration::from_secs(1), wait_replicas: 1, ..options };
    RedisStore::open(options, Arc::new(NoObserver)).await.expect("the store opens").0
}

fn count(server: &RedisServer, list: &str) -> String {
    server.command(&["ZCARD", &format!("petnet:{{party_own}}:{list}")]).text()
}

/// Something of each kind that can be ended: in the mailbox `m0`.., `t/0`.., a pending message, a dead letter.
async fn filled(store: &Arc<dyn Engine>) -> (Sequence, Sequence) {
    let b = party("party_b");
    for n in 0..4 {
        for name in [format!("m{n}"), format!("t/{n}")] {
            store.store(arrival("party_a", &name, "x".into(), None)).await.expect("stores");
        }
    }
    let letter = store.accept(&b, &id("letter"), "x".into()).await.expect("accepts");
    let refused = Outcome::Dead(DeadReason::Refused("no".into()));
    assert!(store.settle(&b, letter, refused).await.expect("settles"));
    (store.accept(&b, &id("pending"), "x".into()).await.expect("accepts"), letter)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_ended_at_the_replica_when_it_is_answered() {
    let (primary, replica) = replicated();
    let store = opened(&primary).await;
    until("the replica is there", async || *store.state().borrow() == StoreState::Serving).await;
    let (pending, letter) = filled(&store).await;
    // Together: they share what waiting costs, and nobody's answer is early.
    let releasing = (0..4).map(|n| {
        let store = store.clone();
        async move { store.release(&FromSender::Any, &id(format!("m{n}"))).await.expect("releases") }
    });
    let released = futures_util::future::join_all(releasing).await;
    assert_eq!((released, count(&replica, "mail")), (vec![true; 4], "4".to_owned()));
    assert_eq!(store.release_topic(&FromSender::Any, "t/").await.expect("releases"), 4);
    assert_eq!(count(&replica, "mail"), "0");
    assert!(store.settle(&party("party_b"), pending, Outcome::Dropped).await.expect("drops"));
    assert_eq!(count(&replica, "pend:party_b"), "0");
    let anew = store.retry_dead_letter(letter).await.expect("retries").expect("is there");
    assert_eq!((count(&replica, "dead"), count(&replica, "pend:party_b")), ("0".into(), "1".into()));
    let refused = Outcome::Dead(DeadReason::Refused("no".into()));
    assert!(store.settle(&party("party_b"), anew, refused).await.expect("settles"));
    assert!(store.drop_dead_letter(anew).await.expect("drops"));
    assert_eq!(count(&replica, "dead"), "0");
}

/// The replica hears nothing: what would be answered could be undone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_failover_would_undo_is_answered_as_done() {
    let (primary, replica) = replicated();
    let store = opened(&primary).await;
    until("the replica is there", async || *store.state().borrow() == StoreState::Serving).await;
    let (pending, letter) = filled(&store).await;
    let stalled = replica.stall();
    let any = FromSender::Any;
    let in_doubt = |what: &str, why: Option<StoreError>| {
        assert!(matches!(why, Some(StoreError::InDoubt(_))), "{what}: {why:?}");
    };
    in_doubt("release", store.release(&any, &id("m0")).await.err());
    in_doubt("the same again, of which nothing is left", store.release(&any, &id("m0")).await.err());
    in_doubt("release of a topic", store.release_topic(&any, "t/").await.err());
    in_doubt("drop", store.settle(&party("party_b"), pending, Outcome::Dropped).await.err());
    in_doubt("drop of a dead letter", store.drop_dead_letter(letter).await.err());
    assert!(matches!(&*store.state().borrow(), StoreState::Refusing(why) if why.contains("WAIT_REPLICAS")));
    drop(stalled);
    until("it serves again", async || *store.state().borrow() == StoreState::Serving).await;
    assert!(store.release(&any, &id("m1")).await.expect("releases"));
    assert!(!store.release(&any, &id("m0")).await.expect("answers"), "it was carried out");
}
