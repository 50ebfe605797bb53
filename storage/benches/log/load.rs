//! Producers that append to a store, and what they saw.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use petnet_storage::{Engine, MessageId, NoObserver, PartyId, Store, StoreOptions};
use tokio::task::JoinSet;

/// What a round of producers did.
#[derive(Debug, Default)]
pub(crate) struct Produced {
    /// Appends a second.
    pub(crate) rate: f64,
    /// Appends for each sync of the log.
    pub(crate) per_sync: f64,
    /// How long each append took.
    pub(crate) times: Vec<Duration>,
}

/// A store with default options.
pub(crate) fn open(dir: &Path) -> Arc<dyn Engine> {
    Store::open(StoreOptions::new(dir), Arc::new(NoObserver)).unwrap().0
}

pub(crate) fn peer() -> PartyId {
    PartyId::new("party_b").unwrap()
}

pub(crate) fn id(text: &str) -> MessageId {
    MessageId::new(text).unwrap()
}

/// A payload of which no two pages are alike.
pub(crate) fn payload(len: usize) -> Bytes {
    let mut x = 0x9E37_79B9_u32;
    let next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    std::iter::repeat_with(next).take(len).collect::<Vec<_>>().into()
}

/// Appends for `time`, each producer one after the other. A producer goes round `ids` ids: a message replaces the one
/// `ids` before it, so that what is live stays bounded and segments come back, as with messages that are delivered.
pub(crate) async fn produce(
    engine: &Arc<dyn Engine>,
    producers: usize,
    payload: &Bytes,
    ids: usize,
    time: Duration,
) -> Produced {
    let before = engine.stats();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for producer in 0..producers {
        let (engine, payload, peer) = (engine.clone(), payload.clone(), peer());
        let len = payload.len();
        let ids: Vec<_> = (0..ids).map(|n| id(&format!("bench/{len}/{producer}:{n}"))).collect();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for id in ids.iter().cycle() {
                let at = Instant::now();
                if at.duration_since(start) >= time {
                    break;
                }
                engine.accept(&peer, id, payload.clone()).await.unwrap();
                times.push(at.elapsed());
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    let took = start.elapsed().as_secs_f64();
    let after = engine.stats();
    Produced {
        rate: times.len() as f64 / took,
        per_sync: (after.appends - before.appends) as f64 / (after.syncs - before.syncs).max(1) as f64,
        times,
    }
}

/// Accepts `count` messages, each with an id of its own.
pub(crate) async fn fill(engine: &Arc<dyn Engine>, size: usize, count: usize) {
    const PRODUCERS: usize = 256;
    let content = payload(size);
    let mut tasks = JoinSet::new();
    for producer in 0..PRODUCERS {
        let (engine, content, peer) = (engine.clone(), content.clone(), peer());
        tasks.spawn(async move {
            for n in (producer..count).step_by(PRODUCERS) {
                // A buffer of its own, as a message from the network has it.
                let payload = Bytes::copy_from_slice(&content);
                engine.accept(&peer, &id(&format!("fill:{n}")), payload).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}
