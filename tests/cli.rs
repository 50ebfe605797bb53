//! Black-box tests of the `petnet` program: wrong input, exit codes, and a message from stdin to stdout.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, Running, is_root, petnet, read_only, run};

#[test]
fn every_sub_command_has_help_with_an_example() {
    for sub in [
        "serve",
        "send",
        "recv",
        "quickstart",
        "verify",
        "repair",
        "migrate",
        "crashtest",
        "certs",
        "doctor",
        "status",
        "queue",
        "dead",
        "mailbox",
        "track",
    ] {
        let (code, out, _) = run(&mut petnet(&[sub, "--help"]));
        let help = String::from_utf8(out).unwrap();
        assert_eq!(code, Some(0));
        assert!(help.contains("Example") && help.contains(&format!("petnet {sub}")), "{help}");
    }
    let (_, out, _) = run(&mut petnet(&["--help"]));
    assert!(String::from_utf8(out).unwrap().contains("Exit codes"));
}

#[test]
fn a_wrong_word_gets_a_suggestion() {
    let (code, _, err) = run(&mut petnet(&["quickstrat"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("'quickstart'"), "{err}");
    let (code, _, err) = run(&mut petnet(&["serve", "--data-dri", "x"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("'--data-dir'"), "{err}");
}

#[test]
fn help_never_shows_the_values_of_this_machine() {
    let (_, out, _) = run(petnet(&["serve", "--help"]).env("REDIS_URL", "redis://:hunter2@host"));
    assert!(!String::from_utf8(out).unwrap().contains("hunter2"));
}

#[test]
fn wrong_settings_are_reported_all_at_once_with_their_places() {
    let place = Place::new();
    let mut serve = place.serve(0);
    serve
        .env_remove("PARTY")
        .env("MESSAGE_TTL", "a while")
        .env("REDIS_URL", "redis://:hunter2@host:port")
        .env("LOGGING_STYLE", "loud")
        .args(["--listen-addr", "here", "--max-in-flight", "0"]);
    let (code, out, err) = run(&mut serve);
    assert_eq!((code, out.as_slice()), (Some(2), b"".as_slice()), "{err}");
    for text in [
        "6 mistakes",
        "PARTY: not set",
        "--listen-addr: \"here\": expected an IP address and a port",
        "--max-in-flight: \"0\": expected a whole number",
        "MESSAGE_TTL: \"a while\": expected seconds",
        "LOGGING_STYLE: \"loud\": expected one of: default, async",
        "REDIS_URL: a host is written as",
    ] {
        assert!(err.contains(text), "no {text:?} in:\n{err}");
    }
    assert!(!err.contains("hunter2"), "{err}");
    assert!(!place.path("party_a").exists(), "something was created");
}

#[test]
fn a_broken_party_file_is_reported_with_path_line_and_column() {
    let place = Place::new();
    let file = place.path("party.json");
    let shown = file.display();
    for (text, wanted) in [
        ("{\"party_a\": ", "at line 1 column"),
        (
            "{\"party_a\": {\"petnet\": [\n  {\"url\": \"a:b\"}]}}",
            "party_a.petnet[0].url: \"a:b\": the port \"b\" is not a number from 1 to 65535 (line 2, column 11)",
        ),
        ("{\"party_b\": {}}", "\"party_a\" is not in the party file"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, _, err) = run(&mut place.serve(0));
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(wanted) && err.contains(&shown.to_string()), "no {wanted:?} in:\n{err}");
    }
    fs::remove_file(&file).unwrap();
    let (code, _, err) = run(&mut place.serve(0));
    assert_eq!(code, Some(2));
    assert!(err.contains("cannot read the party file") && err.contains("No such file"), "{err}");
}

#[test]
fn half_of_a_pair_and_production_refuse_to_start_without_tls() {
    let place = Place::new();
    fs::create_dir(place.path("certs")).unwrap();
    let (code, _, err) = run(place.serve(0).env("PEM_PATH", place.path("certs")).env("ENV", "production"));
    assert!(code == Some(2) && err.contains("ENV: \"production\" demands TLS"), "{err}");
    fs::write(place.path("certs/server.crt"), "certificate").unwrap();
    let (code, _, err) = run(place.serve(0).env("PEM_PATH", place.path("certs")));
    assert!(code == Some(2) && err.contains("TLS needs both"), "{err}");
}

#[test]
fn a_data_folder_that_is_missing_or_a_file_is_refused() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    for (path, wanted) in
        [("file", "is not a folder"), ("no/such", "neither does"), ("file/data", "DATA_DIR")]
    {
        let (code, _, err) = run(place.serve(0).env("DATA_DIR", place.path(path)));
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(wanted) && err.contains(path), "no {wanted:?} in:\n{err}");
    }
}

#[test]
fn a_new_data_folder_is_for_its_user_only() {
    let place = Place::new();
    let gateway = Running::serving(place.serve(0));
    gateway.signal("TERM");
    gateway.end();
    let data = place.path("party_a");
    let log = fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap().path());
    for path in [data.clone(), data.join("FORMAT"), data.join("log")].into_iter().chain(log) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

/// Root may write anywhere, so as root the program runs as somebody else, from a copy that they can reach.
#[test]
fn a_data_folder_without_write_access_is_refused() {
    let place = Place::new();
    let mut serve = place.serve(0);
    if is_root() {
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = place.path("petnet");
        fs::copy(env!("CARGO_BIN_EXE_petnet"), &copy).unwrap();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg("serve");
        other.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        other.envs(serve.get_envs().filter_map(|(key, value)| Some((key, value?))));
        serve = other;
    }
    let folder = place.path("party_a");
    fs::create_dir(&folder).unwrap();
    read_only(&folder);
    let (code, _, err) = run(&mut serve);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("cannot write in") && err.contains("party_a"), "{err}");
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let _taken = TcpListener::bind(place.address(0)).unwrap();
    let (status, log) = Running::start(place.serve(0)).end();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains(&place.address(0)) && log.contains("in use"), "{log}");
}

