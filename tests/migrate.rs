//! `petnet migrate` from folder to folder: exit codes, and that the messages are there afterwards.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
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
    // An operator who did not hear that asks again.
    let (code, out, err) = migrate();
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("compared both once more") && out.contains("is ready"), "{out}");

    let store = open(&to);
    let (code, _, err) = migrate();
    assert_eq!(code, Some(3), "while it runs: {err}");
    assert_eq!(store.pending(&peer(), Sequence(0), 9).await.unwrap()[0].len, 2_000_000);
    let message = store.read(&FromSender::Any, &id("in")).await.unwrap().unwrap();
    assert_eq!(message.payload, "hello");
    store.close().await.unwrap();
    drop(store);
    let (code, _, err) = migrate();
    assert!(code == Some(2) && err.contains("not empty"), "{err}");
}

/// Whether this process may mount; says so loudly where it may not, and fails where nothing may be skipped.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).output();
    if tried.as_ref().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let text = "!!! SKIPPED: it needs unshare (apt-get install util-linux) and the right to mount: run it as root, in a container as a \
                privileged one";
    assert!(std::env::var_os("CI").is_none(), "{text}; and in CI nothing may be skipped");
    // Not through `println!`: the test runner would hide it.
    writeln!(std::io::stderr(), "\n{text}\n").ok();
    false
}

/// The program, where a folder is mounted read-only.
fn with_read_only(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    const SCRIPT: &str = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99
        if touch "$1/probe" 2>/dev/null; then exit 98; fi
        shift
        exec "$@""#;
    let program = petnet(arguments);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(folder)
        .arg(program.get_program())
        .args(arguments);
    let (code, out, err) = run(&mut command);
    (code, String::from_utf8(out).unwrap(), err)
}

/// What a mount that cannot be written shows is what a backup often is. All three ended with exit code 3.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_a_read_only_mount_is_looked_at_and_moved_from() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    let store = open(&from);
    store.accept(&peer(), &id("out"), vec![7; 2_000_000].into()).await.unwrap();
    let name = from.to_str().unwrap();
    let verify = || with_read_only(&from, &["verify", name]);
    let (code, _, err) = verify();
    assert!(
        code == Some(3) && err.contains("in use"),
        "by a gateway that has it through another mount: {err}"
    );
    store.close().await.unwrap();
    drop(store);
    // A copy may have no lock file.
    for has_lock in [true, false] {
        if !has_lock {
            fs::remove_file(from.join("LOCK")).unwrap();
        }
        let (code, out, err) = verify();
        assert!(code == Some(0) && out.contains("All is well"), "{code:?} {out} {err}");
        assert!(!out.contains("not checked"), "{out}");
        let (code, out, err) = with_read_only(&from, &["repair", "--dry-run", name]);
        assert!(code == Some(0) && out.contains("nothing to repair"), "{code:?} {out} {err}");
    }
    let (code, out, err) = with_read_only(&from, &["migrate", "--from", name, "--to", to.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{out} {err}");
    let store = open(&to);
    assert_eq!(store.pending(&peer(), Sequence(0), 9).await.unwrap()[0].len, 2_000_000);
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
