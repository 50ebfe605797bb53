//! `MESSAGE_ID_REUSE=reject`: an id that is held takes the same bytes again and no others.

use bytes::Bytes;
use petnet_storage::{Arrival, FromSender, IdReuse, Outcome, Result, Sequence, StoreError, Stored};

use super::bench::{Bench, Settings, sync_ends};
use super::uploads::{accept, store};
use crate::common::{arrival, id, identity, party, payload, pending, read, upload};

const MIB: usize = 1 << 20;

fn settings() -> Settings {
    Settings { id_reuse: IdReuse::Reject, ..Settings::default() }
}

fn is_conflict<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(StoreError::Conflict { .. }))
}

pub async fn with_reject_the_same_bytes_are_accepted_again_and_others_are_a_conflict(bench: &impl Bench) {
    let store = bench.open(&settings()).await;
    let b = party("party_b");
    let first = store.accept(&b, &id("m"), "x".into()).await.expect("accepts");
    assert_eq!(store.accept(&b, &id("m"), "x".into()).await.expect("the same"), first);
    let other = store.accept(&b, &id("m"), "y".into()).await;
    assert!(is_conflict(&other), "{other:?}");
    store.store(arrival("party_a", "m", "x".into(), None)).await.expect("stores");
    assert_eq!(
        store.store(arrival("party_a", "m", "x".into(), None)).await.expect("the same"),
        Stored::Repeated
    );
    assert!(is_conflict(&store.store(arrival("party_a", "m", "y".into(), None)).await));
    // Ids are those of a receiver, and of a sender.
    store.accept(&party("party_c"), &id("m"), "y".into()).await.expect("another receiver");
    store.store(arrival("party_c", "m", "y".into(), None)).await.expect("another sender");
    let nobodys = Arrival { sender: None, id: id("m"), payload: "z".into(), identity: None };
    store.store(nobodys).await.expect("no sender");
    // A delivery that is known is a repetition, whatever it brings.
    let known = |text: &'static str| arrival("party_d", "m", text.into(), Some(identity(1, 1, 1)));
    assert!(matches!(store.store(known("x")).await, Ok(Stored::New(_))));
    assert!(matches!(store.store(known("y")).await, Ok(Stored::Repeated)));
    assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), Bytes::from("x"))]);
}

pub async fn with_reject_an_upload_must_bring_the_same_bytes_again(bench: &impl Bench) {
    let engine = bench.open(&settings()).await;
    let (bytes, other) = (payload(1, MIB), payload(2, MIB));
    let b = party("party_b");
    let first = accept(&engine, "m", &bytes, 70_000).await;
    assert_eq!(accept(&engine, "m", &bytes, 300_000).await, first);
    assert_eq!(engine.accept(&b, &id("m"), bytes.clone()).await.expect("the same"), first);
    let refused = upload(&engine, &other, MIB).await.expect("pushes").accept(&b, &id("m")).await;
    assert!(is_conflict(&refused), "{refused:?}");
    assert!(matches!(store(&engine, "m", &bytes, 1).await, Stored::New(_)));
    assert_eq!(store(&engine, "m", &bytes, 2).await, Stored::Repeated);
    let upload = upload(&engine, &other, MIB).await.expect("pushes");
    let refused = upload.store(Some(&party("party_a")), &id("m"), Some(identity(1, 3, 1))).await;
    assert!(is_conflict(&refused), "{refused:?}");
}

pub async fn with_reject_large_messages_are_compared_to_the_last_byte(bench: &impl Bench) {
    let engine = bench.open(&settings()).await;
    let b = party("party_b");
    for len in [0, 1, 65_536, MIB / 2, 2 * MIB + 1] {
        let name = id(len.to_string());
        let bytes = payload(1, len);
        let first = engine.accept(&b, &name, bytes.clone()).await.expect("accepts");
        assert_eq!(engine.accept(&b, &name, bytes.clone()).await.expect("the same"), first);
        engine.store(arrival("party_a", name.as_str(), bytes.clone(), None)).await.expect("stores");
        let again = engine.store(arrival("party_a", name.as_str(), bytes.clone(), None)).await;
        assert!(matches!(again, Ok(Stored::Repeated)), "{again:?}");
        let mut others = vec![[&bytes[..], b"x"].concat()];
        if len > 0 {
            others.push(bytes[..len - 1].to_vec());
            for at in [0, len / 2, len - 1] {
                let mut other = bytes.to_vec();
                other[at] ^= 1;
                others.push(other);
            }
        }
        for other in others {
            let answer = engine.accept(&b, &name, other.clone().into()).await;
            assert!(is_conflict(&answer), "{len}: {answer:?}");
            let answer = engine.store(arrival("party_a", name.as_str(), other.into(), None)).await;
            assert!(is_conflict(&answer), "{len}: {answer:?}");
        }
        assert!(read(&engine, name.as_str()).await == Some(bytes));
    }
}

