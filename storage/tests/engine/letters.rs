//! Dead letters: what was not delivered is kept for the operator, within a bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{Correspondent, DeadLetter, DeadReason, Engine, IdReuse, Outcome, Sequence, StoreError};

use super::bench::{Bench, End, Settings, sync_ends, until_stats};
use crate::common::{arrival, id, party, payload, pending, until};

async fn letters(store: &Arc<dyn Engine>) -> Vec<DeadLetter> {
    store.dead_letters(Sequence(0), 1000).await.expect("lists")
}

fn refused(why: &str) -> Outcome {
    Outcome::Dead(DeadReason::Refused(why.into()))
}

/// A message for `party_b` that is a dead letter.
async fn bury(store: &Arc<dyn Engine>, name: &str, content: Bytes, outcome: Outcome) -> Sequence {
    let sequence = store.accept(&party("party_b"), &id(name), content).await.expect("accepts");
    assert!(store.settle(&party("party_b"), sequence, outcome).await.expect("settles"));
    sequence
}

pub async fn pending_messages_expire_into_dead_letters_that_can_be_retried_and_dropped<B: Bench>(bench: &B) {
    let settings = Settings { send_ttl: Some(Duration::from_secs(100)), ..Settings::default() };
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    bury(&store, "refused", "r".into(), refused("no")).await;
    store.accept(&b, &id("late"), payload(1, 100_000)).await.expect("accepts");
    bench.advance(Duration::from_secs(101));
    until_stats(&store, "the other one expires", |stats| stats.dead_letters == 2).await;
    assert_eq!(pending(&store, "party_b").await, vec![]);
    for end in [None, None].into_iter().chain([Some(End::Dropped)]).chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, end).await.that_found(0, 0, 2);
        }
        let letters = letters(&store).await;
        let found: Vec<_> = letters.iter().map(|l| (l.id.as_str(), l.reason.clone(), l.len)).collect();
        let expected =
            [("refused", DeadReason::Refused("no".into()), 1), ("late", DeadReason::Expired, 100_000)];
        assert_eq!(found, expected, "{end:?}");
        bench.settle_down(&store).await;
    }
    let found = letters(&store).await;
    assert!(store.drop_dead_letter(found[0].sequence).await.expect("drops"));
    assert!(store.retry_dead_letter(found[1].sequence).await.expect("retries").is_some());
    assert_eq!(pending(&store, "party_b").await, vec![("late".to_owned(), payload(1, 100_000))]);
    sync_ends(&store).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(2, 0, 0);
        assert_eq!(pending(&store, "party_b").await, vec![("late".to_owned(), payload(1, 100_000))]);
        assert!(letters(&store).await.is_empty(), "{end:?}");
    }
}

/// Found by the model: a start took a newer message under the same id for the end of a dead letter, which only the
/// operator may end: it was gone without a trace.
pub async fn a_dead_letter_stays_when_a_newer_message_takes_its_id<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    // Both fates, for small and large ones, after all ends.
    for len in [10, 70_000] {
        for settled in [false, true] {
            let name = format!("{len} {settled}");
            bury(&store, &name, payload(1, len), refused("no")).await;
            let second = store.accept(&b, &id(&name), payload(2, len)).await.expect("accepts");
            if settled {
                assert!(store.settle(&b, second, Outcome::Delivered).await.expect("settles"));
            }
        }
    }
    sync_ends(&store).await;
    let expected = [10, 70_000].map(|len| (format!("{len} false"), payload(2, len)));
    for end in [End::Dropped, End::Closed].iter().chain(B::ENDS).chain([&End::Closed]) {
        store = bench.reopen(store, &settings, *end).await.that_found(3, 0, 4);
        assert_eq!(letters(&store).await.len(), 4, "{end:?}");
        assert_eq!(pending(&store, "party_b").await, expected, "{end:?}");
    }
}

