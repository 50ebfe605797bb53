//! `petnet serve`: reads settings, starts logging and the gateway, and waits for a signal to stop.

use std::io::Read;
use std::time::Duration;

use petnet_storage::{OpenError, PartyId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::cli::doctor::checks::OTHER_FILES;
use crate::cli::terminal::exit::{Exit, block_on};
use crate::cli::terminal::signals::{Hangup, IgnoredSignals, StopSignals};
use crate::config::{self, Configuration, RawSettings, Settings};
use crate::gateway::lifecycle::{Gateway, StartError};
use crate::rules::parties::Parties;
use crate::telemetry;
use crate::tls::client_auth::TlsClientAuth;

/// Time for the last sync after running calls had their grace time.
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
  2  settings or party file wrong, or other gateways on the same Redis have other settings; nothing was started
  3  could not start (port or data folder in use, disk error, a file that the system failed to read)
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
                complain!("petnet serve: {mistakes}");
                return if mistakes.all_pass() { Exit::CouldNotStart } else { Exit::WrongSettings };
            }
        };
        let _telemetry = match telemetry::start(&checked.logging, &checked.settings.party) {
            Ok(telemetry) => telemetry,
            Err(why) => {
                complain!("petnet serve: cannot start the threads of the log: {why}");
                return Exit::CouldNotStart;
            }
        };
        block_on(serve(checked, self.stop_with_stdin)).unwrap_or_else(|why| {
            error!("cannot run: {why:#}");
            Exit::Failed
        })
    }
}

async fn serve(checked: Configuration, stop_with_stdin: bool) -> anyhow::Result<Exit> {
    let Configuration { settings, parties, notices, .. } = checked;
    let (mut signals, mut hangup, _ignored) =
        (StopSignals::listen()?, Hangup::listen()?, IgnoredSignals::ignore());
    let orphaned = stdin_end(stop_with_stdin);
    tokio::pin!(orphaned);
    let limits = open_files(settings.limits.connections)
        .into_iter()
        .chain(file_size())
        .chain(crate::tls::clock_complaint());
    for notice in notices.into_iter().chain(limits) {
        warn!("{notice}");
    }
    let (grace, served) = (settings.shutdown_grace, StartLine::of(&settings, &parties));
    let gateway = tokio::select! {
        started = Gateway::start(settings, parties) => match started {
            Ok(gateway) => gateway,
            Err(why) => {
                error!("cannot start: {why}");
                let is_setting = matches!(why, StartError::Store(OpenError::Settings { .. }));
                return Ok(if is_setting { Exit::WrongSettings } else { Exit::CouldNotStart });
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

/// What the start line says besides what was found on the disk.
struct StartLine {
    party: PartyId,
    tls: &'static str,
    store: &'static str,
    peers: usize,
}

impl StartLine {
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

    /// Prints the start line. Programs that start gateways wait for the words "PARTY serves on ADDRESS, ".
    fn tell(&self, gateway: &Gateway) {
        let Self { party, tls, store, peers } = self;
        let (version, address) = (env!("CARGO_PKG_VERSION"), gateway.local_addr());
        let http = gateway.http_addr().map_or_else(|| "off".to_owned(), |http| http.to_string());
        info!(version, %address, http, tls, store, peers, "{party} serves on {address}, {}", gateway.found());
    }
}

/// Takes as many file descriptors as the system allows; returns a warning if they are too few for `connections`.
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

/// A warning if files of this process may not be as large as those of the store.
fn file_size() -> Option<String> {
    /// The largest file of a store whose segments and index have their usual sizes.
    const USUAL: u64 = 1 << 30;
    let limit = getrlimit(Resource::Fsize).current.filter(|limit| *limit < USUAL)?;
    Some(format!(
        "a file of this process may have {limit} bytes: log files are made smaller than that, and what else grows beyond it \
         (the index on disk, files of the log) cannot be written; raise the limit (ulimit -f, LimitFSIZE)"
    ))
}

/// Resolves when stdin ends; never if not `wanted`. It uses a thread of its own, because a read of stdin cannot be
/// interrupted and must not hold up the runtime when a signal comes first.
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
            // The sender is only ever dropped, so an error means the end of stdin.
            drop(end.await);
            return;
        }
    }
    std::future::pending::<()>().await;
}
