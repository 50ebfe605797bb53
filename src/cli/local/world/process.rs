//! A gateway as a child process: start, kill, stop.
//!
//! Invariant: the gateway does not outlive this process. It stops when its stdin ends, which the kernel sees to even when
//! we are killed; and it is killed when its handle is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use petnet_storage::PartyId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::messages::client::{self, Client, GatewayAddress};
use crate::config::SETTINGS;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;
use crate::tls::certs::folder::{self, Lifetimes};
use crate::tls::certs::make::GatewayNames;

const START_DEADLINE: Duration = Duration::from_secs(30);
/// Nothing shows from outside when a port will open, so a starting gateway is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(20);
const ONE_ASK: Duration = Duration::from_secs(2);
/// Longer than the grace time that the gateway itself has.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const TAIL_LINES: usize = 15;

/// One gateway, running or not.
#[derive(Debug)]
pub(crate) struct GatewayProcess {
    pub(crate) party: PartyId,
    pub(crate) address: String,
    /// Its certificates; `None` if it runs without TLS.
    certs: Option<PathBuf>,
    program: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    /// Arguments besides those that every gateway gets.
    pub(crate) arguments: Vec<&'static str>,
    child: Option<Child>,
    /// Its stdin, with whose end it stops. Kept apart from the child, because waiting for a child closes its stdin.
    lifeline: Option<ChildStdin>,
}

impl GatewayProcess {
    /// A gateway that is not started yet. Its files will be in `folder`, beside the party file.
    pub(crate) fn new(program: &Path, party: PartyId, port: u16, folder: &Path) -> Self {
        let log = folder.join(format!("{party}.log"));
        let address = format!("127.0.0.1:{port}");
        Self {
            party,
            address,
            certs: None,
            program: program.into(),
            folder: folder.into(),
            log,
            arguments: Vec::new(),
            child: None,
            lifeline: None,
        }
    }

    /// Makes certificates for it in `certs`, with which it uses TLS from its next start on.
    pub(crate) fn with_certificates(mut self, certs: PathBuf) -> anyhow::Result<Self> {
        folder::make(&certs, &self.party, &GatewayNames::this_machine(), Lifetimes::default())
            .map_err(|why| anyhow!("cannot make certificates: {why}"))?;
        self.certs = Some(certs);
        Ok(self)
    }

    /// Starts it and waits until it serves. Returns how long that took.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        for setting in SETTINGS {
            command.env_remove(setting.name);
            setting.other_name.map(|name| command.env_remove(name));
        }
        let mut child = command
            .arg("serve")
            .args(["--party", self.party.as_str(), "--listen-addr", &self.address])
            .args(["--http-listen-addr", "off", "--shutdown-grace", "5s", "--retry-cap", "2s"])
            .arg("--config-file-path")
            .arg(self.folder.join("party.json"))
            .arg("--data-dir")
            .arg(self.folder.join(self.party.as_str()))
            .arg("--pem-path")
            .arg(self.certs.clone().unwrap_or_else(|| self.folder.join("no-certificates")))
            .args(&self.arguments)
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C in the terminal is meant for us; we stop the gateways in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        self.lifeline = child.stdin.take();
        self.child = Some(child);
        self.serving(started + START_DEADLINE).await?;
        Ok(started.elapsed())
    }

    async fn serving(&mut self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the gateway of {} ended while starting ({status})", self.party);
            }
            if let Ok(true) = timeout(ONE_ASK, is_serving(&self.reached())).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the gateway of {} does not serve after {START_DEADLINE:?}", self.party);
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// A connection to it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let channel = client::connect(&self.reached()).await;
        channel.map(client::client).with_context(|| format!("the gateway of {}", self.party))
    }

    /// The address and certificates with which it is called.
    pub(crate) fn reached(&self) -> GatewayAddress {
        GatewayAddress { gateway: self.address.clone(), certs: self.certs.clone() }
    }

    /// Kills it with SIGKILL: it gets no chance to write anything down.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.with_context(|| format!("cannot kill the gateway of {}", self.party))?;
        }
        Ok(())
    }

    /// Stops it in order; kills it if it does not.
    pub(crate) async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(self.lifeline.take());
        if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
            complain!("the gateway of {} does not stop; killing it", self.party);
            if let Err(why) = child.kill().await {
                complain!("cannot kill it: {why}");
            }
        }
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that there is no such process, so it has ended, too.
            drop(child.wait().await);
        }
    }

    /// Asks it to stop in order, as a service manager does, and waits for its end. True if it ended by itself and without
    /// an error.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<bool> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else { return Ok(false) };
        if let Ok(ended) = timeout(STOP_DEADLINE, child.wait()).await {
            return Ok(ended.is_ok_and(|status| status.success()));
        }
        child.kill().await.with_context(|| format!("cannot kill the gateway of {}", self.party))?;
        Ok(false)
    }

    /// Freezes it: connections stay open, and nobody answers.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|pid| pid.try_into().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            bail!("the gateway of {} does not run", self.party)
        };
        kill_process(pid, signal).with_context(|| format!("cannot signal the gateway of {}", self.party))
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        match fs::read(&self.log) {
            Ok(log) => {
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<_> = log.lines().collect();
                lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
            }
            Err(why) => format!("(cannot read {}: {why})", self.log.display()),
        }
    }
}

async fn is_serving(address: &GatewayAddress) -> bool {
    let Ok(channel) = client::channel(address).await else { return false };
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}