pub async fn dead_letters_keep_within_their_bound_and_the_oldest_go<B: Bench>(bench: &B) {
    let settings = Settings {
        dead_letter_bytes: 300_000,
        send_ttl: Some(Duration::from_secs(50)),
        ..Settings::default()
    };
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    for i in 0..40 {
        store.accept(&b, &id(format!("{i}")), payload(i, 50_000)).await.expect("accepts");
    }
    bench.advance(Duration::from_secs(51));
    let kept = async |store: &Arc<dyn Engine>| {
        letters(store).await.into_iter().map(|l| l.id.to_string()).collect::<Vec<_>>()
    };
    let newest: Vec<String> = (34..40).map(|i| i.to_string()).collect();
    until("all expire and the oldest go", async || {
        store.stats().pending.is_empty() && kept(&store).await == newest
    })
    .await;
    bench.until_space_is_back(&store).await;
    for end in [End::Dropped].iter().chain(B::ENDS) {
        store = bench.reopen(store, &settings, *end).await.engine;
        assert_eq!(kept(&store).await, newest, "also after a restart");
    }
    // One by one, too.
    bury(&store, "another", payload(1, 40_000), refused("no")).await;
    until("the oldest goes", async || kept(&store).await.first().is_some_and(|first| first == "35")).await;
    assert_eq!(kept(&store).await.len(), 6);
}

/// One larger than all may be together took all others along, and then went itself.
pub async fn a_letter_larger_than_the_bound_takes_no_other_along_and_stays_until_the_next_of_its_kind<
    B: Bench,
>(
    bench: &B,
) {
    let settings = Settings {
        dead_letter_bytes: 300_000,
        unread_ttl: Some(Duration::from_secs(100)),
        send_ttl: None,
        ..Settings::default()
    };
    let b = party("party_b");
    let mut store = bench.open(&settings).await;
    let names = async |store: &Arc<dyn Engine>| {
        letters(store).await.into_iter().map(|l| l.id.to_string()).collect::<Vec<_>>()
    };
    let is = async |store: &Arc<dyn Engine>, expected: &[&str]| {
        until(&format!("{expected:?} are left"), async || names(store).await == expected).await;
    };
    // Accepted before all others, and dead after them.
    let early = store.accept(&b, &id("early"), payload(1, 450_000)).await.expect("accepts");
    let small = store.accept(&b, &id("small"), payload(2, 60_000)).await.expect("accepts");
    store.store(arrival("party_a", "unread", payload(3, 350_000), None)).await.expect("stores");
    for n in 0..5 {
        bury(&store, &n.to_string(), payload(n, 50_000), refused("no")).await;
    }
    bury(&store, "huge", payload(1, 400_000), refused("no")).await;
    bury(&store, "5", payload(5, 40_000), refused("no")).await;
    bury(&store, "6", payload(6, 20_000), refused("no")).await;
    let mut expected = vec!["1", "2", "3", "4", "huge", "5", "6"];
    is(&store, &expected).await;
    for end in [End::Dropped].iter().chain(B::ENDS) {
        store = bench.reopen(store, &settings, *end).await.engine;
        is(&store, &expected).await;
    }
    bury(&store, "huger", payload(2, 500_000), refused("no")).await;
    expected = vec!["1", "2", "3", "4", "5", "6", "huger"];
    is(&store, &expected).await;
    // Not the newest message, and the newest letter.
    assert!(store.settle(&b, early, refused("late")).await.expect("settles"));
    expected = vec!["early", "1", "2", "3", "4", "5", "6"];
    is(&store, &expected).await;
    assert!(store.settle(&b, small, refused("late")).await.expect("settles"));
    expected = vec!["early", "small", "2", "3", "4", "5", "6"];
    is(&store, &expected).await;
    bench.settle_down(&store).await;
    for end in [End::Dropped].iter().chain(B::ENDS) {
        store = bench.reopen(store, &settings, *end).await.engine;
        is(&store, &expected).await;
    }
    // Those that arrived and were not read are letters like others.
    bench.advance(Duration::from_secs(102));
    expected = vec!["small", "unread", "2", "3", "4", "5", "6"];
    is(&store, &expected).await;
    let unread = letters(&store).await.remove(1).sequence;
    let (_, content) = store.open_dead_letter(unread).await.expect("opens").expect("is there");
    assert!(content.whole().await.expect("reads") == payload(3, 350_000));
    assert!(store.retry_dead_letter(unread).await.expect("retries").is_some());
    expected.remove(1);
    is(&store, &expected).await;
    // What was taken back is counted no more.
    bury(&store, "7", payload(7, 70_000), refused("no")).await;
    is(&store, &["2", "3", "4", "5", "6", "7"]).await;
}

