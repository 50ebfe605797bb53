//! One gateway: a process that can be started, broken and ended, and the log of all its lives.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use petnet_protos::health::HealthCheckRequest;
use petnet_protos::health::health_check_response::ServingStatus;
use petnet_protos::health::health_client::HealthClient;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, timeout};
use tonic_health::pb::health_check_response as standard;
use tonic_health::pb::health_client::HealthClient as StandardHealth;

use crate::clients::Client;
use crate::ledger::Party;
use crate::streams::Streams;
use crate::{DEADLINE, until};

const ONE_ASK: Duration = Duration::from_secs(2);
const TAIL_LINES: usize = 40;

/// What a start says that it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Messages that wait for their peer.
    pub pending: u64,
    /// Messages that wait for their reader.
    pub mailbox: u64,
    /// Messages that were given up.
    pub dead_letters: u64,
    /// Damaged places.
    pub damaged: u64,
    /// From the start of the process until it served.
    pub took: Duration,
}

/// A gateway, running or not.
#[derive(Debug)]
pub struct Gateway {
    party: Party,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    settings: BTreeMap<&'static str, String>,
    wrapper: Vec<String>,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// It stops when this is closed. Kept apart from the child: waiting for a child closes its stdin.
    lifeline: Option<ChildStdin>,
    spawned: Instant,
    /// Where its own part of the log begins.
    log_from: usize,
}

impl Gateway {
    pub(super) fn new(party: Party, port: u16, folder: &Path) -> Self {
        Self::named(party, party.name(), port, folder)
    }

    /// One of several of a party: `name` tells its log and its data folder from theirs.
    pub(crate) fn named(party: Party, name: &str, port: u16, folder: &Path) -> Self {
        let settings = BTreeMap::from([
            ("CONFIG_FILE_PATH", folder.join("party.json").display().to_string()),
            ("PEM_PATH", folder.join("no-certificates").display().to_string()),
            ("HTTP_LISTEN_ADDR", "off".into()),
            ("PARTY", party.name().into()),
            ("LISTEN_ADDR", format!("127.0.0.1:{port}")),
            ("RETRY_CAP", "1s".into()),
            ("SHUTDOWN_GRACE", "5s".into()),
        ]);
        let data = folder.join(name);
        let log = folder.join(format!("{name}.log"));
        Self { party, port, data, log, settings, wrapper: Vec::new(), process: None }
    }

    /// Whose.
    pub fn party(&self) -> Party {
        self.party
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Puts the data folder of the next lives elsewhere.
    pub fn keep_data_in(&mut self, folder: &Path) {
        self.data = folder.join(self.party.name());
    }

    /// A setting for the next lives.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.settings.insert(name, value.into());
    }

    /// Runs the next lives under another program: its words, to which those of the gateway are added.
    pub fn run_under(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::of(&self.address())
    }

    /// A client of it that sends and reads in pieces.
    pub fn streams(&self) -> Streams {
        Streams::of(&self.address())
    }

