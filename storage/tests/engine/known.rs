//! The memory of what was delivered: whatever is brought again, or late, changes nothing.

use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{DeliveryIdentity, Engine, FromSender, Incarnation, Stored};

use super::bench::{Bench, End, Settings, hand, sync_ends, until_stats};
use crate::common::{arrival, id, identity, party, read};

/// The first whole number after which a double leaves some out.
const DOUBLES_END: u64 = 1 << 53;

async fn send(store: &Arc<dyn Engine>, name: &str, text: &'static str, known: DeliveryIdentity) -> Stored {
    store.store(arrival("party_a", name, text.into(), Some(known))).await.expect("answers")
}

/// Which of some numbers of the first start of `party_a` are known.
async fn known_of(store: &Arc<dyn Engine>, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut known = Vec::new();
    for number in numbers {
        if store.knows(&party("party_a"), &identity(1, number, 1)).await.expect("answers") {
            known.push(number);
        }
    }
    known
}

pub async fn a_repeated_delivery_changes_nothing_even_after_release_and_restart<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    assert!(matches!(send(&store, "m", "x", identity(1, 1, 1)).await, Stored::New(_)));
    assert!(store.release(&FromSender::Any, &id("m")).await.expect("releases"));
    assert_eq!(read(&store, "m").await, None);
    assert_eq!(store.stats().repeated, 0);
    sync_ends(&store).await;
    for end in [End::Closed].iter().chain(B::ENDS) {
        store = bench.reopen(store, &settings, *end).await.that_found(1, 0, 0);
        assert_eq!(send(&store, "m", "x", identity(1, 1, 1)).await, Stored::Repeated, "{end:?}");
        assert_eq!(read(&store, "m").await, None);
        until_stats(&store, "it is counted", |stats| stats.repeated == 1).await;
    }
}

pub async fn a_repeated_delivery_changes_nothing_after_its_message_expired<B: Bench>(bench: &B) {
    let settings = Settings { message_ttl: Some(Duration::from_secs(100)), ..Settings::default() };
    let mut store = bench.open(&settings).await;
    for number in [1, 2, 4] {
        assert!(matches!(send(&store, "m", "x", identity(1, number, 1)).await, Stored::New(_)));
    }
    let read_at = hand(&store, "m").await;
    bench.until_read_is_kept(&store, read_at).await;
    bench.settle_down(&store).await;
    bench.advance(Duration::from_secs(200));
    assert_eq!(read(&store, "m").await, None);
    bench.until_space_is_back(&store).await;
    for end in [None].into_iter().chain(B::ENDS.iter().map(|end| Some(*end))) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, end).await.engine;
        }
        assert_eq!(known_of(&store, 1..7).await, [1, 2, 4], "{end:?}");
        assert_eq!(send(&store, "m", "x", identity(1, 2, 1)).await, Stored::Repeated);
        assert_eq!(read(&store, "m").await, None);
    }
    assert!(
        matches!(send(&store, "n", "y", identity(1, 3, 1)).await, Stored::New(_)),
        "one that was not there"
    );
}

pub async fn what_was_delivered_is_known_with_its_gaps_and_nothing_else<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    for number in [9, 1, 4, 3, 12, 5] {
        assert!(matches!(
            send(&store, &format!("{number}"), "x", identity(1, number, 1)).await,
            Stored::New(_)
        ));
    }
    for end in B::ENDS {
        assert_eq!(known_of(&store, 1..15).await, [1, 3, 4, 5, 9, 12], "before {end:?}");
        store = bench.reopen(store, &settings, *end).await.that_found(0, 6, 0);
        assert_eq!(known_of(&store, 1..15).await, [1, 3, 4, 5, 9, 12], "after {end:?}");
    }
    for number in [1, 3, 4, 5, 9, 12] {
        assert_eq!(send(&store, "again", "x", identity(1, number, 1)).await, Stored::Repeated);
    }
    assert!(matches!(send(&store, "2", "x", identity(1, 2, 1)).await, Stored::New(_)), "a gap is filled");
    assert_eq!(known_of(&store, 1..15).await, [1, 2, 3, 4, 5, 9, 12]);
    // The sender says that all below 8 are settled: they come no more, or as repetitions.
    assert!(matches!(send(&store, "8", "x", identity(1, 8, 8)).await, Stored::New(_)));
    for end in B::ENDS {
        assert_eq!(known_of(&store, 1..15).await, [1, 2, 3, 4, 5, 6, 7, 8, 9, 12], "before {end:?}");
        store = bench.reopen(store, &settings, *end).await.that_found(0, 8, 0);
    }
    // A mark does not fall.
    assert!(matches!(send(&store, "14", "x", identity(1, 14, 2)).await, Stored::New(_)));
    assert_eq!(known_of(&store, 1..15).await, [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14]);
}