/// A smaller bound makes large ones of letters that were not: they go but for one, and take no smaller ones along.
pub async fn a_smaller_bound_keeps_the_small_letters_before_the_large_ones<B: Bench>(bench: &B) {
    let mut settings = Settings { dead_letter_bytes: 0, ..Settings::default() };
    let mut store = bench.open(&settings).await;
    for n in 0..4 {
        bury(&store, &format!("small {n}"), payload(n, 1000), refused("no")).await;
        bury(&store, &format!("large {n}"), payload(n, 100_000), refused("no")).await;
    }
    bench.settle_down(&store).await;
    settings.dead_letter_bytes = 10_000;
    for end in [End::Closed].iter().chain(B::ENDS) {
        store = bench.reopen(store, &settings, *end).await.engine;
        until("the newest of the large ones is left", async || {
            let names: Vec<_> = letters(&store).await.into_iter().map(|l| l.id.to_string()).collect();
            names == ["small 0", "small 1", "small 2", "small 3", "large 3"]
        })
        .await;
    }
}

pub async fn dead_letters_are_listed_in_pages_with_their_reasons<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let long = "ü".repeat(2000);
    let reasons = [
        DeadReason::Refused("größer als 漢字 {}%s\n\"".into()),
        DeadReason::Damaged("the checksum".into()),
        DeadReason::Refused(String::new()),
        DeadReason::Expired,
    ];
    let mut buried = Vec::new();
    for (n, reason) in reasons.iter().cycle().take(10).enumerate() {
        let len = if n % 3 == 0 { 100_000 } else { n };
        let outcome = Outcome::Dead(reason.clone());
        let sequence = bury(&store, &n.to_string(), payload(n as u64, len), outcome).await;
        buried.push((sequence, n.to_string(), len as u64, reason.clone()));
        if n == 5 {
            bench.settle_down(&store).await;
        }
    }
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, end).await.that_found(0, 0, 10);
        }
        let (mut found, mut after) = (Vec::new(), Sequence(0));
        loop {
            let some = store.dead_letters(after, 3).await.expect("lists");
            let Some(last) = some.last() else { break };
            assert!(some.len() <= 3);
            after = last.sequence;
            for letter in some {
                assert_eq!(letter.correspondent, Correspondent::To(party("party_b")));
                found.push((letter.sequence, letter.id.to_string(), letter.len, letter.reason));
            }
        }
        assert_eq!(found, buried, "{end:?}");
    }
    // A peer may say much: its beginning is kept.
    bury(&store, "long", Bytes::new(), refused(&long)).await;
    let found = letters(&store).await;
    let Some(DeadReason::Refused(text)) = found.last().map(|letter| &letter.reason) else {
        panic!("{found:?}")
    };
    assert!(long.starts_with(text.as_str()) && text.len() >= 900, "{} bytes", text.len());
}

pub async fn a_retried_letter_supersedes_what_is_pending_under_its_id<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let b = party("party_b");
    for len in [10, 600_000] {
        let name = id(len.to_string());
        let letter = bury(&store, name.as_str(), payload(1, len), refused("no")).await;
        let newer = store.accept(&b, &name, payload(2, len)).await.expect("accepts");
        let retried = store.retry_dead_letter(letter).await.expect("retries").expect("is there");
        assert!(retried > newer, "it is accepted anew");
        assert!(store.load(&b, newer).await.expect("loads").is_none());
        let outgoing = store.load(&b, retried).await.expect("loads").expect("is pending");
        assert_eq!(outgoing.id, name);
        assert!(outgoing.payload.whole().await.expect("reads") == payload(1, len));
        assert!(store.retry_dead_letter(letter).await.expect("answers").is_none(), "only once");
    }
    assert!(letters(&store).await.is_empty());
    sync_ends(&store).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(3, 0, 0);
        assert!(pending(&store, "party_b").await == [10, 600_000].map(|n| (n.to_string(), payload(1, n))));
    }
}