pub async fn with_reject_an_id_is_free_again_when_its_message_ended(bench: &impl Bench) {
    let engine = bench.open(&settings()).await;
    let b = party("party_b");
    for (text, outcome) in
        [("one", Outcome::Delivered), ("two", Outcome::Dropped), ("three", Outcome::Delivered)]
    {
        let sequence = engine.accept(&b, &id("m"), text.into()).await.expect("accepts");
        assert!(is_conflict(&engine.accept(&b, &id("m"), "other".into()).await), "{text}");
        if text == "two" {
            bench.settle_down(&engine).await;
            assert!(is_conflict(&engine.accept(&b, &id("m"), "other".into()).await), "{text}");
        }
        assert!(engine.settle(&b, sequence, outcome).await.expect("settles"));
        engine.store(arrival("party_a", "m", text.into(), None)).await.expect("stores");
        assert!(is_conflict(&engine.store(arrival("party_a", "m", "other".into(), None)).await));
        assert!(engine.release(&FromSender::Any, &id("m")).await.expect("releases"));
    }
}

pub async fn with_reject_each_of_many_is_compared(bench: &impl Bench) {
    let engine = bench.open(&settings()).await;
    let b = party("party_b");
    let large = payload(1, MIB);
    let contents: [(&str, Bytes); 6] = [
        ("m", "x".into()),
        ("m", "y".into()),
        ("n", "x".into()),
        ("m", "x".into()),
        ("large", large.clone()),
        ("large", "small".into()),
    ];
    let many = contents.clone().map(|(name, bytes)| (b.clone(), id(name), bytes));
    let answers = engine.accept_many(many.into()).await.await;
    let [first, conflict, other, again, kept, refused] = &answers[..] else { panic!("{answers:?}") };
    assert!(is_conflict(conflict) && is_conflict(refused), "{answers:?}");
    let sequence = |answer: &Result<Sequence>| answer.clone().expect("accepts");
    assert_eq!(sequence(first), sequence(again));
    assert!(sequence(first) < sequence(other) && sequence(other) < sequence(kept), "{answers:?}");
    let expected = [("m", "x".into()), ("n", "x".into()), ("large", large.clone())];
    assert!(pending(&engine, "party_b").await == expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    let arrivals = (1..)
        .zip(contents)
        .map(|(n, (name, bytes))| arrival("party_a", name, bytes, Some(identity(1, n, 1))));
    let answers = engine.store_many(arrivals.collect()).await;
    let is_new = |n: usize| matches!(answers[n], Ok(Stored::New(_)));
    assert!(is_new(0) && is_new(2) && is_new(4), "{answers:?}");
    assert!(is_conflict(&answers[1]) && is_conflict(&answers[5]), "{answers:?}");
    assert!(matches!(answers[3], Ok(Stored::Repeated)), "{answers:?}");
    assert!(read(&engine, "large").await == Some(large));
}

pub async fn with_reject_what_is_held_counts_after_every_end<B: Bench>(bench: &B) {
    let settings = settings();
    let mut engine = bench.open(&settings).await;
    let b = party("party_b");
    let mut kept = Vec::new();
    for len in [3, 700_000] {
        let bytes = payload(1, len);
        kept.push(engine.accept(&b, &id(len.to_string()), bytes.clone()).await.expect("accepts"));
        engine.store(arrival("party_a", &len.to_string(), bytes, None)).await.expect("stores");
    }
    let over = engine.accept(&b, &id("over"), "one".into()).await.expect("accepts");
    assert!(engine.settle(&b, over, Outcome::Delivered).await.expect("settles"));
    sync_ends(&engine).await;
    for end in B::ENDS {
        engine = bench.reopen(engine, &settings, *end).await.that_found(3, 2, 0);
        for (len, sequence) in [3, 700_000].into_iter().zip(&kept) {
            let name = len.to_string();
            let again = engine.accept(&b, &id(&name), payload(1, len)).await;
            assert_eq!(again.expect("the same"), *sequence, "{end:?}");
            assert!(is_conflict(&engine.accept(&b, &id(&name), payload(2, len)).await), "{end:?}");
            let again = engine.store(arrival("party_a", &name, payload(1, len), None)).await;
            assert!(matches!(again, Ok(Stored::Repeated)), "{again:?}");
            assert!(is_conflict(&engine.store(arrival("party_a", &name, payload(2, len), None)).await));
        }
    }
    engine.accept(&b, &id("over"), "two".into()).await.expect("its id is free");
}
