//! Reads the party file and the certificates again, on request and when they change.
//!
//! They are compared by content every few seconds: that also notices changes over bind mounts, symbolic links and network
//! file systems, which cause no notification. A version with mistakes is refused with all of them, and the old one stays in
//! force; that is shown until it is mended ([`StandingRefusals`]). Whether there is TLS is decided at start: losing the
//! certificates must not end it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::config::files::{self, FileContents, FileMistakes};
use crate::delivery::forwarders::Peers;
use crate::operator::refused_files::StandingRefusals;
use crate::rules::parties::Parties;
use crate::tls::trust::Trust;

/// How often the files are compared.
const EVERY: Duration = Duration::from_secs(5);

/// The task's state.
#[derive(Debug)]
pub(crate) struct ReloadTask {
    settings: Settings,
    /// The files in force.
    files: FileContents,
    trust: watch::Sender<Arc<Trust>>,
    peers: Arc<Peers>,
    wanted: Arc<Notify>,
    /// The mistakes reported last, because each is reported only once.
    told: FileMistakes,
    refusals: Arc<StandingRefusals>,
    /// How often the files were read.
    pub(crate) readings: watch::Sender<u64>,
}

impl ReloadTask {
    /// `parties` are those in force; `wanted` asks for a reading at once.
    pub(crate) fn new(
        settings: Settings,
        parties: Parties,
        trust: watch::Sender<Arc<Trust>>,
        peers: Arc<Peers>,
        wanted: Arc<Notify>,
    ) -> Self {
        let files = FileContents { parties, own_certificate: settings.own_certificate.clone() };
        let (told, refusals) = (FileMistakes::default(), Arc::default());
        Self { settings, files, trust, peers, wanted, told, refusals, readings: watch::channel(0).0 }
    }

    /// What is refused in the files.
    pub(crate) fn refusals(&self) -> Arc<StandingRefusals> {
        self.refusals.clone()
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => true,
                () = tokio::time::sleep(EVERY) => false,
            };
            let (party_file, pem_path) = (self.settings.party_file.clone(), self.settings.pem_path.clone());
            let own = self.settings.party.clone();
            let reading =
                tokio::task::spawn_blocking(move || files::read(&party_file, &pem_path, Some(&own)));
            match reading.await {
                Ok(read) => self.judge(read, asked),
                Err(error) => {
                    tracing::error!(%error, "cannot read the party file and the certificates again");
                }
            }
            self.readings.send_modify(|count| *count += 1);
        }
    }

    fn judge(&mut self, read: Result<(FileContents, Vec<String>), FileMistakes>, asked: bool) {
        let taken = read.and_then(|(files, notices)| self.take_up(files, &notices));
        let refused = match taken {
            Ok(true) => FileMistakes::default(),
            Ok(false) => {
                if asked || !self.told.is_empty() {
                    tracing::info!("party file and certificates are those in force");
                }
                FileMistakes::default()
            }
            Err(refused) => {
                if asked || self.told != refused {
                    for mistake in refused.all() {
                        tracing::error!("{mistake}");
                    }
                    tracing::error!(
                        "the new party file or certificates are refused; the old ones stay in force"
                    );
                }
                refused
            }
        };
        self.refusals.read(&refused);
        self.told = refused;
    }

    /// Puts a new version into force. False if nothing has changed.
    fn take_up(&mut self, files: FileContents, notices: &[String]) -> Result<bool, FileMistakes> {
        if files == self.files {
            return Ok(false);
        }
        let certificates =
            |why: &str| FileMistakes { certificates: vec![why.into()], ..FileMistakes::default() };
        match (&self.files.own_certificate, &files.own_certificate) {
            (Some(_), None) => return Err(certificates("PEM_PATH: the certificate and its key are gone")),
            (None, Some(_)) => {
                return Err(certificates(
                    "PEM_PATH: there are certificates now; TLS begins with the next start of the gateway",
                ));
            }
            _ => {}
        }
        let settings = Settings { own_certificate: files.own_certificate.clone(), ..self.settings.clone() };
        let version = self.trust.borrow().version + 1;
        let trust = settings
            .trust(files.parties.clone(), version)
            .map_err(|why| FileMistakes { party_file: vec![why.into()], ..FileMistakes::default() })?;
        for notice in notices {
            tracing::warn!("{notice}");
        }
        // First, so that forwarders exist before anybody can send to the new parties.
        self.peers.start(&files.parties);
        self.trust.send_replace(Arc::new(trust));
        self.files = files;
        tracing::info!(version, "new party file or certificates taken up, for new connections");
        Ok(true)
    }
}
