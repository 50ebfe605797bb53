#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn read(text: &str) -> Result<(Parties, Vec<String>), Vec<Mistake>> {
    Parties::parse(text, Path::new("parties/party.json"))
}

fn id(name: &str) -> PartyId {
    PartyId::new(name).unwrap()
}

#[test]
fn petnets_own_file_is_read() {
    let (parties, notices) = read(
        r#"{
          "party_a": {
            "petnet": [{"type": 1, "url": "192.168.0.1:1235",
                        "certificates": "-----BEGIN CERTIFICATE-----", "whitelist": ["party_b"]},
                       {"type": 2, "url": "[::1]:80"}],
            "petplatform": {"url": "x"}
          },
          "party_b": {"petnet": [{"type": 0, "url": "b.example.org:443", "certificates": ""}], "petplatform": []}
        }"#,
    )
    .unwrap();
    let a = parties.connections(&id("party_a"));
    assert_eq!(a.len(), 2);
    assert_eq!((a[0].kind, a[0].url.as_str()), (ConnectionType::Direct, "192.168.0.1:1235"));
    assert_eq!((a[1].kind, a[1].whitelist.as_slice()), (ConnectionType::Proxy, ["*".to_string()].as_slice()));
    assert_eq!(parties.connections(&id("party_b"))[0].kind, ConnectionType::Other);
    assert!(parties.contains(&id("party_b")) && !parties.contains(&id("party_c")));
    assert!(parties.connections(&id("party_c")).is_empty());
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("petplatform") && notices[0].contains("2 times"));
}

#[test]
fn the_whitelist_is_that_of_all_our_connections() {
    let (parties, _) = read(
        r#"{"a": {"petnet": [{"url": "a:1", "whitelist": ["b"]}, {"url": "a:2", "whitelist": ["c"]}]},
            "open": {"petnet": [{"url": "o:1"}]}, "bare": {}}"#,
    )
    .unwrap();
    for (own, sender, admits) in
        [("a", "b", true), ("a", "c", true), ("a", "d", false), ("open", "d", true), ("bare", "d", true)]
    {
        assert_eq!(parties.whitelist_admits(&id(own), Some(&id(sender))), admits, "{sender} at {own}");
    }
}

