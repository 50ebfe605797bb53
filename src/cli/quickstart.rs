//! `petnet quickstart`: two gateways on this machine, a crash in the middle, and the proof that nothing was lost.
//!
//! `story` tells what happens, `process` keeps the gateways, `ports` finds addresses for them.
//!
//! Invariant: however it ends, no gateway outlives it, and a temporary folder is removed.

mod ports;
mod process;
mod story;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use petnet_storage::PartyId;
use tempfile::TempDir;

use super::Exit;
use super::signals::StopSignals;
use process::GatewayProcess;

/// See it work: two gateways, messages both ways, a crash, and nothing lost.
///
/// Starts the gateways of two parties on free ports of this machine, with fresh data folders, and tells what it does.
/// Then both keep running until Ctrl-C, so that you can send and receive by hand.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet quickstart
  petnet quickstart --exit --dir /tmp/look-inside

Exit codes: 0 every message arrived and matched, 1 anything else")]
pub(crate) struct Quickstart {
    /// End after the demonstration instead of keeping the gateways running
    #[arg(long)]
    exit: bool,
    /// Keep all files in this new or empty folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Quickstart {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut signals = StopSignals::listen()?;
        let place = Place::new(self.dir.as_deref())?;
        let mut world = World::new(&place)?;
        story::opening(&place);
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

/// Prints to stdout. Somebody who closed the pipe has read enough; the demonstration goes on.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    drop(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// The folder of everything.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Place {
    fn new(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = wanted else {
            let dir = tempfile::Builder::new()
                .prefix("petnet-quickstart-")
                .tempdir()
                .context("cannot create a temporary folder")?;
            return Ok(Self { path: dir.path().into(), temporary: Some(dir) });
        };
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("cannot create {shown}"))?;
        let mut files = fs::read_dir(path).with_context(|| format!("cannot look into {shown}"))?;
        if files.next().is_some() {
            bail!("{shown} is not empty; the demonstration starts from nothing: choose another --dir");
        }
        let path = path.canonicalize().with_context(|| format!("cannot find {shown}"))?;
        Ok(Self { path, temporary: None })
    }
}

/// The two gateways.
#[derive(Debug)]
struct World {
    a: GatewayProcess,
    b: GatewayProcess,
}

impl World {
    fn new(place: &Place) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let [a, b] = ports::free().context("cannot find free ports on 127.0.0.1")?;
        let party_file = place.path.join("party.json");
        let connection =
            |port: u16| serde_json::json!({"petnet": [{"type": 1, "url": format!("127.0.0.1:{port}")}]});
        let parties = serde_json::json!({"party_a": connection(a), "party_b": connection(b)});
        fs::write(&party_file, format!("{parties:#}\n"))
            .with_context(|| format!("cannot write {}", party_file.display()))?;
        let gateway = |name: &str, port| {
            anyhow::Ok(GatewayProcess::new(&program, PartyId::new(name)?, port, &place.path))
        };
        Ok(Self { a: gateway("party_a", a)?, b: gateway("party_b", b)? })
    }

    /// Resolves when one of the gateways has ended.
    async fn first_end(&mut self) {
        tokio::select! {
            () = self.a.ended() => {}
            () = self.b.ended() => {}
        }
    }

    fn show_logs(&self) {
        for gateway in [&self.a, &self.b] {
            eprintln!("--- last log lines of {}:\n{}", gateway.party, gateway.log_tail());
        }
    }

    async fn stop(&mut self) {
        tokio::join!(self.a.stop(), self.b.stop());
    }
}
