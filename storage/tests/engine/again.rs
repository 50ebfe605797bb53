//! Sends that are tried again, and deliveries of starts of a sender that were forgotten.

use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{Engine, IdReuse, Outcome, SendKey, Sending, Sequence, StoreError, Stored};

use super::bench::{Bench, Settings, listed, sync_ends};
use crate::common::{arrival, id, identity, party, payload, pending, upload};

/// The key of a send.
fn key(n: u8) -> SendKey {
    SendKey([n; SendKey::BYTES])
}

fn sending(name: &str, payload: Bytes, key: impl Into<Option<SendKey>>) -> Sending {
    Sending { receiver: party("party_b"), id: id(name), payload, key: key.into() }
}

async fn accept(
    store: &Arc<dyn Engine>,
    name: &str,
    payload: &Bytes,
    key: impl Into<Option<SendKey>>,
) -> Result<Sequence, StoreError> {
    store.accept_one(sending(name, payload.clone(), key)).await
}

async fn deliver(store: &Arc<dyn Engine>, sequence: Sequence) {
    assert!(store.settle(&party("party_b"), sequence, Outcome::Delivered).await.expect("settles"));
}

pub async fn the_same_key_is_the_same_acceptance_after_delivery_and_after_every_end<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let contents: Vec<Bytes> = [0, 10, 70_000, 600_000].map(|len| payload(len as u64, len)).into();
    let mut accepted = Vec::new();
    for (n, content) in (0..).zip(&contents) {
        let name = format!("m{n}");
        let first = accept(&store, &name, content, key(n)).await.expect("accepts");
        assert_eq!(accept(&store, &name, content, key(n)).await.expect("is known"), first, "pending");
        accepted.push(first);
    }
    bench.settle_down(&store).await;
    for sequence in &accepted[..3] {
        deliver(&store, *sequence).await;
    }
    sync_ends(&store).await;
    let check = async |store: &Arc<dyn Engine>, when: &str| {
        for ((n, content), first) in (0..).zip(&contents).zip(&accepted) {
            let again = accept(store, &format!("m{n}"), content, key(n)).await.expect("is known");
            assert_eq!(again, *first, "{n}, {when}");
        }
        assert_eq!(listed(store, "party_b").await, accepted[3..], "nothing new is pending, {when}");
    };
    check(&store, "delivered").await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.engine;
        check(&store, &format!("{end:?}")).await;
    }
    // Another send under the same id, with the same bytes.
    let other = accept(&store, "m1", &contents[1], key(99)).await.expect("accepts");
    assert!(other > accepted[3], "it is heard again");
}

pub async fn two_tries_at_the_same_time_are_one_acceptance(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    for (n, len) in (0..20).zip([10, 10, 10, 100_000, 600_000].into_iter().cycle()) {
        let content = payload(n, len);
        let name = format!("m{n}");
        // With a key, and without.
        for key in [Some(key(n as u8)), None] {
            let tries = (0..8).map(|_| accept(&store, &name, &content, key));
            let accepted: Vec<_> = futures_util::future::join_all(tries).await;
            let first = accepted[0].as_ref().expect("accepts");
            let all_same = accepted.iter().all(|one| one.as_ref().is_ok_and(|one| one == first));
            assert!(all_same, "{len} bytes: {accepted:?}");
        }
    }
    assert_eq!(listed(&store, "party_b").await.len(), 20);
}

