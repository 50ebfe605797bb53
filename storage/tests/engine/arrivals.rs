//! The mailbox: what arrived is read, by id and by sender, and the newest wins.

use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{Arrival, Engine, FromSender, Payload, Sequence, StoreError, Stored};

use super::bench::{Bench, Settings};
use crate::common::{arrival, id, identity, party, payload, read};

const MIB: usize = 1 << 20;

pub async fn reading_does_not_remove_and_the_last_write_wins<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    assert_eq!(read(&store, "m").await, None);
    store.store(arrival("party_a", "m", Bytes::new(), None)).await.expect("stores");
    assert_eq!(read(&store, "m").await, Some(Bytes::new()));
    for text in ["one", "two"] {
        store.store(arrival("party_a", "m", text.into(), None)).await.expect("stores");
        assert_eq!(read(&store, "m").await, Some(text.into()));
        assert_eq!(read(&store, "m").await, Some(text.into()));
    }
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(0, 1, 0);
        assert_eq!(read(&store, "m").await, Some("two".into()));
    }
}

pub async fn senders_do_not_hide_each_others_mail(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    store.store(arrival("party_a", "m", "from a".into(), None)).await.expect("stores");
    store.store(arrival("party_c", "m", "from c".into(), None)).await.expect("stores");
    let plain = store.read(&FromSender::Any, &id("m")).await;
    assert!(matches!(plain, Err(StoreError::Ambiguous { .. })), "a plain read cannot choose: {plain:?}");
    let of_a =
        store.read(&FromSender::Party(party("party_a")), &id("m")).await.expect("reads").expect("is there");
    assert_eq!((of_a.payload, of_a.sender), ("from a".into(), Some(party("party_a"))));
    assert!(store.read(&FromSender::Unnamed, &id("m")).await.expect("reads").is_none());
}

fn unnamed(name: &str, text: &'static str) -> Arrival {
    Arrival { sender: None, id: id(name), payload: text.into(), identity: None }
}

pub async fn an_unnamed_sender_is_told_apart_from_all_others<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    store.store(unnamed("m", "from nobody")).await.expect("stores");
    store.store(arrival("party_a", "m", "from a".into(), None)).await.expect("stores");
    store.store(unnamed("alone", "1")).await.expect("stores");
    store.store(unnamed("alone", "2")).await.expect("stores");
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(0, 3, 0);
        let read_of = async |from: FromSender, name: &str| {
            let found = store.read(&from, &id(name)).await.expect("reads");
            found.map(|message| (message.sender, message.payload))
        };
        let a = FromSender::Party(party("party_a"));
        assert_eq!(read_of(FromSender::Unnamed, "m").await, Some((None, "from nobody".into())));
        assert_eq!(read_of(a.clone(), "m").await, Some((Some(party("party_a")), "from a".into())));
        let plain = store.read(&FromSender::Any, &id("m")).await;
        assert!(matches!(plain, Err(StoreError::Ambiguous { .. })), "{plain:?}");
        assert_eq!(read_of(FromSender::Any, "alone").await, Some((None, "2".into())));
        assert_eq!(read_of(a, "alone").await, None);
    }
    assert!(store.release(&FromSender::Unnamed, &id("m")).await.expect("releases"));
    assert!(!store.release(&FromSender::Unnamed, &id("m")).await.expect("releases"), "only once");
    assert_eq!(read(&store, "m").await, Some("from a".into()));
}

pub async fn deliveries_without_an_identity_all_count_as_new(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let mut last = Sequence(0);
    for _ in 0..3 {
        let stored = store.store(arrival("party_a", "m", "same".into(), None)).await.expect("stores");
        let Stored::New(sequence) = stored else { panic!("{stored:?}") };
        assert!(sequence > last);
        last = sequence;
    }
    assert_eq!(store.read(&FromSender::Any, &id("m")).await.expect("reads").map(|m| m.sequence), Some(last));
}

pub async fn a_late_retry_of_an_older_message_never_replaces_a_newer_one<B: Bench>(bench: &B) {
    let store = bench.open(&Settings::default()).await;
    let send =
        |text: &'static str, identity| store.store(arrival("party_a", "m", text.into(), Some(identity)));
    send("new", identity(5, 8, 1)).await.expect("stores");
    assert_eq!(send("old", identity(5, 7, 1)).await.expect("answers"), Stored::Stale);
    assert_eq!(read(&store, "m").await, Some("new".into()));
    let before = send("restarted sender", identity(9, 1, 1)).await.expect("stores");
    assert_eq!(send("straggler", identity(5, 9, 1)).await.expect("answers"), Stored::Stale);
    assert_eq!(read(&store, "m").await, Some("restarted sender".into()));
    let stored = store.store(arrival("party_a", "n", "below the mark".into(), Some(identity(5, 3, 4)))).await;
    let (Stored::New(before), Ok(Stored::New(after))) = (before, stored) else {
        panic!("a number is not below its own mark")
    };
    if B::DENSE {
        assert_eq!((before, after), (Sequence(2), Sequence(3)));
    }
    assert!(before < after);
}

