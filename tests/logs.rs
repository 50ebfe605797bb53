//! What an operator finds in the log: on stderr and in files, as text and as JSON, when things repeat and when they fail.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use common::secure::{self, client};
use common::{DEADLINE, Place, Running, petnet, run};
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Two threads that log at the same time may come in another order.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn send(place: &Place, id: &str) {
    let address = place.address(0);
    let (code, _, err) =
        run(&mut petnet(&["send", "--to", "party_b", "--id", id, "--gateway", &address, "Cargo.toml"]));
    assert_eq!(code, Some(0), "{err}");
}

fn stop(running: Running) -> String {
    running.signal("TERM");
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

fn with_files(place: &Place) -> Command {
    let mut serve = place.serve(0);
    serve.env("LOGGING_DIR", place.path("log"));
    serve
}

fn file(place: &Place) -> String {
    fs::read_to_string(place.path("log/petnet.log")).unwrap()
}

#[test]
fn in_json_every_line_is_an_object_and_the_first_says_what_is_served() {
    for mode in ["default", "async"] {
        let place = Place::new();
        let mut serve = with_files(&place);
        serve.env("LOGGING_MODE", mode).env("LOGGING_FORMAT", "json");
        let running = Running::serving(serve);
        let log = stop(running);
        let (on_stderr, file) = (sorted(&log), file(&place));
        assert_eq!(on_stderr, sorted(&file), "the file has other lines than stderr");
        let lines = lines(&log);
        for line in &lines {
            for key in ["timestamp", "level", "party", "target", "message"] {
                assert!(line[key].is_string(), "no {key} in {line}");
            }
            assert_eq!(line["party"], "party_a");
        }
        let start = lines.iter().find(|l| l["message"].as_str().unwrap().contains(" serves on ")).unwrap();
        let address = place.address(0);
        for (key, wanted) in [("address", address.as_str()), ("tls", "plaintext"), ("store", "embedded")] {
            assert_eq!(start[key], wanted);
        }
        assert_eq!((start["peers"].as_u64(), start["version"].is_string()), (Some(1), true));
        let said = start["message"].as_str().unwrap();
        assert!(
            said.starts_with(&format!("party_a serves on {address}, ")) && said.contains("0 pending"),
            "{said}"
        );
    }
}

#[test]
fn a_restart_goes_on_in_the_same_file() {
    let place = Place::new();
    for n in 1..=2 {
        drop(stop(Running::serving(with_files(&place))));
        assert_eq!(file(&place).matches("party_a serves on").count(), n);
    }
}

#[test]
fn files_never_take_more_than_their_limits() {
    const BYTES: u64 = 64 << 10;
    let place = Place::new();
    let mut serve = with_files(&place);
    serve.env("LOGGING_FORMAT", "json").env("LOGGING_MODE", "async").env("RUST_LOG", "trace");
    serve.env("LOGGING_FILE_BYTES", "64KiB").env("LOGGING_FILES", "3");
    let running = Running::serving(serve);
    let mut sent = 0;
    while !place.path("log/petnet.log.2").exists() {
        send(&place, &format!("round {sent}"));
        sent += 1;
        assert!(sent < 500, "so many messages, and the files are not full");
    }
    send(&place, "last");
    drop(stop(running));
    let mut names: Vec<_> = fs::read_dir(place.path("log")).unwrap().map(|e| e.unwrap()).collect();
    names.sort_by_key(fs::DirEntry::file_name);
    assert_eq!(names.len(), 3, "{names:?}");
    for entry in &names {
        assert!(entry.metadata().unwrap().len() <= BYTES);
        assert!(!lines(&fs::read_to_string(entry.path()).unwrap()).is_empty());
    }
    let last = file(&place);
    assert!(last.contains("everything that was accepted is kept"), "{last}");
}

/// A scanner at the port, and messages that nobody takes: the ones are counted, the others told one by one.
#[test]
fn what_repeats_is_counted_and_each_dead_letter_is_told() {
    const SCANS: usize = 200;
    const HOSTILE: &str = "id\n2026-01-01T00:00:00.000000Z ERROR petnet: all is lost\u{1b}[2J peer=me";
    let place = secure::place();
    let mut serve = place.serve(0);
    serve.env("PEM_PATH", place.path("certs/party_a")).env("SEND_TTL", "1s");
    let running = Running::serving(serve);
    for _ in 0..SCANS {
        let mut scan = TcpStream::connect(place.address(0)).unwrap();
        scan.set_read_timeout(Some(DEADLINE)).unwrap();
        scan.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        // It answers with an alert, or just closes.
        drop(scan.read_to_end(&mut Vec::new()));
    }
    for id in [HOSTILE, "1", "2", "3", "4", "5", "6", "7"] {
        let arguments = ["send", "--to", "party_b", "--id", id];
        let (code, _, err) = client(&place, 0, Some("party_a"), &arguments, b"payload");
        assert_eq!(code, Some(0), "{err}");
    }
    for id in ["1", "2", "3", "4", "5", "6", "7"] {
        running.logged(&format!("message became a dead letter peer=party_b message_id={id} "));
    }
    running.logged(r"message became a dead letter peer=party_b message_id=");
    let log = stop(running);
    let with = |text: &str| log.lines().filter(|line| line.contains(text)).collect::<Vec<_>>();
    let scans = with("TLS handshake failed");
    assert_eq!(scans.len(), 6, "{log}");
    let count = format!(
        " WARN petnet::server::connections::connection: TLS handshake failed (repeated {} times in ",
        SCANS - 5
    );
    assert!(scans[5].contains(&count) && scans[5].contains("why="), "{}", scans[5]);
    assert_eq!(with("message became a dead letter").len(), 8, "{log}");
    let hostile =
        with(r#"message_id="id\n2026-01-01T00:00:00.000000Z ERROR petnet: all is lost\u{1b}[2J peer=me""#);
    assert_eq!(hostile.len(), 1, "{log}");
    assert!(!log.contains('\u{1b}') && log.lines().count() < 40, "{log}");
}

#[test]
fn a_log_file_that_cannot_be_written_costs_lines_and_nothing_else() {
    for mode in ["default", "async"] {
        let place = Place::new();
        fs::create_dir(place.path("log")).unwrap();
        assert!(Path::new("/dev/full").exists(), "this system has no /dev/full");
        std::os::unix::fs::symlink("/dev/full", place.path("log/petnet.log")).unwrap();
        let mut serve = with_files(&place);
        serve.env("LOGGING_MODE", mode);
        let running = Running::serving(serve);
        send(&place, "one");
        let log = stop(running);
        assert_eq!(log.matches("the log file cannot be written").count(), 1, "{log}");
        assert!(log.contains("No space left on device") && log.contains("log lines were dropped"), "{log}");
    }
}

#[test]
fn why_it_did_not_start_is_in_the_file() {
    let place = Place::new();
    let _running = Running::serving(place.serve(0));
    let mut second = with_files(&place);
    second.env("LOGGING_MODE", "async");
    let (code, _, err) = run(&mut second);
    assert_eq!(code, Some(3), "{err}");
    assert!(file(&place).contains("ERROR petnet::cli::serve: cannot start: "), "{}", file(&place));
}

#[test]
fn a_folder_that_cannot_hold_the_log_is_a_mistake() {
    let place = Place::new();
    let dir = place.path("no/such");
    let (code, _, err) = run(place.serve(0).env("LOGGING_DIR", &dir));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains(&format!("LOGGING_DIR: {dir:?}: does not exist, and neither does")), "{err}");
}