pub async fn a_key_of_another_message_is_refused_and_says_why(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let content = payload(1, 100);
    let first = accept(&store, "m", &content, key(1)).await.expect("accepts");
    let refused = async |name: &str, content: &Bytes, wanted: &str| {
        let error = accept(&store, name, content, key(1)).await.expect_err("it is another one");
        assert!(matches!(error, StoreError::OtherSend { .. }), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    };
    refused("other", &content, "message id").await;
    refused("m", &payload(2, 100), "other bytes").await;
    refused("m", &payload(1, 101), "other bytes").await;
    refused("m", &payload(1, 700_000), "other bytes").await;
    let to_another = Sending { receiver: party("party_c"), ..sending("m", content.clone(), key(1)) };
    assert!(matches!(store.accept_one(to_another).await, Err(StoreError::OtherSend { .. })));
    let (b, m) = (party("party_b"), id("m"));
    let before = async |len, n| store.accepted_before(&b, &m, len, SendKey([n; 16])).await;
    assert_eq!(before(None, 1).await.expect("is known"), Some(first));
    assert_eq!(before(Some(100), 1).await.expect("is known"), Some(first));
    assert!(matches!(before(Some(101), 1).await, Err(StoreError::OtherSend { .. })));
    assert_eq!(before(Some(100), 2).await.expect("is not known"), None);
    assert_eq!(listed(&store, "party_b").await, [first]);
}

pub async fn a_refused_send_leaves_no_memory_of_its_key(bench: &impl Bench) {
    let settings = Settings { max_bytes: 32 << 20, ..Settings::default() };
    let store = bench.open(&settings).await;
    let content = payload(1, 1 << 20);
    let mut accepted = Vec::new();
    let refused = loop {
        let n = accepted.len() as u8;
        match accept(&store, &format!("m{n}"), &content, key(n)).await {
            Ok(sequence) => accepted.push(sequence),
            Err(StoreError::Full { .. }) => break n,
            Err(error) => panic!("{error}"),
        }
        assert!(accepted.len() < 64, "the store is full some time");
    };
    // What was accepted is known on a full store, too.
    let again = accept(&store, "m0", &content, key(0)).await.expect("is known");
    assert_eq!(again, accepted[0]);
    let (b, m) = (party("party_b"), id(format!("m{refused}")));
    let known = store.accepted_before(&b, &m, None, SendKey([refused; 16])).await;
    assert_eq!(known.expect("is answered"), None);
    // So it can be used for what is small enough.
    let small = payload(2, 10);
    if let Ok(sequence) = accept(&store, "small", &small, key(refused)).await {
        assert_eq!(accept(&store, "small", &small, key(refused)).await.expect("is known"), sequence);
    }
}

pub async fn uploads_and_many_at_once_have_keys_too(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let b = party("party_b");
    for (n, len) in [(1, 1000), (2, 100_000), (3, 1_000_000)] {
        let (content, name) = (payload(n, len), id(format!("m{n}")));
        let key = Some(key(n as u8));
        let uploaded = upload(&store, &content, 10_000).await.expect("uploads");
        let first = uploaded.accept_as(&b, &name, key).await.expect("accepts");
        // In whatever way it comes again.
        let again = upload(&store, &content, 77_777).await.expect("uploads");
        assert_eq!(again.accept_as(&b, &name, key).await.expect("is known"), first);
        assert_eq!(accept(&store, name.as_str(), &content, key).await.expect("is known"), first);
        let other = upload(&store, &payload(9, len), 10_000).await.expect("uploads");
        assert!(matches!(other.accept_as(&b, &name, key).await, Err(StoreError::OtherSend { .. })));
        // Without a key it is compared with what is pending.
        let same = upload(&store, &content, 10_000).await.expect("uploads");
        assert_eq!(same.accept(&b, &name).await.expect("is pending"), first, "{len} bytes");
    }
    let many = |count: u8| -> Vec<Sending> {
        let one = |n: u8| sending(&format!("n{n}"), payload(n.into(), 20), key(100 + n));
        (0..count).map(one).collect()
    };
    let first: Vec<_> = store.accept_all(many(5)).await.await.into_iter().map(Result::unwrap).collect();
    let again: Vec<_> = store.accept_all(many(10)).await.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(again[..5], first);
    assert!(again[5..].iter().all(|sequence| *sequence > first[4]));
    // The same one twice in one request.
    let twice = vec![sending("t", "x".into(), key(200)), sending("t", "x".into(), key(200))];
    let twice: Vec<_> = store.accept_all(twice).await.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(twice[0], twice[1]);
    assert_eq!(listed(&store, "party_b").await.len(), 3 + 10 + 1);
}

pub async fn with_reject_a_key_counts_before_the_bytes_are_compared(bench: &impl Bench) {
    let settings = Settings { id_reuse: IdReuse::Reject, ..Settings::default() };
    let store = bench.open(&settings).await;
    let content = payload(1, 100);
    let first = accept(&store, "m", &content, key(1)).await.expect("accepts");
    deliver(&store, first).await;
    assert_eq!(accept(&store, "m", &content, key(1)).await.expect("is known"), first);
    let second = accept(&store, "m", &content, key(2)).await.expect("the id is free again");
    assert!(second > first);
    assert_eq!(accept(&store, "m", &content, key(1)).await.expect("is known"), first, "it was the first");
    let other = accept(&store, "m", &payload(2, 100), key(3)).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })));
}