/// Incarnations used to be ordered by first contact. After an outage the messages of several starts of the sender come in
/// any order; then what it accepted last was taken for a straggler, acknowledged, and thrown away.
pub async fn what_was_accepted_last_wins_also_when_an_earlier_start_of_its_sender_is_heard_of_later(
    bench: &impl Bench,
) {
    let store = bench.open(&Settings::default()).await;
    let send = async |name: &str, text: &'static str, identity| {
        store.store(arrival("party_a", name, text.into(), Some(identity))).await.expect("answers")
    };
    send("other", "from the second start", identity(2, 1, 1)).await;
    for (name, on_disk) in [("m", false), ("n", true)] {
        let number = 2 + u64::from(on_disk) * 2;
        send(name, "old", identity(1, number, 1)).await;
        if on_disk {
            bench.settle_down(&store).await;
        }
        assert!(matches!(send(name, "new", identity(2, number, 1)).await, Stored::New(_)));
        assert_eq!(send(name, "older still", identity(1, number - 1, 1)).await, Stored::Stale);
        assert_eq!(read(&store, name).await, Some("new".into()));
    }
}

pub async fn many_at_once_are_stored_as_one_by_one<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut store = bench.open(&settings).await;
    let send = |name: &str, seed: u64, len: usize, number: u64| {
        arrival("party_a", name, payload(seed, len), Some(identity(1, number, 1)))
    };
    store.store(send("had", 1, 10, 1)).await.expect("stores");
    let mut many = vec![
        send("had", 1, 10, 1),
        send("m", 2, 10, 3),
        send("m", 3, 10, 2),
        send("m", 4, 2 * MIB, 4),
        send("m", 5, 20, 5),
        send("m", 5, 20, 5),
        send("large", 6, MIB, 6),
        Arrival { sender: None, id: id("m"), payload: "nobody's".into(), identity: None },
    ];
    many.extend((0..40).map(|n| send(&format!("{}", n % 10), 100 + n, n as usize, 10 + n)));
    let stored = store.store_many(many).await;
    let stored: Vec<_> = stored.into_iter().map(|one| one.expect("answers")).collect();
    let is_new = |n: usize| matches!(stored[n], Stored::New(_));
    assert_eq!((stored.len(), stored[0]), (48, Stored::Repeated));
    assert!(is_new(1) && is_new(6) && is_new(7) && (8..48).all(is_new), "{stored:?}");
    assert_eq!(stored[2], Stored::Stale, "an older one of the same sender");
    assert!([4, 5].into_iter().filter(|n| is_new(*n)).count() == 1, "one of two equal ones: {stored:?}");
    let sequences: Vec<_> =
        (8..48).map(|n| if let Stored::New(s) = stored[n] { s } else { Sequence(0) }).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "in their order: {sequences:?}");
    for end in [None].into_iter().chain(B::ENDS.iter().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, *end).await.that_found(0, 14, 0);
        }
        let of_a = FromSender::Party(party("party_a"));
        let m = store.read(&of_a, &id("m")).await.expect("reads").expect("is there");
        assert_eq!(m.payload, payload(5, 20), "the last one wins, {end:?}");
        let m = store.read(&FromSender::Unnamed, &id("m")).await.expect("reads").expect("is there");
        assert_eq!(m.payload, Bytes::from("nobody's"));
        assert!(read(&store, "large").await == Some(payload(6, MIB)));
        for n in 0..10 {
            let expected = payload(130 + n, 30 + n as usize);
            assert_eq!(read(&store, &n.to_string()).await, Some(expected), "{end:?}");
        }
    }
    assert_eq!(store.store_many(Vec::new()).await.len(), 0);
}

/// All of a message, piece by piece.
async fn in_pieces(content: &Payload) -> Bytes {
    let mut all = Vec::new();
    while (all.len() as u64) < content.len() {
        let piece = content.piece(all.len() as u64).await.expect("reads");
        assert!(!piece.is_empty());
        assert!(matches!(content, Payload::Whole(_)) || piece.len() <= 256 << 10, "{} bytes", piece.len());
        all.extend_from_slice(&piece);
    }
    all.into()
}

pub async fn arrivals_of_all_sizes_are_read_whole_and_in_pieces<B: Bench>(bench: &B) {
    let sizes = [0, 1, 65_536, MIB / 2 - 1, MIB / 2, MIB / 2 + 1, 3 * MIB + 7];
    let settings = Settings::default();
    let mut store: Arc<dyn Engine> = bench.open(&settings).await;
    for (n, size) in (0..).zip(sizes) {
        let came = arrival("party_a", &n.to_string(), payload(n, size), Some(identity(1, n + 1, 1)));
        store.store(came).await.expect("stores");
    }
    for end in [None].into_iter().chain(B::ENDS.iter().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, *end).await.that_found(0, sizes.len(), 0);
        }
        for (n, size) in (0..).zip(sizes) {
            let name = id(n.to_string());
            let held = store.open(&FromSender::Any, &name).await.expect("opens").expect("is there");
            assert_eq!((held.payload.len(), &held.id), (size as u64, &name));
            assert!(in_pieces(&held.payload).await == payload(n, size), "{size} bytes, {end:?}");
            // From anywhere, and it is the same when it is read again.
            for at in [size / 3, size.saturating_sub(1)] {
                let piece = held.payload.piece(at as u64).await.expect("reads");
                assert!(payload(n, size)[at..].starts_with(&piece) && (size == 0 || !piece.is_empty()));
            }
            assert!(held.read().await.expect("reads").payload == payload(n, size));
        }
    }
}
