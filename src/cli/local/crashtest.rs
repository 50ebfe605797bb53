//! `petnet crashtest`: kills gateways on this machine again and again and checks that nothing accepted is lost.
//!
//! `round` runs and checks one round, `ledger` records what clients were told.
//!
//! Invariant: however it ends, no gateway outlives it; a temporary folder is removed unless something went wrong.

mod ledger;
mod round;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::local::world::{GatewayPair, Rng, RunFolder};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress::{self, bytes};
use crate::cli::terminal::say::say;
use crate::cli::terminal::signals::StopSignals;
use crate::cli::terminal::table::many;
use ledger::{Ledger, LedgerCounts};
use round::{BLOWS, Blow};

/// Messages are kept for this long, so that a long run does not fill the disk.
const ARGUMENTS: [&str; 2] = ["--message-ttl", "120s"];
/// Most lines in which it is reported what went wrong.
const TOLD: usize = 20;

/// Kill gateways on this machine again and again, and check that nothing accepted is lost.
///
/// Starts the gateways of two parties, has clients send messages both ways, and kills one or both gateways (SIGKILL) at
/// random moments; now and then it stops one in order or freezes it for a while. After each restart every message that
/// a client was told is accepted must be received, byte for byte. Run it on new hardware before you trust it, with --dir
/// on the disk that the gateway will use.
///
/// A kill does not take the power away: what the operating system holds in memory survives it. Whether a disk keeps
/// what it has confirmed when the power fails, this test cannot show.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet crashtest
  petnet crashtest --minutes 60 --dir /var/lib/petnet/crashtest

Exit codes: 0 nothing was lost, duplicated or corrupt; 1 something was, it could not run, or it proved nothing")]
pub(crate) struct Crashtest {
    /// How many rounds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Choose what is killed and when as in an earlier run; timing still differs
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Go on for this many minutes instead of a number of rounds
    #[arg(long, value_name = "M", conflicts_with = "rounds", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    minutes: Option<u64>,
    /// Keep all files in this new or empty folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The run so far.
#[derive(Default)]
struct Tally {
    rounds: u64,
    blows: [u64; BLOWS.len()],
}

impl Crashtest {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut signals = StopSignals::listen()?;
        let seed = self
            .seed
            .map_or_else(getrandom::u64, Ok)
            .map_err(|e| anyhow::anyhow!("cannot draw a seed: {e}"))?;
        let place = RunFolder::new(self.dir.as_deref())?;
        let mut world = GatewayPair::new(&place, false)?.with_arguments(&ARGUMENTS);
        let (ledger, mut tally) = (Ledger::default(), Tally::default());
        self.opening(&place, seed);
        let ended = tokio::select! {
            ended = self.rounds(&mut world, &ledger, &mut tally, seed) => ended,
            signal = signals.next() => {
                say(&format!("{signal}: ended early"));
                Ok(())
            }
        };
        let counts = ledger.counts();
        if ended.is_err() || counts.wrong() > 0 {
            world.show_logs();
        }
        world.stop().await;
        say(&table(&tally, &counts));
        if ended.is_err() || counts.wrong() > 0 {
            for what in ledger.wrong().iter().take(TOLD) {
                complain!("{what}");
            }
            complain!("All files are kept in {}; seed {seed}.", place.keep().display());
        }
        ended?;
        Ok(verdict(&counts))
    }

    fn opening(&self, place: &RunFolder, seed: u64) {
        let length = match (self.minutes, self.rounds) {
            (Some(minutes), _) => many(minutes, "minute", "minutes"),
            (None, rounds) => many(rounds, "round", "rounds"),
        };
        say(&format!(
            "PETNet crash test: {length}, seed {seed}, files in {}\n\
             Two gateways run here. Clients send messages both ways, gateways are killed, and after each restart\n\
             everything that was accepted must be there. Ctrl-C ends the test early.\n",
            place.path.display()
        ));
    }

    async fn rounds(
        &self,
        world: &mut GatewayPair,
        ledger: &Ledger,
        tally: &mut Tally,
        seed: u64,
    ) -> anyhow::Result<()> {
        let end = self.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        let mut rng = Rng::new(seed);
        for gateway in [&mut world.a, &mut world.b] {
            let what = format!("waiting for the gateway of {}", gateway.party);
            progress::shown(|| what.clone(), gateway.start()).await?;
        }
        while end.map_or(tally.rounds < self.rounds, |end| Instant::now() < end) {
            let number = tally.rounds + 1;
            let (blow, started, before) = (Blow::draw(&mut rng), Instant::now(), ledger.counts());
            let mut rng = Rng::new(rng.next());
            let what = || format!("round {number}: {}, {} accepted", blow.name(), ledger.counts().accepted);
            let round = Box::pin(round::run(world, ledger, number, blow, &mut rng));
            let at_risk = progress::shown(what, round).await?;
            tally.rounds = number;
            if let Some(at) = BLOWS.iter().position(|(b, _)| *b == blow) {
                tally.blows[at] += 1;
            }
            let counts = ledger.counts();
            say(&format!(
                "round {number:>3}  {:<21}  {:>5} accepted, {at_risk:>4} at risk, {} wrong  {:>5.1} s",
                blow.name(),
                counts.accepted - before.accepted,
                counts.wrong() - before.wrong(),
                started.elapsed().as_secs_f64()
            ));
            if counts.wrong() > 0 {
                break;
            }
        }
        Ok(())
    }
}

fn table(tally: &Tally, counts: &LedgerCounts) -> String {
    let mut lines = vec![format!("\n{:<26}{:>10}", "rounds", tally.rounds)];
    for ((_, name), count) in BLOWS.iter().zip(tally.blows) {
        lines.push(format!("  {name:<24}{count:>10}"));
    }
    let mut line =
        |name: &str, count: u64, meaning: &str| lines.push(format!("{name:<26}{count:>10}  {meaning}"));
    line("messages accepted", counts.accepted, &bytes(counts.bytes));
    line("at risk at the kills", counts.at_risk, "accepted, and not yet received when a gateway was killed");
    line("lost", counts.lost, "accepted, and not received, or not there any more");
    line("duplicated to the reader", counts.duplicated, "an id went back to an older message");
    line("corrupt", counts.corrupt, "received with bytes that were never sent");
    lines.join("\n")
}

fn verdict(counts: &LedgerCounts) -> Exit {
    if counts.wrong() > 0 {
        say("\nFAILED: this should never happen. Please report it with the files that were kept.");
        return Exit::Failed;
    }
    if counts.at_risk == 0 {
        say(
            "\nThis run proved nothing: no accepted message was on its way when a gateway was killed. Use more rounds.",
        );
        return Exit::Failed;
    }
    say("\nNothing that was accepted was lost.\n\
         Not shown by this test: power loss (a kill leaves to the operating system what the disk does not have yet), and\n\
         a second copy of the same message (reading does not remove a message, so the copy cannot be told from it).");
    Exit::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_put_nothing_at_risk_proves_nothing() {
        let counts = LedgerCounts { accepted: 10, ..LedgerCounts::default() };
        assert_eq!(verdict(&counts), Exit::Failed);
        assert_eq!(verdict(&LedgerCounts { at_risk: 1, ..counts }), Exit::Ok);
        for wrong in [
            LedgerCounts { lost: 1, at_risk: 1, ..counts },
            LedgerCounts { duplicated: 1, at_risk: 1, ..counts },
            LedgerCounts { corrupt: 1, at_risk: 1, ..counts },
        ] {
            assert_eq!(verdict(&wrong), Exit::Failed);
        }
    }
}