    /// Starts it, unless it runs already; does not wait for anything.
    pub fn spawn(&mut self) {
        if self.process.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let words = self.wrapper.iter().map(PathBuf::from).chain([super::program().into(), "serve".into()]);
        let words: Vec<PathBuf> = words.collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("--stop-with-stdin")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.settings)
            .env("DATA_DIR", &self.data)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let log_from = self.whole_log().len();
        let mut child =
            command.spawn().unwrap_or_else(|why| panic!("cannot run {}: {why}", words[0].display()));
        let lifeline = child.stdin.take();
        self.process = Some(Process { child, lifeline, spawned: Instant::now(), log_from });
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) -> Found {
        self.spawn();
        self.serving().await
    }

    /// Waits until it serves; fails when it ends instead.
    pub async fn serving(&mut self) -> Found {
        let party = self.party.name();
        let name = format!("{party} serves");
        until(&name, async || {
            if let Some(status) = self.has_ended() {
                panic!("{party} ended while starting ({status}):\n{}", self.log_tail());
            }
            self.is_serving().await.then_some(())
        })
        .await;
        let took = self.process.as_ref().unwrap().spawned.elapsed();
        let found = until("the start line is in the log", async || found_in(&self.log())).await;
        Found { took, ..found }
    }

    /// Starts it and waits until it is healthy, whatever it found.
    pub async fn healthy(&mut self) {
        self.spawn();
        let address = self.address();
        until(&format!("{} at {address} is healthy", self.party.name()), async || {
            if let Some(status) = self.has_ended() {
                panic!("{address} ended while starting ({status}):\n{}", self.log_tail());
            }
            (self.health().await == Some(standard::ServingStatus::Serving)).then_some(())
        })
        .await;
    }

    /// What the standard health service of gRPC says; `None` without an answer.
    pub async fn health(&self) -> Option<standard::ServingStatus> {
        self.health_of("").await
    }

    /// The same of one of its services.
    pub async fn health_of(&self, service: &str) -> Option<standard::ServingStatus> {
        let endpoint = crate::clients::endpoint(&self.address());
        let ask = async {
            let channel = endpoint.connect().await.ok()?;
            let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
            StandardHealth::new(channel).check(request).await.ok()
        };
        timeout(ONE_ASK, ask).await.ok().flatten().map(|answer| answer.into_inner().status())
    }

    /// Whether its health says so now.
    pub async fn is_serving(&self) -> bool {
        let endpoint = crate::clients::endpoint(&self.address());
        let ask = async {
            let channel = endpoint.connect().await.ok()?;
            HealthClient::new(channel).check(HealthCheckRequest::default()).await.ok()
        };
        let answer = timeout(ONE_ASK, ask).await.ok().flatten();
        answer.is_some_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// SIGTERM; returns when it is gone. Must end in order.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}:\n{}", self.party.name(), self.log_tail());
    }

    /// Asks it to stop in order, in a way that passes what it runs under.
    pub fn close_stdin(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.lifeline.take());
        }
    }

    /// A signal to it, and to what it runs under.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.process.as_ref().and_then(|process| process.child.id()) {
            // It may have ended by itself.
            kill_process_group(Pid::from_raw(pid.cast_signed()).unwrap(), signal).ok();
        }
    }

    /// Stops it in the middle of what it does; returns when none of its threads runs any more. One that is in a system
    /// call of the disk stays there, and goes no further when that ends.
    pub async fn halt(&self) {
        self.signal(Signal::STOP);
        let Some(pid) = self.process.as_ref().and_then(|process| process.child.id()) else { return };
        let halted = async {
            while runs(pid) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, halted).await.expect("it stops");
    }

    /// How it ended, when it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.child.try_wait().unwrap()
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it was started");
        let ended = timeout(DEADLINE, process.child.wait()).await;
        let status = ended
            .unwrap_or_else(|_| panic!("{} does not end:\n{}", self.party.name(), self.log_tail()))
            .unwrap();
        drop(process.lifeline);
        status
    }

    /// The most memory that it had resident in this life, in MiB, see proc(5).
    pub fn peak_memory(&self) -> u64 {
        let pid = self.process.as_ref().and_then(|process| process.child.id()).expect("it runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// What this life has logged so far.
    pub fn log(&self) -> String {
        let from = self.process.as_ref().map_or(0, |process| process.log_from);
        self.whole_log()[from..].to_owned()
    }

    /// What all lives have logged.
    pub fn whole_log(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The child's own kill does not reach what runs under a wrapper.
        self.signal(Signal::KILL);
    }
}

/// The numbers of a start line.
fn found_in(log: &str) -> Option<Found> {
    let (_, line) = log.split_once(", found ")?;
    let number = |what: &str| -> Option<u64> {
        let (before, _) = line.split_once(what)?;
        before.rsplit([' ', ',', ';']).next()?.parse().ok()
    };
    Some(Found {
        pending: number(" pending")?,
        mailbox: number(" in the mailbox")?,
        dead_letters: number(" dead letters")?,
        damaged: number(" damaged places")?,
        took: Duration::ZERO,
    })
}

/// Whether a thread of a process may still do something, see proc(5). One that is gone does not.
fn runs(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.filter_map(Result::ok).any(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !"TtDZX".contains(state))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_line_is_read() {
        let log = "INFO party_a serves on 1, data folder /x, found 12 pending, 34 in the mailbox, 5 dead letters; \
                   6 records replayed, 7 torn bytes cut, 8 damaged places set aside, new store, in 1ms\n";
        let found = Found { pending: 12, mailbox: 34, dead_letters: 5, damaged: 8, took: Duration::ZERO };
        assert_eq!(found_in(log), Some(found));
        assert_eq!(found_in("INFO starting, found 12 pen"), None);
    }
}
