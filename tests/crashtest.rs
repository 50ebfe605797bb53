//! The crash test as an operator meets it: its lines, its table, its end.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// A round takes a second or two; the machine may be busy.
const DEADLINE: Duration = Duration::from_mins(5);

struct Crashtest {
    child: Child,
    lines: Receiver<String>,
    told: String,
}

impl Crashtest {
    fn start(temporary: &tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_petnet"))
            .arg("crashtest")
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(1000);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, told: String::new() }
    }

    /// Reads on until a round that put something at risk.
    fn until_at_risk(&mut self) {
        loop {
            self.until(Some(" at risk"));
            let round = self.told.lines().last().unwrap();
            let (before, _) = round.split_once(" at risk").unwrap();
            if !before.ends_with(" 0") {
                return;
            }
        }
    }

    /// Reads on until a line with `text`; `None`: to the end.
    fn until(&mut self, text: Option<&str>) {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.told.push_str(&(line.clone() + "\n"));
                    if text.is_some_and(|text| line.contains(text)) {
                        return;
                    }
                }
                Err(_) if text.is_none() && Instant::now() < end => return,
                Err(why) => panic!("no {text:?} ({why}) in:\n{}", self.told),
            }
        }
    }

    /// Exit code and stderr.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }

    fn row(&self, name: &str) -> u64 {
        let row = self.told.lines().find(|line| line.trim_start().starts_with(name));
        let row = row.unwrap_or_else(|| panic!("no row {name:?} in:\n{}", self.told));
        row.trim_start()[name.len()..].split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Crashtest {
    fn drop(&mut self) {
        // It may have ended already. The gateways end with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn left_in(temporary: &tempfile::TempDir) -> Vec<PathBuf> {
    std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn killed_gateways_lose_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("kept");
    let mut crashtest =
        Crashtest::start(&temporary, &["--rounds", "4", "--seed", "7", "--dir", folder.to_str().unwrap()]);
    crashtest.until(None);
    let (code, errors) = crashtest.end();
    let told = &crashtest.told;
    assert_eq!(code, Some(0), "{told}{errors}");
    assert_eq!(told.lines().filter(|line| line.starts_with("round ")).count(), 4, "{told}");
    assert_eq!(
        ["both killed", "party_b killed", "one stopped in order"].map(|row| crashtest.row(row)),
        [2, 1, 1]
    );
    for text in [
        "lost                               0",
        "duplicated to the reader           0",
        "corrupt                            0",
        "Nothing that was accepted was lost",
        "power loss",
    ] {
        assert!(told.contains(text), "no {text:?} in:\n{told}");
    }
    for party in ["party_a", "party_b"] {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_petnet"));
        let output = verify.arg("verify").arg(folder.join(party)).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn ctrl_c_ends_it_with_the_table_so_far() {
    let temporary = tempfile::tempdir().unwrap();
    let mut crashtest = Crashtest::start(&temporary, &["--rounds", "1000", "--seed", "7"]);
    // Before that, it would rightly say that it proved nothing.
    crashtest.until_at_risk();
    let kill = format!("kill -s INT {}", crashtest.child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    crashtest.until(None);
    let (code, errors) = crashtest.end();
    assert!(crashtest.told.contains("SIGINT: ended early"), "{}", crashtest.told);
    assert!(crashtest.row("rounds") >= 1 && crashtest.row("lost") == 0, "{}", crashtest.told);
    assert_eq!(code, Some(0), "{}{errors}", crashtest.told);
    assert!(left_in(&temporary).is_empty(), "{:?} was left behind", left_in(&temporary));
}

#[test]
fn wrong_arguments_are_refused_before_anything_starts() {
    let temporary = tempfile::tempdir().unwrap();
    std::fs::write(temporary.path().join("file"), "").unwrap();
    let folder = temporary.path().to_str().unwrap();
    for (arguments, code, wanted) in [
        (&["--rounds", "0"][..], 2, "0 is not in 1.."),
        (&["--minutes", "1", "--rounds", "1"], 2, "cannot be used with"),
        (&["--seed", "x"], 2, "invalid digit"),
        (&["--dir", folder], 1, "is not empty"),
    ] {
        let mut crashtest = Crashtest::start(&temporary, arguments);
        let (found, errors) = crashtest.end();
        assert_eq!(found, Some(code), "{errors}");
        assert!(errors.contains(wanted), "no {wanted:?} in: {errors}");
    }
}
