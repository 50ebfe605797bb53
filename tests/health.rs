//! `petnet health` against real gateways, in the clear and by TLS, as the health check of a container asks.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::secure::{self, PARTIES};
use common::{Place, Running, petnet, run};

/// `petnet health` in the environment of gateway `n`, as in its container.
fn beside(place: &Place, n: usize) -> Command {
    let mut command = petnet(&["health"]);
    command.env("LISTEN_ADDR", place.address(n));
    command.env("PEM_PATH", place.path(&format!("certs/{}", PARTIES[n])));
    command
}

#[test]
fn signals_that_mean_nothing_end_nothing() {
    let place = Place::new();
    let gateway = Running::serving(place.serve(0));
    for meaningless in ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "PWR", "PIPE"] {
        gateway.signal(meaningless);
    }
    let (code, _, err) = run(&mut beside(&place, 0));
    assert_eq!(code, Some(0), "{err}");
    gateway.signal("TERM");
    let (status, _) = gateway.end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_the_system_fails_for_a_moment_ends_with_3_and_a_mistake_with_2() {
    let place = Place::new();
    // Linux fails reading at address 0 with EIO.
    for (file, expected) in [("/proc/self/mem", 3), ("/no/such/file", 2)] {
        let (code, _, err) = run(place.serve(0).env("CONFIG_FILE_PATH", file));
        assert_eq!(code, Some(expected), "{err}");
        assert!(err.contains(file), "{err}");
    }
}

#[test]
fn a_gateway_that_serves_is_healthy_and_one_that_is_gone_is_not() {
    let place = Place::new();
    let (code, out, err) = run(&mut beside(&place, 0));
    assert_eq!((code, out.as_slice()), (Some(1), b"".as_slice()));
    assert!(err.contains("cannot reach a gateway") && err.contains(&place.address(0)), "{err}");

    let gateway = Running::serving(place.serve(0));
    let (code, out, err) = run(&mut beside(&place, 0));
    assert_eq!((code, out.as_slice()), (Some(0), b"SERVING\n".as_slice()), "{err}");
    let (code, _, err) = run(petnet(&["health"]).env("PETNET_ADDR", place.address(0)));
    assert_eq!(code, Some(0), "{err}");

    gateway.signal("KILL");
    gateway.end();
    let (code, _, _) = run(&mut beside(&place, 0));
    assert_eq!(code, Some(1));
}

#[test]
fn it_waits_for_a_gateway_that_is_starting() {
    let place = Place::new();
    let mut health = beside(&place, 0);
    let health =
        health.args(["--wait", "60s"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _gateway = Running::serving(place.serve(0));
    let ended = health.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let (code, _, err) = run(beside(&place, 1).args(["--wait", "200ms"]));
    assert_eq!(code, Some(1), "{err}");
}

#[test]
fn wrong_words_are_no_answer_about_health() {
    for (name, value) in [("PETNET_ADDR", "here"), ("LISTEN_ADDR", "localhost:1235")] {
        let (code, _, err) = run(petnet(&["health"]).env(name, value));
        assert!(code == Some(2) && err.contains(value), "{err}");
    }
}

/// The certificate names the address that peers use, and the folder need not have the authority that signed it.
#[test]
fn a_gateway_with_tls_is_asked_with_its_own_certificate() {
    let place = Place::new();
    for party in PARTIES {
        let folder = place.path(&format!("certs/{party}"));
        let (code, _, err) = secure::init(&folder, party, &["--dns", "gateway.example", "--ip", "127.0.0.1"]);
        assert_eq!(code, Some(0), "{err}");
    }
    secure::write_parties(&place, &PARTIES);
    let gateway = secure::serve(&place, 0);
    let folder = place.path("certs/party_a");
    let away = place.path("away");
    fs::create_dir(&away).unwrap();
    for name in ["ca.key", "client.crt", "client.key"] {
        fs::rename(folder.join(name), away.join(name)).unwrap();
    }
    // By the name localhost, which no certificate has.
    let port = place.ports[0];
    let localhost = format!("localhost:{port}");
    let (code, out, err) = run(beside(&place, 0).args(["--gateway", &localhost]));
    assert_eq!((code, out.as_slice()), (Some(0), b"SERVING\n".as_slice()), "{err}");

    // As a program of the party, from anywhere.
    fs::copy(folder.join("ca.crt"), away.join("ca.crt")).unwrap();
    let (code, _, err) = run(beside(&place, 0).arg("--certs").arg(&away));
    assert_eq!(code, Some(0), "{err}");

    // Someone else's gateway at our address is not ours.
    let (code, _, err) = run(beside(&place, 0).env("PEM_PATH", place.path("certs/party_b")));
    assert!(code == Some(1) && err.contains("another than server.crt"), "{err}");
    let (code, _, err) = run(beside(&place, 0).env("PEM_PATH", place.path("no-certificates")));
    assert!(code == Some(1) && err.contains("Does it speak TLS?"), "{err}");
    drop(gateway);
}
