//! `petnet migrate` from folder to folder: exit codes, and that the messages are there afterwards.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{petnet, run};
use petnet_storage::{
    Arrival, Engine, FromSender, MessageId, NoObserver, PartyId, Sequence, Store, StoreOptions,
};

fn open(dir: &Path) -> Arc<dyn Engine> {
    Store::open(StoreOptions::new(dir), Arc::new(NoObserver)).unwrap().0
}

fn id(text: &str) -> MessageId {
    MessageId::new(text).unwrap()
}

fn peer() -> PartyId {
    PartyId::new("party_b").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_another_folder_and_only_to_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    let store = open(&from);
    store.accept(&peer(), &id("out"), vec![7; 2_000_000].into()).await.unwrap();
    let arrival = Arrival { sender: Some(peer()), id: id("in"), payload: "hello".into(), identity: None };
    store.store(arrival).await.unwrap();
    let migrate = || {
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        let (code, out, err) = run(&mut petnet(&["migrate", "--from", from, "--to", to]));
        (code, String::from_utf8(out).unwrap(), err)
    };
    let (code, _, err) = migrate();
    assert_eq!(code, Some(3), "while it runs: {err}");
    store.close().await.unwrap();
    drop(store);

    let (code, out, err) = migrate();
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("is ready") && out.contains("Never start a gateway on"), "{out}");
    assert!(!to.join("MOVING").exists());
    let (code, _, err) = migrate();
    assert!(code == Some(2) && err.contains("not empty"), "{err}");

    let store = open(&to);
    assert_eq!(store.pending(&peer(), Sequence(0), 9).await.unwrap()[0].len, 2_000_000);
    let message = store.read(&FromSender::Any, &id("in")).await.unwrap().unwrap();
    assert_eq!(message.payload, "hello");
}

#[test]
fn wrong_ends_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, to) = (dir.path().to_str().unwrap(), dir.path().join("to"));
    let to = to.to_str().unwrap();
    let folder_that_holds_nothing = ["migrate", "--from", empty, "--to", to];
    let both_the_same = ["migrate", "--from", empty, "--to", empty];
    let no_party = ["migrate", "--from", empty, "--to", "redis://:hunter2@localhost"];
    let no_url = ["migrate", "--from", "http://localhost", "--to", to];
    for arguments in [folder_that_holds_nothing, both_the_same, no_party, no_url] {
        let (code, _, err) = run(&mut petnet(&arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
    assert!(!Path::new(to).exists());
}
