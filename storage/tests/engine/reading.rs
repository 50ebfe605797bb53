//! What it means that a message was read: its time begins, and whoever names no sender is handed what nobody has read first.
//! What nobody reads becomes a dead letter, and never just goes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{
    Arrival, Correspondent, DeadLetter, DeadReason, Engine, FromSender, Handed, Held, Observer, Outcome,
    PartyId, Sequence, StoreError, Stored, Tracked,
};

use super::bench::{Bench, Settings, until_stats};
use crate::common::{arrival, id, identity, party, payload, until};

/// From records that Redis keeps whole to messages in many pieces.
const LENGTHS: [usize; 4] = [0, 10, 100_000, 1_200_000];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn of(sender: &str) -> FromSender {
    FromSender::Party(party(sender))
}

async fn bring(store: &Arc<dyn Engine>, sender: &str, name: &str, content: Bytes) -> Sequence {
    let stored = store.store(arrival(sender, name, content, None)).await.expect("stores");
    let Stored::New(sequence) = stored else { panic!("{stored:?}") };
    sequence
}

/// Finds a message for a reader; being found is not being read.
async fn find(store: &Arc<dyn Engine>, from: &FromSender, name: &str) -> Option<Held> {
    store.open(from, &id(name)).await.expect("opens")
}

/// A reader is handed a message: its content, and whether it is the first reader.
async fn hand(store: &Arc<dyn Engine>, from: &FromSender, name: &str) -> Option<(Bytes, bool)> {
    let held = find(store, from, name).await?;
    let content = held.payload.whole().await.expect("reads");
    store.note_read(&[Handed::from(&held)]);
    Some((content, held.unread))
}

/// The names in a refusal to choose between senders.
async fn refused(store: &Arc<dyn Engine>, name: &str) -> Vec<String> {
    match store.open(&FromSender::Any, &id(name)).await {
        Err(StoreError::Ambiguous { id, senders }) => {
            assert_eq!(id, name);
            senders
        }
        other => panic!("{other:?}"),
    }
}

async fn letters(store: &Arc<dyn Engine>) -> Vec<DeadLetter> {
    store.dead_letters(Sequence(0), 1000).await.expect("lists")
}

fn from(sender: &str) -> Correspondent {
    Correspondent::From(Some(party(sender)))
}

/// Notes what arrives and what dies.
#[derive(Debug, Default)]
struct Watcher {
    arrived: Mutex<Vec<Held>>,
    died: Mutex<Vec<DeadLetter>>,
}

impl Observer for Watcher {
    fn arrived(&self, message: &Held) {
        self.arrived.lock().expect("no panic").push(message.clone());
    }
    fn pending(&self, _: &PartyId, _: Sequence, _: u64) {}
    fn died(&self, letter: &DeadLetter) {
        self.died.lock().expect("no panic").push(letter.clone());
    }
}

pub async fn the_time_of_a_message_counts_from_its_first_reading<B: Bench>(bench: &B) {
    let settings =
        Settings { message_ttl: Some(secs(100)), unread_ttl: Some(secs(10_000)), ..Settings::default() };
    let store = bench.open(&settings).await;
    let names = LENGTHS.map(|len| format!("m{len}"));
    for (name, len) in names.iter().zip(LENGTHS) {
        bring(&store, "party_a", name, payload(1, len)).await;
    }
    bench.advance(secs(5000));
    bench.settle_down(&store).await;
    for (name, len) in names.iter().zip(LENGTHS) {
        let held = find(&store, &FromSender::Any, name).await.expect("nobody has read it");
        assert!(held.unread && held.age >= 5000, "{held:?}");
        let (content, first) = hand(&store, &FromSender::Any, name).await.expect("is there");
        assert!(content == payload(1, len) && first);
        let found = store.held(&FromSender::Any, &id(name)).await.expect("looks");
        assert!(!found[0].unread, "at once");
        bench.until_read_is_kept(&store, held.sequence).await;
    }
    bench.advance(secs(99));
    for name in &names {
        // Read again: that lengthens nothing.
        let (_, first) = hand(&store, &of("party_a"), name).await.expect("its time is not over");
        assert!(!first);
    }
    bench.advance(secs(2));
    for name in &names {
        assert!(find(&store, &FromSender::Any, name).await.is_none(), "{name}");
    }
    until_stats(&store, "their ends are counted", |stats| stats.expired == LENGTHS.len() as u64).await;
    assert!(letters(&store).await.is_empty(), "whoever wanted them has them");
}

