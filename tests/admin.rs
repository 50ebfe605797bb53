//! Looking into a running gateway and acting on it: `petnet status`, `queue`, `dead`, `mailbox`, `track`, over the socket
//! in its data folder.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::asking::{about, awaited, done, send};
use common::{Place, Running, petnet, run};
use serde_json::Value;

#[track_caller]
fn json(place: &Place, party: usize, line: &str) -> Value {
    let out = done(place, party, &format!("{line} --json"));
    serde_json::from_str(&out).unwrap_or_else(|why| panic!("petnet {line}: {why}: {out}"))
}

/// What `party_b` receives under an id within the wait.
fn received(place: &Place, id: &str, wait: &str) -> Option<String> {
    let words = ["recv", "--gateway", &place.address(1), "--id", id, "--wait", wait];
    let (code, out, err) = run(&mut petnet(&words));
    match code {
        Some(0) => Some(String::from_utf8(out).unwrap()),
        Some(5) => None,
        _ => panic!("{code:?}: {err}"),
    }
}

fn ids(list: &Value) -> Vec<String> {
    let all = list.as_array().unwrap().iter();
    all.map(|one| one["message_id"].as_str().unwrap().to_owned()).collect()
}

fn stopped(gateway: Running) {
    gateway.signal("TERM");
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_gateway_says_how_it_is_to_its_own_user_only() {
    let place = Place::new();
    let gateway = Running::serving(place.serve(0));
    let socket = place.path("party_a").join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let out = done(&place, 0, "status");
    for part in ["party_a", "serving", &place.address(0), "plaintext", "party_b", "dead letters   none"] {
        assert!(out.contains(part), "no {part:?} in:\n{out}");
    }
    assert!(!out.contains('\u{1b}'), "colours without a terminal");
    send(&place, "m", "hello");
    let status = json(&place, 0, "status");
    let peer = &status["peers"][0];
    assert_eq!(
        (&peer["party"], &peer["pending"], &peer["pending_bytes"]),
        (&"party_b".into(), &1.into(), &5.into())
    );
    assert!(status["store"]["disk_total_bytes"].as_u64().unwrap() > 0, "{status}");
    let down = awaited("the peer is down, with its error", || {
        let status = json(&place, 0, "status");
        (status["peers"][0]["state"] == "down").then(|| status["peers"][0].clone())
    });
    assert!(!down["last_error"].as_str().unwrap().is_empty(), "{down}");

    // A second one on the folder is refused, and the first one keeps its socket.
    let (code, _, err) = run(place.serve(0).env("LISTEN_ADDR", "127.0.0.1:0"));
    assert_eq!(code, Some(3), "{err}");
    assert_eq!(json(&place, 0, "status")["party"], "party_a");
    // What a killed one leaves is in nobody's way.
    drop(gateway);
    let (code, out, err) = about(&place, 0, "status");
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("no gateway runs on") && err.contains("petnet serve"), "{err}");
    let again = Running::serving(place.serve(0));
    assert_eq!(json(&place, 0, "status")["peers"][0]["pending"], 1);
    stopped(again);
    assert_eq!(about(&place, 0, "queue ls").0, Some(1));
}

#[test]
fn a_folder_with_a_long_path_has_a_socket_too() {
    let place = Place::new();
    let folder = place.path(&"l".repeat(120));
    let mut serve = place.serve(0);
    serve.env("DATA_DIR", &folder);
    let _gateway = Running::serving(serve);
    let (code, out, err) = run(petnet(&["status"]).env("DATA_DIR", &folder));
    assert_eq!(code, Some(0), "{}{err}", String::from_utf8_lossy(&out));
}

