//! Reads the party file and the certificates again, on request and when they change.
//!
//! They are compared by content every few seconds: that also sees changes over bind mounts, symbolic links and network
//! file systems, of which no notice comes. A version with mistakes is refused with all of them, and the old one stays in
//! force. Whether there is TLS is decided at start: losing the certificates must not end it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::config::files::{self, Files};
use crate::parties::Parties;
use crate::peers::Peers;
use crate::trust::Trust;

/// How often the files are compared.
const EVERY: Duration = Duration::from_secs(5);

/// The task's state.
#[derive(Debug)]
pub(crate) struct Reload {
    settings: Settings,
    /// What is in force.
    files: Files,
    trust: watch::Sender<Arc<Trust>>,
    peers: Arc<Peers>,
    wanted: Arc<Notify>,
    /// The mistakes told last: they are told once.
    told: Vec<String>,
    /// How often they were read.
    pub(crate) readings: watch::Sender<u64>,
}

impl Reload {
    /// `parties`: those in force. `wanted`: asks for a reading at once.
    pub(crate) fn new(
        settings: Settings,
        parties: Parties,
        trust: watch::Sender<Arc<Trust>>,
        peers: Arc<Peers>,
        wanted: Arc<Notify>,
    ) -> Self {
        let files = Files { parties, own_certificate: settings.own_certificate.clone() };
        Self { settings, files, trust, peers, wanted, told: Vec::new(), readings: watch::channel(0).0 }
    }

    /// Until stopped.
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

    fn judge(&mut self, read: Result<(Files, Vec<String>), Vec<String>>, asked: bool) {
        let taken = read.and_then(|(files, notices)| self.take_up(files, &notices));
        match taken {
            Ok(true) => self.told.clear(),
            Ok(false) => {
                if asked || !self.told.is_empty() {
                    tracing::info!("party file and certificates are those in force");
                }
                self.told.clear();
            }
            Err(mistakes) => {
                if asked || self.told != mistakes {
                    for mistake in &mistakes {
                        tracing::error!("{mistake}");
                    }
                    tracing::error!(
                        "the new party file or certificates are refused; the old ones stay in force"
                    );
                }
                self.told = mistakes;
            }
        }
    }

    /// False: nothing has changed.
    fn take_up(&mut self, files: Files, notices: &[String]) -> Result<bool, Vec<String>> {
        if files == self.files {
            return Ok(false);
        }
        match (&self.files.own_certificate, &files.own_certificate) {
            (Some(_), None) => {
                return Err(vec!["PEM_PATH: the certificate and its key are gone".into()]);
            }
            (None, Some(_)) => {
                return Err(vec![
                    "PEM_PATH: there are certificates now; TLS begins with the next start of the gateway"
                        .into(),
                ]);
            }
            _ => {}
        }
        let settings = Settings { own_certificate: files.own_certificate.clone(), ..self.settings.clone() };
        let version = self.trust.borrow().version + 1;
        let trust = Trust::new(&settings, files.parties.clone(), version).map_err(|why| vec![why])?;
        for notice in notices {
            tracing::warn!("{notice}");
        }
        // Before anybody can send to them.
        self.peers.start(&files.parties);
        self.trust.send_replace(Arc::new(trust));
        self.files = files;
        tracing::info!(version, "new party file or certificates taken up, for new connections");
        Ok(true)
    }
}
