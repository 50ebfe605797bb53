//! The cases with Redis: gateways on real servers that sync before each answer, against PETNet's way of using one.

mod idle;
mod sending;
mod sites;

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::bars::on_worker;
use crate::cases;
use crate::report::{Args, Bar, Table, folder, percentile_ms};

/// All of them, where there is a Redis.
pub(crate) async fn run(args: &Args, table: &mut Table) -> Result<()> {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("gateway: without redis-server there is no case redis");
        return Ok(());
    }
    sending::run(args, table).await?;
    ping_pong(args, table).await;
    idle::run(args, table).await
}

/// Messages there and back, one at a time, between parties with a server each.
async fn ping_pong(args: &Args, table: &mut Table) {
    let folder = folder();
    let parties = sites::parties(folder.path(), 1);
    let addresses = parties.each_ref().map(|site| site.users[0].address());
    let rounds = args.pick(2000, 500);
    on_worker(cases::ping_pong(addresses, 0, rounds / 4)).await;
    let times = on_worker(cases::ping_pong(addresses, rounds, rounds)).await;
    let p50 = percentile_ms(&times, 50);
    let measured = format!("p99 {:.2} ms, of {rounds}", percentile_ms(&times, 99));
    table.add("Redis: ping-pong 64 B, p50", measured, (p50, "ms"), Bar::AtMost(3.0));
}
