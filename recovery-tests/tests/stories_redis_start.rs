//! Stories of starts on a Redis: which settings of it are refused and which are said to lose messages, one that comes up
//! later, one that speaks TLS only.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use petnet_recovery_tests::fleet::{Fleet, Victim};
use petnet_recovery_tests::harness::program;
use petnet_recovery_tests::home::Home;
use petnet_recovery_tests::story::{A, B};
use petnet_recovery_tests::until;
use petnet_redis_servers::{Append, Options, RedisServer, Tls};
use tokio::time::Instant;
use tonic_health::pb::health_check_response::ServingStatus::Serving;

/// Exit code: could not start.
const COULD_NOT_START: Option<i32> = Some(3);
/// A refusal is told at once, and not after the time that a start waits for a Redis that is not there.
const AT_ONCE: Duration = Duration::from_secs(20);

/// `petnet certs init`, for gateways and servers of this machine.
fn certificates(folder: &Path, party: &str) {
    let mut command = Command::new(program());
    command.args(["certs", "init", "--party", party, "--ip", "127.0.0.1", "--out"]).arg(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn party_a_on(server: RedisServer) -> Fleet {
    Fleet::new((Home::Server(Arc::new(server)), 1), (Home::Folder, 1))
}

/// Starts the gateway of A under `ENV=prod`, with certificates of its own; the party file has none of the other party.
fn in_production(story: &mut Fleet) {
    let folder = story.folder().join("certs");
    certificates(&folder, A.name());
    let party_file = story.folder().join("party.json");
    let address = story.a.gateways[0].address();
    let text = format!(
        r#"{{"party_a": {{"petnet": [{{"type": 1, "url": "{address}", "certificates": "certs/ca.crt"}}]}}}}"#
    );
    std::fs::write(party_file, text).unwrap();
    story.a.gateways[0].set("PEM_PATH", folder.to_str().unwrap());
    story.a.gateways[0].set("ENV", "production");
}

/// Its start must be refused, at once; what it says.
async fn refused(story: &mut Fleet) -> String {
    let begun = Instant::now();
    let gateway = &mut story.a.gateways[0];
    gateway.spawn();
    until("the start is refused", async || gateway.has_ended()).await;
    let log = gateway.log();
    assert_eq!(gateway.ended().await.code(), COULD_NOT_START, "{log}");
    assert!(begun.elapsed() < AT_ONCE, "refused after {:?}", begun.elapsed());
    log
}

/// It must start; what it says.
async fn started(story: &mut Fleet) -> String {
    let gateway = &mut story.a.gateways[0];
    gateway.spawn();
    until("it has started", async || {
        if let Some(status) = gateway.has_ended() {
            panic!("{status}: {}", gateway.log());
        }
        gateway.log().contains(" serves on ").then_some(())
    })
    .await;
    let log = gateway.log();
    gateway.stop().await;
    log
}

fn holds(log: &str, words: &[&str]) {
    assert!(words.iter().all(|word| log.contains(word)), "{words:?} are in\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_throws_messages_away_is_refused_unless_that_is_allowed() {
    let evicting = Options { max_memory: Some((64 << 20, "allkeys-lru".into())), ..Options::default() };
    let mut story = party_a_on(RedisServer::start(evicting));
    let why = refused(&mut story).await;
    holds(
        &why,
        &["cannot start", "maxmemory-policy is allkeys-lru", "set noeviction", "REDIS_ALLOW_VOLATILE=1"],
    );
    story.set("REDIS_ALLOW_VOLATILE", "1");
    let said = started(&mut story).await;
    holds(&said, &["accepted messages can be lost", "maxmemory-policy is allkeys-lru"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_production_a_redis_that_can_lose_what_it_has_is_refused_unless_that_is_allowed() {
    for (append, words) in [
        (Append::Never, ["appendonly is off", "appendonly yes"]),
        (Append::EverySecond, ["appendfsync is everysec", "appendfsync always"]),
    ] {
        let mut story = party_a_on(RedisServer::start(Options { append, ..Options::default() }));
        // Elsewhere it is said, and no more.
        let said = started(&mut story).await;
        holds(&said, &["accepted messages can be lost", words[0]]);
        in_production(&mut story);
        let why = refused(&mut story).await;
        holds(&why, &["cannot start", words[0], words[1], "REDIS_ALLOW_VOLATILE=1"]);
        story.set("REDIS_ALLOW_VOLATILE", "1");
        let said = started(&mut story).await;
        holds(&said, &["accepted messages can be lost", words[0]]);
    }
    let mut story = party_a_on(RedisServer::start(Options::default()));
    in_production(&mut story);
    let said = started(&mut story).await;
    holds(&said, &["synced (appendfsync always)"]);
    assert!(!said.contains("can be lost"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_not_repeated() {
    let options = Options { password: Some("the right one".into()), ..Options::default() };
    let server = RedisServer::start(options);
    let wrong = format!("redis://:hunter2@127.0.0.1:{}", server.port());
    let none = format!("redis://127.0.0.1:{}", server.port());
    let right = server.url();
    let mut story = party_a_on(server);
    for url in [&wrong, &none] {
        story.a.gateways[0].set("REDIS_URL", url);
        let why = refused(&mut story).await;
        holds(&why, &["cannot start", "check user and password in REDIS_URL"]);
    }
    story.a.gateways[0].set("REDIS_URL", &right);
    started(&mut story).await;
    let all = story.a.gateways[0].whole_log();
    assert!(
        !all.contains("hunter2") && !all.contains("the right one") && !all.contains("the%20right"),
        "{all}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_a_redis_that_comes_up_later() {
    let server = RedisServer::start(Options::default());
    server.kill();
    let mut story = party_a_on(server);
    story.a.gateways[0].spawn();
    until("it says that it waits", async || {
        story.a.gateways[0].log().contains("no connection to Redis").then_some(())
    })
    .await;
    assert_eq!(story.a.gateways[0].has_ended(), None);
    assert_ne!(story.a.gateways[0].health().await, Some(Serving));
    let up = Instant::now();
    story.start().await;
    assert!(up.elapsed() < AT_ONCE, "it serves {:?} after Redis is up", up.elapsed());
    story.send(A, 0, 20, 1_000).await;
    story.fault();
    story.ends_well().await;
}

/// A server that speaks TLS only and knows its clients by a certificate, and where all that is.
fn with_tls() -> (RedisServer, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("redis");
    certificates(&own, "redis");
    let file = |name: &str| own.join(name);
    let tls = Tls {
        certificate: file("server.crt"),
        key: file("server.key"),
        authority: file("ca.crt"),
        clients_too: true,
    };
    let server = RedisServer::start(Options { tls: Some(tls), ..Options::default() });
    (server, own, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_kept_over_tls_with_certificates_on_both_sides() {
    let (server, own, folder) = with_tls();
    let server = Arc::new(server);
    let mut story = Fleet::new((Home::Server(server.clone()), 2), (Home::server(), 1));
    for gateway in &mut story.a.gateways {
        gateway.set("REDIS_PEM_PATH", own.to_str().unwrap());
    }
    story.start().await;
    story.send(A, 0, 50, 2_000).await;
    story.send(A, 1, 1, 700_000).await;
    story.send(B, 0, 50, 2_000).await;
    story.kill(&[Victim::Redis(A)]).await;
    story.start().await;
    story.promises_are_kept().await;
    story.ends_well().await;
    drop(folder);
}

/// A server with a certificate of another authority is not talked to.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_another_authority_vouches_for_is_not_believed() {
    let (server, _, folder) = with_tls();
    let other = folder.path().join("other");
    certificates(&other, "redis");
    let mut story = party_a_on(server);
    story.a.gateways[0].set("REDIS_PEM_PATH", other.to_str().unwrap());
    story.a.gateways[0].spawn();
    until("it says why", async || {
        let log = story.a.gateways[0].log();
        (log.contains("no connection to Redis") || log.contains("cannot start")).then_some(())
    })
    .await;
    println!("{}", story.a.gateways[0].log());
    assert_ne!(story.a.gateways[0].health().await, Some(Serving));
    holds(&story.a.gateways[0].log(), &["certificate"]);
}
