//! `petnet quickstart`: two gateways on this machine, a crash in the middle, and the proof that nothing was lost.
//!
//! `story` tells what happens.
//!
//! Invariant: however it ends, no gateway outlives it, and a temporary folder is removed.

mod story;

use std::path::PathBuf;

use crate::cli::local::world::{GatewayPair, RunFolder};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::say::say;
use crate::cli::terminal::signals::StopSignals;

/// See it work: two gateways, messages both ways, a crash, and nothing lost.
///
/// Starts the gateways of two parties on free ports of this machine, with fresh data folders, and tells what it does.
/// Then both keep running until Ctrl-C, so that you can send and receive by hand.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet quickstart
  petnet quickstart --tls
  petnet quickstart --exit --dir /tmp/look-inside

Exit codes: 0 every message arrived and matched, 1 anything else")]
pub(crate) struct Quickstart {
    /// End after the demonstration instead of keeping the gateways running
    #[arg(long)]
    exit: bool,
    /// With certificates for each party, and mutual TLS between all
    #[arg(long)]
    tls: bool,
    /// Keep all files in this new or empty folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Quickstart {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut signals = StopSignals::listen()?;
        let place = RunFolder::new(self.dir.as_deref())?;
        let mut world = GatewayPair::new(&place, self.tls)?;
        story::opening(&place, self.tls);
        let told = tokio::select! {
            told = story::tell(&mut world) => told,
            signal = signals.next() => {
                say(&format!("\n{signal}: stopping both gateways"));
                world.stop().await;
                return Ok(Exit::Failed);
            }
        };
        if let Err(why) = told {
            world.show_logs();
            world.stop().await;
            return Err(why.context("the demonstration failed"));
        }
        let mut ended = Ok(());
        if !self.exit {
            story::by_hand(&world)?;
            tokio::select! {
                signal = signals.next() => say(&format!("\n{signal}: stopping both gateways")),
                () = world.first_end() => {
                    world.show_logs();
                    ended = Err(anyhow::anyhow!("a gateway ended by itself"));
                }
            }
        }
        world.stop().await;
        ended.map(|()| Exit::Ok)
    }
}