/// The embedded store forgot every key but that of the message that was held: a program that did not hear its answer, and
/// tried again after the delivery, was delivered twice.
pub async fn with_reject_every_key_of_a_held_message_names_it_after_its_delivery_and_after_every_end<
    B: Bench,
>(
    bench: &B,
) {
    let settings = Settings { id_reuse: IdReuse::Reject, ..Settings::default() };
    let mut store = bench.open(&settings).await;
    let contents: Vec<Bytes> = [10, 70_000, 600_000].map(|len| payload(len as u64, len)).into();
    let streamed = async |store: &Arc<dyn Engine>, name: &str, content: &Bytes, key: SendKey| {
        let upload = upload(store, content, 100_000).await.expect("pushes");
        upload.accept_as(&party("party_b"), &id(name), Some(key)).await.expect("accepts")
    };
    let mut first = Vec::new();
    for (n, content) in (0..).zip(&contents) {
        // The first one has a key, or none.
        for (keyed, names) in [(Some(key(n)), format!("k{n}")), (None, format!("n{n}"))] {
            let at = first.len() as u8;
            let sequence = accept(&store, &names, content, keyed).await.expect("accepts");
            let again = accept(&store, &names, content, key(50 + at)).await.expect("is held");
            assert_eq!(again, sequence);
            assert_eq!(streamed(&store, &names, content, key(100 + at)).await, sequence);
            first.push((names, content, sequence));
        }
    }
    let many =
        first.iter().zip(150..).map(|((name, content, _), n)| sending(name, (*content).clone(), key(n)));
    for (answer, (_, _, sequence)) in store.accept_all(many.collect()).await.await.into_iter().zip(&first) {
        assert_eq!(answer.expect("is held"), *sequence);
    }
    let check = async |store: &Arc<dyn Engine>, when: &str| {
        for ((name, content, sequence), at) in first.iter().zip(0..) {
            for n in [50 + at, 100 + at, 150 + at] {
                let again = accept(store, name, content, key(n)).await.expect("is known");
                assert_eq!(again, *sequence, "{name}, key {n}, {when}");
                let other = accept(store, name, &payload(9, 33), key(n)).await;
                assert!(matches!(other, Err(StoreError::OtherSend { .. })), "{other:?}");
            }
        }
    };
    check(&store, "pending").await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.engine;
        check(&store, &format!("pending, {end:?}")).await;
    }
    for (_, _, sequence) in &first {
        deliver(&store, *sequence).await;
    }
    sync_ends(&store).await;
    check(&store, "delivered").await;
    bench.settle_down(&store).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.engine;
        check(&store, &format!("delivered, {end:?}")).await;
    }
    assert_eq!(listed(&store, "party_b").await, [], "nothing is delivered twice");
    let (name, content, sequence) = &first[0];
    assert!(accept(&store, name, content, key(200)).await.expect("accepts") > *sequence, "it is heard again");
}

