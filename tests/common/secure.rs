//! Two gateways that know each other by certificates, and programs with certificates.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use super::{Place, Running, petnet, run};

pub const PARTIES: [&str; 2] = ["party_a", "party_b"];

/// `petnet certs init`.
pub fn init(folder: &Path, party: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = petnet(&["certs", "init", "--party", party, "--out", folder.to_str().unwrap()]);
    let (code, out, err) = run(command.args(more));
    (code, String::from_utf8(out).unwrap(), err)
}

/// A place in which both parties have certificates.
pub fn place() -> Place {
    let place = Place::new();
    for party in PARTIES {
        let (code, _, err) = init(&place.path(&format!("certs/{party}")), party, &[]);
        assert_eq!(code, Some(0), "{err}");
    }
    write_parties(&place, &PARTIES);
    place
}

pub fn write_parties(place: &Place, parties: &[&str]) {
    let entry = |party: &&str| {
        let n = PARTIES.iter().position(|one| one == party).unwrap();
        let one =
            serde_json::json!({"url": place.address(n), "certificates": format!("certs/{party}/ca.crt")});
        ((*party).to_owned(), serde_json::json!({ "petnet": [one] }))
    };
    let all: serde_json::Map<_, _> = parties.iter().map(entry).collect();
    fs::write(place.path("party.json"), serde_json::to_string(&all).unwrap()).unwrap();
}

pub fn serve(place: &Place, n: usize) -> Running {
    let mut command = place.serve(n);
    command.env("PEM_PATH", place.path(&format!("certs/{}", PARTIES[n]))).env("ENV", "prod");
    Running::serving(command)
}

/// `petnet send` or `recv` at gateway `n` as a program of `party`.
pub fn client(
    place: &Place,
    n: usize,
    party: Option<&str>,
    arguments: &[&str],
    input: &[u8],
) -> (Option<i32>, Vec<u8>, String) {
    let mut command = petnet(arguments);
    command
        .args(["--gateway", &place.address(n)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(party) = party {
        command.arg("--certs").arg(place.path(&format!("certs/{party}")));
    }
    let mut child = command.spawn().unwrap();
    // It may end without reading.
    drop(child.stdin.take().unwrap().write_all(input));
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}
