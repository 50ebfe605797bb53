//! Ids and parties: any characters that one may have, up to the longest, are kept and told apart.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{
    DeadReason, Engine, FromSender, MAX_MESSAGE_ID_BYTES, MAX_PARTY_ID_BYTES, Outcome, Sequence, Tracked,
};

use super::bench::{Bench, Settings};
use crate::common::{arrival, id, identity, party, pending};

/// Texts that something between us and a disk may take for its own.
const STRANGE: [&str; 20] = [
    " ",
    "a b",
    "{a}b",
    "{}",
    "}{",
    "%",
    "%00",
    "%s%n",
    "a:b",
    ":",
    "*",
    "?",
    "[a-z]",
    "a\\b",
    "\"'`",
    "../..",
    "ü€漢字🦀",
    "$(x)",
    "-",
    "é",
];

fn ids() -> Vec<String> {
    let mut all: Vec<String> = STRANGE.iter().map(ToString::to_string).collect();
    all.extend(
        ["\0", "a\0b", "\r\n", "*1\r\n$1\r\nx", "\u{1}\u{7f}", "\u{feff}", "e\u{301}"].map(str::to_owned),
    );
    all.push("x".repeat(MAX_MESSAGE_ID_BYTES));
    all.push("\0".repeat(MAX_MESSAGE_ID_BYTES));
    all.push("漢".repeat(MAX_MESSAGE_ID_BYTES / 3) + "x");
    all.push("x".repeat(MAX_MESSAGE_ID_BYTES - 1) + "y");
    all.push((0..MAX_MESSAGE_ID_BYTES as u32).map(|n| char::from((n % 128) as u8)).collect());
    all
}

pub async fn ids_of_any_characters_and_the_longest_are_kept<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let b = party("party_b");
    let ids = ids();
    let content = |n: usize| Bytes::from(format!("content {n}"));
    for (n, name) in ids.iter().enumerate() {
        engine.accept(&b, &id(name), content(n)).await.expect("accepts");
        let known = Some(identity(1, n as u64 + 1, 1));
        engine.store(arrival("party_a", name, content(n), known)).await.expect("stores");
    }
    let letters: Vec<_> =
        ids.iter().map(|name| format!("{}!", &name[..name.floor_char_boundary(1000)])).collect();
    for (n, name) in letters.iter().enumerate() {
        let sequence = engine.accept(&b, &id(name), content(n)).await.expect("accepts");
        let dead = Outcome::Dead(DeadReason::Refused(name.clone()));
        assert!(engine.settle(&b, sequence, dead).await.expect("settles"));
    }
    let letters_left = letters.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(letters_left, letters.len() - 1, "two long ones have the same beginning");
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            engine =
                bench.reopen(engine, &settings, end).await.that_found(ids.len(), ids.len(), letters.len());
        }
        let found = pending(&engine, "party_b").await;
        let expected: Vec<_> = ids.iter().cloned().enumerate().map(|(n, name)| (name, content(n))).collect();
        assert_eq!(found, expected, "{end:?}");
        let listed = engine.topic(&FromSender::Any, "", Sequence(0), 1000).await.expect("looks");
        assert_eq!(listed.iter().map(|found| found.id.to_string()).collect::<Vec<_>>(), ids, "{end:?}");
        for (n, name) in ids.iter().enumerate() {
            check_mail(&engine, name, &content(n)).await;
            let sent = engine.track_sent(&b, &id(name)).await.expect("tracks");
            assert!(matches!(sent, Tracked::Pending { .. }), "{name:?}: {sent:?}");
        }
        let dead = engine.dead_letters(Sequence(0), 1000).await.expect("lists");
        let dead: Vec<_> = dead.into_iter().map(|letter| letter.id.to_string()).collect();
        assert_eq!(dead, letters, "{end:?}");
    }
    for (n, name) in ids.iter().enumerate() {
        assert!(engine.release(&FromSender::Any, &id(name)).await.expect("releases"), "{name:?}");
        let rest = engine.topic(&FromSender::Any, "", Sequence(0), 1000).await.expect("looks");
        assert_eq!(rest.len(), ids.len() - n - 1, "{name:?}");
    }
}

async fn check_mail(engine: &Arc<dyn Engine>, name: &str, content: &Bytes) {
    let found = engine.read(&FromSender::Any, &id(name)).await.expect("reads").expect("is there");
    assert_eq!((&found.payload, found.id.as_str()), (content, name));
    let held = engine.held(&FromSender::Party(party("party_a")), &id(name)).await.expect("looks");
    assert_eq!(held.len(), 1, "{name:?}");
    assert!(engine.open_found(&held[0]).await.expect("opens").is_some(), "{name:?}");
    let tracked = engine.track_received(&FromSender::Any, &id(name)).await.expect("tracks");
    assert!(matches!(tracked, Tracked::Held { .. }), "{name:?}: {tracked:?}");
}