pub async fn numbers_beyond_all_doubles_are_told_apart<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let last = u64::MAX - 1;
    let mut expected = Vec::new();
    for number in [DOUBLES_END + 1, last, DOUBLES_END - 1, last - 2, 1 << 63] {
        let name = format!("{number}");
        assert!(matches!(send(&store, &name, "x", identity(1, number, 1)).await, Stored::New(_)), "{number}");
        expected.push(number);
        expected.sort_unstable();
        let around = [DOUBLES_END, 1 << 63, last - 1].into_iter().flat_map(|n| n.saturating_sub(3)..=n + 1);
        assert_eq!(known_of(&store, around.clone().filter(|n| *n <= last)).await, expected);
        assert_eq!(send(&store, &name, "x", identity(1, number, 1)).await, Stored::Repeated, "{number}");
    }
    // Which of two is the newer is a matter of the last bit.
    for (n, newer) in (0..).zip([DOUBLES_END + 3, (1 << 63) + 3, last - 4]) {
        let name = format!("m{n}");
        assert!(matches!(send(&store, &name, "new", identity(1, newer, 1)).await, Stored::New(_)));
        assert_eq!(send(&store, &name, "old", identity(1, newer - 1, 1)).await, Stored::Stale, "{newer}");
        assert!(matches!(send(&store, &name, "newest", identity(1, newer + 1, 1)).await, Stored::New(_)));
        assert_eq!(read(&store, &name).await, Some("newest".into()));
    }
    for (mark, number) in [(DOUBLES_END + 10, last - 6), ((1 << 63) + 10, last - 4), (last, last)] {
        assert!(!store.knows(&party("party_a"), &identity(2, mark - 1, 1)).await.expect("answers"));
        send(&store, "mark", "x", identity(2, number, mark)).await;
        for end in B::ENDS {
            store = bench.reopen(store, &settings, *end).await.engine;
            let knows = async |n| store.knows(&party("party_a"), &identity(2, n, 1)).await.expect("answers");
            assert!(knows(mark - 1).await && knows(number).await, "{mark}, {end:?}");
            assert!(number == mark || !knows(mark).await, "{mark}, {end:?}");
            assert!(number == last || !knows(number + 1).await, "{mark}, {end:?}");
        }
    }
}

pub async fn starts_of_a_sender_are_ordered_beyond_all_doubles<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let start = |started_ms, random| DeliveryIdentity {
        incarnation: Incarnation { started_ms, random },
        number: 5,
        low_water: 1,
    };
    let starts = [
        (1, 0),
        (1, u64::MAX),
        (9, 3),
        (10, 1),
        (DOUBLES_END, 7),
        (DOUBLES_END + 1, 0),
        (DOUBLES_END + 1, DOUBLES_END),
        (DOUBLES_END + 1, DOUBLES_END + 1),
        (u64::MAX, 0),
        (u64::MAX, u64::MAX),
    ];
    for (ms, random) in starts {
        let stored = send(&store, "m", "x", start(ms, random)).await;
        assert!(matches!(stored, Stored::New(_)), "{ms} {random}: {stored:?}");
    }
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(0, 1, 0);
    }
    for (n, (ms, random)) in starts.into_iter().enumerate() {
        assert_eq!(send(&store, "m", "x", start(ms, random)).await, Stored::Repeated);
        let later = DeliveryIdentity { number: 6, ..start(ms, random) };
        let is_last = n + 1 == starts.len();
        let stored = send(&store, "m", "y", later).await;
        assert_eq!(stored == Stored::Stale, !is_last, "{ms} {random}: {stored:?}");
    }
    assert_eq!(read(&store, "m").await, Some("y".into()));
}

pub async fn each_sender_and_each_start_has_a_memory_of_its_own(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    send(&store, "m", "x", identity(1, 7, 5)).await;
    let knows = async |sender: &str, known| store.knows(&party(sender), &known).await.expect("answers");
    assert!(knows("party_a", identity(1, 7, 1)).await && knows("party_a", identity(1, 4, 1)).await);
    assert!(!knows("party_a", identity(2, 7, 1)).await && !knows("party_a", identity(2, 4, 1)).await);
    assert!(!knows("party_b", identity(1, 7, 1)).await && !knows("party_b", identity(1, 4, 1)).await);
    let other_draw = Incarnation { started_ms: 1, random: 2 };
    assert!(!knows("party_a", DeliveryIdentity { incarnation: other_draw, ..identity(1, 7, 1) }).await);
    // Asking leaves nothing behind.
    let came = arrival("party_b", "m", "of b".into(), Some(identity(1, 7, 1)));
    assert!(matches!(store.store(came).await.expect("stores"), Stored::New(_)));
    let of_b = store.read(&FromSender::Party(party("party_b")), &id("m")).await.expect("reads");
    assert_eq!(of_b.expect("is there").payload, "of b");
}