#[test]
fn a_data_folder_in_use_by_another_process_is_refused() {
    let place = Place::new();
    let _first = Running::serving(place.serve(0));
    let mut second = place.serve(0);
    second.env("LISTEN_ADDR", "127.0.0.1:0");
    let (status, log) = Running::start(second).end();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("in use by another process") && log.contains("party_a"), "{log}");
}

#[test]
fn a_data_folder_that_is_removed_ends_it_with_its_own_exit_code() {
    let place = Place::new();
    let running = Running::serving(place.serve(0));
    std::fs::remove_dir_all(place.path("party_a")).unwrap();
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("No such file"), "{log}");
}

#[test]
fn a_hangup_does_not_end_it() {
    let place = Place::new();
    let running = Running::serving(place.serve(0));
    running.signal("HUP");
    running.logged("party file and certificates are those in force");
    running.signal("TERM");
    assert_eq!(running.end().0.code(), Some(0));
}

#[test]
fn sigterm_and_ctrl_c_end_it_in_order() {
    for signal in ["TERM", "INT"] {
        let place = Place::new();
        let running = Running::serving(place.serve(0));
        running.signal(signal);
        let (status, log) = running.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("everything that was accepted is kept"), "{log}");
    }
}

#[test]
fn a_gateway_tied_to_its_stdin_ends_with_it() {
    let place = Place::new();
    let mut serve = place.serve(0);
    // Stdin is empty: it ends at once.
    serve.arg("--stop-with-stdin");
    let (status, log) = Running::start(serve).end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn the_start_line_says_what_there_is() {
    let place = Place::new();
    let mut serve = place.serve(0);
    serve.env("LOGGING_MODE", "async").env("LOGGING_LEVEL", "info");
    let running = Running::serving(serve);
    running.signal("TERM");
    let (_, log) = running.end();
    for text in
        [&*place.address(0), "party_a", "0 pending", "PLAINTEXT", "everything that was accepted is kept"]
    {
        assert!(log.contains(text), "no {text:?} in:\n{log}");
    }
}

#[test]
fn a_message_goes_from_stdin_to_stdout_and_into_a_file() {
    let place = Place::new();
    let (_a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    let (a, b) = (place.address(0), place.address(1));
    let payload: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();

    let mut send = petnet(&["send", "--to", "party_b", "--id", "from stdin", "--gateway", &a]);
    let mut child = send.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&payload).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("accepted \"from stdin\" for party_b"));
    let (code, out, err) = run(petnet(&["recv", "--id", "from stdin"]).env("PETNET_ADDR", &b));
    assert_eq!(code, Some(0), "{err}");
    assert!(out == payload, "{} bytes came out of {}", out.len(), payload.len());

    let (original, got) = (place.path("original"), place.path("got"));
    fs::write(&original, &payload).unwrap();
    fs::write(&got, "old").unwrap();
    let file = original.to_str().unwrap();
    let (code, _, err) =
        run(&mut petnet(&["send", "--to", "party_a", "--id", "file", "--gateway", &b, file]));
    assert_eq!(code, Some(0), "{err}");
    let arguments =
        ["recv", "--id", "file", "--from", "party_b", "--gateway", &a, "-o", got.to_str().unwrap()];
    let (code, out, err) = run(&mut petnet(&arguments));
    assert_eq!((code, out.len()), (Some(0), 0), "{err}");
    assert!(fs::read(&got).unwrap() == payload);
}

