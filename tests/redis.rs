//! The program on Redis: what `serve`, `status`, `doctor` and `migrate` say and do there.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{DEADLINE, Place, Running, petnet, run};
use petnet_redis_servers::{Append, Options, RedisServer};
use petnet_storage::{Engine, MessageId, NoObserver, PartyId, Sequence, Store, StoreOptions};

fn text((code, out, err): (Option<i32>, Vec<u8>, String)) -> (Option<i32>, String, String) {
    (code, String::from_utf8(out).unwrap(), err)
}

fn on_redis(place: &Place, url: &str) -> Running {
    let mut command = place.serve(0);
    command.env("REDIS_URL", url);
    Running::serving(command)
}

/// Its log, after it was stopped in order.
fn stopped(gateway: Running) -> String {
    gateway.signal("TERM");
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

fn status(url: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let arguments = [&["status", "--party", "party_a", "--redis-url", url], more].concat();
    text(run(&mut petnet(&arguments)))
}

#[test]
fn a_gateway_on_redis_says_what_accepted_means_and_so_do_status_and_doctor() {
    let server = RedisServer::start(Options { password: Some("hunter2".into()), ..Options::default() });
    let place = Place::new();
    let url = server.url();
    let (code, out, err) = status(&url, &[]);
    assert_eq!(code, Some(1), "no gateway is alive: {err}");
    assert!(out.contains("synced (appendfsync always)") && out.contains("(none)"), "{out}");

    let gateway = on_redis(&place, &url);
    fs::write(place.path("payload"), "hello").unwrap();
    let (at, payload) = (place.address(0), place.path("payload"));
    let sending = ["send", "--gateway", &at, "--to", "party_b", "--id", "m", payload.to_str().unwrap()];
    let sent = run(&mut petnet(&sending));
    assert_eq!(sent.0, Some(0), "{}", sent.2);
    let (code, out, _) = status(&url, &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(&place.address(0)) && out.contains("party_b"), "{out}");
    let (_, out, _) = status(&url, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["peers"][0]["pending"], &json["peers"][0]["bytes"]), (&1.into(), &5.into()), "{json}");
    assert_eq!(json["gateways"][0]["live"], true);
    assert_eq!(json["losses"].as_array().map(Vec::len), Some(0), "{json}");

    server.config_set("appendfsync", "everysec");
    let (_, out, _) = status(&url, &[]);
    assert!(out.contains("BUT:") && out.contains("everysec"), "{out}");
    let (_, out, err) = text(run(place.command("doctor", 0).env("REDIS_URL", &url)));
    assert!(out.contains("WARN") && out.contains("everysec"), "{out}{err}");
    let (_, out, err) =
        text(run(place.command("doctor", 0).env("REDIS_URL", "redis://:hunter2@127.0.0.1:1")));
    assert!(out.contains("BAD") && !format!("{out}{err}").contains("hunter2"), "{out}{err}");

    let log = stopped(gateway);
    assert!(log.contains("accepted means") && !log.contains("hunter2"), "{log}");
    // Only the operator's socket was there, and is gone.
    let kept: Vec<_> = std::fs::read_dir(place.path("party_a")).unwrap().collect();
    assert!(kept.is_empty(), "it keeps nothing in its data folder: {kept:?}");
}

#[test]
fn a_redis_that_is_no_place_for_messages_stops_the_start() {
    let place = Place::new();
    let policy = Some((100 << 20, "allkeys-lru".to_owned()));
    let evicting = RedisServer::start(Options { max_memory: policy, ..Options::default() });
    let (code, _, err) = text(run(place.serve(0).env("REDIS_URL", evicting.url())));
    assert!(code == Some(3) && err.contains("allkeys-lru") && err.contains("REDIS_ALLOW_VOLATILE"), "{err}");
    let volatile = RedisServer::start(Options { append: Append::Never, ..Options::default() });
    let gateway = on_redis(&place, &volatile.url());
    let log = stopped(gateway);
    assert!(log.contains("can be lost") && log.contains("appendonly"), "{log}");
    let (code, _, err) = text(run(place.serve(0).env("REDIS_URL", "redis://:hunter2@127.0.0.1:port")));
    assert!(code == Some(2) && !err.contains("hunter2"), "{err}");
    let locked = RedisServer::start(Options { password: Some("right".into()), ..Options::default() });
    let wrong = format!("redis://:hunter2@127.0.0.1:{}", locked.port());
    let (code, _, err) = text(run(place.serve(0).env("REDIS_URL", wrong)));
    assert!(code == Some(3) && err.contains("password") && !err.contains("hunter2"), "{err}");
}

