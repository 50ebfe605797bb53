//! Mailbox messages by the beginning of their ids, by their ids, and as they were found.

use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{Arrival, Engine, Found, FromSender, Sequence};

use super::bench::{Bench, Settings, until_stats};
use crate::common::{arrival, id, identity, party, payload, read};

async fn store(store: &Arc<dyn Engine>, sender: &str, name: &str, len: usize, number: u64) {
    let known = Some(identity(1, number, 1));
    store.store(arrival(sender, name, payload(number, len), known)).await.expect("stores");
}

async fn topic(store: &Arc<dyn Engine>, from: &FromSender, prefix: &str, limit: usize) -> Vec<String> {
    let found = store.topic(from, prefix, Sequence(0), limit).await.expect("looks");
    found.into_iter().map(|found| found.id.to_string()).collect()
}

fn of(sender: &str) -> FromSender {
    FromSender::Party(party(sender))
}

pub async fn a_topic_is_found_in_memory_on_disk_and_after_a_restart_and_released_whole<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let mut number = 0;
    for n in 0..30 {
        for (sender, name, len) in [
            ("party_a", format!("job:{n}"), 10),
            ("party_b", format!("job:b{n}"), 70_000),
            ("party_a", format!("other:{}{n}", "x".repeat(900)), 10),
        ] {
            number += 1;
            store(&engine, sender, &name, len, number).await;
        }
        if n == 14 {
            bench.settle_down(&engine).await;
        }
    }
    engine.accept(&party("party_b"), &id("job:mine"), Bytes::new()).await.expect("accepts");
    let of_a = of("party_a");
    let check = async |engine: &Arc<dyn Engine>| {
        assert_eq!(topic(engine, &FromSender::Any, "job:", 1000).await.len(), 60);
        let wanted: Vec<_> = (0..7).map(|n| format!("job:{n}")).collect();
        assert_eq!(topic(engine, &of_a, "job:", 7).await, wanted, "the first that came");
        assert_eq!(topic(engine, &of_a, "job:2", 100).await.len(), 11);
        assert_eq!(topic(engine, &FromSender::Unnamed, "", 100).await, Vec::<String>::new());
    };
    check(&engine).await;
    for end in B::ENDS {
        engine = bench.reopen(engine, &settings, *end).await.that_found(1, 90, 0);
        check(&engine).await;
    }
    let all = engine.topic(&of_a, "job:", Sequence(0), 100).await.expect("looks");
    let rest = engine.topic(&of_a, "job:", all[9].sequence, 100).await.expect("looks");
    assert_eq!(rest, all[10..]);
    assert_eq!(engine.release_topic(&of_a, "job:").await.expect("releases"), 30);
    assert_eq!(engine.release_topic(&of_a, "job:").await.expect("releases"), 0);
    assert_eq!(topic(&engine, &FromSender::Any, "job:", 1000).await.len(), 30);
    assert_eq!(engine.release_topic(&FromSender::Any, "").await.expect("releases"), 60);
    until_stats(&engine, "none is in the mailbox, and what is pending is in no topic", |stats| {
        stats.mailbox_messages == 0 && stats.pending[0].messages == 1
    })
    .await;
}

