//! How commands end: by the exit code that their help promises, and quietly when nobody reads what they print.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use common::asking::{about, awaited, done, send};
use common::secure::init;
use common::{Place, Running, petnet, run};
use serde_json::Value;

/// Takes the other party out of the party file of `party_a` (0) or `party_b` (1).
fn take_the_other_out(place: &Place, party: usize) {
    let name = ["party_a", "party_b"][party];
    let own = format!(r#"{{"{name}": {{"petnet": [{{"type": 1, "url": "{}"}}]}}}}"#, place.address(party));
    fs::write(place.path("party.json"), own).unwrap();
}

fn pending(place: &Place) -> u64 {
    let out = done(place, 0, "status --json");
    let status: Value = serde_json::from_str(&out).unwrap();
    status["peers"].as_array().unwrap().iter().map(|peer| peer["pending"].as_u64().unwrap()).sum()
}

/// `queue drop` said 2 (wrong arguments) where the same words are right on a terminal; the help said 1.
#[test]
fn what_nobody_confirmed_ends_with_1_and_changes_nothing() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    send(&place, "m", b"hello");
    for line in
        ["queue drop party_b m", "queue drop party_b --all", "dead drop --all", "mailbox release --all"]
    {
        let (code, out, err) = about(&place, 0, line);
        assert_eq!(code, Some(1), "petnet {line}: {out}{err}");
        assert!(err.contains("--yes") && err.contains("Nothing was changed"), "{err}");
    }
    assert_eq!(pending(&place), 1);
}

/// `mailbox release --prefix tpyo --yes` ended with 0, and the messages stayed.
#[test]
fn ending_what_is_not_there_says_so_and_ends_with_5() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    for line in [
        "mailbox release nothing --yes",
        "mailbox release --prefix nothing --yes",
        "mailbox release --all --yes",
        "mailbox release --all --sender party_b --yes",
        "mailbox release --all --yes --json",
        "dead drop 17 --yes",
        "dead drop --all --yes",
        "dead drop --all --peer party_b --yes",
        "dead retry --all",
        "queue drop party_b nothing --yes",
        "queue drop party_b --sequence 7 --yes",
        "queue drop party_b --all --yes",
        "queue drop party_x --all --yes",
    ] {
        let (code, out, err) = about(&place, 0, line);
        assert_eq!((code, out.as_str()), (Some(5), ""), "petnet {line}: {out}{err}");
        assert!(!err.trim().is_empty(), "petnet {line} says nothing");
    }
    // Some of several: what was done is done, and what is not there is named.
    send(&place, "m", b"hello");
    let (code, out, err) = about(&place, 0, "queue drop party_b m nothing --yes");
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("1 message") && out.contains("not pending: nothing"), "{out}{err}");
    assert_eq!(pending(&place), 0);
}

