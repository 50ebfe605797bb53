//! `petnet doctor`: what is wrong between here and the peers, and what to do about it.

pub(crate) mod checks;

use std::path::Path;
use std::time::Duration;

use crate::cli::doctor::checks::{CheckDepth, Severity, examine, refusals};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::say::say;
use crate::config::{self, RawSettings, duration};

/// Check settings, certificates, disk, and the way to every peer; changes nothing.
///
/// Takes the settings of `petnet serve`, as flags or from the environment, and goes every step that a delivery goes: it
/// resolves, connects, shakes hands, asks who answers, measures the round trip, and tries how large a message gets
/// through. What it tries is refused by the peer; nothing is delivered.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet doctor --party party_a --config-file-path party.json --data-dir ./data --pem-path ./certs

Exit codes:
  0  nothing is broken (there may be warnings)
  1  something does not work
  2  settings or party file wrong")]
pub(crate) struct Doctor {
    #[command(flatten)]
    settings: RawSettings,
    /// Longest wait for each step towards a peer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// Largest message to try, at most `MAX_MESSAGE_BYTES`; takes its time on a slow link
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = config::size)]
    largest: u64,
}

impl Doctor {
    /// Reports what a running gateway refused: it goes on with what was there before the mistakes, so they would go
    /// unnoticed.
    async fn tell_of_refusals(&self) {
        let Some(folder) = self.settings.get("DATA_DIR") else { return };
        let folder = Path::new(&folder.value);
        for finding in refusals(folder, self.timeout).await {
            complain!("the gateway that runs on {}:\n{finding}", folder.display());
        }
    }

    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let checked = match config::look(&self.settings) {
            Ok(checked) => checked,
            Err(mistakes) => {
                complain!("petnet doctor: {mistakes}");
                self.tell_of_refusals().await;
                return Ok(Exit::WrongSettings);
            }
        };
        let largest = self.largest.clamp(1, checked.settings.max_message_bytes);
        let (mut bad, mut warnings) = (0, 0);
        let depth = CheckDepth { timeout: self.timeout, largest };
        examine(&checked, depth, |heading, findings| {
            say(heading);
            for finding in findings {
                bad += usize::from(finding.level == Severity::Bad);
                warnings += usize::from(finding.level == Severity::Warning);
                say(&finding.to_string());
            }
        })
        .await;
        say(&format!("\n{bad} broken, {warnings} to look at"));
        Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
    }
}
