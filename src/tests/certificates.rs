//! Our own certificate is judged as peers will judge it: by `petnet doctor`, at start, and at a reload.
//!
//! Certificates that no peer believes used to be "ok" everywhere on their owner's side: signed with SHA-1, an authority as
//! made by openssl's `req -x509`, without the intermediate authority, without a name of our own url.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::cli::doctor::checks::{CheckDepth, Finding, Severity, examine};
use crate::config::{Configuration, Mistakes, RawSettings, look};
use crate::testing::until;

const NAMES: &str = "URI:petnet://party/party_b,IP:127.0.0.1";
const BOTH: &str = "serverAuth,clientAuth";

/// A folder in which openssl works.
struct OpensslFolder(TempDir);

impl OpensslFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[track_caller]
    fn openssl(&self, arguments: &str) {
        let ran = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output();
        let ran = ran.expect("openssl runs; install it: these tests need it");
        assert!(ran.status.success(), "{arguments}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    fn key(&self, name: &str, kind: &str) {
        self.openssl(&format!("genpkey -algorithm {kind} -out {name}.key"));
    }

    /// Makes an authority that signs itself.
    fn root(&self, name: &str, kind: &str) {
        self.key(name, kind);
        self.openssl(&format!("req -x509 -key {name}.key -out {name}.crt -days 90 -subj /CN={name} -sha256"));
    }

    /// Makes the certificate `name`, signed by `issuer` with `digest`.
    fn issue(&self, name: &str, kind: &str, issuer: &str, digest: &str, extensions: &str) {
        self.key(name, kind);
        std::fs::write(self.file("extensions"), extensions).unwrap();
        self.openssl(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={name}"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial -out {name}.crt -days 80 -{digest} \
             -extfile extensions"
        ));
    }

    /// Makes a certificate of a gateway.
    fn gateway(&self, issuer: &str, digest: &str, names: &str, purposes: &str) {
        self.issue("server", P256, issuer, digest, &extensions(names, purposes));
    }

    fn look(&self, url: &str, roots: &str) -> Result<Configuration, Mistakes> {
        let file = self.file("party.json");
        let party_file =
            format!(r#"{{"party_b": {{"petnet": [{{"url": "{url}", "certificates": "{roots}"}}]}}}}"#);
        std::fs::write(&file, party_file).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (file, here) = (text(&file), text(self.0.path()));
        let values = [
            ("PARTY", "party_b"),
            ("CONFIG_FILE_PATH", file.as_str()),
            ("DATA_DIR", here.as_str()),
            ("PEM_PATH", here.as_str()),
            ("LISTEN_ADDR", "127.0.0.1:0"),
        ];
        look(&RawSettings::from_values(values))
    }

    /// What is reported at start, and what the doctor finds broken.
    async fn told(&self, url: &str, roots: &str) -> (Vec<String>, Vec<String>) {
        let checked = self.look(url, roots).unwrap();
        let mut bad = Vec::new();
        let depth = CheckDepth { timeout: Duration::from_secs(1), largest: 1 };
        examine(&checked, depth, |_, found: Vec<Finding>| {
            let broken = found.into_iter().filter(|finding| finding.level == Severity::Bad);
            bad.extend(broken.inspect(|f| assert!(!f.advice.is_empty())).map(|finding| finding.what));
        })
        .await;
        // The state of the machine and its disk is of no interest here.
        let is_asked =
            |line: &String| ["server.crt", "root of", ".certificates"].iter().any(|part| line.contains(part));
        let mut notices = checked.notices;
        notices.retain(is_asked);
        bad.retain(is_asked);
        (notices, bad)
    }
}

const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";

fn extensions(names: &str, purposes: &str) -> String {
    format!("subjectAltName={names}\nextendedKeyUsage={purposes}\nbasicConstraints=CA:FALSE\n")
}

#[track_caller]
fn assert_told((notices, bad): &(Vec<String>, Vec<String>), part: &str) {
    let loud = |line: &&String| line.starts_with("NO PEER WILL BELIEVE") && line.contains("server.crt");
    let told = |lines: &[String]| lines.iter().filter(loud).any(|line| line.contains(part));
    assert!(told(notices), "at start, no {part:?} in {notices:#?}");
    assert!(told(bad), "by the doctor, no {part:?} in {bad:#?}");
    let mut all = notices.iter().chain(bad).filter(loud);
    assert!(all.all(|line| !line.contains(['[', '{'])), "a library's own words: {notices:#?} {bad:#?}");
}

#[tokio::test]
async fn a_certificate_that_no_peer_believes_is_told_at_start_and_broken_for_the_doctor() {
    const URL: &str = "127.0.0.1:1235";
    let place = OpensslFolder::new();
    place.root("ca", P256);
    place.root("rsa", "RSA -pkeyopt rsa_keygen_bits:2048");
    place.gateway("ca", "sha256", NAMES, BOTH);
    assert_eq!(place.told(URL, "ca.crt").await, (Vec::new(), Vec::new()), "a good one");

    // By how it is signed, who signed it, under which names, and for what.
    for (issuer, digest, names, purposes, url, roots, part) in [
        ("rsa", "sha1", NAMES, BOTH, URL, "rsa.crt", "is signed with SHA-1 and RSA"),
        ("ca", "sha1", NAMES, BOTH, URL, "ca.crt", "is signed with SHA-1 and ECDSA"),
        ("ca", "sha512", NAMES, BOTH, URL, "ca.crt", "is signed with SHA-512 and ECDSA"),
        ("ca", "sha256", NAMES, BOTH, URL, "rsa.crt", "is not signed by any of the certificates"),
        ("ca", "sha256", NAMES, BOTH, "gateway.example:1235", "ca.crt", "is not valid for gateway.example"),
        ("ca", "sha256", NAMES, BOTH, "127.0.0.2:1235", "ca.crt", "is not valid for 127.0.0.2"),
        ("ca", "sha256", "DNS:party_b", BOTH, URL, "ca.crt", "is not valid for 127.0.0.1"),
        ("ca", "sha256", NAMES, "serverAuth", URL, "ca.crt", "not made for client authentication"),
        ("ca", "sha256", NAMES, "clientAuth", URL, "ca.crt", "not made for server authentication"),
    ] {
        place.gateway(issuer, digest, names, purposes);
        assert_told(&place.told(url, roots).await, part);
    }

    // Without roots of our own in the party file, mistakes that need none are still found.
    place.gateway("rsa", "sha1", NAMES, BOTH);
    assert_told(&place.told(URL, "").await, "is signed with SHA-1");
    place.gateway("ca", "sha256", NAMES, "serverAuth");
    assert_told(&place.told(URL, "").await, "not made for client authentication");
}