pub async fn what_nobody_reads_becomes_a_dead_letter_with_its_bytes<B: Bench>(bench: &B) {
    let settings =
        Settings { message_ttl: Some(secs(10)), unread_ttl: Some(secs(100)), ..Settings::default() };
    let watcher = Arc::new(Watcher::default());
    let mut store = bench.open_observed(&settings, watcher.clone()).await.engine;
    let mut brought = Vec::new();
    for (n, len) in LENGTHS.into_iter().enumerate() {
        let name = format!("m{len}");
        brought.push((name.clone(), bring(&store, "party_a", &name, payload(n as u64, len)).await, len));
    }
    let unnamed = Arrival { sender: None, id: id("unnamed"), payload: "u".into(), identity: None };
    store.store(unnamed).await.expect("stores");
    bench.settle_down(&store).await;
    bench.advance(secs(97));
    for (name, ..) in &brought {
        assert!(find(&store, &FromSender::Any, name).await.expect("is there").unread);
    }
    assert!(letters(&store).await.is_empty());
    bench.advance(secs(3));
    let count = brought.len() + 1;
    until_stats(&store, "all die", |stats| {
        (stats.dead_letters, stats.mailbox_messages) == (count as u64, 0) && stats.expired == 0
    })
    .await;
    until("they are told", async || watcher.died.lock().expect("no panic").len() == count).await;
    for letter in watcher.died.lock().expect("no panic").iter() {
        assert_eq!(letter.reason, DeadReason::Unread, "{letter:?}");
        assert!(letter.correspondent.is_from());
    }
    for end in [None].into_iter().chain(B::ENDS.iter().copied().map(Some)) {
        if let Some(end) = end {
            store = bench.reopen(store, &settings, end).await.that_found(0, 0, count);
        }
        let all = letters(&store).await;
        assert_eq!(all.len(), count, "{end:?}");
        assert_eq!(all[count - 1].correspondent, Correspondent::From(None), "{end:?}");
        assert_eq!(store.count_dead_letters(100).await.expect("counts"), [0, 0, 0, count as u64]);
        for ((n, (name, sequence, len)), letter) in brought.iter().enumerate().zip(&all) {
            assert_eq!((letter.id.as_str(), letter.len), (name.as_str(), *len as u64), "{end:?}");
            assert_eq!((&letter.correspondent, &letter.reason), (&from("party_a"), &DeadReason::Unread));
            assert_eq!(letter.sequence, *sequence);
            let (_, content) =
                store.open_dead_letter(letter.sequence).await.expect("opens").expect("is there");
            assert!(content.whole().await.expect("reads") == payload(n as u64, *len), "{name} {end:?}");
            for whose in [FromSender::Any, of("party_a")] {
                assert!(find(&store, &whose, name).await.is_none());
                let tracked = store.track_received(&whose, &id(name)).await.expect("tracks");
                let Tracked::Dead { sequence: dead, reason: DeadReason::Unread, dead_for, .. } = tracked
                else {
                    panic!("{tracked:?} {end:?}")
                };
                assert_eq!(dead, *sequence);
                assert!(dead_for.is_some_and(|seconds| seconds < 100), "{dead_for:?}");
            }
            assert!(!store.release(&FromSender::Any, &id(name)).await.expect("answers"));
            let sent = store.track_sent(&party("party_a"), &id(name)).await.expect("tracks");
            assert_eq!(sent, Tracked::Unknown, "nothing was sent");
        }
        assert!(store.topic(&FromSender::Any, "", Sequence(0), 10).await.expect("looks").is_empty());
    }
}

