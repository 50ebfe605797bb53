//! A send that is tried again over power cuts is the same send: its key is in the log with its message, and in the checkpoint
//! when the message and its segment are gone.

mod common;
mod sim_disk;
mod trials;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{id, party, payload, until};
use petnet_storage::{Engine, IdReuse, Outcome, SendKey, Sending, Sequence, StoreOptions};
use sim_disk::store::{open_small, open_with, small};
use sim_disk::{Fault, SimDisk};
use trials::block_on;

/// Keys stand in the log only.
const LOG_ONLY: Duration = Duration::from_secs(3600);

fn key(n: u64) -> SendKey {
    let mut key = [0xa5; SendKey::BYTES];
    key[..8].copy_from_slice(&n.to_le_bytes());
    SendKey(key)
}

async fn accept(store: &Arc<dyn Engine>, n: u64, payload: Bytes) -> petnet_storage::Result<Sequence> {
    let (receiver, id) = (party("party_b"), id(format!("m{n}")));
    store.accept_one(Sending { receiver, id, payload, key: Some(key(n)) }).await
}

#[test]
fn a_send_that_is_tried_again_after_a_power_cut_is_the_same_send() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open_small(&disk, LOG_ONLY);
        let content = |n: u64| payload(n, [10, 60_000, 70_000, 600_000][n as usize % 4]);
        let mut accepted = Vec::new();
        for n in 0..8 {
            accepted.push(accept(&store, n, content(n)).await.expect("accepts"));
        }
        for sequence in &accepted[..4] {
            let b = party("party_b");
            assert!(store.settle(&b, *sequence, Outcome::Delivered).await.expect("settles"));
        }
        store.ends_kept().await.expect("keeps");
        let cut = disk.after_power_cut(None);
        let after = open_small(&cut, LOG_ONLY);
        for n in 0..8 {
            let again = accept(&after, n, content(n)).await.expect("is known");
            assert_eq!(again, accepted[n as usize], "{n}");
        }
        let left = after.pending(&party("party_b"), Sequence(0), 100).await.expect("lists");
        assert_eq!(left.len(), 4);
    });
}

#[test]
fn a_send_whose_first_try_was_cut_off_is_accepted_once() {
    block_on(async {
        for at in 1..=6 {
            let disk = SimDisk::new(Path::new("/data"), None);
            let store = open_small(&disk, LOG_ONLY);
            disk.set_fault(Fault::PowerCut { at: disk.operations() + at });
            let first = accept(&store, 1, payload(1, 100_000)).await;
            disk.cut_power();
            for torn in [None, Some(at), Some(at ^ 0xff)] {
                let after = open_small(&disk.after_power_cut(torn), LOG_ONLY);
                let again = accept(&after, 1, payload(1, 100_000)).await.expect("accepts");
                let third = accept(&after, 1, payload(1, 100_000)).await.expect("is known");
                assert_eq!(again, third);
                if let Ok(first) = first {
                    assert_eq!(first, again, "what was answered holds");
                }
                let pending = after.pending(&party("party_b"), Sequence(0), 9).await.expect("lists");
                assert_eq!(pending.len(), 1, "cut at {at}, torn by {torn:?}");
            }
        }
    });
}

/// It was delivered while its sync ran: killed then, its gateway had forgotten the key, and a second try was a second message.
#[test]
fn a_send_with_a_key_is_not_delivered_before_its_key_is_durable() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open_small(&disk, LOG_ONLY);
        let b = party("party_b");
        for n in 0..4 {
            let content = payload(n, [10, 60_000, 70_000, 600_000][n as usize]);
            disk.hold_syncs_of("");
            let accepting = tokio::spawn({
                let (store, content) = (store.clone(), content.clone());
                async move { accept(&store, n, content).await }
            });
            // Told apart from one without a key, which is delivered beside its sync.
            let lane = payload(100 + n, content.len());
            let plain = tokio::spawn({
                let (store, b) = (store.clone(), b.clone());
                async move { store.accept(&b, &id(format!("plain{n}")), lane).await }
            });
            let mut listed = Vec::new();
            until("what has no key is there", async || {
                listed = store.pending_with_ids(&b, Sequence(0), 9).await.expect("lists");
                listed.iter().any(|(_, id)| id.as_ref().is_some_and(|id| id.as_str().starts_with("plain")))
            })
            .await;
            assert_eq!(listed.len(), 1, "{listed:?}");
            let cut = disk.after_power_cut(None);
            disk.let_syncs_go("");
            let first = accepting.await.expect("no panic").expect("accepts");
            let other = plain.await.expect("no panic").expect("accepts");
            let pending = store.pending(&b, Sequence(0), 9).await.expect("lists");
            assert_eq!(pending.len(), 2, "both are delivered now");
            for sequence in [first, other] {
                assert!(store.load(&b, sequence).await.expect("loads").is_some());
                assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
            }
            // Before, nobody had it.
            let again = open_small(&cut, LOG_ONLY);
            accept(&again, n, content).await.expect("accepts");
        }
    });
}

