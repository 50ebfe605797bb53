#![allow(clippy::unwrap_used, reason = "tests")]

use crate::telemetry::options::{LogFiles, LogFormat, LogLevel, LogMode};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use time::OffsetDateTime;

use super::*;
use crate::testing::party;
use crate::tls::certs::make::{Authority, CertificateAndKey, GatewayNames, WantedCertificate};

const PARTIES: &str = r#"{"party_a": {"petnet": []}, "party_b": {"petnet": [{"url": "b:1235"}]}}"#;

struct SettingsFolder {
    dir: tempfile::TempDir,
}

impl SettingsFolder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("party.json"), PARTIES).unwrap();
        fs::create_dir(dir.path().join("certs")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }

    fn check(&self, more: &[(&str, &str)]) -> Result<Configuration, Mistakes> {
        let (file, data, certs) = (self.path("party.json"), self.path("data"), self.path("certs"));
        let mut values = vec![
            ("PARTY", "party_a"),
            ("CONFIG_FILE_PATH", file.as_str()),
            ("DATA_DIR", data.as_str()),
            ("PEM_PATH", certs.as_str()),
        ];
        values.extend_from_slice(more);
        check(&RawSettings::from_values(values))
    }

    fn mistakes(&self, more: &[(&str, &str)]) -> Vec<String> {
        self.check(more).unwrap_err().0.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_life_of_unread_messages_that_is_shorter_than_that_of_read_ones_is_told() {
    let place = SettingsFolder::new();
    let told = |more: &[(&str, &str)]| {
        let notices = place.check(more).unwrap().notices;
        notices.iter().any(|notice| notice.contains("UNREAD_TTL is below MESSAGE_TTL"))
    };
    assert!(!told(&[]) && !told(&[("UNREAD_TTL", "1h")]) && !told(&[("UNREAD_TTL", "0")]));
    assert!(told(&[("UNREAD_TTL", "59m")]) && told(&[("MESSAGE_TTL", "0")]));
    assert!(!told(&[("MESSAGE_TTL", "0"), ("UNREAD_TTL", "0")]));
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let place = SettingsFolder::new();
    let checked = place.check(&[]).unwrap();
    let settings = checked.settings;
    assert_eq!(settings.listen_addr.to_string(), "[::]:1235");
    assert_eq!(settings.http_listen_addr.map(|addr| addr.to_string()).as_deref(), Some("127.0.0.1:1236"));
    assert_eq!(settings.message_ttl, Some(HOUR));
    assert_eq!(settings.unread_ttl, Some(Duration::from_secs(604_800)));
    assert_eq!(settings.send_ttl, Some(7 * DAY));
    assert_eq!(settings.recv_wait, Duration::from_secs(1));
    assert_eq!(settings.max_message_bytes, 256 << 20);
    assert_eq!(settings.store_max_bytes, 0);
    assert_eq!(settings.id_reuse, IdReuse::Replace);
    assert_eq!(settings.shutdown_grace, Duration::from_secs(10));
    assert_eq!(settings.limits, Limits::default());
    assert_eq!((settings.max_in_flight, settings.max_in_flight_bytes), (2048, 64 << 20));
    assert_eq!(settings.link_stall, Duration::from_secs(30));
    assert_eq!((settings.link_window, settings.link_resume), (8 << 20, Duration::from_mins(10)));
    assert_eq!((settings.max_stream_bytes, settings.max_uploads), (0, 128));
    assert_eq!(settings.retry_cap, Duration::from_secs(30));
    assert_eq!(settings.max_waiting, 16384);
    assert_eq!(settings.tls_client_auth, TlsClientAuth::Required);
    let logging =
        Logging { level: LogLevel::Info, mode: LogMode::Direct, format: LogFormat::Text, files: None };
    assert_eq!(checked.logging, logging);
    assert!(checked.notices.iter().any(|line| line.contains("PLAINTEXT")), "{:?}", checked.notices);
    assert!(settings.data_dir.is_dir(), "the data folder was not created");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let place = SettingsFolder::new();
    fs::write(place.path("party.json"), r#"{"party_b": {"petnet": [{"url": "nowhere"}]}}"#).unwrap();
    let mistakes = place.mistakes(&[
        ("PARTY", ""),
        ("LISTEN_ADDR", "localhost"),
        ("MESSAGE_TTL", "soon"),
        ("MAX_MESSAGE_BYTES", "0"),
        ("MESSAGE_ID_REUSE", "maybe"),
        ("LOGGING_LEVEL", "chatty"),
        ("RETRY_CAP", "1ms"),
    ]);
    // `PARTY` of the fixture stays in force, because an empty value counts as none; everything else is wrong.
    for place in [
        "party_b.petnet[0].url",
        "LISTEN_ADDR: \"localhost\"",
        "MESSAGE_TTL: \"soon\"",
        "MAX_MESSAGE_BYTES: \"0\"",
        "MESSAGE_ID_REUSE: \"maybe\"",
        "LOGGING_LEVEL: \"chatty\"",
        "RETRY_CAP: \"1ms\"",
    ] {
        assert!(mistakes.iter().any(|m| m.contains(place)), "nothing about {place} in {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 7, "{mistakes:#?}");
    assert!(!Path::new(&place.path("data")).exists(), "a folder was created in spite of mistakes");
}

#[test]
fn the_log_goes_into_bounded_files_of_a_folder_that_is_made() {
    let place = SettingsFolder::new();
    let dir = place.path("log");
    let checked =
        place.check(&[("LOGGING_DIR", &dir), ("LOGGING_MODE", "async"), ("LOGGING_FORMAT", "JSON")]).unwrap();
    let files = LogFiles { dir: PathBuf::from(&dir), bytes: 16 << 20, count: 8 };
    let logging = Logging {
        level: LogLevel::Info,
        mode: LogMode::Buffered,
        format: LogFormat::Json,
        files: Some(files),
    };
    assert_eq!(checked.logging, logging);
    assert!(Path::new(&dir).is_dir(), "the folder of the log was not created");
}

#[test]
fn mistakes_about_the_log_are_told_with_their_place() {
    let place = SettingsFolder::new();
    for (name, value, why) in [
        ("LOGGING_DIR", place.path("no/log"), "does not exist, and neither does"),
        ("LOGGING_DIR", place.path("party.json"), "exists and is not a folder"),
        ("LOGGING_FORMAT", "xml".into(), "expected one of: text, json"),
        ("LOGGING_FILE_BYTES", "1KiB".into(), "must be from 65536"),
        ("LOGGING_FILES", "0".into(), "expected a whole number from 1"),
    ] {
        let mistakes = place.mistakes(&[(name, &value)]);
        assert!(
            mistakes.len() == 1 && mistakes[0].starts_with(name) && mistakes[0].contains(why),
            "{mistakes:?}"
        );
    }
}

#[test]
fn every_limit_is_a_setting_and_none_can_be_nothing() {
    let place = SettingsFolder::new();
    let limits = place
        .check(&[
            ("MAX_CONNECTIONS", "10"),
            ("MAX_CONNECTIONS_PER_ADDRESS", "5"),
            ("MAX_STREAMS", "7"),
            ("MAX_HEADER_BYTES", "8KiB"),
            ("MAX_CALL_BYTES", "1GiB"),
            ("HANDSHAKE_TIMEOUT", "1s"),
            ("STALL_TIMEOUT", "2s"),
            ("CONNECTION_AGE", "3m"),
            ("KEEPALIVE_INTERVAL", "4s"),
            ("KEEPALIVE_TIMEOUT", "5s"),
        ])
        .unwrap()
        .settings
        .limits;
    let second = Duration::from_secs(1);
    let expected = Limits {
        connections: 10,
        connections_per_address: 5,
        streams: 7,
        header_bytes: 8 << 10,
        call_bytes: 1 << 30,
        handshake_timeout: second,
        stall_timeout: 2 * second,
        connection_age: 180 * second,
        keepalive_interval: 4 * second,
        keepalive_timeout: 5 * second,
    };
    assert_eq!(limits, expected);
    for name in [
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_STREAMS",
        "MAX_HEADER_BYTES",
        "HANDSHAKE_TIMEOUT",
        "STALL_TIMEOUT",
        "CONNECTION_AGE",
        "KEEPALIVE_INTERVAL",
        "KEEPALIVE_TIMEOUT",
    ] {
        let mistakes = place.mistakes(&[(name, "0")]);
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(name), "{name}: {mistakes:?}");
    }
}

#[test]
fn the_largest_message_always_has_room_in_memory() {
    let place = SettingsFolder::new();
    for (largest, call_bytes) in [("1MiB", 64 << 20), ("256MiB", 512 << 20), ("1GiB", 2 << 30)] {
        let checked = place.check(&[("MAX_MESSAGE_BYTES", largest)]).unwrap();
        assert_eq!(checked.settings.limits.call_bytes, call_bytes, "{largest}");
    }
    let mistakes = place.mistakes(&[("MAX_MESSAGE_BYTES", "64MiB"), ("MAX_CALL_BYTES", "64MiB")]);
    assert!(mistakes[0].contains("MAX_CALL_BYTES") && mistakes[0].contains("at least"), "{mistakes:?}");
}

#[test]
fn party_is_required_and_must_be_in_the_party_file() {
    let place = SettingsFolder::new();
    let mistakes = place.mistakes(&[("PARTY", "party_c")]);
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("party_c") && mistakes[0].contains("party_a, party_b"), "{mistakes:?}");
    let file = place.path("party.json");
    let data = place.path("data");
    let raw = RawSettings::from_values([("CONFIG_FILE_PATH", file.as_str()), ("DATA_DIR", data.as_str())]);
    let mistakes = check(&raw).unwrap_err().0;
    assert!(mistakes[0].starts_with("PARTY: not set"), "{mistakes:?}");
}

/// Puts a certificate of `party_a`, signed by its own authority, into the folder of certificates; returns its root.
fn give_certificate(place: &SettingsFolder, wanted: impl FnOnce(&Authority) -> CertificateAndKey) -> String {
    let authority = Authority::new(&party("party_a"), 10).unwrap();
    let pair = wanted(&authority);
    fs::write(place.path("certs/server.crt"), &pair.certificate).unwrap();
    fs::write(place.path("certs/server.key"), &pair.key).unwrap();
    authority.pair().certificate
}

fn gateway_of_a(authority: &Authority) -> CertificateAndKey {
    authority
        .issue(&WantedCertificate::gateway(&party("party_a"), &GatewayNames::default(), 100).unwrap())
        .unwrap()
}

fn valid_between(authority: &Authority, from: i64, until: i64) -> CertificateAndKey {
    let now = OffsetDateTime::now_utc();
    let wanted = WantedCertificate::gateway(&party("party_a"), &GatewayNames::default(), 1).unwrap();
    let (from, until) = (now + time::Duration::days(from), now + time::Duration::days(until));
    authority.issue(&WantedCertificate { from, until, ..wanted }).unwrap()
}

#[track_caller]
fn one_mistake(place: &SettingsFolder, part: &str) {
    let mistakes = place.mistakes(&[]);
    assert!(mistakes.len() == 1 && mistakes[0].contains(part), "{part}: {mistakes:?}");
}

#[test]
fn certificates_in_their_folder_mean_tls() {
    let place = SettingsFolder::new();
    give_certificate(&place, gateway_of_a);
    let checked = place.check(&[("ENV", "prod")]).unwrap();
    assert!(checked.settings.own_certificate.is_some());
    let notices = checked.notices.join("\n");
    assert!(notices.contains("no certificates for party_a itself"), "{notices}");
    assert!(!notices.contains("PLAINTEXT"), "{notices}");
}

#[test]
fn a_certificate_that_cannot_serve_is_refused_with_the_reason() {
    let place = SettingsFolder::new();
    fs::write(place.path("certs/server.key"), "key").unwrap();
    one_mistake(&place, "server.crt is not; TLS needs both");
    fs::remove_file(place.path("certs/server.key")).unwrap();
    fs::write(place.path("certs/server.crt"), "certificate").unwrap();
    one_mistake(&place, "server.key is not; TLS needs both");

    give_certificate(&place, gateway_of_a);
    let other = gateway_of_a(&Authority::new(&party("party_a"), 10).unwrap());
    fs::write(place.path("certs/server.key"), other.key).unwrap();
    one_mistake(&place, "is not the key of the first certificate");
    fs::write(place.path("certs/server.key"), "nothing").unwrap();
    one_mistake(&place, "no private key in it");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(place.path("certs/server.key"), encrypted).unwrap();
    one_mistake(&place, "the key is encrypted");
    give_certificate(&place, gateway_of_a);
    fs::write(place.path("certs/server.crt"), "nothing").unwrap();
    one_mistake(&place, "no certificate in it");

    give_certificate(&place, |authority| valid_between(authority, -3, -1));
    one_mistake(&place, "the certificate expired at");
    give_certificate(&place, |authority| valid_between(authority, 1, 3));
    one_mistake(&place, "is not valid before");
    give_certificate(&place, |authority| {
        authority
            .issue(&WantedCertificate::gateway(&party("party_b"), &GatewayNames::default(), 100).unwrap())
            .unwrap()
    });
    one_mistake(&place, "is the certificate of party_b, not of party_a");
}

#[test]
fn what_an_operator_should_know_of_a_certificate_is_told() {
    let place = SettingsFolder::new();
    give_certificate(&place, |authority| valid_between(authority, -1, 20));
    let notices = place.check(&[]).unwrap().notices.join("\n");
    assert!(notices.contains("server.crt expires in ") && notices.contains("chmod 600"), "{notices}");
    fs::set_permissions(place.path("certs/server.key"), fs::Permissions::from_mode(0o600)).unwrap();
    give_certificate(&place, |authority| {
        let wanted = WantedCertificate::gateway(&party("party_a"), &GatewayNames::default(), 100).unwrap();
        authority.issue(&WantedCertificate { names: Vec::new(), ..wanted }).unwrap()
    });
    let notices = place.check(&[]).unwrap().notices.join("\n");
    assert!(notices.contains("names no party") && !notices.contains("chmod"), "{notices}");
}

/// openssl's key formats: PKCS#1 for RSA, SEC1 for elliptic curves, PKCS#8 for both.
#[test]
fn keys_of_every_usual_form_are_taken() {
    let place = SettingsFolder::new();
    let certs = place.path("certs");
    let openssl = |arguments: &str| {
        let ran =
            std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(&certs).output();
        let ran = ran.expect("openssl runs; install it: this test needs it");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    let make =
        "req -x509 -key server.key -out server.crt -days 90 -subj /CN=a -addext subjectAltName=DNS:party_a";
    for key in [
        "genrsa -traditional -out server.key 2048",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out server.key",
        "ecparam -name prime256v1 -genkey -noout -out server.key",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out server.key",
        "genpkey -algorithm ED25519 -out server.key",
    ] {
        openssl(key);
        openssl(make);
        let checked = place.check(&[]);
        assert!(checked.is_ok_and(|c| c.settings.own_certificate.is_some()), "{key}");
    }
}

#[test]
fn more_than_the_process_may_take_is_told_with_the_settings_that_take_it() {
    let place = SettingsFolder::new();
    let settings = place.check(&[]).unwrap().settings;
    let told = |memory, peers| {
        let raw = RawSettings::default();
        let mut check = Checker { raw: &raw, mistakes: Vec::new(), notices: Vec::new(), memory };
        check.memory(&settings, peers);
        check.notices
    };
    assert!(told(None, 9).is_empty() && told(Some(64 << 30), 9).is_empty());
    let notices = told(Some(256 << 20), 2);
    for part in ["beyond 256 MiB of memory", "MAX_CALL_BYTES", "each of 2 peers (MAX_IN_FLIGHT_BYTES)"] {
        assert!(notices.len() == 1 && notices[0].contains(part), "{notices:?}");
    }
}

/// systemd does not restart a program that exits with 2, and the next try would have succeeded.
#[test]
fn what_the_system_fails_for_a_moment_is_nobodys_mistake() {
    let place = SettingsFolder::new();
    // On Linux, reading at address 0 fails with EIO.
    let failing = ("CONFIG_FILE_PATH", "/proc/self/mem");
    let failed = place.check(&[failing]).unwrap_err();
    assert!(failed.all_pass(), "{failed}");
    assert!(
        failed.to_string().contains("may pass") && failed.to_string().contains("/proc/self/mem"),
        "{failed}"
    );
    let both = place.check(&[failing, ("RETRY_CAP", "1ms")]).unwrap_err();
    assert!(!both.all_pass() && both.to_string().starts_with("2 mistakes"), "{both}");
    for missing in [("CONFIG_FILE_PATH", "/no/such/file"), ("DATA_DIR", "/no/such/folder")] {
        assert!(!place.check(&[missing]).unwrap_err().all_pass(), "{missing:?}");
    }
}

#[test]
fn production_refuses_plaintext() {
    let place = SettingsFolder::new();
    for env in ["prod", "production", "PROD-eu"] {
        let mistakes = place.mistakes(&[("ENV", env)]);
        assert!(mistakes.len() == 1 && mistakes[0].contains("demands TLS"), "{mistakes:?}");
    }
    assert!(place.check(&[("ENV", "dev")]).is_ok());
}

#[cfg(feature = "redis")]
#[test]
fn redis_takes_the_place_of_the_data_folder_and_its_password_is_never_shown() {
    let place = SettingsFolder::new();
    let nowhere = [("REDIS_URL", "redis://:hunter2@host/1"), ("DATA_DIR", "/no/such/folder")];
    let checked = place.check(&nowhere).unwrap();
    let options = checked.settings.redis.clone().unwrap();
    assert_eq!(
        (options.url.to_string().as_str(), options.party.as_str()),
        ("redis://host:6379/1", "party_a")
    );
    assert_eq!((options.timeout, options.wait_replicas), (Duration::from_secs(5), 0));
    assert!(!options.allow_volatile && !options.strict);
    assert!(!format!("{checked:?}").contains("hunter2"));

    let pem = place.path("certs");
    fs::write(format!("{pem}/client.crt"), "x").unwrap();
    let wrong = [
        ("REDIS_URL", "redis://:hunter2@host:port"),
        ("REDIS_WAIT_REPLICAS", "101"),
        ("REDIS_TIMEOUT", "0"),
        ("REDIS_ALLOW_VOLATILE", "maybe"),
        ("REDIS_PEM_PATH", pem.as_str()),
    ];
    assert!(!place.mistakes(&wrong).iter().any(|mistake| mistake.contains("hunter2")));
    for (n, (name, _)) in wrong.iter().enumerate() {
        let url = ("REDIS_URL", if n == 0 { wrong[0].1 } else { "rediss://host" });
        let mistakes = place.mistakes(&[url, wrong[n]]);
        assert!(mistakes.len() == 1 && mistakes[0].contains(name), "{mistakes:?}");
    }
}

#[cfg(feature = "redis")]
#[test]
fn the_url_of_redis_can_come_from_a_file_and_is_never_shown() {
    let place = SettingsFolder::new();
    let file = place.path("redis-url");
    fs::write(&file, "\u{feff}redis://:hunter2@host/1\r\n").unwrap();
    let checked = place.check(&[("REDIS_URL_FILE", &file)]).unwrap();
    assert_eq!(checked.settings.redis.as_ref().unwrap().url.to_string(), "redis://host:6379/1");
    assert!(!format!("{checked:?}").contains("hunter2"));
    assert!(!Path::new(&place.path("data")).exists(), "the data folder of an embedded store was made");

    let both = place.mistakes(&[("REDIS_URL_FILE", &file), ("REDIS_URL", "redis://:hunter2@host")]);
    assert!(both.len() == 1 && both[0].contains("give one of the two"), "{both:?}");
    fs::write(&file, "redis://:hunter2@host:port\n").unwrap();
    let wrong = place.mistakes(&[("REDIS_URL_FILE", &file)]);
    assert!(wrong[0].starts_with("REDIS_URL_FILE: ") && !wrong[0].contains("hunter2"), "{wrong:?}");
    fs::write(&file, "a\nb\n").unwrap();
    assert!(place.mistakes(&[("REDIS_URL_FILE", &file)])[0].contains("must hold one line"));
    assert!(place.mistakes(&[("REDIS_URL_FILE", "/no/such/file")])[0].contains("cannot read /no/such/file"));
    let party = party("party_a");
    fs::write(&file, "redis://:hunter2@host/1").unwrap();
    assert!(
        redis_options(&format!("file:{file}"), &party)
            .is_ok_and(|o| o.url.to_string() == "redis://host:6379/1")
    );
}

#[test]
fn a_data_folder_that_cannot_be_one_is_refused() {
    let place = SettingsFolder::new();
    fs::write(place.path("data"), "a file").unwrap();
    let mistakes = place.mistakes(&[]);
    assert!(mistakes[0].contains("is not a folder"), "{mistakes:?}");
    let deep = place.path("no/such/folder");
    let mistakes = place.mistakes(&[("DATA_DIR", deep.as_str())]);
    assert!(mistakes[0].contains("does not exist, and neither does"), "{mistakes:?}");
}

#[test]
fn every_setting_has_a_flag_and_names_are_unique() {
    let mut command = <RawSettings as clap::Args>::augment_args(clap::Command::new("serve"));
    let help = command.render_long_help().to_string();
    for setting in SETTINGS {
        let flag = format!("--{}", setting.name.to_ascii_lowercase().replace('_', "-"));
        assert!(help.contains(&flag), "{flag} is missing in the help");
    }
    command.debug_assert();
}

#[test]
fn another_party_without_connections_is_worth_a_line_and_our_own_is_not() {
    let place = SettingsFolder::new();
    fs::write(place.path("party.json"), r#"{"party_a": {}, "party_b": {"petnet": []}}"#).unwrap();
    let notices = place.check(&[]).unwrap().notices;
    assert_eq!(notices.iter().filter(|line| line.contains("has no connections")).count(), 1, "{notices:?}");
    assert!(notices.iter().any(|line| line.contains("party_b has no connections")));
}
