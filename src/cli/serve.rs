//! `petnet serve`: settings, logging, the gateway, a signal, the end.

use std::io::Read;
use std::time::Duration;

use petnet_storage::PartyId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::signals::{Hangup, StopSignals};
use super::{Exit, block_on};
use crate::config::{self, Checked, RawSettings, Settings, TlsClientAuth};
use crate::doctor::OTHER_FILES;
use crate::gateway::Gateway;
use crate::parties::Parties;
use crate::telemetry;

/// Room for the last sync after running calls had their grace time.
const LAST_SYNC: Duration = Duration::from_secs(30);

/// Run a gateway.
///
/// Every setting is a flag and an environment variable of the same name; the flag wins. All mistakes in the settings
/// and in the party file are reported at once, before anything starts. SIGTERM or Ctrl-C ends it in order; a kill at
/// any moment loses nothing that was accepted.
///
/// Sizes are bytes or carry KiB, MiB, GiB; times are seconds or carry ms, s, m, h, d.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet serve --party party_a --config-file-path party.json --data-dir ./data --listen-addr 127.0.0.1:1235

Exit codes:
  0  stopped by a signal, everything accepted is kept
  1  another failure
  2  settings or party file wrong; nothing was started
  3  could not start (port or data folder in use, disk error)
  4  a write to the disk failed; start it again to read back from disk")]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: RawSettings,
    /// Stop when stdin ends; ties a gateway to the program that started it.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

impl Serve {
    pub(crate) fn run(self) -> Exit {
        let checked = match config::check(&self.settings) {
            Ok(checked) => checked,
            Err(mistakes) => {
                eprintln!("petnet serve: {mistakes}");
                return Exit::WrongSettings;
            }
        };
        let _telemetry = match telemetry::start(&checked.logging, &checked.settings.party) {
            Ok(telemetry) => telemetry,
            Err(why) => {
                eprintln!("petnet serve: cannot start the threads of the log: {why}");
                return Exit::CouldNotStart;
            }
        };
        block_on(serve(checked, self.stop_with_stdin)).unwrap_or_else(|why| {
            error!("cannot run: {why:#}");
            Exit::Failed
        })
    }
}

async fn serve(checked: Checked, stop_with_stdin: bool) -> anyhow::Result<Exit> {
    let Checked { settings, parties, notices, .. } = checked;
    let (mut signals, mut hangup) = (StopSignals::listen()?, Hangup::listen()?);
    let orphaned = stdin_end(stop_with_stdin);
    tokio::pin!(orphaned);
    for notice in notices.into_iter().chain(open_files(settings.limits.connections)) {
        warn!("{notice}");
    }
    let (grace, served) = (settings.shutdown_grace, Served::of(&settings, &parties));
    let gateway = tokio::select! {
        started = Gateway::start(settings, parties) => match started {
            Ok(gateway) => gateway,
            Err(why) => {
                error!("cannot start: {why}");
                return Ok(Exit::CouldNotStart);
            }
        },
        signal = signals.next() => {
            info!("{signal} while starting: stopped; nothing accepted is lost");
            return Ok(Exit::Ok);
        }
    };
    served.tell(&gateway);
    let poisoned = tokio::select! {
        signal = signals.next() => {
            info!("{signal}: stopping; running calls have {grace:?} to end");
            None
        }
        () = &mut orphaned => {
            info!("the program that started this gateway is gone: stopping");
            None
        }
        why = gateway.failed() => Some(why),
        () = hangup.each(|| gateway.reload()) => None,
    };
    if let Some(why) = &poisoned {
        error!("the store takes no more, stopping: {why}; start the gateway again to read back from disk");
    }
    let ended = tokio::select! {
        ended = timeout(grace + LAST_SYNC, gateway.shutdown()) => ended,
        signal = signals.next() => {
            warn!("second {signal}: stopped at once; nothing accepted is lost");
            return Ok(if poisoned.is_some() { Exit::Poisoned } else { Exit::Failed });
        }
    };
    Ok(match (poisoned, ended) {
        (Some(_), _) => Exit::Poisoned,
        (None, Ok(Ok(()))) => {
            info!("stopped; everything that was accepted is kept");
            Exit::Ok
        }
        (None, Ok(Err(why))) => {
            error!("the last sync failed: {why}");
            Exit::Poisoned
        }
        (None, Err(_)) => {
            error!("could not stop in order within {:?}; nothing accepted is lost", grace + LAST_SYNC);
            Exit::Failed
        }
    })
}

/// What the start line says besides what was found.
struct Served {
    party: PartyId,
    tls: &'static str,
    store: &'static str,
    peers: usize,
}

impl Served {
    fn of(settings: &Settings, parties: &Parties) -> Self {
        #[cfg(feature = "redis")]
        let redis = settings.redis.is_some();
        #[cfg(not(feature = "redis"))]
        let redis = false;
        Self {
            party: settings.party.clone(),
            tls: match (&settings.own_certificate, settings.tls_client_auth) {
                (None, _) => "plaintext",
                (Some(_), TlsClientAuth::Required) => "mutual",
                (Some(_), TlsClientAuth::Optional) => "optional",
            },
            store: if redis { "redis" } else { "embedded" },
            peers: parties.parties.keys().filter(|party| **party != settings.party).count(),
        }
    }

    /// Who starts gateways waits for the words "PARTY serves on ADDRESS, ".
    fn tell(&self, gateway: &Gateway) {
        let Self { party, tls, store, peers } = self;
        let (version, address) = (env!("CARGO_PKG_VERSION"), gateway.local_addr());
        let http = gateway.http_addr().map_or_else(|| "off".to_owned(), |http| http.to_string());
        info!(version, %address, http, tls, store, peers, "{party} serves on {address}, {}", gateway.found());
    }
}

/// Takes as many file descriptors as the system allows; what to say when they are too few for `connections`.
fn open_files(connections: usize) -> Option<String> {
    let allowed = getrlimit(Resource::Nofile);
    if let Err(why) = setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed }) {
        tracing::debug!(%why, "the limit of open files stays");
    }
    let have = getrlimit(Resource::Nofile).current?;
    let need = connections as u64 + OTHER_FILES;
    (have < need).then(|| {
        format!(
            "this process may open {have} files, and MAX_CONNECTIONS={connections} needs {need}: connections beyond that will \
             fail; raise the limit (ulimit -n, LimitNOFILE) or lower MAX_CONNECTIONS"
        )
    })
}

/// Resolves when stdin ends; never when not `wanted`. A thread of its own: a read of stdin cannot be interrupted, and
/// must not hold the runtime when a signal comes first.
async fn stdin_end(wanted: bool) {
    let (ended, end) = oneshot::channel::<()>();
    if wanted {
        let watch = move || {
            let mut stdin = std::io::stdin().lock();
            let mut bytes = [0; 256];
            while stdin.read(&mut bytes).is_ok_and(|n| n > 0) {}
            drop(ended);
        };
        if std::thread::Builder::new().name("stdin".into()).spawn(watch).is_ok() {
            // The sender is only ever dropped: an error is the end.
            drop(end.await);
            return;
        }
    }
    std::future::pending::<()>().await;
}