#[test]
fn every_dead_letter_that_has_to_go_is_named_in_the_log() {
    let (server, place) = (RedisServer::start(Options::default()), Place::new());
    let mut command = place.serve(0);
    command.env("REDIS_URL", server.url()).env("SEND_TTL", "2s").env("DEAD_LETTER_MAX_BYTES", "1KiB");
    let gateway = Running::serving(command);
    fs::write(place.path("payload"), vec![7_u8; 100]).unwrap();
    let (at, payload) = (place.address(0), place.path("payload"));
    for n in 0..25 {
        let id = format!("id{n:02}");
        let sending = ["send", "--gateway", &at, "--to", "party_b", "--id", &id, payload.to_str().unwrap()];
        let sent = run(&mut petnet(&sending));
        assert_eq!(sent.0, Some(0), "{}", sent.2);
    }
    // Ten of them fit; the oldest go.
    let dropped = |n: usize| format!("message_id=id{n:02}");
    gateway.logged("dropped the oldest dead letter");
    let end = Instant::now() + DEADLINE;
    while server.command(&["ZCARD", "petnet:{party_a}:dead"]).text() != "10" {
        assert!(Instant::now() < end, "they do not die");
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = stopped(gateway);
    let gone: Vec<_> = log.lines().filter(|line| line.contains("dropped the oldest dead letter")).collect();
    for n in 0..15 {
        let lines = gone.iter().filter(|line| line.contains(&dropped(n)) && line.contains("party_b"));
        assert_eq!(lines.count(), 1, "{n}: {gone:?}");
    }
    assert_eq!(gone.len(), 15, "{gone:?}");
}

#[test]
fn a_gateway_with_other_settings_ends_with_two_and_operators_of_any_do_the_same() {
    let (server, place) = (RedisServer::start(Options::default()), Place::new());
    let url = server.url();
    let gateway = on_redis(&place, &url);
    let other = |listen: &str| {
        let mut command = place.serve(0);
        command.env("REDIS_URL", &url).env("LISTEN_ADDR", listen).env("DATA_DIR", place.path("other"));
        command
    };
    let (code, _, err) =
        text(run(other("127.0.0.1:0").env("MESSAGE_TTL", "0").env("STORE_MAX_BYTES", "1GiB")));
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("MESSAGE_TTL is 0 s here and 3600 s there") && err.contains("STORE_MAX_BYTES"),
        "{err}"
    );
    assert!(err.contains(&place.address(0)) && err.contains("REDIS_SETTINGS=set"), "{err}");

    let second = Running::serving(other("127.0.0.1:0"));
    fs::write(place.path("payload"), "hello").unwrap();
    let (at, payload) = (place.address(0), place.path("payload"));
    let sending = ["send", "--gateway", &at, "--to", "party_b", "--id", "m", payload.to_str().unwrap()];
    assert_eq!(run(&mut petnet(&sending)).0, Some(0));
    let folders = [place.path("party_a"), place.path("other")];
    let all = |words: &[&str]| {
        folders.each_ref().map(|folder| {
            let words = [words, &["--data-dir", folder.to_str().unwrap()]].concat();
            text(run(&mut petnet(&words)))
        })
    };
    for (code, out, err) in all(&["queue", "ls", "party_b"]).into_iter().chain(all(&["queue", "ls"])) {
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        let is_listed =
            |line: &str| ["party_b", "m"].iter().all(|w| line.split_whitespace().any(|x| x == *w));
        assert!(out.lines().any(is_listed), "{out}");
    }
    for (code, out, err) in all(&["queue", "show", "party_b", "m"]) {
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        assert!(out.contains('m'), "{out}");
    }
    for (code, out, err) in all(&["queue", "retry", "party_b"]) {
        assert!(code == Some(1) && out.contains("1 message"), "{out}{err}");
    }
    let [paused, again] = all(&["queue", "pause", "party_b"]);
    assert!(
        paused.1.contains("is paused at all gateways") && again.1.contains("was paused already"),
        "{paused:?} {again:?}"
    );
    for (_, out, err) in all(&["status"]) {
        assert!(out.contains("paused"), "{out}{err}");
    }
    let [resumed, again] = all(&["queue", "resume", "party_b"]);
    assert!(
        resumed.1.contains("is resumed at all gateways") && again.1.contains("was not paused"),
        "{resumed:?} {again:?}"
    );
    let [dropped, gone] = all(&["queue", "drop", "party_b", "--all", "--yes"]);
    assert!(dropped.1.contains("1 message"), "{dropped:?}");
    assert!(gone.0 == Some(5) && gone.2.contains("nothing is pending for party_b"), "{gone:?}");
    stopped(second);
    stopped(gateway);
}

