//! TLS from outside: certificates as an operator makes them, the program's own clients, and openssl as a stranger.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::secure::{PARTIES, client, init, place, serve, write_parties};
use common::{petnet, run};

fn openssl(arguments: &[&str]) -> (bool, String) {
    let ran = Command::new("openssl").args(arguments).stdin(Stdio::null()).output();
    let ran = ran.expect("openssl runs; install it: these tests need it");
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (ran.status.success(), said)
}

fn show(file: &Path) -> (Option<i32>, String) {
    let (code, out, _) = run(&mut petnet(&["certs", "show", file.to_str().unwrap()]));
    (code, String::from_utf8(out).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn certs_init_makes_what_others_believe_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("certs");
    let (code, out, err) = init(&folder, "party_a", &["--dns", "gateway.a.example", "--ip", "192.0.2.7"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ca.crt      goes to every other party"), "{out}");
    let file = |name: &str| folder.join(name);
    for name in ["server", "client"] {
        let (good, said) =
            openssl(&["verify", "-CAfile", text(&file("ca.crt")), text(&file(&format!("{name}.crt")))]);
        assert!(good, "{said}");
        let (_, said) = openssl(&["x509", "-in", text(&file(&format!("{name}.crt"))), "-noout", "-text"]);
        assert!(said.contains("URI:petnet://party/party_a") && said.contains("TLS Web Client"), "{said}");
        assert_eq!(said.contains("DNS:gateway.a.example, IP Address:192.0.2.7"), name == "server", "{said}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(file(&format!("{name}.key"))).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
    let before = fs::read(file("ca.key")).unwrap();
    let (code, _, err) = init(&folder, "party_a", &[]);
    assert!(code == Some(1) && err.contains("nothing was changed"), "{err}");
    assert_eq!(fs::read(file("ca.key")).unwrap(), before);

    let old = fs::read(file("server.crt")).unwrap();
    let (code, _, err) = init(&folder, "party_b", &["--renew"]);
    assert!(code == Some(1) && err.contains("is of party_a, not of party_b"), "{err}");
    let (code, _, err) = init(&folder, "party_a", &["--renew"]);
    assert_eq!(code, Some(0), "{err}");
    assert_ne!(fs::read(file("server.crt")).unwrap(), old);
    assert_eq!(fs::read(file("ca.key")).unwrap(), before);
    let (code, said) = show(&file("server.crt"));
    assert!(code == Some(0) && said.contains("gateway.a.example") && said.contains("192.0.2.7"), "{said}");
}

#[test]
fn certs_show_tells_what_one_is_and_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    init(dir.path(), "party_a", &[]);
    let (code, said) = show(&file("server.crt"));
    assert_eq!(code, Some(0), "{said}");
    for part in
        ["party      party_a", "396 days left", "elliptic curve, 256 bits", "serving, calling", "is its key"]
    {
        // Seconds may have passed since it was made.
        assert!(
            said.contains(part) || part.starts_with("396") && said.contains("397 days left"),
            "{part}: {said}"
        );
    }
    let (_, said) = show(&file("ca.crt"));
    assert!(said.contains("(itself)") && said.contains("an authority"), "{said}");
    fs::copy(file("client.key"), file("server.key")).unwrap();
    let (code, said) = show(&file("server.crt"));
    assert!(code == Some(1) && said.contains("WRONG") && said.contains("not the key of the first"), "{said}");
    let chain = [fs::read(file("client.crt")).unwrap(), fs::read(file("server.crt")).unwrap()].concat();
    fs::write(file("chain.crt"), chain).unwrap();
    let (code, said) = show(&file("chain.crt"));
    assert!(code == Some(1) && said.contains("certificate 1 is not signed by certificate 2"), "{said}");
    let (code, _) = show(&file("client.key"));
    assert_eq!(code, Some(2));
    let (_, out, _) = run(&mut petnet(&["certs", "show", "--json", text(&file("ca.crt"))]));
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["certificates"][0]["purpose"], "authority");
}

const SEND: [&str; 5] = ["send", "--to", "party_b", "--id", "m"];
const RECV: [&str; 3] = ["recv", "--id", "m"];

#[test]
fn programs_and_gateways_with_certificates_reach_each_other_and_nobody_else_does() {
    let place = place();
    let (a, b) = (serve(&place, 0), serve(&place, 1));
    let (code, _, err) = client(&place, 0, Some("party_a"), &SEND, b"hello");
    assert_eq!(code, Some(0), "{err}");
    let (code, out, err) = client(&place, 1, Some("party_b"), &RECV, b"");
    assert_eq!((code, out.as_slice()), (Some(0), b"hello".as_slice()), "{err}");

    let (code, _, err) = client(&place, 1, None, &RECV, b"");
    assert!(code == Some(1) && err.contains("--certs"), "{err}");
    // It does not know the other party's gateway.
    let (code, _, err) = client(&place, 1, Some("party_a"), &RECV, b"");
    assert!(code == Some(1) && err.contains("cannot reach"), "{err}");
    // With the other's root it gets through the handshake, and no further.
    let mixed = place.path("certs/mixed");
    fs::create_dir(&mixed).unwrap();
    fs::copy(place.path("certs/party_b/ca.crt"), mixed.join("ca.crt")).unwrap();
    for name in ["client.crt", "client.key"] {
        fs::copy(place.path(&format!("certs/party_a/{name}")), mixed.join(name)).unwrap();
    }
    let (code, _, err) = client(&place, 1, Some("mixed"), &RECV, b"");
    assert!(code == Some(1) && err.contains("another party (party_a) may not use the mailbox"), "{err}");
    b.logged("may not use the mailbox");
    for gateway in [a, b] {
        gateway.signal("TERM");
        assert!(gateway.end().0.success());
    }
}

#[test]
fn openssl_gets_no_further_than_its_certificate() {
    let place = place();
    let a = serve(&place, 0);
    let file = |name: &str| place.path(&format!("certs/{name}"));
    let connect = |certificate: Option<&str>| {
        let address = place.address(0);
        let roots = file("party_a/ca.crt");
        let mut arguments = vec!["s_client", "-connect", &address, "-CAfile", text(&roots), "-alpn", "h2"];
        arguments.extend(["-verify_return_error", "-tls1_2"]);
        let pair = certificate.map(|name| (file(&format!("{name}.crt")), file(&format!("{name}.key"))));
        if let Some((certificate, key)) = &pair {
            arguments.extend(["-cert", text(certificate), "-key", text(key)]);
        }
        openssl(&arguments)
    };
    let (good, said) = connect(Some("party_a/client"));
    assert!(
        good && said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: h2"),
        "{said}"
    );
    let (good, said) = connect(Some("party_b/server"));
    assert!(good, "{said}");
    let (good, said) = connect(None);
    assert!(!good && said.contains("alert"), "{said}");
    // party_b's authority says that this is party_a.
    let minted = place.path("certs/minted");
    fs::create_dir(&minted).unwrap();
    for name in ["ca.crt", "ca.key"] {
        fs::copy(file(&format!("party_b/{name}")), minted.join(name)).unwrap();
    }
    let (code, _, err) = init(&minted, "party_a", &["--renew", "--dns", "localhost"]);
    assert_eq!(code, Some(0), "{err}");
    let (good, said) = connect(Some("minted/server"));
    assert!(!good && said.contains("alert"), "{said}");
    a.logged("is not signed by any of the certificates that the party file has for that party");
}

#[test]
fn sighup_and_a_change_of_the_files_are_taken_up_and_a_broken_one_is_not() {
    let place = place();
    write_parties(&place, &["party_a"]);
    let a = serve(&place, 0);
    let (code, _, err) = client(&place, 0, Some("party_a"), &SEND, b"x");
    assert!(code == Some(1) && err.contains("30003"), "{err}");
    fs::write(place.path("party.json"), "{").unwrap();
    a.signal("HUP");
    a.logged("the old ones stay in force");
    write_parties(&place, &PARTIES);
    a.signal("HUP");
    a.logged("taken up");
    let (code, _, err) = client(&place, 0, Some("party_a"), &SEND, b"x");
    assert_eq!(code, Some(0), "{err}");
    // Without any signal, too.
    let (code, _, err) = init(&place.path("certs/party_a"), "party_a", &["--renew"]);
    assert_eq!(code, Some(0), "{err}");
    a.logged("version=2");
    let (code, _, err) = client(&place, 0, Some("party_a"), &SEND, b"x");
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn production_does_not_start_without_certificates() {
    let place = place();
    let (code, _, err) = run(place.serve(0).env("ENV", "production"));
    assert!(code == Some(2) && err.contains("demands TLS"), "{err}");
    let folder = place.path("certs/party_a");
    fs::remove_file(folder.join("server.key")).unwrap();
    let (code, _, err) = run(place.serve(0).env("PEM_PATH", &folder));
    assert!(code == Some(2) && err.contains("TLS needs both"), "{err}");
}
