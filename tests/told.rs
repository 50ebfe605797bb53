//! What was refused, has no effect or was not done is told where people look: in the status, in the exit code, at the start.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::process::Command;

use common::asking::{asked, awaited, send};
use common::secure::{self, client, init};
use common::{Place, Running, petnet, run};
use serde_json::Value;

fn refused(place: &Place) -> Vec<Value> {
    let (_, out, err) = asked(place, 0, &["status", "--json"]);
    let status: Value = serde_json::from_str(&out).unwrap_or_else(|why| panic!("{why}: {out}{err}"));
    status["refused_reloads"].as_array().unwrap().clone()
}

/// It was one line in the log: whoever looked a day later saw a gateway that serves, with yesterday's parties.
#[test]
fn a_refused_party_file_or_certificate_is_shown_until_it_is_mended() {
    let place = secure::place();
    let gateway = secure::serve(&place, 0);
    let key = place.path("certs/party_a/server.key");
    for (file, what) in [(place.path("party.json"), "party_file"), (key, "certificates")] {
        let good = fs::read(&file).unwrap();
        assert_eq!(refused(&place), Vec::<Value>::new());
        fs::write(&file, "no longer what it was").unwrap();
        gateway.signal("HUP");
        let told = awaited("it is refused", || refused(&place).into_iter().next());
        assert_eq!(told["what"], what, "{told}");
        assert!(!told["why"].as_str().unwrap().is_empty() && told["since_ms"].as_u64() > Some(0), "{told}");
        let (code, out, _) = asked(&place, 0, &["status"]);
        let line = out.lines().find(|line| line.starts_with("REFUSED")).unwrap_or_else(|| panic!("{out}"));
        assert!(
            line.contains("the former one is in force") && line.contains(told["why"].as_str().unwrap()),
            "{line}"
        );
        assert_eq!(code, Some(0), "it serves by the former one");
        let mut doctor = place.command("doctor", 0);
        doctor.env("PEM_PATH", place.path("certs/party_a")).args(["--timeout", "2s"]);
        let (code, _, err) = run(&mut doctor);
        let part = "on the disk; the gateway works by the former one";
        assert!(code == Some(2) && err.contains("REFUSED: ") && err.contains(part), "{code:?} {err}");
        fs::write(&file, good).unwrap();
        gateway.signal("HUP");
        awaited("it is gone by itself", || refused(&place).is_empty().then_some(()));
    }
}

#[test]
fn a_settings_file_that_is_none_is_refused_and_neither_waited_for_nor_swallowed() {
    let place = Place::new();
    let fifo = place.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::create_dir(place.path("pem")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", place.path("pem/server.crt")).unwrap();
    for (name, value, part) in [
        ("CONFIG_FILE_PATH", fifo.clone(), "a pipe (FIFO), and not a regular file"),
        ("CONFIG_FILE_PATH", "/dev/zero".into(), "a device, and not a regular file"),
        ("REDIS_URL_FILE", fifo, "a pipe (FIFO), and not a regular file"),
        ("PEM_PATH", place.path("pem"), "a device, and not a regular file"),
    ] {
        let mut serve = place.serve(0);
        serve.env(name, &value);
        let (status, log) = Running::start(serve).end();
        assert!(status.code() == Some(2) && log.contains(part), "{name}={value:?}: {status}: {log}");
    }
}

#[test]
fn names_that_are_misspelt_and_settings_without_effect_are_told_at_the_start() {
    let place = Place::new();
    let mut serve = place.serve(0);
    serve.envs([("STROE_MAX_BYTES", "secret"), ("PETNET_RECV_WAIT_MS", "7"), ("GEM_PATH", "/gems")]);
    serve.envs([("REDIS_SETTINGS", "set"), ("REDIS_TIMEOUT", "3")]);
    let gateway = Running::serving(serve);
    gateway.signal("TERM");
    let (_, log) = gateway.end();
    for part in [
        "STROE_MAX_BYTES in the environment is no setting and has no effect; did you mean STORE_MAX_BYTES?",
        "did you mean RECV_WAIT_MS?",
        "REDIS_TIMEOUT, REDIS_SETTINGS: without effect: there is no REDIS_URL",
    ] {
        assert_eq!(log.matches(part).count(), 1, "{part:?} in:\n{log}");
    }
    assert!(!log.contains("GEM_PATH") && !log.contains("secret"), "{log}");
}

#[test]
fn what_is_written_wrong_on_the_command_line_is_exit_code_2_with_the_way_out() {
    for (words, part) in [
        (["recv", "--id", "m", "--gateway", "localhost"], "expected host:port"),
        (["recv", "--id", "m", "--gateway", "http://localhost:1235"], "expected host:port"),
        (["send", "--id=m", "--to=party_b", "--gateway", "localhost"], "expected host:port"),
        (["mailbox", "release", "--yes", "--prefix", ""], "give --all instead"),
    ] {
        let (code, _, err) = run(&mut petnet(&words));
        assert!(code == Some(2) && err.contains(part), "{words:?}: {code:?} {err}");
    }
    let (code, _, err) = run(petnet(&["recv", "--id", "m"]).env("PETNET_ADDR", "localhost"));
    assert!(code == Some(2) && err.contains("expected host:port"), "{err}");
}

/// It ended with 0 whatever came of it, and "answers" was all that was said of a peer that refuses everything.
#[test]
fn a_retry_succeeds_only_where_the_peer_takes_what_waits_for_it() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    for n in 0..30 {
        send(&place, &format!("m{n}"), vec![7; 60_000]);
    }
    let retry = ["queue", "retry", "party_b"];
    let (code, out, err) = asked(&place, 0, &retry);
    assert!(code == Some(1) && out.contains("does not take messages"), "down: {code:?} {out}{err}");
    asked(&place, 0, &["queue", "pause", "party_b"]);
    let (code, out, err) = asked(&place, 0, &retry);
    assert!(code == Some(1) && out.contains("PAUSED") && out.contains("queue resume"), "{code:?} {out}{err}");
    asked(&place, 0, &["queue", "resume", "party_b"]);

    // It has room for some of them.
    let mut small = place.serve(1);
    small.env("STORE_MAX_BYTES", "1MiB");
    let b = Running::serving(small);
    let (code, out, err) = awaited("the peer is full", || {
        let (code, out, err) = asked(&place, 0, &retry);
        out.contains("the store is full").then_some((code, out, err))
    });
    assert!(code == Some(1) && out.contains("party_b answers, but does not take"), "{code:?} {out}{err}");
    let (_, json, _) = asked(&place, 0, &["queue", "retry", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["failed"], 1, "{json}");
    drop(b);

    let _b = Running::serving(place.serve(1));
    let out = awaited("it takes them all", || {
        let (code, out, _) = asked(&place, 0, &retry);
        (code == Some(0)).then_some(out)
    });
    assert!(out.starts_with("party_b answers"), "{out}");
}

#[test]
fn a_retry_of_dead_letters_where_there_are_none_says_so() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    let (code, _, err) = asked(&place, 0, &["dead", "retry", "--all"]);
    assert!(code == Some(5) && err.contains("there are no dead letters"), "{code:?} {err}");
}

