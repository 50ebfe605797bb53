#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use super::*;

const PARTIES: &str = r#"{"party_a": {"petnet": []}, "party_b": {"petnet": [{"url": "b:1235"}]}}"#;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("party.json"), PARTIES).unwrap();
        fs::create_dir(dir.path().join("certs")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }

    fn check(&self, more: &[(&str, &str)]) -> Result<Checked, Mistakes> {
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
        self.check(more).unwrap_err().0
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let place = Place::new();
    let checked = place.check(&[]).unwrap();
    let settings = checked.settings;
    assert_eq!(settings.listen_addr.to_string(), "[::]:1235");
    assert_eq!(settings.http_listen_addr.to_string(), "127.0.0.1:1236");
    assert_eq!(settings.message_ttl, Some(HOUR));
    assert_eq!(settings.send_ttl, Some(7 * DAY));
    assert_eq!(settings.recv_wait, Duration::from_secs(1));
    assert_eq!(settings.max_message_bytes, 256 << 20);
    assert_eq!(settings.store_max_bytes, 0);
    assert_eq!(settings.id_reuse, IdReuse::Replace);
    assert_eq!(settings.shutdown_grace, Duration::from_secs(10));
    assert_eq!(settings.max_connections, 1024);
    assert_eq!((settings.max_in_flight, settings.max_in_flight_bytes), (128, 64 << 20));
    assert_eq!(settings.delivery_timeout, Duration::from_mins(1));
    assert_eq!(settings.retry_cap, Duration::from_secs(30));
    assert_eq!(settings.max_waiting, 16384);
    assert_eq!(settings.tls_client_auth, TlsClientAuth::Required);
    assert_eq!(checked.logging, Logging { level: LogLevel::Info, mode: LogMode::Direct });
    assert!(checked.notices.iter().any(|line| line.contains("PLAINTEXT")), "{:?}", checked.notices);
    assert!(settings.data_dir.is_dir(), "the data folder was not created");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let place = Place::new();
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
    // `PARTY` of the fixture stands, for an empty value is none; everything else is wrong.
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
fn party_is_required_and_must_be_in_the_party_file() {
    let place = Place::new();
    let mistakes = place.mistakes(&[("PARTY", "party_c")]);
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("party_c") && mistakes[0].contains("party_a, party_b"), "{mistakes:?}");
    let file = place.path("party.json");
    let data = place.path("data");
    let raw = RawSettings::from_values([("CONFIG_FILE_PATH", file.as_str()), ("DATA_DIR", data.as_str())]);
    let mistakes = check(&raw).unwrap_err().0;
    assert!(mistakes[0].starts_with("PARTY: not set"), "{mistakes:?}");
}

#[test]
fn certificates_are_refused_rather_than_ignored() {
    let place = Place::new();
    fs::write(place.path("certs/server.key"), "key").unwrap();
    let mistakes = place.mistakes(&[]);
    assert!(
        mistakes[0].contains("server.key") && mistakes[0].contains("cannot serve TLS yet"),
        "{mistakes:?}"
    );
}

#[test]
fn production_refuses_plaintext() {
    let place = Place::new();
    for env in ["prod", "production", "PROD-eu"] {
        let mistakes = place.mistakes(&[("ENV", env)]);
        assert!(mistakes.len() == 1 && mistakes[0].contains("demands TLS"), "{mistakes:?}");
    }
    assert!(place.check(&[("ENV", "dev")]).is_ok());
}

#[test]
fn redis_is_refused_and_its_password_not_shown() {
    let place = Place::new();
    let mistakes = place.mistakes(&[("REDIS_URL", "redis://:hunter2@host/0")]);
    assert!(mistakes.len() == 1 && mistakes[0].contains("only the embedded store"), "{mistakes:?}");
    assert!(!mistakes[0].contains("hunter2"));
}

#[test]
fn a_data_folder_that_cannot_be_one_is_refused() {
    let place = Place::new();
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
    let place = Place::new();
    fs::write(place.path("party.json"), r#"{"party_a": {}, "party_b": {"petnet": []}}"#).unwrap();
    let notices = place.check(&[]).unwrap().notices;
    assert_eq!(notices.iter().filter(|line| line.contains("has no connections")).count(), 1, "{notices:?}");
    assert!(notices.iter().any(|line| line.contains("party_b has no connections")));
}
