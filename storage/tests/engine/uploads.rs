//! Messages whose content comes in pieces: whole or not at all, and of any size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{Engine, FromSender, Outcome, Sequence, StoreError, Stored, Upload};
use tokio::time::timeout;

use super::bench::{Bench, End, Settings};
use crate::common::{arrival, id, identity, party, payload, pending, read, until, upload};

const MIB: usize = 1 << 20;
/// A piece is never longer.
const PIECE: u64 = 256 << 10;

pub async fn accept(store: &Arc<dyn Engine>, name: &str, bytes: &Bytes, piece: usize) -> Sequence {
    let upload = upload(store, bytes, piece).await.expect("pushes");
    upload.accept(&party("party_b"), &id(name)).await.expect("accepts")
}

pub async fn store(store: &Arc<dyn Engine>, name: &str, bytes: &Bytes, number: u64) -> Stored {
    let upload = upload(store, bytes, 300_000).await.expect("pushes");
    upload.store(Some(&party("party_a")), &id(name), Some(identity(1, number, 1))).await.expect("stores")
}

pub async fn what_came_in_pieces_is_the_same_after_a_restart_whatever_the_pieces_were<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let sizes =
        [0, 1, 70_000, 262_143, 262_144, 262_145, MIB / 2 - 1, MIB / 2, MIB / 2 + 1, 3 * MIB + 7, 9 * MIB];
    let bytes = |n: usize| payload(n as u64, sizes[n]);
    let mut engine = bench.open(&settings).await;
    for n in 0..sizes.len() {
        accept(&engine, &format!("out{n}"), &bytes(n), 100_000 + n).await;
        let stored = store(&engine, &format!("in{n}"), &bytes(n), 1 + n as u64).await;
        assert!(matches!(stored, Stored::New(_)), "{stored:?}");
    }
    for end in B::ENDS {
        engine = bench.reopen(engine, &settings, *end).await.that_found(sizes.len(), sizes.len(), 0);
        let found = pending(&engine, "party_b").await;
        assert_eq!(found.len(), sizes.len());
        for (n, (name, content)) in found.iter().enumerate() {
            assert!(*name == format!("out{n}") && *content == bytes(n), "{name}, {end:?}");
            assert!(read(&engine, &format!("in{n}")).await == Some(bytes(n)), "{n}, {end:?}");
        }
        let again = store(&engine, "in6", &bytes(6), 7).await;
        assert_eq!(again, Stored::Repeated);
    }
}

pub async fn an_upload_that_is_dropped_leaves_nothing<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    accept(&engine, "m", &Bytes::from_static(b"out"), 10).await;
    store(&engine, "m", &Bytes::from_static(b"in"), 1).await;
    let mut half = upload(&engine, &payload(1, 3 * MIB), MIB).await.expect("pushes");
    half.flush().await.expect("syncs");
    assert_eq!(half.len(), 3 * MIB as u64);
    drop(half);
    drop(engine.begin(Some(MIB as u64)).expect("begins"));
    drop(upload(&engine, &payload(1, 100), 10).await.expect("pushes"));
    // One that ends with the life of the store.
    let half = upload(&engine, &payload(2, 2 * MIB), MIB).await.expect("pushes");
    let mut last = Some(half);
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            drop(last.take());
            engine = bench.reopen(engine, &settings, end).await.that_found(1, 1, 0);
        }
        assert_eq!(pending(&engine, "party_b").await, [("m".to_owned(), Bytes::from("out"))], "{end:?}");
        assert_eq!(read(&engine, "m").await, Some("in".into()), "{end:?}");
        let all = engine.topic(&FromSender::Any, "", Sequence(0), 10).await.expect("looks");
        assert_eq!(all.len(), 1, "{end:?}");
    }
    assert!(accept(&engine, "next", &payload(3, MIB), MIB).await > Sequence(0), "others go on");
}