fn parties() -> Vec<String> {
    let mut all: Vec<String> = STRANGE.iter().map(ToString::to_string).collect();
    all.extend(["party_b", "party", "PARTY", "{party}", "{party}_b"].map(str::to_owned));
    all.push("x".repeat(MAX_PARTY_ID_BYTES));
    all.push("x".repeat(MAX_PARTY_ID_BYTES - 1) + "y");
    all.push("🦀".repeat(MAX_PARTY_ID_BYTES / 4));
    all
}

pub async fn parties_of_any_characters_and_the_longest_are_kept<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let names = parties();
    let content = |n: usize| Bytes::from(format!("content {n}"));
    for (n, name) in names.iter().enumerate() {
        engine.accept(&party(name), &id("m"), content(n)).await.expect("accepts");
        engine.store(arrival(name, "m", content(n), Some(identity(1, 3, 1)))).await.expect("stores");
    }
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            engine = bench.reopen(engine, &settings, end).await.that_found(names.len(), names.len(), 0);
        }
        let peers = engine.peers_with_pending().await.expect("lists");
        let peers: BTreeSet<_> = peers.iter().map(|peer| peer.as_str().to_owned()).collect();
        assert_eq!(peers, names.iter().cloned().collect(), "{end:?}");
        let held = engine.held(&FromSender::Any, &id("m")).await.expect("looks");
        let senders = held.iter().rev().filter_map(|found| found.sender.as_ref()).map(ToString::to_string);
        assert_eq!(senders.collect::<Vec<_>>(), names, "{end:?}");
        for (n, name) in names.iter().enumerate() {
            assert_eq!(pending(&engine, name).await, [("m".to_owned(), content(n))], "{name:?}");
            let from = FromSender::Party(party(name));
            let found = engine.read(&from, &id("m")).await.expect("reads").expect("is there");
            assert_eq!((found.payload, found.sender), (content(n), Some(party(name))));
            assert!(engine.knows(&party(name), &identity(1, 3, 1)).await.expect("answers"), "{name:?}");
            assert!(!engine.knows(&party(name), &identity(1, 4, 1)).await.expect("answers"), "{name:?}");
        }
    }
    let stats = async || engine.stats().pending.iter().map(|p| p.peer.to_string()).collect::<BTreeSet<_>>();
    crate::common::until("each is counted", async || stats().await.len() == names.len()).await;
    for name in &names {
        let sequence = engine.pending(&party(name), Sequence(0), 1).await.expect("lists")[0].sequence;
        assert!(engine.settle(&party(name), sequence, Outcome::Delivered).await.expect("settles"));
        assert_eq!(engine.release_topic(&FromSender::Party(party(name)), "").await.expect("releases"), 1);
    }
    assert!(engine.peers_with_pending().await.expect("lists").is_empty());
}

pub async fn names_that_read_alike_when_joined_are_told_apart(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let pairs = [
        ("ab", "c"),
        ("a", "bc"),
        ("a:b", "c"),
        ("a", "b:c"),
        ("a{b", "}c"),
        ("a", "{b}c"),
        ("a/b", "c"),
        ("a", "b/c"),
        ("a%3Ab", "c"),
        ("a", "b%3Ac"),
        ("a b", "c"),
        ("a", "b c"),
        ("a", "\0bc"),
        ("a", "bc\0"),
    ];
    for (n, (peer, name)) in (1..).zip(pairs) {
        let content = Bytes::from(n.to_string());
        engine.accept(&party(peer), &id(name), content.clone()).await.expect("accepts");
        engine.store(arrival(peer, name, content, Some(identity(1, n, 1)))).await.expect("stores");
    }
    for (n, (peer, name)) in (1..).zip(pairs) {
        let content = Bytes::from(n.to_string());
        assert!(pending(&engine, peer).await.contains(&(name.to_owned(), content.clone())), "{peer} {name}");
        let from = FromSender::Party(party(peer));
        let found = engine.read(&from, &id(name)).await.expect("reads").expect("is there");
        assert_eq!(found.payload, content, "{peer:?} {name:?}");
    }
    let all = engine.topic(&FromSender::Any, "", Sequence(0), 100).await.expect("looks");
    assert_eq!(all.len(), pairs.len());
}