pub async fn a_dead_letter_of_the_mailbox_can_be_put_back_with_its_whole_time<B: Bench>(bench: &B) {
    let settings =
        Settings { message_ttl: Some(secs(50)), unread_ttl: Some(secs(100)), ..Settings::default() };
    let watcher = Arc::new(Watcher::default());
    let mut store = bench.open_observed(&settings, watcher.clone()).await.engine;
    for (n, len) in LENGTHS.into_iter().enumerate() {
        let known = Some(identity(1, n as u64 + 1, 1));
        let came = arrival("party_a", &format!("m{len}"), payload(n as u64, len), known);
        store.store(came).await.expect("stores");
    }
    let dead = LENGTHS.len() as u64;
    bench.advance(secs(101));
    until_stats(&store, "all die", |stats| stats.dead_letters == dead).await;
    watcher.arrived.lock().expect("no panic").clear();
    let mut back = Vec::new();
    for letter in letters(&store).await {
        let sequence = store.retry_dead_letter(letter.sequence).await.expect("retries").expect("is there");
        assert!(sequence > letter.sequence, "it is last in the order");
        assert!(store.retry_dead_letter(letter.sequence).await.expect("answers").is_none(), "only once");
        assert!(store.open_dead_letter(letter.sequence).await.expect("looks").is_none());
        back.push((letter.id.to_string(), sequence));
    }
    until("readers who wait are told", async || {
        let arrived: Vec<_> =
            watcher.arrived.lock().expect("no panic").iter().map(|held| held.sequence).collect();
        back.iter().all(|(_, sequence)| arrived.contains(sequence))
    })
    .await;
    assert!(letters(&store).await.is_empty());
    // What was put back is not lost, however the store ends.
    store.ends_kept().await.expect("is synced");
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.that_found(0, back.len(), 0);
        for (n, (name, sequence)) in back.iter().enumerate() {
            let held = find(&store, &FromSender::Any, name).await.expect("is there");
            assert_eq!((held.sequence, held.unread, held.sender), (*sequence, true, Some(party("party_a"))));
            assert!(held.payload.whole().await.expect("reads") == payload(n as u64, LENGTHS[n]));
            assert!(store.knows(&party("party_a"), &identity(1, n as u64 + 1, 1)).await.expect("answers"));
            let again = arrival("party_a", name, "again".into(), Some(identity(1, n as u64 + 1, 1)));
            assert_eq!(store.store(again).await.expect("answers"), Stored::Repeated, "{name} {end:?}");
        }
    }
    bench.advance(secs(90));
    for (name, sequence) in &back {
        assert!(hand(&store, &FromSender::Any, name).await.expect("its time is not over").1);
        bench.until_read_is_kept(&store, *sequence).await;
    }
    bench.advance(secs(40));
    for (name, _) in &back {
        assert!(find(&store, &FromSender::Any, name).await.is_some(), "read: its time counts from there");
    }
    bench.advance(secs(11));
    for (name, _) in &back {
        assert!(find(&store, &FromSender::Any, name).await.is_none());
    }
    assert!(letters(&store).await.is_empty());
}

pub async fn a_dead_letter_takes_no_place_of_a_newer_message(bench: &impl Bench) {
    let settings = Settings { unread_ttl: Some(secs(100)), ..Settings::default() };
    let store = bench.open(&settings).await;
    bring(&store, "party_a", "m", "old".into()).await;
    bench.advance(secs(101));
    until_stats(&store, "it dies", |stats| stats.dead_letters == 1).await;
    bring(&store, "party_a", "m", "new".into()).await;
    bring(&store, "party_c", "m", "of another".into()).await;
    let letter = letters(&store).await.remove(0).sequence;
    let refused = store.retry_dead_letter(letter).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert_eq!(letters(&store).await.len(), 1, "it is still there");
    assert_eq!(hand(&store, &of("party_a"), "m").await, Some(("new".into(), true)));
    assert!(store.release(&of("party_a"), &id("m")).await.expect("releases"));
    assert!(store.retry_dead_letter(letter).await.expect("retries").is_some());
    assert_eq!(hand(&store, &of("party_a"), "m").await, Some(("old".into(), true)));
    assert_eq!(hand(&store, &of("party_c"), "m").await, Some(("of another".into(), true)));
}

pub async fn a_plain_read_gives_what_nobody_has_read_first(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let any = FromSender::Any;
    bring(&store, "party_a", "m", "a".into()).await;
    assert_eq!(hand(&store, &any, "m").await, Some(("a".into(), true)));
    assert_eq!(hand(&store, &any, "m").await, Some(("a".into(), false)));
    // A new partner under an old id: its message, and never the stale one.
    bring(&store, "party_c", "m", "c".into()).await;
    assert_eq!(hand(&store, &any, "m").await, Some(("c".into(), true)));
    assert_eq!(hand(&store, &any, "m").await, Some(("c".into(), false)), "the one that was read last");
    // Which is that of the last reader, whether or not it named somebody, and whoever came last.
    for _ in 0..2 {
        for (sender, text) in [("party_a", "a"), ("party_c", "c")] {
            assert_eq!(hand(&store, &of(sender), "m").await, Some((text.into(), false)));
            assert_eq!(hand(&store, &any, "m").await, Some((text.into(), false)));
        }
    }
    // A newer one of the same sender is another message.
    bring(&store, "party_a", "m", "a2".into()).await;
    assert_eq!(hand(&store, &any, "m").await, Some(("a2".into(), true)));
    assert!(store.release(&of("party_a"), &id("m")).await.expect("releases"));
    assert_eq!(hand(&store, &any, "m").await, Some(("c".into(), false)));
}

