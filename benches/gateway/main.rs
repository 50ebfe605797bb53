//! Two gateways against the relay floor (see `floor`), in alternating rounds of the same run, and a matrix of ways,
//! sizes and senders.
//!
//! `scripts/bench` runs everything; `cargo bench --bench gateway -- [--quick] [CASE]...` some of it, see `options`.
//! Gateways and relays are processes of their own, as they are in use, and all clients are in this one; a ratio is the
//! median of the ratios of the rounds.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails ends")]

mod against;
mod bars;
mod cases;
mod clients;
mod exchange;
mod floor;
mod hostile;
mod house;
mod listing;
mod load;
mod mailbox;
mod matrix;
mod options;
mod page;
mod pair;
mod pending;
mod plots;
mod redis;
mod releases;
#[path = "../../storage/benches/log/report.rs"]
mod report;
mod status;
mod streams;
mod table;
mod ways;

use std::process::ExitCode;

use anyhow::Result;
use options::{Case, Options, USAGE};
use pair::RELAY;
use report::{Table, folder};
use ways::Way;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let flag = |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
    if let Some(addresses) = flag(RELAY) {
        runtime.block_on(floor::run(&addresses));
        return ExitCode::SUCCESS;
    }
    if let Some(address) = flag(hostile::FLOOD) {
        hostile::flood(&address);
    }
    if flag("--help").is_some() {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(std::env::args().skip(1)).and_then(|options| runtime.block_on(run(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let machine = page::facts(folder().path());
    eprintln!("gateway: {machine}");
    let time = matrix::time(&options.args);
    if let Some(ends) = &options.against {
        return against::run(ends, time).await;
    }
    let cases = options.cases();
    let has_matrix = cases.iter().any(|(name, _)| *name == "matrix");
    let needed = |way: &Way| has_matrix || cases.iter().any(|(_, needs)| needs.contains(way));
    matrix::probe(&options.ways.iter().copied().filter(needed).collect::<Vec<_>>()).await?;
    let mut table = Table::default();
    for case in cases.iter().filter(|(name, _)| *name != "matrix") {
        measure(case, options, &mut table).await?;
    }
    if !has_matrix {
        table.print();
        return Ok(());
    }
    let rows = matrix::run(&options.ways, time).await?;
    println!("\n{}\n{}", table::markdown(&rows, table.rows()), matrix::FOOT);
    if options.write {
        page::write(&options.args, &machine, &rows, &table)?;
    }
    Ok(())
}

/// A case with bars.
async fn measure((name, needs): &Case, options: &Options, table: &mut Table) -> Result<()> {
    let args = &options.args;
    let failed = |error| matrix::failed(&error, &format!("case {name}"), *needs.last().unwrap());
    match *name {
        "pingpong" => bars::ping_pong(args, table).await,
        "one" => bars::one(args, table).await,
        "sends" => bars::sends(args, table).await,
        "large" => bars::large(args, table).await,
        "mib" => bars::mib(args, table).await,
        "wake" => bars::wake(args, table).await,
        "release" => releases::releases(args, table).await.map_err(failed)?,
        "hostile" => bars::hostile(args, table).await,
        "exchange" => streams::exchanged(args, table).await.map_err(failed)?,
        "stream" => streams::stream(args, table).await.map_err(failed)?,
        "beside" => streams::beside(args, table).await.map_err(failed)?,
        "restart" => pending::restart(args, table).await.map_err(failed)?,
        "memory" => pending::memory(args, table).await.map_err(failed)?,
        "status" => status::status(args, table).await.map_err(failed)?,
        "listing" => listing::listing(args, table).await.map_err(failed)?,
        "house" => house::house(args, table).await.map_err(failed)?,
        "redis" => redis::run(args, table).await.map_err(failed)?,
        _ => unreachable!("all cases are above"),
    }
    Ok(())
}
