//! The quickstart as a newcomer meets it: its story, its copy-and-paste pair, its end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_mins(2);

struct Quickstart {
    child: Child,
    lines: Receiver<String>,
    told: Vec<String>,
}

impl Quickstart {
    fn start(temporary: &tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_petnet"))
            .arg("quickstart")
            .args(arguments)
            // Settings of the machine must not reach the gateways.
            .env("REDIS_URL", "redis://nowhere")
            .env("ENV", "production")
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
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
        Self { child, lines, told: Vec::new() }
    }

    fn until(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.told.last().is_some_and(|line| line.contains(text)) {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.told.push(line),
                Err(why) => panic!("no {text:?} ({why}) in:\n{}", self.told.join("\n")),
            }
        }
    }

    fn line(&self, text: &str) -> &str {
        let found = self.told.iter().find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} in:\n{}", self.told.join("\n")))
    }

    fn addresses(&self) -> [String; 2] {
        ["party_a serves on ", "party_b serves on "].map(|text| {
            let line = self.line(text);
            let address = line.split(text).nth(1).unwrap();
            address.split(' ').next().unwrap().to_string()
        })
    }

    fn end(&mut self) -> Option<i32> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn nobody_listens(addresses: &[String]) {
    let end = Instant::now() + DEADLINE;
    for address in addresses {
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < end, "a gateway on {address} outlived the quickstart");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn left_in(temporary: &tempfile::TempDir) -> Vec<PathBuf> {
    std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_copy_and_paste_pair_works_and_ctrl_c_ends_everything() {
    goes_well(&[]);
}

#[test]
fn so_it_does_with_tls() {
    goes_well(&["--tls"]);
}

fn goes_well(arguments: &[&str]) {
    let temporary = tempfile::tempdir().unwrap();
    let mut quickstart = Quickstart::start(&temporary, arguments);
    quickstart.until("Ctrl-C stops both.");
    quickstart.line("all 400 of 400 accepted messages are at party_b and match");
    shell(quickstart.line("echo hello |"));
    assert_eq!(shell(quickstart.line(" recv --gateway")), "hello\n");
    let addresses = quickstart.addresses();
    shell(&format!("kill -s INT {}", quickstart.child.id()));
    assert_eq!(quickstart.end(), Some(0));
    nobody_listens(&addresses);
    assert!(left_in(&temporary).is_empty(), "{:?} was left behind", left_in(&temporary));
}

#[test]
fn no_gateway_outlives_a_killed_quickstart() {
    let temporary = tempfile::tempdir().unwrap();
    let mut quickstart = Quickstart::start(&temporary, &[]);
    quickstart.until("Ctrl-C stops both.");
    let addresses = quickstart.addresses();
    quickstart.child.kill().unwrap();
    nobody_listens(&addresses);
}

#[test]
fn it_keeps_a_folder_that_was_asked_for_and_takes_only_an_empty_one() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("kept");
    let arguments = ["--exit", "--dir", folder.to_str().unwrap()];
    let mut quickstart = Quickstart::start(&temporary, &arguments);
    quickstart.until("delivered as soon as the other side is back");
    assert_eq!(quickstart.end(), Some(0));
    for name in ["party.json", "party_a", "party_b", "party_a.log", "party_b.log"] {
        assert!(folder.join(name).exists(), "{name} is missing");
    }
    let mut again = Quickstart::start(&temporary, &arguments);
    assert_eq!(again.end(), Some(1));
}