pub async fn with_reject_a_letter_is_not_retried_over_another_message_of_its_id(bench: &impl Bench) {
    let settings = Settings { id_reuse: IdReuse::Reject, ..Settings::default() };
    let store = bench.open(&settings).await;
    let b = party("party_b");
    let letter = bury(&store, "m", "one".into(), refused("no")).await;
    let newer = store.accept(&b, &id("m"), "two".into()).await.expect("a letter does not hold its id");
    let retried = store.retry_dead_letter(letter).await;
    assert!(matches!(retried, Err(StoreError::Conflict { .. })), "{retried:?}");
    assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), Bytes::from("two"))]);
    assert_eq!(letters(&store).await.len(), 1, "it is still there");
    assert!(store.settle(&b, newer, Outcome::Delivered).await.expect("settles"));
    assert!(store.retry_dead_letter(letter).await.expect("retries").is_some());
    assert_eq!(pending(&store, "party_b").await, [("m".to_owned(), Bytes::from("one"))]);
}

pub async fn a_letter_can_be_retried_or_dropped_once(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let pending_one = store.accept(&party("party_b"), &id("p"), "x".into()).await.expect("accepts");
    let letter = bury(&store, "m", "one".into(), refused("no")).await;
    until_stats(&store, "it is counted", |stats| stats.dead_letters == 1).await;
    for no_letter in [Sequence(0), pending_one, Sequence(letter.0 + 1), Sequence(u64::MAX)] {
        assert!(!store.drop_dead_letter(no_letter).await.expect("answers"), "{no_letter:?}");
        assert!(store.retry_dead_letter(no_letter).await.expect("answers").is_none(), "{no_letter:?}");
    }
    assert!(!store.settle(&party("party_b"), letter, Outcome::Delivered).await.expect("answers"));
    assert!(store.drop_dead_letter(letter).await.expect("drops"));
    assert!(!store.drop_dead_letter(letter).await.expect("answers"));
    assert!(store.retry_dead_letter(letter).await.expect("answers").is_none());
    assert_eq!(pending(&store, "party_b").await, [("p".to_owned(), Bytes::from("x"))]);
    until_stats(&store, "it is counted no more", |stats| stats.dead_letters == 0).await;
}

pub async fn dead_letters_are_counted_by_reason_and_opened_with_their_content<B: Bench>(bench: &B) {
    let store = bench.open(&Settings::default()).await;
    let mut buried = Vec::new();
    for (n, len) in [0, 10, 100_000, 3 << 20].into_iter().enumerate() {
        let content = payload(n as u64, len);
        let sequence = bury(&store, &n.to_string(), content.clone(), refused("no")).await;
        buried.push((sequence, content));
    }
    let damaged = Outcome::Dead(DeadReason::Damaged("a test".into()));
    bury(&store, "damaged", Bytes::from_static(b"x"), damaged).await;
    for settled in [false, true] {
        if settled {
            bench.settle_down(&store).await;
        }
        assert_eq!(store.count_dead_letters(1000).await.expect("counts"), [0, 4, 1, 0]);
        let newest = store.newest_dead_letters(2).await.expect("lists");
        let ids: Vec<_> = newest.iter().map(|letter| letter.id.as_str()).collect();
        assert_eq!(ids, ["damaged", "3"]);
        assert_eq!(store.newest_dead_letters(100).await.expect("lists").len(), 5);
        assert_eq!(
            store.count_dead_letters(2).await.expect("counts"),
            [0, 2, 0, 0],
            "no more than asked for"
        );
        for (sequence, content) in &buried {
            let opened = store.open_dead_letter(*sequence).await.expect("opens");
            let (letter, payload) = opened.expect("is there");
            assert_eq!((letter.sequence, letter.len), (*sequence, content.len() as u64));
            assert_eq!(payload.whole().await.expect("reads"), *content);
        }
    }
    let (sequence, _) = buried[0];
    assert!(store.drop_dead_letter(sequence).await.expect("drops"));
    assert!(store.open_dead_letter(sequence).await.expect("looks").is_none());
    let pending = store.accept(&party("party_b"), &id("pending"), Bytes::new()).await.expect("accepts");
    assert!(store.open_dead_letter(pending).await.expect("looks").is_none(), "it is no dead letter");
}