#[test]
fn a_key_outlives_its_message_and_the_segment_that_held_it() {
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open_small(&disk, Duration::ZERO);
        let b = party("party_b");
        let first = accept(&store, 0, payload(0, 100)).await.expect("accepts");
        assert!(store.settle(&b, first, Outcome::Delivered).await.expect("settles"));
        // Several segments' worth, all delivered.
        for n in 1..=100 {
            let sequence = accept(&store, n, payload(n, 50_000)).await.expect("accepts");
            assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
        }
        until("the segments are given back", async || {
            let sequence = store.accept(&b, &id("tick"), Bytes::new()).await.expect("accepts");
            assert!(store.settle(&b, sequence, Outcome::Delivered).await.expect("settles"));
            store.stats().segments <= 3
        })
        .await;
        store.ends_kept().await.expect("keeps");
        let after = open_small(&disk.after_power_cut(None), LOG_ONLY);
        assert_eq!(accept(&after, 0, payload(0, 100)).await.expect("is known"), first);
        assert_eq!(after.pending(&b, Sequence(0), 9).await.expect("lists"), []);
    });
}

/// With `MESSAGE_ID_REUSE=reject` a second key names the message that is held: in a record of its own, behind the message.
#[test]
fn a_second_key_is_durable_when_it_is_answered_and_never_names_a_message_that_is_gone() {
    block_on(async {
        let b = party("party_b");
        let open =
            |disk: &SimDisk| open_with(StoreOptions { id_reuse: IdReuse::Reject, ..small(disk, LOG_ONLY) });
        for (at, len) in (0..=8).flat_map(|at| [(at, 100), (at, 100_000), (at, 600_000)]) {
            let send = |store: &Arc<dyn Engine>, key: Option<SendKey>| {
                let (store, receiver, payload) = (store.clone(), b.clone(), payload(1, len));
                async move { store.accept_one(Sending { receiver, id: id("m"), payload, key }).await }
            };
            for is_held in [true, false] {
                let disk = SimDisk::new(Path::new("/data"), None);
                let store = open(&disk);
                let held = if is_held { Some(send(&store, None).await.expect("accepts")) } else { None };
                disk.set_fault(Fault::PowerCut { at: disk.operations() + at });
                // The first one may not be durable yet when the second one comes.
                let (first, second) =
                    tokio::join!(send(&store, held.map(|_| key(1))), send(&store, Some(key(2))));
                disk.cut_power();
                for torn in [None, Some(at), Some(at ^ 0xff)] {
                    let after = open(&disk.after_power_cut(torn));
                    let when = format!("{len} bytes, cut at {at}, torn by {torn:?}");
                    let pending = async || after.pending(&b, Sequence(0), 9).await.expect("lists");
                    let there = pending().await;
                    assert!(held.is_none_or(|held| there.iter().any(|one| one.sequence == held)), "{when}");
                    for (answer, key) in [(&first, key(1)), (&second, key(2))] {
                        let Ok(answer) = answer else { continue };
                        assert!(there.iter().any(|one| one.sequence == *answer), "{when}");
                        assert!(after.settle(&b, *answer, Outcome::Delivered).await.is_ok());
                        if key == self::key(2) || is_held {
                            assert_eq!(send(&after, Some(key)).await.expect("is known"), *answer, "{when}");
                        }
                    }
                    if second.is_err() {
                        let again = send(&after, Some(key(2))).await.expect("accepts");
                        let gone = first.as_ref().is_ok_and(|first| *first == again);
                        assert!(gone || pending().await.iter().any(|one| one.sequence == again), "{when}");
                    }
                }
            }
        }
    });
}

/// As many keys as are remembered take more than a checkpoint file has at first; on a full disk the oldest are left out.
#[test]
fn keys_do_not_stop_a_checkpoint_on_a_full_disk() {
    const SENDS: u64 = 40_000;
    block_on(async {
        let disk = SimDisk::new(Path::new("/data"), None);
        let store = open_small(&disk, LOG_ONLY);
        let b = party("party_b");
        let mut last = Sequence(0);
        for from in (0..SENDS).step_by(1000) {
            let one = |n| Sending {
                receiver: b.clone(),
                id: id(format!("m{n}")),
                payload: Bytes::new(),
                key: Some(key(n)),
            };
            let all = store.accept_all((from..from + 1000).map(one).collect()).await.await;
            let all: Vec<_> = all.into_iter().map(|one| one.expect("accepts")).collect();
            store.settle_delivered(&b, &all).await.expect("settles");
            last = all[999];
        }
        disk.set_full(true);
        store.close().await.expect("closes");
        drop(store);
        disk.set_full(false);
        let after = open_small(&disk.after_power_cut(None), LOG_ONLY);
        let again = accept(&after, SENDS - 1, Bytes::new()).await.expect("is known");
        assert_eq!(again, last);
        assert_eq!(after.pending(&b, Sequence(0), 9).await.expect("lists"), []);
    });
}