#[tokio::test]
async fn an_authority_as_a_gateways_and_a_chain_with_a_gap_are_told() {
    const URL: &str = "127.0.0.1:1235";
    let place = OpensslFolder::new();
    // The kind that most guides on the web make.
    place.key("server", P256);
    place.openssl(&format!(
        "req -x509 -key server.key -out server.crt -days 90 -subj /CN=b -addext subjectAltName={NAMES}"
    ));
    for roots in ["server.crt", ""] {
        assert_told(&place.told(URL, roots).await, "is that of an authority");
    }

    // This one has no name besides: only that used to be reported at start.
    place.openssl("req -x509 -key server.key -out server.crt -days 90 -subj /CN=b");
    for roots in ["server.crt", ""] {
        let told = place.told(URL, roots).await;
        assert_told(&told, "is that of an authority");
        assert_told(&told, "tells no party: it names no party of the party file");
    }

    place.root("ca", P256);
    let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n";
    place.issue("middle", P256, "ca", "sha256", authority);
    place.gateway("middle", "sha256", NAMES, BOTH);
    assert_told(&place.told(URL, "ca.crt").await, "an intermediate authority missing behind it?");
    assert_eq!(place.told(URL, "middle.crt").await, (Vec::new(), Vec::new()), "our entry leads to it");
    let [first, second] = ["server.crt", "middle.crt"].map(|name| std::fs::read(place.file(name)).unwrap());
    std::fs::write(place.file("server.crt"), [first, second].concat()).unwrap();
    assert_eq!(place.told(URL, "ca.crt").await, (Vec::new(), Vec::new()), "the chain is whole");

    // Signed by a certificate that is not an authority.
    place.issue("middle", P256, "ca", "sha256", "basicConstraints=CA:FALSE\n");
    place.gateway("middle", "sha256", NAMES, BOTH);
    let [first, second] = ["server.crt", "middle.crt"].map(|name| std::fs::read(place.file(name)).unwrap());
    std::fs::write(place.file("server.crt"), [first, second].concat()).unwrap();
    assert_told(&place.told(URL, "ca.crt").await, "is not one of an authority");
}

/// rustls with ring cannot sign with these keys: the file is sound, but the error used to say that it was not.
#[test]
fn keys_that_cannot_be_used_are_refused_by_their_kind() {
    let place = OpensslFolder::new();
    place.root("ca", P256);
    for (kind, said) in [
        ("EC -pkeyopt ec_paramgen_curve:P-521", "its key is of the curve P-521"),
        ("EC -pkeyopt ec_paramgen_curve:secp256k1", "its key is of the curve secp256k1"),
        ("RSA -pkeyopt rsa_keygen_bits:1024", "its key is RSA of 1024 bits"),
        ("ED448", "it is no key of a kind that works here"),
    ] {
        place.issue("server", kind, "ca", "sha256", &extensions(NAMES, BOTH));
        let mistakes = place.look("127.0.0.1:1235", "ca.crt").unwrap_err().0;
        let all = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(all.contains("server.key: cannot be used") && all.contains(said), "{kind}: {all}");
        assert!(all.contains("use RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519"), "{all}");
        assert!(!all.contains("parse"), "{all}");
    }
}

#[tokio::test]
async fn roots_by_which_nothing_is_proved_or_whose_time_is_over_are_told() {
    const URL: &str = "127.0.0.1:1235";
    let place = OpensslFolder::new();
    for (kind, said) in [
        ("EC -pkeyopt ec_paramgen_curve:P-521", "proves nothing: its key is of the curve P-521"),
        ("RSA -pkeyopt rsa_keygen_bits:1024", "proves nothing: its key is RSA of 1024 bits"),
    ] {
        place.root("ca", kind);
        place.gateway("ca", "sha256", NAMES, BOTH);
        let (notices, bad) = place.told(URL, "ca.crt").await;
        assert!(
            notices.iter().any(|line| line.contains("party_b.petnet[0].certificates") && line.contains(said)),
            "{notices:#?}"
        );
        assert!(bad.iter().any(|line| line.contains(said)), "{bad:#?}");
        assert_told(&(notices, bad), "server.crt");
    }

    place.key("ca", P256);
    let authority = crate::tls::certs::make::Authority::new(&party("party_b"), 0).unwrap();
    let pair = authority.pair();
    std::fs::write(place.file("ca.crt"), &pair.certificate).unwrap();
    std::fs::write(place.file("ca.key"), &pair.key).unwrap();
    place.gateway("ca", "sha256", NAMES, BOTH);
    // It expires in the second in which it was made.
    until("it is over", async || {
        place
            .look(URL, "ca.crt")
            .unwrap()
            .notices
            .iter()
            .any(|line| line.contains("certificate 1 of 1 expired 0 days ago"))
    })
    .await;
}