/// All that is pending for `party_b` in a folder: name and bytes.
fn pending(engine: &Arc<dyn Engine>) -> Vec<(String, Bytes)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let b = PartyId::new("party_b").unwrap();
    runtime.block_on(async {
        let mut all = Vec::new();
        for found in engine.pending(&b, Sequence(0), 100_000).await.unwrap() {
            let message = engine.load(&b, found.sequence).await.unwrap().unwrap();
            all.push((message.id.to_string(), message.payload.whole().await.unwrap()));
        }
        engine.close().await.unwrap();
        all
    })
}

#[test]
fn a_migration_that_is_killed_again_and_again_moves_everything_there_and_back() {
    let server = RedisServer::start(Options::default());
    let dir = tempfile::tempdir().unwrap();
    let (from, back) = (dir.path().join("from"), dir.path().join("back"));
    fs::create_dir(&from).unwrap();
    let open = |folder| Store::open(StoreOptions::new(folder), Arc::new(NoObserver)).unwrap().0;
    let expected = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = open(&from);
        runtime.block_on(async {
            let b = PartyId::new("party_b").unwrap();
            for n in 0..3000_usize {
                let len = if n % 500 == 7 { 3_000_000 } else { n };
                let bytes = Bytes::from(vec![n as u8; len]);
                store.accept(&b, &MessageId::new(n.to_string()).unwrap(), bytes).await.unwrap();
            }
        });
        pending(&store)
    };
    let url = server.url();
    let deadline = Instant::now() + 4 * DEADLINE;
    for (from, to) in [(from.to_str().unwrap(), url.as_str()), (url.as_str(), back.to_str().unwrap())] {
        let mut kills = 0;
        for round in 1u32.. {
            assert!(Instant::now() < deadline, "it comes to no end");
            // What a killed one leaves is waited out by an operator.
            server.command(&["HDEL", "petnet:{party_a}:state", "locked_by", "locked_until"]);
            let mut command = petnet(&["migrate", "--from", from, "--to", to, "--party", "party_a"]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let limit = Instant::now() + Duration::from_millis(40) * round * round;
            while child.try_wait().unwrap().is_none() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                continue;
            }
            let output = child.wait_with_output().unwrap();
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(0), "{out}{err}");
            assert!(out.contains("is ready") && out.contains("3000"), "{out}");
            break;
        }
        println!("{from} -> {to}: killed {kills} times");
        assert!(kills > 0, "it was too quick to be killed");
    }
    assert!(pending(&open(&back)) == expected);
}