#[test]
fn a_message_is_shown_by_the_number_that_a_list_has() {
    let place = Place::new();
    let (_a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    send(&place, "one", b"1");
    send(&place, "two", b"22");
    let number = awaited("both arrived", || {
        let (_, out, _) = asked(&place, 1, &["mailbox", "ls", "--json"]);
        let list: Value = serde_json::from_str(&out).ok()?;
        let all = list["messages"].as_array()?.clone();
        (all.len() == 2)
            .then(|| all.iter().find(|m| m["message_id"] == "two").unwrap()["sequence"].to_string())
    });
    let hash = format!("#{number}");
    let (code, out, err) = asked(&place, 1, &["mailbox", "show", &hash]);
    assert!(code == Some(0) && out.contains("two"), "{out}{err}");
    let (_, out, _) = asked(&place, 1, &["mailbox", "show", &hash, "--payload"]);
    assert_eq!(out, "22");
    let (code, _, err) = asked(&place, 1, &["mailbox", "show", "#123456"]);
    assert!(code == Some(5) && err.contains("no message #123456"), "{err}");
    let (code, _, err) = asked(&place, 1, &["mailbox", "show", "two", "--sender", "party_b"]);
    assert!(code == Some(5) && err.contains("under that id there is one from party_a"), "{err}");
}

/// The cause stood there twice, as the library printed it, and the program went on trying.
#[test]
fn a_certificate_that_is_not_believed_is_told_once_and_at_once() {
    let place = secure::place();
    let gateway = secure::serve(&place, 0);
    let (code, _, err) = init(&place.path("certs/stranger"), "party_a", &[]);
    assert_eq!(code, Some(0), "{err}");
    let words = ["send", "--to", "party_b", "--id", "m"];
    let (code, _, err) = client(&place, 0, Some("stranger"), &words, b"x");
    assert_eq!((code, err.matches("TLS handshake failed").count()), (Some(1), 1), "{err}");
    assert!(!err.contains("trying again") && !err.contains("source:"), "{err}");
    // It believes us, and we are not believed.
    fs::copy(place.path("certs/party_a/ca.crt"), place.path("certs/stranger/ca.crt")).unwrap();
    let (code, _, err) = client(&place, 0, Some("stranger"), &words, b"x");
    // The gateway's word may be lost with the connection, and is heard at the next try.
    assert!(code == Some(1) && err.contains("received fatal alert") && !err.contains("source:"), "{err}");
    gateway.signal("TERM");
    let (_, log) = gateway.end();
    // One for each handshake, and none for a look at the port.
    let warned = |line: &&str| line.contains("WARN") && line.contains("certificate");
    assert!(log.lines().filter(warned).all(|line| line.contains("TLS handshake failed")), "{log}");
    assert!(!log.contains("what came is not TLS"), "{log}");
    assert!(log.contains("is not signed by any of the certificates"), "{log}");
}

#[test]
fn a_port_that_speaks_no_tls_is_told_as_one_to_who_brings_certificates() {
    let place = secure::place();
    let _gateway = Running::serving(place.serve(0));
    let words = ["send", "--to", "party_b", "--id", "m"];
    let (code, _, err) = client(&place, 0, Some("party_a"), &words, b"x");
    assert!(code == Some(1) && err.contains("speaks no TLS: leave out --certs"), "{err}");
}