pub async fn two_unread_messages_of_different_senders_are_refused_with_their_names(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let any = FromSender::Any;
    bring(&store, "party_c", "m", "c".into()).await;
    bring(&store, "party_a", "m", "a".into()).await;
    for _ in 0..2 {
        assert_eq!(refused(&store, "m").await, ["\"party_a\"", "\"party_c\""]);
        bench.settle_down(&store).await;
    }
    let plain = store.read(&any, &id("m")).await;
    assert!(matches!(plain, Err(StoreError::Ambiguous { .. })), "{plain:?}");
    // Looks, and readers that name one, are not concerned.
    assert_eq!(store.held(&any, &id("m")).await.expect("looks").len(), 2);
    assert_eq!(store.topic(&any, "m", Sequence(0), 9).await.expect("looks").len(), 2);
    assert!(store.held(&any, &id("m")).await.expect("looks").iter().all(|found| found.unread));
    assert!(find(&store, &of("party_b"), "m").await.is_none());
    assert_eq!(hand(&store, &of("party_c"), "m").await, Some(("c".into(), true)));
    // One is left that nobody has read.
    assert_eq!(hand(&store, &any, "m").await, Some(("a".into(), true)));
    let unnamed = Arrival { sender: None, id: id("m"), payload: "u".into(), identity: None };
    store.store(unnamed).await.expect("stores");
    assert_eq!(find(&store, &any, "m").await.expect("is there").sender, None);
    bring(&store, "party_b", "m", "b".into()).await;
    let names = refused(&store, "m").await;
    assert_eq!((names.len(), names[0].as_str()), (2, "\"party_b\""), "{names:?}");
    assert!(names[1].contains("did not name itself"), "{names:?}");
    assert!(store.release(&of("party_b"), &id("m")).await.expect("releases"));
    assert_eq!(hand(&store, &FromSender::Unnamed, "m").await, Some(("u".into(), true)));
    assert_eq!(hand(&store, &any, "m").await, Some(("u".into(), false)));
}

pub async fn what_was_read_stays_read_over_every_end<B: Bench>(bench: &B) {
    let settings =
        Settings { message_ttl: Some(secs(1000)), unread_ttl: Some(secs(2000)), ..Settings::default() };
    let mut store = bench.open(&settings).await;
    let names = LENGTHS.map(|len| format!("m{len}"));
    for (name, len) in names.iter().zip(LENGTHS) {
        bring(&store, "party_a", name, payload(1, len)).await;
        bring(&store, "party_c", name, payload(2, len)).await;
    }
    bench.advance(secs(10));
    for sender in ["party_c", "party_a"] {
        for name in &names {
            let held = find(&store, &of(sender), name).await.expect("is there");
            assert_eq!(hand(&store, &of(sender), name).await.map(|(_, first)| first), Some(true));
            bench.until_read_is_kept(&store, held.sequence).await;
        }
    }
    bring(&store, "party_a", "unread", "x".into()).await;
    for end in B::ENDS {
        store = bench.reopen(store, &settings, *end).await.engine;
        for (name, len) in names.iter().zip(LENGTHS) {
            for sender in ["party_a", "party_c"] {
                let held = find(&store, &of(sender), name).await.expect("is there");
                assert!(!held.unread, "{name} {end:?}");
            }
            let plain = find(&store, &FromSender::Any, name).await.expect("is there");
            assert_eq!(plain.sender, Some(party("party_a")), "the one that was read last; {end:?}");
            assert!(plain.payload.whole().await.expect("reads") == payload(1, len));
        }
        assert!(find(&store, &FromSender::Any, "unread").await.expect("is there").unread, "{end:?}");
        bench.settle_down(&store).await;
    }
    // What the end of a life loses of its time lengthens theirs.
    bench.advance(secs(1005));
    for name in &names {
        assert!(store.held(&FromSender::Any, &id(name)).await.expect("looks").is_empty(), "{name}");
    }
    assert!(find(&store, &FromSender::Any, "unread").await.is_some());
    assert!(letters(&store).await.is_empty());
}