#[test]
fn a_message_that_does_not_come_has_its_own_exit_code() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    for (wait, least) in [("0", Duration::ZERO), ("1500ms", Duration::from_millis(1500))] {
        let started = Instant::now();
        let address = place.address(0);
        let (code, out, err) =
            run(&mut petnet(&["recv", "--id", "nothing", "--wait", wait, "--gateway", &address]));
        assert_eq!((code, out.len()), (Some(5), 0), "{err}");
        assert!(started.elapsed() >= least && err.contains("no message \"nothing\""), "{err}");
    }
}

#[test]
fn what_is_not_accepted_is_not_called_accepted() {
    let place = Place::new();
    let _a = Running::serving(place.serve(0));
    let (code, out, err) =
        run(&mut petnet(&["send", "--to", "nobody", "--id", "m", "--gateway", &place.address(0), "-"]));
    assert_eq!((code, out.len()), (Some(1), 0));
    assert!(err.contains("was not accepted: error 30003"), "{err}");
}

#[test]
fn an_absent_gateway_and_a_missing_file_are_clear_errors() {
    let place = Place::new();
    let address = place.address(0);
    let (code, _, err) = run(&mut petnet(&["recv", "--id", "m", "--wait", "0", "--gateway", &address]));
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("cannot reach a gateway at {address}")), "{err}");
    let (code, _, err) = run(&mut petnet(&["send", "--to", "b", "--id", "m", "/no/such/file"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot read /no/such/file"), "{err}");
    let (code, _, err) = run(&mut petnet(&["send", "--to", "b", "--id", "", "-"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("the message id is empty"), "{err}");
}

/// A data folder of `party_a` with three messages for a peer that is not there, its gateway stopped.
fn stopped_with_messages(place: &Place) -> String {
    let running = Running::serving(place.serve(0));
    for (id, content) in [("one", "1"), ("two", "content of the second"), ("three", "3")] {
        let file = place.path(id);
        fs::write(&file, content).unwrap();
        let address = place.address(0);
        let arguments =
            ["send", "--to", "party_b", "--id", id, "--gateway", &address, file.to_str().unwrap()];
        let (code, _, err) = run(&mut petnet(&arguments));
        assert_eq!(code, Some(0), "{err}");
    }
    running.signal("TERM");
    running.end();
    place.path("party_a").to_str().unwrap().to_string()
}

/// Flips a bit in the middle of the second message.
fn damage(folder: &str) {
    let log = fs::read_dir(Path::new(folder).join("log")).unwrap().map(|entry| entry.unwrap().path());
    for path in log {
        let mut bytes = fs::read(&path).unwrap();
        let wanted = b"content of the second";
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            bytes[at + 3] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn damage_is_found_set_aside_and_everything_else_is_delivered() {
    let place = Place::new();
    let folder = stopped_with_messages(&place);
    let (code, out, err) = run(&mut petnet(&["verify", &folder]));
    let out = String::from_utf8(out).unwrap();
    assert_eq!(code, Some(0), "{out}{err}");
    for text in ["All is well", "pending       3, 23 B", "small-0000000001.seg"] {
        assert!(out.contains(text), "no {text:?} in:\n{out}");
    }
    damage(&folder);
    let (code, out, _) = run(&mut petnet(&["verify", "--json", &folder]));
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((code, &json["well"], json["damage"].as_array().unwrap().len()), (Some(1), &false.into(), 1));
    let (code, out, err) = run(&mut petnet(&["repair", "--dry-run", &folder]));
    let out = String::from_utf8(out).unwrap();
    assert_eq!(code, Some(1), "{err}");
    assert!(out.contains("\"two\" (\"party_b\")") && out.contains("Nothing was changed"), "{out}");
    assert!(!Path::new(&folder).join("corrupt").exists());
    let (code, out, err) = run(&mut petnet(&["repair", &folder]));
    let out = String::from_utf8(out).unwrap();
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("1 damaged place was set aside") && out.contains("All is well"), "{out}");
    let report = fs::read_to_string(Path::new(&folder).join("corrupt/report.txt")).unwrap();
    assert!(report.contains("\"two\""), "{report}");
    assert_eq!(run(&mut petnet(&["verify", &folder])).0, Some(0));

    let (_a, _b) = (Running::serving(place.serve(0)), Running::serving(place.serve(1)));
    for (id, content) in [("one", "1"), ("three", "3")] {
        let (code, out, err) =
            run(&mut petnet(&["recv", "--id", id, "--wait", "20s", "--gateway", &place.address(1)]));
        assert_eq!((code, out.as_slice()), (Some(0), content.as_bytes()), "{err}");
    }
}

#[test]
fn a_folder_of_a_running_gateway_or_of_none_is_not_looked_at() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let _running = Running::serving(place.serve(0));
    for command in ["verify", "repair"] {
        let folder = place.path("party_a");
        let (code, out, err) = run(&mut petnet(&[command, folder.to_str().unwrap()]));
        assert_eq!((code, out.len()), (Some(3), 0), "{err}");
        assert!(err.contains("in use by another process") && err.contains("Stop the gateway first"), "{err}");
        for (folder, why) in
            [("empty", "no file FORMAT"), ("no/such", "No such file"), ("party.json", "Not a dir")]
        {
            let folder = place.path(folder);
            let (code, out, err) = run(&mut petnet(&[command, folder.to_str().unwrap()]));
            assert_eq!((code, out.len()), (Some(2), 0), "{err}");
            assert!(err.contains(why) && err.contains("is not the data folder of a gateway"), "{err}");
        }
        assert_eq!(run(&mut petnet(&[command])).0, Some(2), "a folder must be named");
    }
    assert!(fs::read_dir(place.path("empty")).unwrap().next().is_none(), "something was created");
}

#[test]
fn the_doctor_says_what_is_broken_and_leaves_nothing_behind() {
    let place = Place::new();
    let doctor = || {
        let (code, out, err) = run(place.command("doctor", 0).args(["--timeout", "2s"]));
        (code, String::from_utf8(out).unwrap(), err)
    };
    let (code, out, err) = doctor();
    assert_eq!(code, Some(1), "nobody answers for the peer: {out}{err}");
    for part in ["settings\n  ok", "BAD   does not connect", "-> does its gateway run", "1 broken"] {
        assert!(out.contains(part), "no {part:?} in:\n{out}");
    }
    assert!(!place.path("party_a").exists(), "something was created");

    let peer = Running::serving(place.serve(1));
    let (code, out, err) = doctor();
    assert_eq!(code, Some(0), "{out}{err}");
    for part in ["answers and serves", "messages of 16 MiB pass", "0 broken"] {
        assert!(out.contains(part), "no {part:?} in:\n{out}");
    }
    drop(peer);

    let (code, _, err) = run(&mut petnet(&["doctor"]));
    assert!(code == Some(2) && err.contains("PARTY: not set"), "{err}");
}

/// The other one is whole, so nothing is lost: but it is the last one, and what flips one bit may flip another.
#[test]
fn one_flipped_bit_in_a_checkpoint_is_damage_and_gone_after_the_next_start() {
    let place = Place::new();
    let folder = stopped_with_messages(&place);
    let files = ["CHECKPOINT.0", "CHECKPOINT.1"].map(|name| Path::new(&folder).join(name));
    let written = files.iter().find(|file| fs::read(file).unwrap()[0] != 0).expect("one was written");
    let mut bytes = fs::read(written).unwrap();
    bytes[50] ^= 1;
    fs::write(written, bytes).unwrap();
    let (code, out, _) = run(&mut petnet(&["verify", &folder]));
    let out = String::from_utf8(out).unwrap();
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("One of the two checkpoint files does not check out"), "{out}");
    assert!(out.contains("Damage found; every message is well") && !out.contains("All is well"), "{out}");
    let (code, out, _) = run(&mut petnet(&["verify", "--json", &folder]));
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((code, &json["well"], json["pending"].as_u64()), (Some(1), &false.into(), Some(3)));
    let (code, out, err) = run(&mut petnet(&["repair", &folder]));
    let out = String::from_utf8(out).unwrap();
    assert!(code == Some(0) && out.contains("writes this one again after its next start"), "{out}{err}");
    let gateway = Running::serving(place.serve(0));
    gateway.signal("TERM");
    gateway.end();
    let (code, out, _) = run(&mut petnet(&["verify", &folder]));
    assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&out));
}