#[test]
fn what_waits_is_listed_shown_and_dropped() {
    let place = Place::new();
    let gateway = Running::serving(place.serve(0));
    for (id, content) in [("x/1", "one"), ("x/2", "two"), ("y", "three"), ("x/3", "four")] {
        send(&place, id, content);
    }
    let all = json(&place, 0, "queue ls");
    assert_eq!(ids(&all["messages"]), ["x/1", "x/2", "y", "x/3"]);
    assert_eq!(all["next"], Value::Null);
    assert_eq!(ids(&json(&place, 0, "queue ls party_b --prefix x/")["messages"]), ["x/1", "x/2", "x/3"]);
    let first = json(&place, 0, "queue ls party_b --limit 3");
    let next = first["next"].as_u64().unwrap();
    let rest = json(&place, 0, &format!("queue ls party_b --after {next}"));
    assert_eq!(ids(&rest["messages"]), ["x/3"]);
    let lines = done(&place, 0, "queue ls --all --json");
    assert_eq!(lines.lines().count(), 4, "{lines}");
    assert!(done(&place, 0, "queue ls").contains('y'));

    let shown = json(&place, 0, "queue show party_b x/2");
    let sequence = shown["sequence"].as_u64().unwrap();
    assert_eq!((shown["len"].as_u64(), &shown["peer"]), (Some(3), &"party_b".into()));
    assert_eq!(done(&place, 0, "queue show party_b x/2 --payload"), "two");
    let file = place.path("out");
    done(&place, 0, &format!("queue show party_b #{sequence} -o {}", file.display()));
    assert_eq!(fs::read(&file).unwrap(), b"two");
    assert_eq!(about(&place, 0, "queue show party_b x").0, Some(5));
    assert_eq!(about(&place, 0, "queue ls nobody").0, Some(5));

    let (code, _, err) = about(&place, 0, "queue drop party_b x/1");
    assert!(code == Some(1) && err.contains("lost for good") && err.contains("--yes"), "{err}");
    assert_eq!(ids(&json(&place, 0, "queue ls")["messages"]).len(), 4);
    done(&place, 0, "queue drop party_b x/1 --yes");
    done(&place, 0, &format!("queue drop party_b --sequence {sequence} --yes"));
    assert_eq!(ids(&json(&place, 0, "queue ls")["messages"]), ["y", "x/3"]);
    assert_eq!(about(&place, 0, "queue drop party_b x/1 --yes").0, Some(5));
    stopped(gateway);

    // It is final, and the rest is untouched.
    let (_a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    assert_eq!(received(&place, "x/3", "20s").as_deref(), Some("four"));
    assert_eq!(received(&place, "y", "20s").as_deref(), Some("three"));
    assert_eq!(received(&place, "x/1", "0"), None);
    assert_eq!(received(&place, "x/2", "0"), None);
}

#[test]
fn a_pause_survives_a_restart_and_ends_with_a_resume() {
    let place = Place::new();
    let (a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    done(&place, 0, "queue pause party_b");
    send(&place, "m", "hello");
    stopped(a);
    let _a = Running::serving(place.serve(0));
    let peer = &json(&place, 0, "status")["peers"][0];
    assert_eq!((&peer["state"], &peer["pending"]), (&"paused".into(), &1.into()));
    assert_eq!(received(&place, "m", "1s"), None);
    done(&place, 0, "queue resume party_b");
    assert_eq!(received(&place, "m", "20s").as_deref(), Some("hello"));
    assert_eq!(about(&place, 0, "queue pause nobody").0, Some(5));
}

/// With pauses of minutes, only the retry can be what delivers.
#[test]
fn a_retry_does_not_wait_for_the_next_attempt() {
    let place = Place::new();
    let mut serve = place.serve(0);
    serve.env("RETRY_CAP", "1h");
    let _a = Running::serving(serve);
    send(&place, "m", "hello");
    let long = Duration::from_secs(8);
    awaited("the pause has grown", || {
        let next = json(&place, 0, "status")["peers"][0]["next_attempt_seconds"].as_u64()?;
        (next > long.as_secs()).then_some(())
    });
    let _b = Running::serving(place.serve(1));
    done(&place, 0, "queue retry party_b");
    assert_eq!(received(&place, "m", "5s").as_deref(), Some("hello"));
}

#[test]
fn dead_letters_are_listed_exported_retried_and_dropped() {
    let place = Place::new();
    let short = || {
        let mut serve = place.serve(0);
        serve.env("SEND_TTL", "1s");
        serve
    };
    let a = Running::serving(short());
    for (id, content) in [("one", "1"), ("two", "22"), ("three", "333")] {
        send(&place, id, content);
    }
    let letters = awaited("three dead letters", || {
        let list = json(&place, 0, "dead ls");
        (list["letters"].as_array().unwrap().len() == 3).then(|| list["letters"].clone())
    });
    assert_eq!(ids(&letters), ["one", "two", "three"]);
    assert!(letters.as_array().unwrap().iter().all(|l| l["reason"] == "expired" && l["peer"] == "party_b"));
    let sequence = |n: usize| letters[n]["sequence"].as_u64().unwrap();
    assert!(done(&place, 0, "dead ls --peer party_b").contains("three"));
    assert_eq!(json(&place, 0, &format!("dead show {}", sequence(1)))["message_id"], "two");
    assert_eq!(done(&place, 0, &format!("dead show {} --payload", sequence(1))), "22");
    assert_eq!(about(&place, 0, "dead show 123456").0, Some(5));
    let status = done(&place, 0, "status");
    assert!(status.contains("3 expired"), "{status}");

    let folder = place.path("letters");
    let export = format!("dead export {}", folder.display());
    for said in ["3 dead letters written", "3 there already"] {
        let out = done(&place, 0, &export);
        assert!(out.contains(said), "{out}");
    }
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    assert_eq!(ids(&index["letters"]), ["one", "two", "three"]);
    assert_eq!(fs::read(folder.join(format!("{}.payload", sequence(2)))).unwrap(), b"333");

    assert_eq!(about(&place, 0, &format!("dead drop {}", sequence(0))).0, Some(1), "nobody said yes");
    done(&place, 0, &format!("dead drop {} --yes", sequence(0)));
    assert_eq!(ids(&json(&place, 0, "dead ls")["letters"]), ["two", "three"]);
    stopped(a);

    // Accepted anew, by a gateway that waits longer than this test.
    let (_a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    done(&place, 0, &format!("dead retry {}", sequence(1)));
    assert_eq!(received(&place, "two", "20s").as_deref(), Some("22"));
    assert_eq!(received(&place, "three", "0"), None);
    done(&place, 0, "dead retry --all --peer party_b");
    assert_eq!(received(&place, "three", "20s").as_deref(), Some("333"));
    assert_eq!(json(&place, 0, "dead ls")["letters"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_mailbox_is_listed_shown_and_released() {
    let place = Place::new();
    let (_a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    for (id, content) in [("x/1", "one"), ("x/2", "two"), ("y", "three")] {
        send(&place, id, content);
        assert!(received(&place, id, "20s").is_some());
    }
    let list = json(&place, 1, "mailbox ls");
    assert_eq!(ids(&list["messages"]), ["x/1", "x/2", "y"]);
    assert_eq!(list["messages"][0]["sender"], "party_a");
    assert_eq!(ids(&json(&place, 1, "mailbox ls --prefix x/ --sender party_a")["messages"]).len(), 2);
    assert_eq!(json(&place, 1, "mailbox show y")["len"], 5);
    assert_eq!(done(&place, 1, "mailbox show y --sender party_a --payload"), "three");
    assert_eq!(about(&place, 1, "mailbox show z").0, Some(5));

    assert_eq!(about(&place, 1, "mailbox release y").0, Some(1), "nobody said yes");
    done(&place, 1, "mailbox release y --yes");
    assert_eq!(received(&place, "y", "0"), None);
    done(&place, 1, "mailbox release --prefix x/ --yes");
    assert!(done(&place, 1, "mailbox ls").contains("no such messages"));
    assert_eq!(received(&place, "x/1", "0"), None);
}

/// The words of a life's events.
fn events(place: &Place, party: usize, id: &str) -> (String, Vec<(String, String)>) {
    let life = json(place, party, &format!("track {id}"))["lives"][0].clone();
    let word = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let all = life["events"].as_array().unwrap().iter();
    (word(&life, "state"), all.map(|event| (word(event, "what"), word(event, "detail"))).collect())
}

#[test]
fn a_message_is_tracked_from_its_first_failed_attempt_until_it_is_read() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    assert_eq!(about(&place, 0, "track m").0, Some(5));
    send(&place, "m", "hello");
    let has = |events: &[(String, String)], what: &str| events.iter().any(|(word, _)| word == what);
    awaited("an attempt that failed, with its error", || {
        let (state, events) = events(&place, 0, "m");
        assert_eq!(state, "pending");
        assert!(has(&events, "taken"), "{events:?}");
        events.iter().any(|(what, detail)| what == "attempt" && !detail.is_empty()).then_some(())
    });
    let _b = Running::serving(place.serve(1));
    for _ in 0..2 {
        assert_eq!(received(&place, "m", "20s").as_deref(), Some("hello"));
    }
    awaited("its delivery is known here", || (events(&place, 0, "m").0 == "delivered").then_some(()));
    let (_, sent) = events(&place, 0, "m");
    assert!(has(&sent, "synced") && has(&sent, "delivered"), "{sent:?}");
    let (state, arrived) = events(&place, 1, "m");
    assert_eq!(state, "held");
    assert!(has(&arrived, "arrived"), "{arrived:?}");
    assert!(arrived.iter().filter(|(what, _)| what == "read").count() >= 2, "{arrived:?}");
    let timeline = done(&place, 0, "track m --party party_b");
    assert!(timeline.contains("sent to party_b") && timeline.contains("delivered"), "{timeline}");
    assert!(done(&place, 1, "track m").contains("read 2 times"));
    done(&place, 1, "mailbox release m --yes");
    assert_eq!(events(&place, 1, "m").0, "released");
}

#[test]
fn a_status_can_be_watched_across_a_restart() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let place = Place::new();
    let gateway = Running::serving(place.serve(0));
    let folder = place.path("party_a");
    let words = ["status", "--json", "--watch", "100ms", "--data-dir", folder.to_str().unwrap()];
    let mut watch = petnet(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut until = |what: &str, wanted: fn(&Value) -> bool| {
        awaited(what, || {
            let line = lines.next().unwrap().unwrap();
            wanted(&serde_json::from_str(&line).unwrap()).then_some(())
        });
    };
    until("it serves", |status| status["state"] == "serving");
    stopped(gateway);
    until("it is gone", |status| status["error"].as_str().is_some_and(|why| why.contains("no gateway runs")));
    let _gateway = Running::serving(place.serve(0));
    until("it serves again", |status| status["state"] == "serving");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn the_doctor_asks_a_gateway_that_runs() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    done(&place, 0, "queue pause party_b");
    let (_, out, err) = run(place.command("doctor", 0).args(["--timeout", "2s"]));
    let out = String::from_utf8(out).unwrap();
    for part in
        ["the gateway that runs on the data folder", "party_a is serving", "petnet queue resume party_b"]
    {
        assert!(out.contains(part), "no {part:?} in:\n{out}{err}");
    }
}

/// It said "serving" everywhere while it refused every send.
#[test]
fn a_full_store_is_full_and_healthy_and_says_why() {
    let place = Place::new();
    let _gateway = Running::serving({
        let mut serve = place.serve(0);
        serve.env("STORE_MAX_BYTES", "1MiB");
        serve
    });
    // The log has one segment for large messages, and may begin no other.
    let (file, address) = (place.path("large"), place.address(0));
    for len in [24 << 20, 2 << 20, 200 << 10, 64 << 10] {
        fs::write(&file, vec![7; len]).unwrap();
        let refused = (0..20).find_map(|n| {
            let id = format!("{len}:{n}");
            let words =
                ["send", "--gateway", &address, "--to", "party_b", "--id", &id, file.to_str().unwrap()];
            let (code, _, err) = run(&mut petnet(&words));
            (code != Some(0)).then_some(err)
        });
        assert!(refused.as_ref().is_some_and(|err| err.contains("STORE_MAX_BYTES")), "{refused:?}");
    }
    let status = awaited("it is full", || {
        let status = json(&place, 0, "status");
        (status["state"] == "full").then_some(status)
    });
    assert!(status["state_reason"].as_str().unwrap().contains("STORE_MAX_BYTES"), "{status}");
    let (code, out, err) = run(&mut petnet(&["health", "--gateway", &address]));
    assert!(code == Some(0) && String::from_utf8_lossy(&out).contains("FULL"), "{err}");
}
