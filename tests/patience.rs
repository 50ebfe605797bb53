//! `petnet send` and `petnet recv` at a gateway that is not there yet, restarts, or is something else.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Instant;

use common::{Place, Running, petnet, run};

/// A command that is waiting: started, and it has said that it cannot reach the gateway.
struct Waiting {
    child: Child,
    said: Vec<String>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Waiting {
    fn start(arguments: &[&str], input: &[u8]) -> Self {
        let mut command = petnet(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        assert!(first.contains("trying again for up to"), "{first}");
        Self { child, said: vec![first], stderr }
    }

    /// Exit code, stdout, and the lines it said.
    fn end(mut self) -> (Option<i32>, Vec<u8>, Vec<String>) {
        let mut out = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        self.said.extend(self.stderr.by_ref().lines().map(Result::unwrap));
        (self.child.wait().unwrap().code(), out, self.said)
    }
}

/// They used to fail at once, in the milliseconds of a restart.
#[test]
fn commands_wait_for_a_gateway_that_is_not_there_yet_and_say_so_once() {
    let place = Place::new();
    let (a, b) = (place.address(0), place.address(1));
    let send = Waiting::start(&["send", "--to", "party_b", "--id", "m", "--gateway", &a], b"hello");
    let recv = Waiting::start(&["recv", "--id", "m", "--wait", "30s", "--gateway", &b], b"");
    let _gateways = [0, 1].map(|party| Running::serving(place.serve(party)));
    let (code, _, said) = send.end();
    assert!(code == Some(0) && said.last().unwrap().starts_with("accepted \"m\""), "{said:?}");
    let (code, out, said) = recv.end();
    assert_eq!((code, out.as_slice(), said.len()), (Some(0), b"hello".as_slice(), 1), "{said:?}");
}

#[test]
fn a_receive_goes_on_over_a_kill_of_its_gateway() {
    let place = Place::new();
    let (a, b) = (place.address(0), place.address(1));
    let _a = Running::serving(place.serve(0));
    let killed = Running::serving(place.serve(1));
    let mut recv = petnet(&["recv", "--id", "m", "--wait", "30s", "--gateway", &b]);
    let recv = recv.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // That it is connected is not to be seen from outside; killed before or after that, it must not matter.
    drop(killed);
    let _b = Running::serving(place.serve(1));
    let (code, _, err) =
        run(petnet(&["send", "--to", "party_b", "--id", "m", "--gateway", &a, "Cargo.toml"])
            .current_dir(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(code, Some(0), "{err}");
    let output = recv.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{err}");
}

#[test]
fn a_gateway_that_never_comes_is_an_error_when_the_time_is_over() {
    let place = Place::new();
    let address = place.address(0);
    for arguments in [
        ["recv", "--id", "m", "--wait", "1s", "--gateway", &address].as_slice(),
        &["send", "--id", "m", "--timeout", "1s", "--to", "party_b", "--gateway", &address],
    ] {
        let began = Instant::now();
        let (code, _, err) = run(&mut petnet(arguments));
        assert_eq!(code, Some(1), "{err}");
        assert!(began.elapsed().as_millis() >= 1000, "it gave up early: {err}");
        assert_eq!(err.matches("cannot reach a gateway").count(), 2, "once at first, once at the end: {err}");
    }
    let began = Instant::now();
    let (code, _, err) = run(&mut petnet(&["recv", "--id", "m", "--wait", "0", "--gateway", &address]));
    assert!(code == Some(1) && !err.contains("trying again"), "{err} {:?}", began.elapsed());
}

#[test]
fn the_port_of_the_status_page_is_told_from_a_gateway_that_is_not_there() {
    let place = Place::new();
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut serve = place.serve(0);
    serve.env("HTTP_LISTEN_ADDR", &page);
    let _a = Running::serving(serve);
    for arguments in [
        ["recv", "--id", "m", "--gateway", &page].as_slice(),
        &["send", "--id", "m", "--to", "party_b", "--gateway", &page],
    ] {
        let (code, _, err) = run(&mut petnet(arguments));
        assert_eq!(code, Some(1), "{err}");
        assert!(
            err.contains("status page") && err.contains("LISTEN_ADDR") && !err.contains("trying"),
            "{err}"
        );
    }
    let (code, _, err) = run(&mut petnet(&["health", "--gateway", &page]));
    assert!(code == Some(1) && err.contains("status page"), "{err}");
}
