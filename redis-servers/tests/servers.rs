//! What tests of Redis rely on.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use petnet_redis_servers::{Append, Cluster, Options, RedisServer, Replicated, Tls};

fn set(server: &RedisServer, key: &str, value: &str) {
    let reply = server.command(&["SET", key, value]);
    assert!(reply.is_ok(), "{reply}");
}

fn get(server: &RedisServer, key: &str) -> String {
    server.command(&["GET", key]).text()
}

#[test]
fn what_was_written_is_there_after_a_kill_and_a_restart() {
    let server = RedisServer::start(Options::default());
    let url = server.url();
    for n in 0..3 {
        set(&server, &format!("key{n}"), "value");
        server.kill();
        assert!(server.try_command(&["PING"]).is_err(), "it is gone");
        server.restart();
        assert_eq!(get(&server, &format!("key{n}")), "value");
    }
    assert_eq!(server.url(), url);
    set(&server, "last", "one");
    server.shut_down();
    server.restart();
    assert_eq!(get(&server, "last"), "one");
}

#[test]
fn without_an_append_only_file_a_kill_takes_everything() {
    let server = RedisServer::start(Options { append: Append::Never, ..Options::default() });
    set(&server, "key", "value");
    server.kill_and_restart();
    assert_eq!(get(&server, "key"), "(nil)");
}

#[test]
fn options_and_settings_are_those_of_the_server() {
    let options = Options {
        append: Append::EverySecond,
        max_memory: Some((64 << 20, "allkeys-lru".into())),
        password: Some("p@ss word".into()),
        ..Options::default()
    };
    let server = RedisServer::start(options);
    let setting = |name: &str| server.command(&["CONFIG", "GET", name]).field(name);
    assert_eq!(setting("appendfsync").as_deref(), Some("everysec"));
    assert_eq!(setting("maxmemory").as_deref(), Some("67108864"));
    assert_eq!(setting("maxmemory-policy").as_deref(), Some("allkeys-lru"));
    assert_eq!(server.url(), format!("redis://:p%40ss%20word@127.0.0.1:{}", server.port()));
    server.config_set("maxmemory-policy", "noeviction");
    assert_eq!(server.info("maxmemory_policy").as_deref(), Some("noeviction"));
}

/// Runs itself in a second process, which is killed.
#[test]
fn a_server_ends_with_the_test_that_started_it() {
    const IN_CHILD: &str = "PETNET_REDIS_SERVERS_CHILD";
    if std::env::var_os(IN_CHILD).is_some() {
        // From a thread that ends at once: the server stays as long as the process.
        let server = std::thread::spawn(|| RedisServer::start(Options::default())).join().expect("starts");
        println!("\nport {}", server.port());
        std::io::stdin().lines().for_each(drop);
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("has a path"))
        .args(["a_server_ends_with_the_test_that_started_it", "--exact", "--nocapture"])
        .env(IN_CHILD, "1")
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let said = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let port = said.map_while(Result::ok).find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok());
    let port = port.expect("the child started a server");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "it serves");
    child.kill().and_then(|()| child.wait()).expect("is killed");
    let deadline = Instant::now() + petnet_redis_servers::DEADLINE;
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        assert!(Instant::now() < deadline, "the server is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same, where no program is found.
#[test]
fn a_missing_program_fails_the_test_and_says_what_to_install() {
    let output = Command::new(std::env::current_exe().expect("has a path"))
        .args(["what_was_written_is_there_after_a_kill_and_a_restart", "--exact", "--nocapture"])
        .env("PATH", "/nonexistent")
        .output()
        .expect("runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!output.status.success() && said.contains("apt-get install redis-server"), "{said}");
}

#[test]
fn a_stalled_server_answers_when_it_goes_on() {
    let server = RedisServer::start(Options::default());
    let stalled = server.stall();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.command(&["PING"]).text());
        // Nothing tells that an answer does not come.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asked.is_finished());
        drop(stalled);
        assert_eq!(asked.join().ok().as_deref(), Some("PONG"));
    });
}

#[test]
fn a_server_with_tls_takes_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    openssl(
        folder.path(),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out certificate -days 2 \
         -subj /CN=localhost",
    );
    let tls = Tls {
        certificate: at("certificate"),
        key: at("key"),
        authority: at("certificate"),
        clients_too: false,
    };
    let server = RedisServer::start(Options { tls: Some(tls), ..Options::default() });
    set(&server, "key", "value");
    assert_eq!(server.url(), format!("rediss://127.0.0.1:{}", server.port()));
    let place = format!("127.0.0.1:{}", server.port());
    openssl(folder.path(), &format!("s_client -connect {place} -CAfile certificate -verify_return_error"));
}

fn openssl(folder: &Path, words: &str) {
    let mut command = Command::new("openssl");
    command.args(words.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    let output = command.output().expect("openssl is installed (scripts/test does so)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_replica_becomes_the_primary_and_the_old_one_its_replica() {
    let all = Replicated::start();
    let first = all.primary().port();
    assert_eq!(all.url().matches("127.0.0.1:").count(), 3);
    set(all.primary(), "key", "value");
    assert_eq!(all.primary().command(&["WAIT", "1", "10000"]).text(), "1");
    let began = Instant::now();
    all.kill_primary();
    all.until_failed_over();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_ne!(all.primary().port(), first);
    assert_eq!(get(all.primary(), "key"), "value");
    all.restart_as_replica();
    // Which one is the replica now is the Sentinels' to say: on a busy machine they may have failed over once more.
    for server in all.servers() {
        assert_eq!(get(server, "key"), "value", "port {}", server.port());
    }
    set(all.primary(), "later", "one");
    assert_eq!(all.primary().command(&["WAIT", "1", "10000"]).text(), "1");
    assert_eq!(get(all.replica(), "later"), "one");
}

#[test]
fn a_cluster_serves_all_slots_also_after_one_was_killed() {
    let cluster = Cluster::start();
    assert_eq!(cluster.url().matches("127.0.0.1:").count(), 3);
    for key in ["a", "b", "c", "d", "{x}1", "{x}2"] {
        set(cluster.server_of(key), key, "value");
    }
    for server in cluster.servers() {
        server.kill_and_restart();
        cluster.until_ok();
    }
    for key in ["a", "b", "c", "d", "{x}1", "{x}2"] {
        assert_eq!(get(cluster.server_of(key), key), "value");
    }
    let elsewhere = cluster.servers().iter().find(|s| s.port() != cluster.server_of("a").port());
    let moved = elsewhere.map(|server| get(server, "a")).unwrap_or_default();
    assert!(moved.starts_with("MOVED "), "{moved}");
}
