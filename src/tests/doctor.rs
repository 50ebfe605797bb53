//! What the doctor finds on the way to a peer.

use std::path::Path;

use super::tls::{Member, tls_settings};
use super::*;
use crate::cli::doctor::checks::{CheckDepth, Finding, Severity, examine};
use crate::config::Configuration;
use crate::telemetry::options::{LogFormat, LogLevel, LogMode, Logging};
use crate::tls::client_auth::TlsClientAuth;

const DEPTH: CheckDepth = CheckDepth { timeout: Duration::from_secs(2), largest: 64 << 20 };

/// All findings, each with its heading in front.
async fn findings(settings: Settings, parties: Parties) -> Vec<Finding> {
    let logging =
        Logging { level: LogLevel::Info, mode: LogMode::Direct, format: LogFormat::Text, files: None };
    let checked = Configuration { settings, parties, logging, notices: Vec::new() };
    let mut all = Vec::new();
    examine(&checked, DEPTH, |heading, found| {
        all.extend(found.into_iter().map(|f| Finding { what: format!("{heading}: {}", f.what), ..f }));
    })
    .await;
    all
}

#[track_caller]
fn assert_found(all: &[Finding], level: Severity, part: &str) {
    assert!(
        all.iter().any(|f| f.level == level && f.what.contains(part)),
        "no {level:?} {part:?} in {all:#?}"
    );
    assert!(all.iter().all(|f| f.level != Severity::Bad || !f.advice.is_empty()), "{all:#?}");
}

fn as_a(folder: &Path) -> Settings {
    Settings { data_dir: folder.into(), max_message_bytes: 64 << 20, ..settings("a") }
}

#[tokio::test]
async fn the_way_to_a_good_peer_is_followed_to_the_largest_message_that_passes() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair().await;
    let parties = parties(&[("a", &[String::new()]), ("b", &[b.addr.to_string()])]);
    let all = findings(as_a(folder.path()), parties).await;
    for part in ["b at 127.0.0.1", "connects to", "answers and serves", "a sync takes", "free to listen on"] {
        assert_found(&all, Severity::Good, part);
    }
    // The peer's limit is 3 MiB; the step before was 1 MiB.
    assert_found(&all, Severity::Warning, "messages of 1 MiB pass, of 4 MiB do not");
    assert_found(&all, Severity::Warning, "plaintext");
    assert!(!all.iter().any(|f| f.level == Severity::Bad), "{all:#?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    assert_eq!(b.client().await.receive_with("", &[], None).await.unwrap().error_code, Some(20002));
    b.shutdown().await;
    a.shutdown().await;
}

#[tokio::test]
async fn each_break_on_the_way_to_a_peer_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let settings = || as_a(folder.path());
    let nobody = findings(settings(), parties(&[("b", &[free_address().to_string()])])).await;
    assert_found(&nobody, Severity::Bad, "does not connect");
    let unknown = findings(settings(), parties(&[("b", &["no-such-host.invalid:1".into()])])).await;
    assert_found(&unknown, Severity::Bad, "cannot be resolved");

    // Something listens there, but it is not a gateway.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = silent.local_addr().unwrap().to_string();
    let no_gateway = findings(settings(), parties(&[("b", &[url])])).await;
    assert_found(&no_gateway, Severity::Bad, "no answer");

    // The peer does not know us.
    let b = RunningGateway::start(super::settings("b"), parties(&[("b", &[String::new()])])).await;
    let stranger = findings(settings(), parties(&[("b", &[b.addr.to_string()])])).await;
    assert_found(&stranger, Severity::Bad, "refuses our deliveries");
    b.shutdown().await;
}

#[tokio::test]
async fn a_peer_is_believed_by_its_own_root_only_and_old_certificates_are_told() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (member_a, member_b, other) = (Member::new("a"), Member::new("b"), Member::new("b"));
    let of_b = tls_settings("b", folders[1].path(), &member_b.gateway(), TlsClientAuth::Required);
    let parties = |b: &Member, url: &str| Parties {
        parties: [member_a.entry("localhost:1", &["*"]), b.entry(url, &["*"])].into(),
    };
    let b = RunningGateway::start(of_b, parties(&member_b, "localhost:1")).await;
    let url = format!("localhost:{}", b.addr.port());
    let of_a = || {
        let settings = tls_settings("a", folders[0].path(), &member_a.gateway(), TlsClientAuth::Required);
        Settings { data_dir: folders[0].path().into(), ..settings }
    };

    let good = findings(of_a(), parties(&member_b, &url)).await;
    for part in ["its certificate is that of b", "answers and serves"] {
        assert_found(&good, Severity::Good, part);
    }
    // The certificates that these tests make are valid for ten days.
    for part in ["server.crt: a: expires in", "root of b (connection 0 of the party file)"] {
        assert_found(&good, Severity::Warning, part);
    }
    assert!(!good.iter().any(|f| f.level == Severity::Bad), "{good:#?}");

    let wrong = findings(of_a(), parties(&other, &url)).await;
    assert_found(&wrong, Severity::Bad, "b at localhost");
    b.shutdown().await;
}
