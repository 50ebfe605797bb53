//! What helps at the command line: help, suggestions, completions, manual pages.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "used by others")]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use common::{petnet, run};

/// The sub-commands that `petnet WORDS... --help` lists.
fn listed(words: &[&str]) -> Vec<String> {
    let (code, out, _) = run(petnet(words).arg("--help"));
    assert_eq!(code, Some(0));
    let help = String::from_utf8(out).unwrap();
    let Some((_, below)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names = below.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// All sub-commands, as words: `["certs", "init"]`.
fn all() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for name in listed(&[]) {
        let below = listed(&[&name]);
        found.extend(below.into_iter().map(|sub| vec![name.clone(), sub]));
        found.push(vec![name]);
    }
    assert!(found.contains(&vec!["certs".into(), "init".into()]) && found.contains(&vec!["serve".into()]));
    found
}

#[test]
fn a_wrong_word_gets_a_suggestion_at_every_level() {
    for (words, suggested) in [
        (vec!["healht"], "'health'"),
        (vec!["certs", "shwo"], "'show'"),
        (vec!["serve", "--lissten-addr", "x"], "'--listen-addr'"),
        (vec!["certs", "init", "--prty", "x"], "'--party'"),
        (vec!["completions", "bsh"], "'bash'"),
    ] {
        let (code, out, err) = run(&mut petnet(&words));
        assert_eq!((code, out.as_slice()), (Some(2), b"".as_slice()), "{words:?}");
        assert!(err.contains("similar") && err.contains(suggested), "{words:?}: {err}");
    }
}

fn completions(shell: &str) -> String {
    let (code, out, err) = run(&mut petnet(&["completions", shell]));
    assert_eq!(code, Some(0), "{err}");
    String::from_utf8(out).unwrap()
}

#[test]
fn completions_know_every_sub_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = completions(shell);
        let words: BTreeSet<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '-')).collect();
        for sub in all() {
            assert!(sub.iter().all(|word| words.contains(word.as_str())), "{shell} does not know {sub:?}");
        }
        assert!(words.contains("listen-addr") || words.contains("--listen-addr"), "{shell}");
    }
}

#[test]
fn bash_completes_our_words() {
    let script = completions("bash")
        + r#"
        COMP_WORDS=(petnet "${@:1}")
        COMP_CWORD=$#
        _petnet petnet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    for (words, wanted) in [
        (vec!["hea"], "health"),
        (vec!["certs", "sh"], "show"),
        (vec!["serve", "--listen-a"], "--listen-addr"),
    ] {
        let bash = Command::new("bash")
            .args(["--norc", "-c", &script, "bash"])
            .args(&words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&bash.stdout).into_owned();
        assert_eq!(said.lines().collect::<Vec<_>>(), [wanted], "{}", String::from_utf8_lossy(&bash.stderr));
    }
}

#[test]
fn every_sub_command_has_a_manual_page_with_its_example() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    let (code, _, err) = run(petnet(&["man"]).arg(&folder).env("REDIS_URL", "redis://:hunter2@host"));
    assert_eq!(code, Some(0), "{err}");
    let mut wanted: BTreeSet<String> =
        all().iter().map(|sub| format!("petnet-{}.1", sub.join("-"))).collect();
    for (page, words) in all().iter().map(|sub| (format!("petnet-{}.1", sub.join("-")), sub.join(" "))) {
        let text = fs::read_to_string(folder.join(&page)).unwrap().replace("\\-", "-");
        assert!(
            text.contains(".TH petnet") && text.contains(&format!("  petnet {words}")),
            "{page}:\n{text}"
        );
        assert!(!text.contains("hunter2"), "{page}");
    }
    wanted.insert("petnet.1".into());
    let found = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.collect::<BTreeSet<_>>(), wanted);
    let serve = fs::read_to_string(folder.join("petnet-serve.1")).unwrap();
    assert!(serve.contains("DATA_DIR"), "{serve}");

    let (code, _, err) = run(petnet(&["man"]).arg(dir.path().join("no/such")));
    assert!(code == Some(1) && err.contains("cannot make the folder") && err.contains("no/such"), "{err}");
}
