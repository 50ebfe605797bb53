//! What an open store holds, in words that can be compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use petnet_storage::{DeadLetter, Engine, FromSender, Sequence};

use super::PEERS;
use crate::common::party;

/// All pending messages of a peer: what a delivery says, the bytes and the lifetime, and where.
pub async fn deliveries(store: &Arc<dyn Engine>, peer: &str) -> Vec<String> {
    let peer = party(peer);
    let list = store.pending(&peer, Sequence(0), 10_000).await.expect("lists");
    let mut lowest = BTreeMap::new();
    let mut marks = Vec::new();
    let mut all = Vec::new();
    for p in list {
        let message = store.load(&peer, p.sequence).await.expect("loads").expect("is pending");
        let content = fingerprint(&message.payload.whole().await.expect("reads"));
        let known = message.identity;
        let low = lowest.entry(known.incarnation).or_insert(known.number);
        *low = known.number.min(*low);
        marks.push((known.incarnation, known.low_water));
        all.push(format!(
            "{} {} {content:x} {} {} {} {:?}",
            p.sequence.0, message.id, p.len, known.incarnation, known.number, p.expires_in
        ));
    }
    for (incarnation, mark) in marks {
        assert!(mark <= lowest[&incarnation], "the mark {mark} is above a pending number");
    }
    all
}

fn fingerprint(bytes: &[u8]) -> u64 {
    // FNV-1a: enough to tell payloads of a test apart.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

pub async fn mail(store: &Arc<dyn Engine>) -> Vec<String> {
    let mut all = Vec::new();
    for found in store.topic(&FromSender::Any, "", Sequence(0), 10_000).await.expect("lists") {
        let held = store.open_found(&found).await.expect("opens").expect("is there");
        let content = fingerprint(&held.payload.whole().await.expect("reads"));
        all.push(format!("{found:?} {content:x}"));
    }
    all
}

/// What a store holds, as its engine says.
pub async fn everything(store: &Arc<dyn Engine>) -> Vec<String> {
    let mut all = mail(store).await;
    for peer in PEERS {
        all.extend(deliveries(store, peer).await);
    }
    let letters = store.dead_letters(Sequence(0), 10_000).await.expect("lists");
    // For how long a letter has been one does not move.
    all.extend(letters.into_iter().map(|letter| format!("{:?}", DeadLetter { dead_for: None, ..letter })));
    all
}
