//! `petnet doctor`: what is wrong between here and the peers, and what to do about it.

use std::time::Duration;

use super::Exit;
use super::local::say;
use crate::config::{self, RawSettings, duration};
use crate::doctor::{Depth, Level, examine};

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
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let checked = match config::look(&self.settings) {
            Ok(checked) => checked,
            Err(mistakes) => {
                eprintln!("petnet doctor: {mistakes}");
                return Ok(Exit::WrongSettings);
            }
        };
        let largest = self.largest.clamp(1, checked.settings.max_message_bytes);
        let (mut bad, mut warnings) = (0, 0);
        let depth = Depth { timeout: self.timeout, largest };
        examine(&checked, depth, |heading, findings| {
            say(heading);
            for finding in findings {
                bad += usize::from(finding.level == Level::Bad);
                warnings += usize::from(finding.level == Level::Warning);
                say(&finding.to_string());
            }
        })
        .await;
        say(&format!("\n{bad} broken, {warnings} to look at"));
        Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
    }
}