pub async fn without_a_key_the_same_bytes_are_one_message_while_it_is_pending_and_no_longer<B: Bench>(
    bench: &B,
) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let lens = [0, 10, 70_000, 600_000];
    let contents: Vec<Bytes> = lens.map(|len| payload(len as u64, len)).into();
    let mut first = Vec::new();
    for (n, content) in contents.iter().enumerate() {
        first.push(accept(&store, &format!("m{n}"), content, None).await.expect("accepts"));
    }
    let check = async |store: &Arc<dyn Engine>, when: &str| {
        for (n, content) in contents.iter().enumerate() {
            let again = accept(store, &format!("m{n}"), content, None).await.expect("is pending");
            assert_eq!(again, first[n], "{} bytes, {when}", content.len());
        }
        assert_eq!(listed(store, "party_b").await, first, "{when}");
    };
    check(&store, "at once").await;
    bench.settle_down(&store).await;
    check(&store, "indexed on disk").await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.engine;
        check(&store, &format!("{end:?}")).await;
    }
    // Once delivered, a program that is run again is heard again.
    for (n, content) in contents.iter().enumerate() {
        deliver(&store, first[n]).await;
        let anew = accept(&store, &format!("m{n}"), content, None).await.expect("accepts");
        assert!(anew > first[n], "{} bytes", content.len());
    }
    assert_eq!(listed(&store, "party_b").await.len(), lens.len());
}

pub async fn of_a_b_a_under_one_id_the_last_wins(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    for len in [10, 70_000, 600_000] {
        let (a, b) = (payload(1, len), payload(2, len));
        let name = format!("m{len}");
        let first = accept(&store, &name, &a, None).await.expect("accepts");
        let second = accept(&store, &name, &b, None).await.expect("accepts");
        let third = accept(&store, &name, &a, None).await.expect("accepts");
        assert!(first < second && second < third, "{len} bytes");
        let held = pending(&store, "party_b").await;
        assert!(held.contains(&(name, a)), "{len} bytes");
    }
    assert_eq!(pending(&store, "party_b").await.len(), 3);
}

pub async fn a_delivery_of_a_start_that_was_forgotten_is_refused<B: Bench>(bench: &B) {
    /// Starts of a sender that are remembered.
    const REMEMBERED: u64 = 4096;
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let of_start =
        |start: u64, number| arrival("party_a", "m", Bytes::new(), Some(identity(start, number, 1)));
    for from in (1..=REMEMBERED + 10).step_by(256) {
        let some = (from..(from + 256).min(REMEMBERED + 11)).map(|start| of_start(start, 1)).collect();
        assert!(store.store_many(some).await.into_iter().all(|stored| stored.is_ok()));
    }
    let check = async |store: &Arc<dyn Engine>, when: &str| {
        let too_old = |result: Result<Stored, StoreError>| matches!(result, Err(StoreError::TooOld { .. }));
        for start in [1, 5, 10] {
            // Had already, or never: it cannot be said.
            assert!(too_old(store.store(of_start(start, 1)).await), "start {start}, {when}");
            assert!(too_old(store.store(of_start(start, 2)).await), "start {start}, {when}");
            let known = store.knows(&party("party_a"), &identity(start, 1, 1)).await;
            assert!(matches!(known, Err(StoreError::TooOld { .. })), "{known:?}, {when}");
        }
        let many = store.store_many(vec![of_start(3, 1), of_start(REMEMBERED, 1)]).await;
        let [old, known] = many.try_into().expect("two answers");
        assert!(too_old(old) && matches!(known, Ok(Stored::Repeated)), "{when}");
        let error = store.store(of_start(1, 1)).await.expect_err("too old").to_string();
        assert!(error.contains("too old") && error.contains("0000000000000001"), "{error}");
    };
    check(&store, "at once").await;
    bench.settle_down(&store).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.engine;
        check(&store, &format!("{end:?}")).await;
    }
    let new = store.store(of_start(REMEMBERED + 11, 1)).await;
    assert!(matches!(new, Ok(Stored::New(_))), "{new:?}");
    let other = store.store(arrival("party_c", "m", Bytes::new(), Some(identity(1, 1, 1)))).await;
    assert!(matches!(other, Ok(Stored::New(_))), "of another sender: {other:?}");
}