/// `queue ls` of a name that is nobody's ended with 5, the other lists with 0 and an empty table.
#[test]
fn every_list_of_a_party_that_is_nobody_ends_with_5() {
    let place = Place::new();
    let (_a, b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    for line in ["queue ls", "dead ls --peer", "mailbox ls --sender"] {
        for more in ["", " --json", " --all", " --all --json", " --limit 1"] {
            let (code, out, err) = about(&place, 0, &format!("{line} party_x{more}"));
            assert_eq!((code, out.as_str()), (Some(5), ""), "{line}{more}: {err}");
            assert!(err.contains("party_x") && err.contains("party_b"), "who there is: {err}");
            done(&place, 0, &format!("{line} party_b{more}"));
        }
    }
    // A sender that is in the party file no more has its mail, whatever part of it is asked for.
    send(&place, "m", b"hello");
    awaited("it arrived", || done(&place, 1, "mailbox ls").contains('m').then_some(()));
    drop(b);
    take_the_other_out(&place, 1);
    let _b = Running::serving(place.serve(1));
    assert!(done(&place, 1, "mailbox ls --sender party_a").contains("party_a"));
    done(&place, 1, "mailbox ls --sender party_a --prefix other");
    done(&place, 1, "mailbox release --all --sender party_a --yes");
    assert_eq!(about(&place, 1, "mailbox ls --sender party_a").0, Some(5));
}

/// What waits for a party that was taken out of the file could be dropped, and not held back until it is there again.
#[test]
fn a_party_that_left_the_file_is_paused_and_resumed_while_it_concerns_us() {
    let place = Place::new();
    let a = Running::serving(place.serve(0));
    send(&place, "m", b"hello");
    drop(a);
    let whole = fs::read(place.path("party.json")).unwrap();
    take_the_other_out(&place, 0);
    let a = Running::serving(place.serve(0));
    let out = done(&place, 0, "queue pause party_b");
    assert!(out.contains("is paused") && out.contains("not in the party file"), "{out}");
    assert_eq!(about(&place, 0, "queue pause party_x").0, Some(5));
    drop(a);

    fs::write(place.path("party.json"), &whole).unwrap();
    let a = Running::serving(place.serve(0));
    assert!(done(&place, 0, "status").contains("paused"), "it counts when the party is back");
    done(&place, 0, "queue drop party_b --all --yes");
    drop(a);
    // Nothing waits for it, and it is paused still.
    take_the_other_out(&place, 0);
    let _a = Running::serving(place.serve(0));
    assert!(done(&place, 0, "queue resume party_b").contains("is resumed"));
    assert_eq!(about(&place, 0, "queue resume party_b").0, Some(5), "now it is nobody");
}

/// Runs a command whose stdout nobody reads, or whose stderr. Gives its exit code and what it says on the other.
fn unread(mut command: Command, stdout: bool) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    if stdout {
        command.stdout(writer).stderr(Stdio::piped());
    } else {
        command.stderr(writer).stdout(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    if stdout {
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    } else {
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    }
    (child.wait().unwrap().code(), said)
}

/// `petnet completions bash | head -1` ended with "Broken pipe", and an error into a closed stderr with a panic.
#[test]
fn a_command_whose_output_nobody_reads_ends_quietly() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    let certs = place.path("certs");
    assert_eq!(init(&certs, "party_a", &[]).0, Some(0));
    let show = ["certs", "show", &certs.join("ca.crt").display().to_string()].map(str::to_owned);
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let asked =
        ["status", "status --json", "queue ls", "dead ls", "mailbox ls --json", "queue pause party_b"];
    let mut lines: Vec<_> = ["completions bash", "completions zsh", "--help", "--version"].map(words).into();
    lines.push(show.to_vec());
    lines.push(words(&format!("health --gateway {}", place.address(0))));
    lines.extend(asked.iter().map(|line| {
        let folder = place.path("party_a").display().to_string();
        words(line).into_iter().chain(["--data-dir".into(), folder]).collect()
    }));
    for line in &lines {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        assert_eq!(unread(petnet(&line), true), (Some(0), String::new()), "petnet {}", line.join(" "));
    }
    // What it would say, nobody reads: the exit code still tells.
    for (line, code) in [
        ("queue ls party_x", 5),
        ("queue drop party_b m", 1),
        ("certs show /nowhere", 2),
        ("verify /nowhere", 2),
        ("health --gateway nowhere", 2),
        ("doctor --party a", 2),
    ] {
        let mut command = petnet(&line.split(' ').collect::<Vec<_>>());
        command.env("DATA_DIR", place.path("party_a"));
        assert_eq!(unread(command, false), (Some(code), String::new()), "petnet {line}");
    }
}

/// It said "Is a directory (os error 21)".
#[test]
fn certs_show_of_a_folder_names_the_files_that_may_be_meant() {
    let place = Place::new();
    let certs = place.path("certs");
    let shown = |path: &std::path::Path| run(&mut petnet(&["certs", "show", path.to_str().unwrap()]));
    fs::create_dir(&certs).unwrap();
    let (code, _, err) = shown(&certs);
    assert!(
        code == Some(2) && err.contains("is a folder") && err.contains("no file with a certificate"),
        "{err}"
    );
    fs::remove_dir(&certs).unwrap();
    assert_eq!(init(&certs, "party_a", &[]).0, Some(0));
    let (code, out, err) = shown(&certs);
    assert_eq!((code, out.len()), (Some(2), 0), "{err}");
    assert!(err.contains("is a folder") && err.contains("ca.crt, client.crt, server.crt"), "{err}");
    assert!(!err.contains("os error") && !err.contains(".key"), "{err}");
    assert_eq!(shown(&certs.join("missing")).0, Some(2), "not readable");
}

/// "transport error: tcp connect error: tcp connect error: Connection refused".
#[test]
fn a_gateway_that_is_not_there_is_told_with_each_cause_once() {
    let place = Place::new();
    let (code, _, err) = run(&mut petnet(&["health", "--gateway", &place.address(0)]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("onnection refused"), "{err}");
    let said: Vec<&str> = err.split(": ").collect();
    for (n, part) in said.iter().enumerate() {
        assert!(!said[..n].contains(part), "{part:?} twice: {err}");
    }
}

/// For ten seconds sends were refused, and the operator who had made room did not know why.
#[test]
fn making_room_in_a_full_store_says_when_sends_are_taken_again() {
    let place = Place::new();
    let _a = Running::serving({
        let mut serve = place.serve(0);
        serve.env("STORE_MAX_BYTES", "1MiB");
        serve
    });
    let (file, address) = (place.path("large"), place.address(0));
    for len in [200 << 10, 64 << 10] {
        fs::write(&file, vec![7; len]).unwrap();
        for n in 0..20 {
            let id = format!("{len}:{n}");
            let words =
                ["send", "--gateway", &address, "--to", "party_b", "--id", &id, file.to_str().unwrap()];
            if run(&mut petnet(&words)).0 != Some(0) {
                break;
            }
        }
    }
    awaited("it is full", || done(&place, 0, "status --json").contains(r#""state":"full""#).then_some(()));
    let out = done(&place, 0, "queue drop party_b --all --yes");
    assert!(out.contains("was full") && out.contains("a few seconds"), "{out}");
}
