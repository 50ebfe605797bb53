//! Messages of all kinds for a store, and what it serves of them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{Engine, FromSender, Outcome};

use crate::common::{arrival, id, identity, party, payload, pending, read};

pub const LARGE: usize = 700_000;

/// Pending and received messages by id.
pub type Content = BTreeMap<String, Bytes>;

/// Messages of all kinds: small, large, replaced, settled, dead, released. Gives what must be there.
pub async fn fill(store: &Arc<dyn Engine>, count: u64) -> Content {
    let (b, a) = (party("party_b"), FromSender::Party(party("party_a")));
    let mut content = Content::new();
    for i in 0..count {
        let name = format!("out{i}");
        let len = [0, 100, 5000, 40_000, LARGE][i as usize % 5];
        let sequence = store.accept(&b, &id(&name), payload(i, len)).await.expect("accepts");
        match i % 4 {
            0 => assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles")),
            _ => drop(content.insert(name, payload(i, len))),
        }
        let name = format!("in{i}");
        let arrived = arrival("party_a", &name, payload(1000 + i, len), Some(identity(1, i + 1, 1)));
        store.store(arrived).await.expect("stores");
        match i % 3 {
            0 => assert!(store.release(&a, &id(&name)).await.expect("releases")),
            _ => drop(content.insert(name, payload(1000 + i, len))),
        }
    }
    for (seed, name, len) in [(77, "out1", 300), (78, "out9", LARGE)] {
        store.accept(&b, &id(name), payload(seed, len)).await.expect("accepts");
        content.insert(name.into(), payload(seed, len));
    }
    content
}

/// What a store serves.
pub async fn served(store: &Arc<dyn Engine>) -> Content {
    let mut content: Content = pending(store, "party_b").await.into_iter().collect();
    for i in 0..60 {
        let name = format!("in{i}");
        if let Some(bytes) = read(store, &name).await {
            content.insert(name, bytes);
        }
    }
    content
}