pub async fn an_upload_says_what_is_durable(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let bytes = payload(1, 3 * MIB + 100);
    let mut upload = engine.begin(Some(bytes.len() as u64)).expect("begins");
    assert_eq!((upload.len(), upload.durable()), (0, 0));
    let nothing = timeout(Duration::from_millis(20), upload.next_durable()).await;
    assert!(nothing.is_err(), "nothing is on its way: {nothing:?}");
    upload.push(bytes.slice(..100)).await.expect("pushes");
    upload.flush().await.expect("flushes");
    assert!(upload.len() == 100 && upload.durable() <= 100);
    let mut last = 0;
    for at in (100..bytes.len()).step_by(MIB) {
        upload.push(bytes.slice(at..bytes.len().min(at + MIB))).await.expect("pushes");
        assert!(upload.durable() >= last && upload.durable() <= upload.len());
        // All but the beginning of a piece comes there, however often the wait is given up.
        while upload.durable() + PIECE <= upload.len() {
            if let Ok(durable) = timeout(Duration::from_millis(1), upload.next_durable()).await {
                let durable = durable.expect("waits");
                assert!(durable > last && durable <= upload.len(), "it rises: {durable} after {last}");
                last = durable;
            }
            last = last.max(upload.durable());
        }
    }
    upload.flush().await.expect("flushes");
    assert!(upload.durable() + PIECE > upload.len() && upload.len() == bytes.len() as u64);
    upload.accept(&party("party_b"), &id("m")).await.expect("accepts");
    assert!(pending(&engine, "party_b").await == [("m".to_owned(), bytes)]);
}

pub async fn small_messages_and_barriers_do_not_wait_for_an_upload(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let mut half = upload(&engine, &payload(1, MIB), MIB).await.expect("pushes");
    let known = Some(identity(1, 1, 1));
    let small = || arrival("party_a", "m", Bytes::from_static(b"small"), known);
    assert!(matches!(engine.store(small()).await, Ok(Stored::New(_))));
    // Answered when all that was queued before it is synced.
    assert!(matches!(engine.store(small()).await, Ok(Stored::Repeated)));
    assert!(engine.release(&FromSender::Any, &id("m")).await.expect("releases"));
    half.push(payload(2, MIB)).await.expect("goes on");
    half.accept(&party("party_b"), &id("large")).await.expect("accepts");
    assert_eq!(pending(&engine, "party_b").await.len(), 1);
}

pub async fn the_place_in_the_order_is_that_of_the_end<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let large = payload(1, MIB);
    let b = party("party_b");
    let begun = upload(&engine, &large, MIB).await.expect("pushes");
    let small = engine.accept(&b, &id("m"), Bytes::from_static(b"small")).await.expect("accepts");
    let last = begun.accept(&b, &id("m")).await.expect("accepts");
    assert!(last > small);
    let begun = upload(&engine, &large, MIB).await.expect("pushes");
    let small = engine.accept(&b, &id("n"), Bytes::from_static(b"small")).await.expect("accepts");
    engine.settle(&b, small, Outcome::Delivered).await.expect("settles");
    let last = begun.accept(&b, &id("n")).await.expect("accepts");
    let outgoing = engine.load(&b, last).await.expect("loads").expect("is pending");
    assert_eq!(outgoing.identity.number, 4, "its number is that of its end, too");
    let expected = [("m".to_owned(), payload(1, MIB)), ("n".to_owned(), payload(1, MIB))];
    // First as when the process is gone.
    for end in [End::Dropped].iter().chain(B::ENDS) {
        engine = bench.reopen(engine, &settings, *end).await.that_found(2, 0, 0);
        assert!(pending(&engine, "party_b").await == expected, "{end:?}");
    }
}

