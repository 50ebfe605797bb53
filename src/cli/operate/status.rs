//! `petnet status`: the state of a gateway, as the gateway reports it; or what a party's store in Redis holds, as Redis
//! reports it.
//!
//! Invariant: exit code 0 means that messages are accepted and delivered there.

#[cfg(feature = "redis")]
mod redis;
mod text;

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::cli::operate::admin::{self, GatewayFolder};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::signals::StopSignals;
use crate::cli::terminal::table::colours;
use crate::config::duration;
use crate::proto::admin::{StatusRequest, StatusResponse};

/// Moves the cursor to the top left and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";
const SERVING: [&str; 2] = ["serving", "full"];

/// Show how a gateway is: state, store, disk, and what waits for each peer.
///
/// Asks the gateway that runs on the data folder. With --redis-url, or `REDIS_URL` and no --data-dir, it asks Redis instead:
/// which gateways work on the party's store, what waits for whom, and what "accepted" means there; that works also when
/// no gateway runs. For a data folder without a gateway there is `petnet verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet status --data-dir /var/lib/petnet
  petnet status --watch 5
  petnet status --json
  petnet status --party party_a --redis-url redis://localhost:6379

Exit codes:
  0  the gateway serves, full or not (with Redis: one is alive)
  1  it does not, it could not be asked, or none runs there
  2  wrong arguments")]
pub(crate) struct Status {
    #[command(flatten)]
    folder: GatewayFolder,
    #[cfg(feature = "redis")]
    #[command(flatten)]
    redis: redis::RedisChoice,
    /// Print one JSON object instead of text; sizes are bytes, times seconds; with --watch one a line
    #[arg(long)]
    json: bool,
    /// Show it again and again, with a pause (2 s when not given) between, until Ctrl-C
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = pause)]
    watch: Option<Duration>,
}

fn pause(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    let pause = duration(text)?;
    if pause >= SHORTEST { Ok(pause) } else { Err(format!("must be at least {SHORTEST:?}")) }
}

impl Status {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let Some(pause) = self.watch else {
            let (shown, exit) = self.look(colours()).await?;
            if exit != Exit::WrongSettings {
                admin::print(&shown)?;
            }
            return Ok(exit);
        };
        let mut signals = StopSignals::listen()?;
        let terminal = std::io::stdout().is_terminal() && !self.json;
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Exit::Failed;
        loop {
            let look = async {
                ticks.tick().await;
                self.look(colours()).await
            };
            let looked = tokio::select! {
                looked = look => looked,
                _ = signals.next() => return Ok(last),
            };
            // A gateway that is not there may come back, so it is worth watching.
            let (shown, exit) = looked.unwrap_or_else(|why| {
                let why = format!("{why:#}");
                let shown = if self.json { serde_json::json!({ "error": why }).to_string() } else { why };
                (shown, Exit::Failed)
            });
            last = exit;
            let clear = if terminal { CLEAR } else { "" };
            if last == Exit::WrongSettings || !admin::print(&format!("{clear}{shown}"))? {
                return Ok(last);
            }
        }
    }

    /// Returns what to show, and the exit code.
    async fn look(&self, colours: bool) -> anyhow::Result<(String, Exit)> {
        #[cfg(feature = "redis")]
        if let Some(url) = self.redis.url.as_ref().filter(|url| !url.is_empty() && !self.folder.is_flag) {
            return self.redis.look(url, self.json).await;
        }
        let mut client = self.folder.connect().await?;
        let found = admin::ask("cannot show the status", client.status(StatusRequest {})).await?;
        let shown = if self.json { serde_json::to_string(&found)? } else { text::text(&found, colours) };
        Ok((shown, exit(&found)))
    }
}

fn exit(found: &StatusResponse) -> Exit {
    if SERVING.contains(&found.state.as_str()) { Exit::Ok } else { Exit::Failed }
}