#[test]
fn all_mistakes_come_at_once_with_their_places() {
    let mistakes = read(
        r#"{
  "party_a": {"petnet": {"url": "a:1"}},
  "party_b": {"petnet": [
    {"type": 7, "url": "b"},
    {"type": "1", "url": "http://b:80", "whitelist": ["ok", 5]},
    {"certificates": "no/such/file.pem"},
    "b:1235"
  ]},
  "party_b": {},
  "": 3
}"#,
    )
    .unwrap_err();
    for wanted in [
        "parties/party.json: party_a.petnet: expected a list of connections, [...] (line 2, column 25)",
        "party_b.petnet[0].type: expected 1 (direct), 2 (proxy) or 0 (other) (line 4, column 14)",
        "party_b.petnet[0].url: \"b\": expected host:port, and there is no port (line 4, column 24)",
        "party_b.petnet[1].type: invalid type: string \"1\", expected a number (line 5,",
        "party_b.petnet[1].url: \"http://b:80\": expected host:port without a scheme, \"b:80\" instead of",
        "party_b.petnet[1].whitelist[1]: invalid type",
        "party_b.petnet[2].certificates: neither PEM text nor a file that can be read: parties/no/such/file.pem",
        "party_b.petnet[2].url: missing",
        "party_b.petnet[3]: expected an object",
        "party_b: this key is there twice",
        ": expected an object, {...} (line 10, column 7)",
        "the party id is empty",
    ] {
        assert!(mistakes.iter().any(|m| m.contains(wanted)), "no {wanted:?} in {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 12, "{mistakes:#?}");
}

#[test]
fn broken_json_names_line_and_column() {
    let mistakes = read("{\n  \"party_a\": {\n").unwrap_err();
    assert!(mistakes.len() == 1 && mistakes[0].contains("line 3 column 0"), "{mistakes:?}");
    assert!(read("").is_err());
    assert!(read("[]").is_err());
    assert!(read("{} trailing").is_err());
}

#[test]
fn urls_are_host_and_port() {
    for good in [
        "a:1",
        "a.:1",
        "xn--bcher-kva.example:1235",
        "a-b.example.org:65535",
        "10.0.0.1:1235",
        "[::1]:1235",
        "my_service:1235",
    ] {
        assert!(url::check(good).is_ok(), "{good} was refused");
    }
    for bad in [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:+1",
        "a:x",
        "::1:1235",
        "[::1]",
        "[x]:1",
        "a b:1",
        "a/b:1",
        "https://a:1",
        "user@a:1",
        "bücher.example:1235",
        "a..b:1",
        ".a:1",
        "a%41:1",
        "a\u{200b}:1",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:1",
    ] {
        assert!(url::check(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn certificates_are_read_from_a_path_beside_the_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(dir.path().join("junk.pem"), "junk").unwrap();
    let file = dir.path().join("party.json");
    let text = |pem: &str| format!(r#"{{"a": {{"petnet": [{{"url": "a:1", "certificates": "{pem}"}}]}}}}"#);
    let (parties, _) = Parties::parse(&text("ca.pem"), &file).unwrap();
    assert!(parties.connections(&id("a"))[0].certificates.starts_with(PEM_BEGIN));
    let mistakes = Parties::parse(&text("junk.pem"), &file).unwrap_err();
    assert!(mistakes[0].contains("holds no PEM certificate"), "{mistakes:?}");
}

/// A misspelt `whitelist` would let everybody deliver.
#[test]
fn a_key_that_a_connection_does_not_have_is_a_mistake_with_the_one_that_was_meant() {
    let text = |key: &str| {
        format!(r#"{{"a": {{"petnet": [{{"url": "a:1",\n "{key}": ["b"]}}]}}}}"#).replace("\\n", "\n")
    };
    for (key, meant) in [
        ("whitelst", "whitelist"),
        ("Whitelist", "whitelist"),
        ("white_list", "whitelist"),
        ("certificate", "certificates"),
        ("URL", "url"),
        ("typ", "type"),
    ] {
        let mistakes = read(&text(key)).unwrap_err();
        let expected = format!("a.petnet[0].{key}: not known here; did you mean {meant:?}?");
        assert!(mistakes.len() == 1 && mistakes[0].contains(&expected), "{mistakes:?}");
        assert!(mistakes[0].contains("line 2, column"), "{mistakes:?}");
    }
    // If this were ignored, so would everything in it be.
    for key in ["petnett", "PETNet", "pet_net"] {
        let mistakes =
            read(&format!(r#"{{"a": {{"{key}": [{{"url": "a:1", "whitelist": ["b"]}}]}}}}"#)).unwrap_err();
        let expected = format!("a.{key}: not known here; did you mean \"petnet\"?");
        assert!(mistakes.len() == 1 && mistakes[0].contains(&expected), "{mistakes:?}");
    }
    let mistakes = read(&text("comment")).unwrap_err();
    assert!(mistakes[0].contains("not known here; a connection has: type, url"), "{mistakes:?}");
}

#[test]
fn a_scheme_is_refused_and_the_way_out_is_said() {
    for scheme in ["http", "https", "grpc"] {
        let mistakes = read(&format!(r#"{{"a": {{"petnet": [{{"url": "{scheme}://a:1"}}]}}}}"#)).unwrap_err();
        let part = format!("without a scheme, \"a:1\" instead of {scheme}://");
        assert!(mistakes[0].contains(&part) && mistakes[0].contains("PEM_PATH"), "{mistakes:?}");
    }
}

#[test]
fn byte_order_marks_are_skipped_in_the_party_file_and_in_what_it_names() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), "\u{feff}-----BEGIN CERTIFICATE-----\n").unwrap();
    let file = dir.path().join("party.json");
    std::fs::write(
        &file,
        "\u{feff}{\"a\": {\"petnet\": [{\"url\": \"a:1\", \"certificates\": \"ca.pem\"}]}}",
    )
    .unwrap();
    let (parties, _) = Parties::load(&file).unwrap();
    assert!(parties.connections(&id("a"))[0].certificates.starts_with(PEM_BEGIN));
    std::fs::write(&file, b"\xff\xfe{\0}\0").unwrap();
    let mistakes = Parties::load(&file).unwrap_err();
    assert!(mistakes[0].contains("UTF-16; save it as UTF-8"), "{mistakes:?}");
}