pub async fn nothing_of_an_upload_is_visible_before_its_end(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let bytes = payload(1, 2 * MIB);
    let mut out = upload(&engine, &bytes, MIB).await.expect("pushes");
    let mut mail = upload(&engine, &bytes, MIB).await.expect("pushes");
    out.flush().await.and(mail.flush().await).expect("syncs");
    assert!(pending(&engine, "party_b").await.is_empty());
    assert!(engine.peers_with_pending().await.expect("lists").is_empty());
    assert!(engine.topic(&FromSender::Any, "", Sequence(0), 10).await.expect("looks").is_empty());
    assert!(!engine.knows(&party("party_a"), &identity(1, 1, 1)).await.expect("answers"));
    out.accept(&party("party_b"), &id("m")).await.expect("accepts");
    let stored =
        mail.store(Some(&party("party_a")), &id("m"), Some(identity(1, 1, 1))).await.expect("stores");
    assert!(matches!(stored, Stored::New(_)));
    assert!(engine.knows(&party("party_a"), &identity(1, 1, 1)).await.expect("answers"));
    assert!(read(&engine, "m").await == Some(bytes.clone()));
    assert!(pending(&engine, "party_b").await == [("m".to_owned(), bytes.clone())]);
    // Repeated and late ones change nothing, as small ones do not.
    assert_eq!(store(&engine, "m", &payload(2, MIB), 1).await, Stored::Repeated);
    assert!(matches!(store(&engine, "m", &payload(3, MIB), 5).await, Stored::New(_)));
    assert_eq!(store(&engine, "m", &payload(4, MIB), 4).await, Stored::Stale);
    assert!(read(&engine, "m").await == Some(payload(3, MIB)));
    let nobodys = upload(&engine, &bytes, MIB).await.expect("pushes").store(None, &id("m"), None).await;
    assert!(matches!(nobodys, Ok(Stored::New(_))), "{nobodys:?}");
    let found = engine.read(&FromSender::Unnamed, &id("m")).await.expect("reads").expect("is there");
    assert!(found.payload == bytes);
}

pub async fn what_ends_while_it_is_read_ends_with_an_error_or_whole(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let bytes = payload(3, 3 * MIB + 100);
    store(&engine, "m", &bytes, 1).await;
    accept(&engine, "m", &bytes, MIB).await;
    let held = engine.open(&FromSender::Any, &id("m")).await.expect("opens").expect("is there");
    let b = party("party_b");
    let sequence = engine.pending(&b, Sequence(0), 1).await.expect("lists")[0].sequence;
    let outgoing = engine.load(&b, sequence).await.expect("loads").expect("is pending");
    assert!(bytes.starts_with(&held.payload.piece(0).await.expect("reads")));
    // Replaced while it is read, then released; the other one settled.
    store(&engine, "m", &payload(4, 3 * MIB), 2).await;
    engine.release(&FromSender::Any, &id("m")).await.expect("releases");
    engine.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
    for n in 0..10 {
        accept(&engine, &format!("more{n}"), &payload(n, 300_000), MIB).await;
        bench.advance(Duration::from_secs(1));
        for content in [&held.payload, &outgoing.payload] {
            for at in [0, MIB, 3 * MIB] {
                match content.piece(at as u64).await {
                    Ok(piece) => assert!(bytes[at..].starts_with(&piece), "other bytes"),
                    Err(StoreError::Gone { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}

pub async fn uploads_beside_each_other_do_not_mix(bench: &impl Bench) {
    const AT_ONCE: u64 = 8;
    let engine = bench.open(&Settings::default()).await;
    let mut all: Vec<(u64, Box<dyn Upload>)> = Vec::new();
    for n in 0..AT_ONCE {
        all.push((n, engine.begin(None).expect("begins")));
    }
    for at in 0..12 {
        for (n, upload) in &mut all {
            let bytes = payload(*n, 12 * 100_000).slice(at * 100_000..(at + 1) * 100_000);
            upload.push(bytes).await.expect("pushes");
        }
    }
    for (n, upload) in all.into_iter().rev() {
        if n == 3 {
            drop(upload);
        } else {
            upload.accept(&party("party_b"), &id(n.to_string())).await.expect("accepts");
        }
    }
    let expected: Vec<_> = (0..AT_ONCE).rev().filter(|n| *n != 3).collect();
    until("all are pending", async || pending(&engine, "party_b").await.len() == expected.len()).await;
    for (n, (name, content)) in expected.into_iter().zip(pending(&engine, "party_b").await) {
        assert!(name == n.to_string() && content == payload(n, 12 * 100_000), "{name}");
    }
}
