//! The mailbox page by page: whatever is asked for, all pages together give it once and in the order of arrival.

use std::collections::BTreeMap;
use std::sync::Arc;

use petnet_storage::{Arrival, Engine, FromSender, Sequence, Stored};

use super::bench::{Bench, Settings};
use crate::common::{id, identity, party};

const SENDERS: [Option<&str>; 4] = [Some("party_a"), Some("party_b"), Some("pärty"), None];
const TOPICS: [&str; 5] = ["job:", "job:é", "日本/", "日", "z"];

/// What is to be there: sequence -> sender and id.
type Mail = BTreeMap<Sequence, (Option<&'static str>, String)>;

/// What may be asked for.
fn wanted() -> Vec<(FromSender, &'static str)> {
    let mut from: Vec<_> = ["party_a", "party_b", "pärty", "party_x"]
        .into_iter()
        .map(|name| FromSender::Party(party(name)))
        .collect();
    from.extend([FromSender::Any, FromSender::Unnamed]);
    let prefixes = ["", "j", "job:", "job:é", "日", "日本/", "z", "nothing", "job:é日本", "\u{10ffff}"];
    from.iter().flat_map(|from| prefixes.map(|prefix| (from.clone(), prefix))).collect()
}

fn is_meant(from: &FromSender, prefix: &str, (sender, name): &(Option<&str>, String)) -> bool {
    let is_from = match from {
        FromSender::Any => true,
        FromSender::Unnamed => sender.is_none(),
        FromSender::Party(party) => *sender == Some(party.as_str()),
    };
    is_from && name.starts_with(prefix)
}

fn meant(mail: &Mail, from: &FromSender, prefix: &str) -> Vec<Sequence> {
    mail.iter()
        .filter(|(_, message)| is_meant(from, prefix, message))
        .map(|(sequence, _)| *sequence)
        .collect()
}

/// The sender and id of a number; the shares of senders and topics are all different.
fn message(n: usize) -> (Option<&'static str>, String) {
    let sender = SENDERS[[0, 0, 0, 1, 1, 2, 3][n % 7]];
    let topic = TOPICS[if n.is_multiple_of(50) { 4 } else { [0, 0, 0, 1, 2, 2, 3][n / 7 % 7] }];
    (sender, format!("{topic}{n}"))
}

async fn store(engine: &Arc<dyn Engine>, mail: &mut Mail, messages: &[(Option<&'static str>, String)]) {
    let arrival = |(sender, name): &(Option<&str>, String)| Arrival {
        sender: sender.map(party),
        id: id(name),
        payload: "x".into(),
        identity: None,
    };
    for some in messages.chunks(256) {
        let stored = engine.store_many(some.iter().map(arrival).collect()).await;
        for (stored, message) in stored.into_iter().zip(some) {
            let Ok(Stored::New(sequence)) = stored else { panic!("{stored:?}") };
            mail.retain(|_, there| there != message);
            mail.insert(sequence, message.clone());
        }
    }
}

async fn pages(engine: &Arc<dyn Engine>, from: &FromSender, prefix: &str, page: usize) -> Vec<Sequence> {
    let (mut all, mut after) = (Vec::new(), Sequence(0));
    loop {
        let some = engine.topic(from, prefix, after, page).await.expect("lists");
        assert!(some.len() <= page);
        let Some(last) = some.last() else { return all };
        after = last.sequence;
        all.extend(some.iter().map(|found| found.sequence));
    }
}

async fn check(engine: &Arc<dyn Engine>, mail: &Mail, sizes: &[usize]) {
    for (from, prefix) in wanted() {
        for page in sizes {
            let found = pages(engine, &from, prefix, *page).await;
            assert!(found == meant(mail, &from, prefix), "{from:?} {prefix:?} in pages of {page}: {found:?}");
        }
    }
}

pub async fn all_pages_give_everything_once_in_the_order_of_arrival<B: Bench>(bench: &B) {
    let settings = Settings::default();
    let mut engine = bench.open(&settings).await;
    let mut mail = Mail::new();
    check(&engine, &mail, &[1, 100]).await;
    let all: Vec<_> = (0..2500).map(message).collect();
    store(&engine, &mut mail, &all[..1200]).await;
    bench.settle_down(&engine).await;
    store(&engine, &mut mail, &all[1200..]).await;
    check(&engine, &mail, &[100]).await;
    // Those in the middle of a topic end, and others are there anew.
    for (sender, name) in all.iter().skip(300).step_by(41) {
        let from = FromSender::from(sender.map(party));
        assert!(engine.release(&from, &id(name)).await.expect("releases"));
        mail.retain(|_, there| *there != (*sender, name.clone()));
    }
    let again: Vec<_> = all.iter().step_by(13).cloned().collect();
    store(&engine, &mut mail, &again).await;
    check(&engine, &mail, &[37, usize::MAX]).await;
    for end in B::ENDS {
        engine = bench.reopen(engine, &settings, *end).await.that_found(0, mail.len(), 0);
        check(&engine, &mail, &[100]).await;
        store(&engine, &mut mail, &[message(5000)]).await;
        check(&engine, &mail, &[1000]).await;
    }
}

/// Whoever turns pages sees what stays, whatever happens around it.
pub async fn what_ends_or_comes_between_two_pages_hides_nothing_that_stays(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    for (round, (from, prefix)) in (0..).zip(wanted()) {
        let mut mail = Mail::new();
        assert_eq!(pages(&engine, &FromSender::Any, "", 100).await, []);
        store(&engine, &mut mail, &(0..120).map(message).collect::<Vec<_>>()).await;
        let (mut found, mut after, mut stays) = (Vec::new(), Sequence(0), mail.clone());
        let mut next = 200;
        loop {
            let some = engine.topic(&from, prefix, after, 5).await.expect("lists");
            let Some(last) = some.last() else { break };
            after = last.sequence;
            found.extend(some.iter().map(|found| found.sequence));
            if next >= 260 {
                continue;
            }
            // Something ends, something is replaced, and something comes.
            let there: Vec<_> = mail.iter().map(|(sequence, there)| (*sequence, there.clone())).collect();
            let (ended, (sender, name)) = &there[(next * 7 + round) % there.len()];
            let of = FromSender::from(sender.map(party));
            assert!(engine.release(&of, &id(name)).await.expect("releases"));
            mail.remove(ended);
            let replaced = mail.values().nth((next * 3 + round) % mail.len()).expect("is there").clone();
            store(&engine, &mut mail, &[replaced, message(next)]).await;
            stays.retain(|sequence, _| mail.contains_key(sequence));
            next += 1;
        }
        assert!(found.is_sorted_by(|a, b| a < b), "each once, in the order of arrival: {from:?} {prefix:?}");
        let missing: Vec<_> =
            meant(&stays, &from, prefix).into_iter().filter(|sequence| !found.contains(sequence)).collect();
        assert_eq!(missing, [], "{from:?} {prefix:?}");
        // Nobody asked for others.
        check_one(&engine, &mail, &from, prefix).await;
        engine.release_topic(&FromSender::Any, "").await.expect("releases");
    }
}

async fn check_one(engine: &Arc<dyn Engine>, mail: &Mail, from: &FromSender, prefix: &str) {
    assert_eq!(pages(engine, from, prefix, 7).await, meant(mail, from, prefix), "{from:?} {prefix:?}");
}

pub async fn a_prefix_that_is_a_whole_id_finds_it_and_what_is_longer(bench: &impl Bench) {
    let engine = bench.open(&Settings::default()).await;
    let names = ["job", "job:1", "job:10", "job:2", "jo", "é", "éa", "e", "00", "0", "\u{7f}", "\u{10ffff}"];
    let longest = "x".repeat(1024);
    let names: Vec<&str> = names.into_iter().chain([longest.as_str(), &longest[..1023]]).collect();
    for (n, name) in (1..).zip(&names) {
        for (offset, sender) in [(0, "party_a"), (100, "party_b")] {
            let known = Some(identity(1, n + offset, 1));
            let arrival = crate::common::arrival(sender, name, "x".into(), known);
            engine.store(arrival).await.expect("stores");
        }
    }
    for prefix in &names {
        for (from, senders) in [(FromSender::Any, 2), (FromSender::Party(party("party_b")), 1)] {
            let found = engine.topic(&from, prefix, Sequence(0), 100).await.expect("looks");
            let found: Vec<_> = found.iter().map(|found| found.id.as_str()).collect();
            let wanted = names.iter().filter(|name| name.starts_with(prefix));
            let wanted: Vec<_> = wanted.flat_map(|name| std::iter::repeat_n(*name, senders)).collect();
            assert_eq!(found, wanted, "{prefix:?}");
        }
    }
}