pub async fn dead_letters_of_both_directions_keep_within_one_bound<B: Bench>(bench: &B) {
    let settings =
        Settings { unread_ttl: Some(secs(100)), dead_letter_bytes: 300_100, ..Settings::default() };
    let store = bench.open(&settings).await;
    let b = party("party_b");
    let bury = async |name: &str, len: usize| {
        let sequence = store.accept(&b, &id(name), payload(1, len)).await.expect("accepts");
        let refused = Outcome::Dead(DeadReason::Refused("no".into()));
        assert!(store.settle(&b, sequence, refused).await.expect("settles"));
    };
    bury("out0", 50_000).await;
    bring(&store, "party_a", "in0", payload(1, 50_000)).await;
    bury("out1", 50_000).await;
    // The same id and party in both directions: two letters.
    bury("in1", 10).await;
    bring(&store, "party_b", "in1", payload(2, 50_000)).await;
    bench.advance(secs(101));
    until_stats(&store, "both die", |stats| stats.dead_letters == 5).await;
    let names = async || {
        let all = letters(&store).await;
        all.iter().map(|l| format!("{} {}", l.id, l.correspondent)).collect::<Vec<_>>()
    };
    let all =
        ["out0 to party_b", "in0 from party_a", "out1 to party_b", "in1 to party_b", "in1 from party_b"];
    assert_eq!(names().await, all);
    assert_eq!(store.count_dead_letters(100).await.expect("counts"), [0, 3, 0, 2]);
    let newest = store.newest_dead_letters(2).await.expect("lists");
    assert!(newest[0].correspondent.is_from() && !newest[1].correspondent.is_from());
    let tracked = store.track_sent(&b, &id("in1")).await.expect("tracks");
    assert!(matches!(tracked, Tracked::Dead { len: 10, .. }), "{tracked:?}");
    let tracked = store.track_received(&of("party_b"), &id("in1")).await.expect("tracks");
    assert!(matches!(tracked, Tracked::Dead { len: 50_000, .. }), "{tracked:?}");
    assert!(store.drop_dead_letter(newest[0].sequence).await.expect("drops"));
    assert!(!store.drop_dead_letter(newest[0].sequence).await.expect("answers"));
    assert!(store.open_dead_letter(newest[0].sequence).await.expect("looks").is_none());
    let tracked = store.track_received(&of("party_b"), &id("in1")).await.expect("tracks");
    assert!(!matches!(tracked, Tracked::Dead { .. }), "{tracked:?}");
    // Beyond the bound the oldest go, whichever way they went.
    bring(&store, "party_a", "in2", payload(1, 200_000)).await;
    bench.advance(secs(101));
    until("the oldest go", async || {
        names().await == ["in0 from party_a", "out1 to party_b", "in1 to party_b", "in2 from party_a"]
    })
    .await;
    bury("out2", 90_000).await;
    until("more go", async || names().await == ["in1 to party_b", "in2 from party_a", "out2 to party_b"])
        .await;
}

pub async fn a_life_without_an_end_has_none(bench: &impl Bench) {
    let unread_ttl = Some(secs(100));
    let settings = Settings { message_ttl: None, unread_ttl, send_ttl: None, ..Settings::default() };
    let store = bench.open(&settings).await;
    let read = bring(&store, "party_a", "read", "r".into()).await;
    hand(&store, &FromSender::Any, "read").await.expect("is there");
    bench.until_read_is_kept(&store, read).await;
    bring(&store, "party_a", "unread", "u".into()).await;
    bench.advance(secs(1_000_000));
    until_stats(&store, "only what nobody read dies", |stats| stats.dead_letters == 1).await;
    assert_eq!(hand(&store, &FromSender::Any, "read").await, Some(("r".into(), false)));
    // And behind what stays for ever others die.
    bring(&store, "party_a", "unread", "v".into()).await;
    bench.advance(secs(101));
    until_stats(&store, "it dies", |stats| stats.dead_letters == 2).await;
    drop(store);
}

pub async fn noting_what_is_not_there_changes_nothing(bench: &impl Bench) {
    let store = bench.open(&Settings::default()).await;
    let first = bring(&store, "party_a", "m", "1".into()).await;
    let handed = |sequence| Handed { sender: Some(party("party_a")), id: id("m"), sequence };
    store.note_read(&[]);
    store.note_read(&[handed(Sequence(0)), handed(Sequence(u64::MAX >> 12))]);
    assert!(find(&store, &FromSender::Any, "m").await.expect("is there").unread);
    // One that was replaced while it was on its way to its reader.
    let second = bring(&store, "party_a", "m", "2".into()).await;
    store.note_read(&[handed(first)]);
    let held = find(&store, &FromSender::Any, "m").await.expect("is there");
    assert!(held.unread && held.sequence == second);
    store.note_read(&[handed(second)]);
    assert!(!find(&store, &FromSender::Any, "m").await.expect("is there").unread);
}