pub async fn a_topic_comes_in_pages_in_the_order_of_arrival<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    for n in 0..25_usize {
        let (sender, len) = (["party_a", "party_c"][n % 2], [5, 90_000][n % 5 / 4]);
        store(&engine, sender, &format!("t:{}", 24 - n), len, n as u64 + 1).await;
        store(&engine, sender, &format!("u:{n}"), 1, n as u64 + 101).await;
        if n == 12 {
            bench.settle_down(&engine).await;
        }
    }
    // A newer message under an id has the place of the newer one.
    store(&engine, "party_a", "t:24", 7, 300).await;
    let mut wanted: Vec<_> = (0..24).rev().map(|n| format!("t:{n}")).collect();
    wanted.push("t:24".into());
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            engine = bench.reopen(engine, &settings, end).await.that_found(0, 50, 0);
        }
        for page in [1, 4, 25, 1000] {
            let (mut all, mut after) = (Vec::new(), Sequence(0));
            loop {
                let some = engine.topic(&FromSender::Any, "t:", after, page).await.expect("looks");
                let Some(last) = some.last() else { break };
                assert!(some.len() <= page && some.is_sorted_by(|a, b| a.sequence < b.sequence));
                after = last.sequence;
                all.extend(some);
            }
            assert_eq!(all.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), wanted, "{page}, {end:?}");
            let last = all.last().expect("there are some");
            assert_eq!((last.len, &last.sender), (7, &Some(party("party_a"))));
            for found in all {
                let held = engine.open_found(&found).await.expect("opens").expect("is there");
                assert_eq!((held.sequence, held.payload.len()), (found.sequence, found.len));
            }
        }
        assert_eq!(engine.topic(&FromSender::Any, "t:", Sequence(u64::MAX), 9).await.expect("looks"), []);
    }
}

pub async fn a_prefix_is_taken_by_its_letters(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let names = [
        "*x",
        "a*",
        "a?b",
        "a[b]c",
        "a\\b",
        "a\0b",
        "a",
        "ab",
        "A",
        "ä",
        "{a}b",
        "%61",
        "a\nb",
        "\u{10ffff}",
    ];
    for (n, name) in (1..).zip(names) {
        store(&engine, "party_a", name, 1, n).await;
    }
    let prefixes = [
        "",
        "a*",
        "*",
        "a?",
        "?",
        "a[",
        "[a-z]",
        "a\\",
        "a\0",
        "a",
        "{a",
        "{",
        "%",
        "ä",
        "a\n",
        "\u{10ffff}",
    ];
    for prefix in prefixes {
        let wanted: Vec<_> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(topic(&engine, &FromSender::Any, prefix, 100).await, wanted, "{prefix:?}");
    }
    for prefix in ["a*", "a\0", "[a-z]", "ä"] {
        let wanted = names.iter().filter(|name| name.starts_with(prefix)).count() as u64;
        assert_eq!(
            engine.release_topic(&of("party_a"), prefix).await.expect("releases"),
            wanted,
            "{prefix:?}"
        );
    }
    assert_eq!(topic(&engine, &FromSender::Any, "", 100).await.len(), names.len() - 3);
}

pub async fn what_is_held_is_listed_newest_first<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    assert_eq!(engine.held(&FromSender::Any, &id("m")).await.expect("looks"), []);
    for (n, sender) in (1..).zip(["party_c", "party_a", "party_d", "party_a"]) {
        store(&engine, sender, "m", [4, 5, 70_000, 6][n - 1], n as u64).await;
        if n == 2 {
            bench.settle_down(&engine).await;
        }
    }
    let nobodys = Arrival { sender: None, id: id("m"), payload: "12".into(), identity: None };
    engine.store(nobodys).await.expect("stores");
    store(&engine, "party_a", "another", 1, 9).await;
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            engine = bench.reopen(engine, &settings, end).await.that_found(0, 5, 0);
        }
        let held = async |from: &FromSender| {
            let found = engine.held(from, &id("m")).await.expect("looks");
            assert!(found.is_sorted_by(|a, b| a.sequence > b.sequence));
            assert!(found.iter().all(|found| found.id == id("m")));
            let sender = |found: &Found| found.sender.as_ref().map(ToString::to_string).unwrap_or_default();
            found.iter().map(|found| (sender(found), found.len)).collect::<Vec<_>>()
        };
        let all = [("", 2), ("party_a", 6), ("party_d", 70_000), ("party_c", 4)];
        let all = all.map(|(sender, len)| (sender.to_owned(), len));
        assert_eq!(held(&FromSender::Any).await, all, "{end:?}");
        assert_eq!(held(&of("party_a")).await, all[1..2]);
        assert_eq!(held(&FromSender::Unnamed).await, all[..1]);
        assert_eq!(held(&of("party_x")).await, []);
    }
}

