//! Two gateways on this machine, as child processes with one folder for everything: the setting in which `quickstart` and
//! `crashtest` run.
//!
//! `process` looks after a gateway, `ports` finds addresses, `content` makes messages. Invariant: no gateway outlives the
//! command, and a temporary folder is removed.

mod content;
mod ports;
mod process;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use petnet_storage::PartyId;
use tempfile::TempDir;

pub(crate) use content::{Rng, content};
pub(crate) use process::GatewayProcess;

/// The folder for everything.
#[derive(Debug)]
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    pub(crate) temporary: Option<TempDir>,
}

impl RunFolder {
    /// Keeps the files, even those of a temporary folder.
    pub(crate) fn keep(self) -> PathBuf {
        if let Some(temporary) = self.temporary {
            return temporary.keep();
        }
        self.path
    }

    /// Uses `wanted`, which must be new or empty, or a temporary folder if it is `None`.
    pub(crate) fn new(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = wanted else {
            let dir = tempfile::Builder::new()
                .prefix("petnet-")
                .tempdir()
                .context("cannot create a temporary folder")?;
            return Ok(Self { path: dir.path().into(), temporary: Some(dir) });
        };
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("cannot create {shown}"))?;
        let mut files = fs::read_dir(path).with_context(|| format!("cannot look into {shown}"))?;
        if files.next().is_some() {
            bail!("{shown} is not empty; this starts from nothing: choose another --dir");
        }
        let path = path.canonicalize().with_context(|| format!("cannot find {shown}"))?;
        Ok(Self { path, temporary: None })
    }
}

/// The two gateways.
#[derive(Debug)]
pub(crate) struct GatewayPair {
    pub(crate) a: GatewayProcess,
    pub(crate) b: GatewayProcess,
}

impl GatewayPair {
    /// The gateways, not started yet. With `tls`, each party gets certificates of its own.
    pub(crate) fn new(place: &RunFolder, tls: bool) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let [a, b] = ports::free().context("cannot find free ports on 127.0.0.1")?;
        let party_file = place.path.join("party.json");
        let certs = |party: &str| PathBuf::from("certs").join(party);
        let connection = |party: &str, port: u16| {
            let roots = if tls { certs(party).join("ca.crt") } else { PathBuf::new() };
            let url = format!("127.0.0.1:{port}");
            serde_json::json!({"petnet": [{"type": 1, "url": url, "certificates": roots}]})
        };
        let parties =
            serde_json::json!({"party_a": connection("party_a", a), "party_b": connection("party_b", b)});
        fs::write(&party_file, format!("{parties:#}\n"))
            .with_context(|| format!("cannot write {}", party_file.display()))?;
        let gateway = |name: &str, port| {
            let gateway = GatewayProcess::new(&program, PartyId::new(name)?, port, &place.path);
            if tls { gateway.with_certificates(place.path.join(certs(name))) } else { Ok(gateway) }
        };
        Ok(Self { a: gateway("party_a", a)?, b: gateway("party_b", b)? })
    }

    /// Adds arguments for both gateways, from their next start on.
    pub(crate) fn with_arguments(mut self, arguments: &[&'static str]) -> Self {
        self.a.arguments.extend(arguments);
        self.b.arguments.extend(arguments);
        self
    }

    /// Resolves when one of the gateways has ended.
    pub(crate) async fn first_end(&mut self) {
        tokio::select! {
            () = self.a.ended() => {}
            () = self.b.ended() => {}
        }
    }

    pub(crate) fn show_logs(&self) {
        for gateway in [&self.a, &self.b] {
            complain!("--- last log lines of {}:\n{}", gateway.party, gateway.log_tail());
        }
    }

    pub(crate) async fn stop(&mut self) {
        tokio::join!(self.a.stop(), self.b.stop());
    }
}
