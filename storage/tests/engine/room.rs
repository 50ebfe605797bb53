//! The quota: a full store refuses new messages and nothing else, and takes more when some have ended.

use std::time::Duration;

use petnet_storage::{FromSender, Outcome, Sequence, StoreError, Stored};

use super::bench::{Bench, Settings};
use crate::common::{arrival, id, party, payload, pending, read, until, upload};

const MIB: usize = 1 << 20;

fn with_room_for(bytes: u64) -> Settings {
    Settings { max_bytes: bytes, ..Settings::default() }
}

pub async fn a_full_store_refuses_new_messages_only_and_accepts_again_when_there_is_room(bench: &impl Bench) {
    let store = bench.open(&with_room_for(16 << 20)).await;
    let b = party("party_b");
    let mut accepted = Vec::new();
    let refused = loop {
        match store.accept(&b, &id(format!("{}", accepted.len())), payload(7, 50_000)).await {
            Ok(sequence) => accepted.push(sequence),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(accepted.len() > 150, "{}", accepted.len());
    assert!(accepted.len() <= (16 << 20) / 50_000, "{}", accepted.len());
    assert_eq!(pending(&store, "party_b").await.len(), accepted.len());
    for sequence in accepted {
        assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settling goes on"));
    }
    until("there is room again", async || store.accept(&b, &id("again"), payload(8, 50_000)).await.is_ok())
        .await;
}

pub async fn a_store_full_of_mail_takes_more_when_that_is_released(bench: &impl Bench) {
    let store = bench.open(&with_room_for(16 << 20)).await;
    let mut count = 0;
    let refused = loop {
        let came = arrival("party_a", &format!("{count}"), payload(count, 50_000), None);
        match store.store(came).await {
            Ok(Stored::New(_)) => count += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!((150..=335).contains(&count), "{count}");
    let refused = store.accept(&party("party_b"), &id("m"), payload(1, 50_000)).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(read(&store, "0").await, Some(payload(0, 50_000)), "reading goes on");
    assert_eq!(read(&store, &format!("{count}")).await, None, "what was refused is not there");
    assert_eq!(store.release_topic(&FromSender::Any, "").await.expect("releasing goes on"), count);
    until("there is room again", async || {
        bench.advance(Duration::from_secs(1));
        store.store(arrival("party_a", "again", payload(1, 50_000), None)).await.is_ok()
    })
    .await;
}

pub async fn of_many_that_do_not_all_fit_some_are_accepted_and_each_is_answered_truly(bench: &impl Bench) {
    let store = bench.open(&with_room_for(16 << 20)).await;
    let b = party("party_b");
    let many = (0..400).map(|n| (b.clone(), id(format!("{n}")), payload(n, 50_000))).collect();
    let answers = store.accept_many(many).await.await;
    assert_eq!(answers.len(), 400);
    let accepted: Vec<_> = (0..).zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(n, _)| n).collect();
    for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(answer, StoreError::Full { .. }), "{answer}");
    }
    assert!((150..=335).contains(&accepted.len()), "{}", accepted.len());
    let expected: Vec<_> = accepted.into_iter().map(|n: u64| (format!("{n}"), payload(n, 50_000))).collect();
    assert!(pending(&store, "party_b").await == expected);
}

pub async fn a_full_store_refuses_an_upload_and_takes_the_next_when_there_is_room(bench: &impl Bench) {
    let engine = bench.open(&with_room_for(16 << 20)).await;
    let bytes = payload(1, 32 * MIB);
    let refused = upload(&engine, &bytes, MIB).await.expect_err("it cannot fit");
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    let mut n = 0;
    until("another one finds room", async || {
        n += 1;
        drop(engine.accept(&party("party_b"), &id("small"), payload(n, 10)).await);
        bench.advance(Duration::from_secs(1));
        match upload(&engine, &payload(2, 4 * MIB), MIB).await {
            Ok(upload) => upload.accept(&party("party_b"), &id("m")).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
    assert!(pending(&engine, "party_b").await.contains(&("m".into(), payload(2, 4 * MIB))));
}

/// What a peer says of its message's length, or a client in its first piece.
pub async fn a_length_beyond_reason_is_refused_and_is_no_panic(bench: &impl Bench) {
    let engine = bench.open(&with_room_for(64 << 20)).await;
    for len in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 53, 65 << 20] {
        let engine = engine.clone();
        let room = tokio::spawn(async move { engine.begin(Some(len)).map(drop) }).await;
        assert!(matches!(room, Ok(Err(StoreError::Full { .. }))), "{len}: {room:?}");
    }
    drop(engine.begin(Some(8 << 20)).expect("there is room for this"));
}

/// Each fits by itself, and there was room for each when it began. They must not both end with nothing, again and again.
pub async fn of_two_uploads_that_fit_one_by_one_one_gets_through(bench: &impl Bench) {
    let engine = bench.open(&with_room_for(24 << 20)).await;
    let len = 14 * MIB;
    let b = party("party_b");
    // Control: one alone.
    let alone = upload(&engine, &payload(9, len), MIB).await.expect("fits");
    let sequence = alone.accept(&b, &id("alone")).await.expect("fits");
    engine.settle(&b, sequence, Outcome::Delivered).await.expect("settles");
    let mut outcomes = Vec::new();
    for round in 0..5 {
        until("there is room for one", async || {
            drop(engine.accept(&b, &id("tick"), payload(round, 10)).await);
            bench.advance(Duration::from_secs(1));
            engine.begin(Some(len as u64)).is_ok()
        })
        .await;
        let mut both = Vec::new();
        for n in 0..2 {
            if let Ok(upload) = engine.begin(Some(len as u64)) {
                both.push((n, upload));
            }
        }
        for at in (0..len).step_by(MIB) {
            let mut going_on = Vec::new();
            for (n, mut upload) in both {
                let pushed = upload.push(payload(at as u64, MIB)).await;
                let synced = upload.flush().await;
                match pushed.and(synced) {
                    Ok(()) => going_on.push((n, upload)),
                    Err(error) => outcomes.push(format!("round {round}: {n} at {} MiB: {error}", at / MIB)),
                }
            }
            both = going_on;
        }
        for (n, upload) in both {
            if upload.accept(&b, &id(n.to_string())).await.is_ok() {
                let list = engine.pending(&b, Sequence(0), 10).await.expect("lists");
                assert!(list.iter().any(|pending| pending.len == len as u64), "{list:?}");
                return;
            }
        }
    }
    panic!("{outcomes:#?}");
}
