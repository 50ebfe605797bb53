//! The mailbox page by page: each page takes the work of what it gives, wherever it begins, and all pages together give
//! everything once, in the order of arrival, while messages move between memory and disk, and after an index of an older version.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{arrival, clocked, id, identity, open, party, until};
use petnet_storage::{
    Arrival, DeadReason, Engine, FromSender, IndexFound, OpenReport, Outcome, Sequence, StoreOptions,
};

/// Messages of a page.
const PAGE: usize = 100;
const SENDERS: [&str; 3] = ["party_a", "party_b", "party_c"];

fn of(sender: &str) -> FromSender {
    FromSender::Party(party(sender))
}

/// Messages of these numbers: every tenth is of a topic of its own, one in 3 of each sender.
async fn store(engine: &Arc<dyn Engine>, numbers: std::ops::Range<u64>) {
    let message = |n: u64| {
        let name = if n.is_multiple_of(10) { format!("ten/{n}") } else { format!("other/{n}") };
        arrival(SENDERS[n as usize % 3], &name, "x".into(), Some(identity(1, n / 3 + 1, 1)))
    };
    let all: Vec<Arrival> = numbers.map(message).collect();
    for some in all.chunks(250) {
        let stored = engine.store_many(some.to_vec()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
}

async fn page(engine: &Arc<dyn Engine>, from: &FromSender, prefix: &str, after: Sequence) -> Vec<Sequence> {
    let found = engine.topic(from, prefix, after, PAGE).await.expect("lists");
    found.iter().map(|found| found.sequence).collect()
}

async fn all(engine: &Arc<dyn Engine>, from: &FromSender, prefix: &str) -> Vec<Sequence> {
    let (mut all, mut after) = (Vec::new(), Sequence(0));
    loop {
        let some = page(engine, from, prefix, after).await;
        let Some(last) = some.last() else { break };
        after = *last;
        all.extend(some);
    }
    assert!(all.is_sorted_by(|a, b| a < b), "in the order of arrival, each once");
    all
}

fn options(folder: &std::path::Path) -> (StoreOptions, Arc<petnet_storage::ManualClock>) {
    let (mut options, clock) = clocked(folder);
    options.housekeeping_every = Duration::from_millis(5);
    (options, clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_the_mailbox_takes_the_work_of_what_it_gives() {
    const MANY: u64 = 6000;
    let folder = tempfile::tempdir().expect("a folder");
    let (options, clock) = options(folder.path());
    let (engine, _) = open(options);
    store(&engine, 0..MANY / 2).await;
    clock.advance(Duration::from_secs(1));
    until("all is indexed on disk", async || engine.stats().index_in_memory == 0).await;
    store(&engine, MANY / 2..MANY).await;
    let sequences = all(&engine, &FromSender::Any, "").await;
    assert_eq!(sequences.len() as u64, MANY);
    for from in [FromSender::Any, of("party_b")] {
        for at in [0, 1000, 2900, 3500, 5000] {
            let before = engine.stats().listed;
            let found = page(&engine, &from, "", sequences[at]).await;
            let looked_at = engine.stats().listed - before;
            assert_eq!(found.len(), PAGE);
            assert!(looked_at <= 2 * PAGE as u64, "{looked_at} were looked at, from {at} on");
        }
    }
    assert_eq!(engine.release_topic(&FromSender::Any, "ten/").await.expect("releases"), MANY / 10);
    assert_eq!(all(&engine, &FromSender::Any, "").await.len() as u64, MANY - MANY / 10);
    engine.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mailbox_is_listed_whole_while_it_moves_to_the_index_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let (options, clock) = options(folder.path());
    let (engine, _) = open(options);
    for round in 0..20_u64 {
        store(&engine, round * 200..(round + 1) * 200).await;
        // From now on they move.
        clock.advance(Duration::from_secs(1));
        let listed = all(&engine, &FromSender::Any, "").await;
        assert_eq!(listed.len() as u64, (round + 1) * 200, "round {round}");
        let of_each = SENDERS.map(of);
        let mut listed = Vec::new();
        for sender in &of_each {
            listed.extend(all(&engine, sender, "").await);
        }
        assert_eq!(listed.len() as u64, (round + 1) * 200, "round {round}, by sender");
    }
    engine.close().await.expect("closes");
}

/// One that few, many or all messages have: a page looks at some one by one, in memory and on disk; then at those that have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_by_the_beginning_of_ids_takes_the_work_of_what_it_gives() {
    const MANY: u64 = 30_000;
    /// Looked at one by one, and jumps.
    const SOME: u64 = 2 * 1000 + 40;
    let folder = tempfile::tempdir().expect("a folder");
    let (options, clock) = options(folder.path());
    let (engine, _) = open(options);
    store(&engine, 0..MANY / 2).await;
    clock.advance(Duration::from_secs(1));
    until("all is indexed on disk", async || engine.stats().index_in_memory == 0).await;
    store(&engine, MANY / 2..MANY).await;
    let b = of("party_b");
    for (from, prefix, matches) in [
        (&FromSender::Any, "absent/", 0),
        (&FromSender::Any, "ten/29990", 1),
        (&FromSender::Any, "ten/22", 111),
        (&FromSender::Any, "ten/", MANY / 10),
        (&FromSender::Any, "other/", MANY - MANY / 10),
        (&b, "ten/299", 3),
        (&b, "ten/", MANY / 30),
        (&b, "other/", (MANY - MANY / 10) / 3),
        (&of("nobody"), "ten/", 0),
    ] {
        let before = engine.stats().listed;
        let listed = all(&engine, from, prefix).await;
        assert_eq!(listed.len() as u64, matches, "{prefix} of {from:?}");
        let looked_at = engine.stats().listed - before;
        let pages = matches / PAGE as u64 + 2;
        // The matches of what is on disk, and of what is in memory, are looked through for each page.
        let most = pages * (SOME + matches.min(MANY / 10));
        assert!(looked_at <= most, "{looked_at} were looked at for {pages} pages of {prefix} of {from:?}");
    }
    assert_eq!(engine.release_topic(&b, "ten/").await.expect("releases"), MANY / 30);
    assert_eq!(all(&engine, &FromSender::Any, "ten/").await.len() as u64, MANY / 10 - MANY / 30);
    assert_eq!(
        engine.release_topic(&FromSender::Any, "ten/").await.expect("releases"),
        MANY / 10 - MANY / 30
    );
    assert_eq!(all(&engine, &FromSender::Any, "").await.len() as u64, MANY - MANY / 10);
    engine.close().await.expect("closes");
}

/// Long ids that begin with the same letters: what they take of memory is bounded, however young they are, and each page is exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_ids_take_a_bounded_part_of_memory_and_are_listed_exactly() {
    const MANY: u64 = 2000;
    const LONG: usize = 1000;
    let folder = tempfile::tempdir().expect("a folder");
    let (options, _clock) = options(folder.path());
    let an_hour = Duration::from_hours(1);
    let options = StoreOptions { index_memory_entries: MANY as usize, spill_after: an_hour, ..options };
    // 256 for each entry, beyond 64 of each; and what was in the queue by then.
    let most = 256 * MANY / (LONG as u64 - 64) + 300;
    let (engine, _) = open(options);
    let name = |n: u64| format!("{:0<1$}{n:05}", "same/", LONG - 5);
    for first in (0..MANY).step_by(100) {
        let some = (first..first + 100).map(|n| arrival(SENDERS[n as usize % 3], &name(n), "x".into(), None));
        let stored = engine.store_many(some.collect()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        let held = engine.stats().index_in_memory;
        assert!(held <= most, "{held} long ids are in memory");
    }
    assert_eq!(all(&engine, &FromSender::Any, "same/").await.len() as u64, MANY);
    assert_eq!(all(&engine, &FromSender::Any, &name(7)).await.len(), 1);
    assert_eq!(all(&engine, &FromSender::Any, &name(0)[..LONG - 2]).await.len(), 100);
    assert_eq!(all(&engine, &of("party_b"), &name(1900)[..LONG - 2]).await.len(), 34);
    assert_eq!(all(&engine, &FromSender::Any, &name(MANY)).await.len(), 0);
    // Short ones are not moved before their time.
    assert_eq!(engine.release_topic(&FromSender::Any, "").await.expect("releases"), MANY);
    store(&engine, 0..1000).await;
    assert_eq!(engine.stats().index_in_memory, 1000);
    engine.close().await.expect("closes");
}

/// What is kept lies between what goes, so that it is moved in the log, comes to memory and moves to the disk again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_listed_whole_while_messages_move_and_are_released_and_replaced() {
    const ROUNDS: u64 = 15;
    let folder = tempfile::tempdir().expect("a folder");
    let (options, clock) = options(folder.path());
    let (engine, _) = open(options.clone());
    let mut number = 0;
    let mut next = || {
        number += 1;
        Some(identity(1, number, 1))
    };
    let payload = |n: u64| common::payload(n, 8_000);
    let kept = async |engine: &Arc<dyn Engine>| all(engine, &FromSender::Any, "kept/").await;
    for round in 0..ROUNDS {
        let mut some = Vec::new();
        for n in 0..150 {
            let name = if n % 15 == 0 { format!("kept/{round}/{n}") } else { format!("gone/{round}/{n}") };
            some.push(arrival("party_a", &name, payload(n), next()));
        }
        let stored = engine.store_many(some).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(kept(&engine).await.len() as u64, 10 * (round + 1), "round {round}");
        let gone = format!("gone/{round}/");
        assert_eq!(all(&engine, &FromSender::Any, &gone).await.len(), 140);
        assert_eq!(engine.release_topic(&of("party_a"), &gone).await.expect("releases"), 140);
        assert_eq!(all(&engine, &FromSender::Any, &gone).await, []);
        // A newer one takes the place of an older one, and the end of the list.
        engine.store(arrival("party_a", "kept/0/0", payload(round), next())).await.expect("stores");
        let listed = kept(&engine).await;
        assert_eq!(listed.len() as u64, 10 * (round + 1), "round {round}, one is replaced");
        let newest = engine.held(&FromSender::Any, &id("kept/0/0")).await.expect("looks");
        assert_eq!(listed.last(), newest.first().map(|found| &found.sequence));
    }
    until("what is kept has moved forward in the log", async || {
        clock.advance(Duration::from_secs(1));
        engine.store(arrival("party_a", "tick", "x".into(), None)).await.expect("stores");
        assert_eq!(kept(&engine).await.len() as u64, 10 * ROUNDS);
        engine.stats().segments < 14
    })
    .await;
    let before = kept(&engine).await;
    engine.close().await.expect("closes");
    drop(engine);
    let (engine, report) = open(options);
    assert_eq!(report.index, IndexFound::CaughtUp, "{report}");
    assert_eq!(kept(&engine).await, before, "before its list is known to be whole");
    known(&engine).await;
    assert_eq!(kept(&engine).await, before);
    engine.close().await.expect("closes");
}

/// Waits until the list of names is known to be whole.
async fn known(engine: &Arc<dyn Engine>) {
    until("it is known which there are", async || {
        engine.pending_named(None, "", Sequence(0), 1).await.is_ok_and(|page| page.is_some())
    })
    .await;
}

/// Ids of pending messages that begin so, of one peer or all, page by page.
async fn pending(engine: &Arc<dyn Engine>, peer: Option<&str>, prefix: &str) -> Vec<String> {
    known(engine).await;
    let peer = peer.map(party);
    let (mut all, mut after) = (Vec::new(), Some(Sequence(0)));
    while let Some(from) = after {
        let page = engine.pending_named(peer.as_ref(), prefix, from, 7).await.expect("lists");
        let page = page.expect("there is such a list");
        assert!(page.messages.len() <= 7 && page.next.is_none_or(|next| next > from));
        assert!(page.messages.is_sorted_by_key(|(_, pending, _)| pending.sequence));
        all.extend(page.messages.into_iter().map(|(peer, _, id)| format!("{peer} {id}")));
        after = page.next;
    }
    all
}

/// The sequences of dead letters with a party, page by page.
async fn dead(engine: &Arc<dyn Engine>, peer: &str) -> Vec<Sequence> {
    let (mut all, mut after) = (Vec::new(), Sequence(0));
    loop {
        let page = engine.dead_letters_of(&party(peer), after, 7).await.expect("lists");
        let page = page.expect("there is such a list");
        let Some(last) = page.last() else { break };
        after = last.sequence;
        assert!(page.iter().all(|letter| letter.correspondent.name() == peer));
        all.extend(page.iter().map(|letter| letter.sequence));
    }
    assert!(all.is_sorted_by(|a, b| a < b));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_messages_and_dead_letters_are_listed_by_id_and_party_wherever_they_are() {
    const EACH: u64 = 40;
    let folder = tempfile::tempdir().expect("a folder");
    let (options, clock) = options(folder.path());
    let (engine, _) = open(options.clone());
    let refused = || Outcome::Dead(DeadReason::Refused("no".into()));
    let fill = async |engine: &Arc<dyn Engine>, round: u64| {
        for n in 0..EACH {
            for peer in ["party_b", "party_c"] {
                let topic = ["few", "other"][usize::from(n % 10 != 0)];
                let name = id(format!("{topic}/{round}/{n}"));
                engine.accept(&party(peer), &name, "x".into()).await.expect("accepts");
                let dying = engine.accept(&party(peer), &id("dying"), "x".into()).await.expect("accepts");
                if n % 4 == 0 {
                    assert!(engine.settle(&party(peer), dying, refused()).await.expect("settles"));
                } else {
                    assert!(engine.settle(&party(peer), dying, Outcome::Delivered).await.expect("settles"));
                }
            }
        }
    };
    let check = async |engine: &Arc<dyn Engine>, rounds: u64, when: &str| {
        let (each, few) = (EACH * rounds, EACH / 10 * rounds);
        assert_eq!(pending(engine, None, "").await.len() as u64, 2 * each, "{when}");
        assert_eq!(pending(engine, None, "few/").await.len() as u64, 2 * few, "{when}");
        let of_c = pending(engine, Some("party_c"), "other/").await;
        assert_eq!(of_c.len() as u64, each - few, "{when}");
        assert!(of_c.iter().all(|message| message.starts_with("party_c other/")), "{of_c:?}");
        assert_eq!(pending(engine, Some("party_d"), "").await, [""; 0]);
        for peer in ["party_b", "party_c"] {
            assert_eq!(dead(engine, peer).await.len() as u64, each / 4, "{peer}, {when}");
        }
    };
    fill(&engine, 0).await;
    check(&engine, 1, "in memory").await;
    clock.advance(Duration::from_secs(1));
    until("all is indexed on disk", async || engine.stats().index_in_memory == 0).await;
    check(&engine, 1, "on disk").await;
    fill(&engine, 1).await;
    check(&engine, 2, "half of it on disk").await;
    // What is settled or dropped is listed no more.
    let page = engine.pending_named(None, "few/", Sequence(0), 100).await.expect("lists").expect("a list");
    for (peer, pending, _) in page.messages {
        assert!(engine.settle(&peer, pending.sequence, Outcome::Delivered).await.expect("settles"));
    }
    for letter in dead(&engine, "party_b").await {
        assert!(engine.drop_dead_letter(letter).await.expect("drops"));
    }
    let left = async |engine: &Arc<dyn Engine>| {
        assert_eq!(pending(engine, None, "few/").await, [""; 0]);
        assert_eq!(pending(engine, None, "").await.len() as u64, 4 * (EACH - EACH / 10));
        assert_eq!((dead(engine, "party_b").await.len(), dead(engine, "party_c").await.len()), (0, 20));
    };
    left(&engine).await;
    engine.close().await.expect("closes");
    drop(engine);
    let (engine, _) = open(options);
    left(&engine).await;
    engine.close().await.expect("closes");
}

/// The index of a store that is closed. sled lets go of it a moment later.
async fn opened(path: &std::path::Path) -> sled::Db {
    let mut index = None;
    until("the index can be opened", async || {
        index = sled::open(path).ok();
        index.is_some()
    })
    .await;
    index.expect("it is open")
}

/// What another version, or a power cut, left of the order in the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_without_the_order_of_the_mailbox_gets_it_at_the_start() {
    const MANY: u64 = 500;
    let folder = tempfile::tempdir().expect("a folder");
    let fill = async {
        let (options, clock) = options(folder.path());
        let (engine, _) = open(options);
        store(&engine, 0..MANY).await;
        clock.advance(Duration::from_secs(1));
        until("all is indexed on disk", async || engine.stats().index_in_memory == 0).await;
        engine.close().await.expect("closes");
    };
    fill.await;
    // Sender and sequence; kind, bucket, sender, id and sequence.
    let wrong = [("arrivals", vec![0; 10]), ("names", [&[0; 11][..], b"ten/7", &[0; 8]].concat())];
    let damages = ["none of it", "one entry", "one too many"];
    for ((list, wrong), damage) in wrong.iter().flat_map(|list| damages.map(|damage| (list, damage))) {
        {
            let index = opened(&folder.path().join("index")).await;
            let tree = index.open_tree(list).expect("opens");
            assert_eq!(tree.len() as u64, MANY);
            match damage {
                "none of it" => assert!(index.drop_tree(list).expect("drops")),
                "one entry" => assert!(tree.pop_min().expect("removes").is_some()),
                _ => assert!(tree.insert(wrong.as_slice(), &[1; 16]).expect("inserts").is_none()),
            }
            index.flush().expect("flushes");
        }
        let (engine, report): (_, OpenReport) = open(options(folder.path()).0);
        assert_eq!(report.index, IndexFound::CaughtUp, "without {damage}: {report}");
        assert_eq!(all(&engine, &FromSender::Any, "").await.len() as u64, MANY, "without {damage}");
        assert_eq!(all(&engine, &of("party_a"), "").await.len() as u64, MANY.div_ceil(3));
        for _ in ["before the list is known to be whole", "after"] {
            let listed = all(&engine, &FromSender::Any, "ten/").await.len() as u64;
            assert_eq!(listed, MANY / 10, "without {damage}");
            known(&engine).await;
        }
        assert!(engine.read(&FromSender::Any, &id("ten/0")).await.expect("reads").is_some());
        engine.close().await.expect("closes");
    }
}

/// Entries without ids, and no list of names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_a_version_that_knew_no_ids_gets_them_at_the_start() {
    const MANY: u64 = 500;
    /// Bytes of an entry of such a version, the index key before it and the time of a read behind it.
    const ENTRY: usize = 51;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index");
    {
        let (options, clock) = options(folder.path());
        let (engine, _) = open(options);
        store(&engine, 0..MANY).await;
        for n in 0..MANY / 10 {
            let name = id(format!("few/{n}"));
            engine.accept(&party("party_b"), &name, "x".into()).await.expect("accepts");
        }
        clock.advance(Duration::from_secs(1));
        until("all is indexed on disk", async || engine.stats().index_in_memory == 0).await;
        engine.close().await.expect("closes");
    }
    {
        let index = opened(&path).await;
        for (tree, len) in [("mail", ENTRY + 4), ("pending", 16 + ENTRY), ("arrivals", 16)] {
            let tree = index.open_tree(tree).expect("opens");
            for (key, value) in tree.iter().map(|item| item.expect("reads")) {
                assert!(value.len() > len, "{}", value.len());
                tree.insert(key, &value[..len]).expect("inserts");
            }
        }
        assert!(index.drop_tree("names").expect("drops"));
        index.flush().expect("flushes");
    }
    for start in ["first", "second"] {
        let (engine, report): (_, OpenReport) = open(options(folder.path()).0);
        assert_eq!(report.index, IndexFound::CaughtUp, "{start}: {report}");
        for _ in ["before the list is known to be whole", "after"] {
            assert_eq!(all(&engine, &FromSender::Any, "ten/").await.len() as u64, MANY / 10, "{start}");
            assert_eq!(all(&engine, &of("party_b"), "other/").await.len() as u64, MANY * 3 / 10, "{start}");
            known(&engine).await;
        }
        assert_eq!(pending(&engine, None, "few/").await.len() as u64, MANY / 10, "{start}");
        engine.close().await.expect("closes");
        drop(engine);
        let index = opened(&path).await;
        let len = |tree: &str| index.open_tree(tree).expect("opens").len() as u64;
        assert_eq!((len("names"), len("mail")), (MANY + MANY / 10, MANY), "{start}");
        let whole = |(_, value): (sled::IVec, sled::IVec)| value.len() > ENTRY + 4 + 2;
        assert!(index.open_tree("mail").expect("opens").iter().all(|item| item.is_ok_and(whole)));
    }
    // What ends takes its name along. (While the list is completed, a name may stay behind, and goes with the next start.)
    let (engine, _) = open(options(folder.path()).0);
    known(&engine).await;
    assert_eq!(engine.release_topic(&FromSender::Any, "").await.expect("releases"), MANY);
    for (pending, _) in engine.pending_with_ids(&party("party_b"), Sequence(0), 100).await.expect("lists") {
        let settled = engine.settle(&party("party_b"), pending.sequence, Outcome::Delivered).await;
        assert!(settled.expect("settles"));
    }
    engine.close().await.expect("closes");
    drop(engine);
    assert_eq!(opened(&path).await.open_tree("names").expect("opens").len(), 0);
}