pub async fn what_was_found_is_opened_until_it_ends<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let (small, large) = (payload(1, 100), payload(2, 600_000));
    for (n, name) in (1..).zip(["released", "replaced", "kept"]) {
        for (sender, bytes) in [("party_a", &small), ("party_c", &large)] {
            let came = arrival(sender, name, bytes.clone(), Some(identity(1, n, 1)));
            engine.store(came).await.expect("stores");
        }
    }
    let opened = async |engine: &Arc<dyn Engine>, found: &Found| {
        let held = engine.open_found(found).await.expect("opens")?;
        assert_eq!((&held.sender, &held.id, held.sequence), (&found.sender, &found.id, found.sequence));
        Some(held.read().await.expect("reads").payload)
    };
    let mut all = Vec::new();
    for name in ["released", "replaced", "kept"] {
        let found = engine.held(&FromSender::Any, &id(name)).await.expect("looks");
        assert!(opened(&engine, &found[0]).await.as_ref() == Some(&large));
        assert!(opened(&engine, &found[1]).await.as_ref() == Some(&small), "not the newest under the id");
        all.push(found);
    }
    let later = arrival("party_c", "replaced", "newer".into(), Some(identity(1, 4, 1)));
    engine.store(later).await.expect("stores");
    assert!(engine.release(&FromSender::Any, &id("released")).await.expect("releases"));
    engine.accept(&party("party_sync"), &id("sync"), Bytes::new()).await.expect("accepts");
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            engine = bench.reopen(engine, &settings, end).await.that_found(1, 4, 0);
        }
        assert!(opened(&engine, &all[0][0]).await.is_none() && opened(&engine, &all[0][1]).await.is_none());
        assert!(opened(&engine, &all[1][0]).await.is_none(), "another one has its place, {end:?}");
        assert!(opened(&engine, &all[1][1]).await.as_ref() == Some(&small), "of another sender");
        assert!(opened(&engine, &all[2][0]).await.as_ref() == Some(&large), "{end:?}");
        let of_nobody = Found { sender: None, ..all[2][0].clone() };
        let never = Found { sequence: Sequence(u64::MAX), ..all[2][0].clone() };
        assert!(opened(&engine, &never).await.is_none() && opened(&engine, &of_nobody).await.is_none());
    }
}

pub async fn only_the_senders_that_are_meant_are_released(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let fill = async |start: u64| {
        for (n, name) in (start..).zip(["t:1", "t:2", "u"]) {
            store(&engine, "party_a", name, 3, n).await;
            store(&engine, "party_c", name, 4, n).await;
            let nobodys = Arrival { sender: None, id: id(name), payload: "12".into(), identity: None };
            engine.store(nobodys).await.expect("stores");
        }
    };
    fill(1).await;
    assert!(engine.release(&of("party_c"), &id("t:1")).await.expect("releases"));
    assert!(!engine.release(&of("party_c"), &id("t:1")).await.expect("releases"));
    assert!(!engine.release(&of("party_x"), &id("t:1")).await.expect("releases"));
    assert_eq!(engine.held(&FromSender::Any, &id("t:1")).await.expect("looks").len(), 2);
    assert_eq!(engine.release_topic(&FromSender::Unnamed, "t:").await.expect("releases"), 2);
    assert_eq!(engine.release_topic(&of("party_c"), "t:").await.expect("releases"), 1);
    assert_eq!(engine.release_topic(&of("party_x"), "").await.expect("releases"), 0);
    assert_eq!(topic(&engine, &FromSender::Any, "", 100).await.len(), 5);
    fill(11).await;
    // With any sender meant, all of them are: the newest must not uncover an older one.
    assert!(engine.release(&FromSender::Any, &id("t:1")).await.expect("releases"));
    assert_eq!(read(&engine, "t:1").await, None);
    assert_eq!(engine.release_topic(&FromSender::Any, "t").await.expect("releases"), 3);
    assert_eq!(topic(&engine, &FromSender::Any, "", 100).await, ["u", "u", "u"]);
}
