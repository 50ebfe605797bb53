//! What a gateway without work asks of Redis.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use petnet::proto::simple::ClientSimpleRecvRequest;
use petnet_redis_servers::RedisServer;
use tokio::task::JoinSet;

use super::sites;
use crate::bars::on_worker;
use crate::clients::{Client, client};
use crate::report::{Args, Bar, Table, folder};

/// Receives that wait.
const WAITING: usize = 100;
/// Commands that no script of ours calls: what clients send.
const OF_CLIENTS: [&str; 6] = ["evalsha", "ping", "subscribe", "config|get", "script|load", "wait"];

/// A gateway without clients, then with receives that wait.
pub(super) async fn run(args: &Args, table: &mut Table) -> Result<()> {
    let folder = folder();
    let [a, _b] = sites::parties(folder.path(), 1);
    let time = Duration::from_secs(args.pick(20, 6));
    measure(&a.redis, time, "Redis: commands of an idle gateway", Bar::AtMost(5.0), table).await;
    for (wait, name, bar) in [
        (100_000, "Redis: the same with 100 receives that wait", Some(Bar::AtMost(5.0))),
        (1000, "Redis: the same with 100 receives, each repeated after a second", None),
    ] {
        let mut waiting = JoinSet::new();
        let receiver = client(a.users[0].address());
        (0..WAITING).for_each(|n| drop(waiting.spawn(wait_for(receiver.clone(), n, wait))));
        // By then they wait.
        tokio::time::sleep(Duration::from_secs(2)).await;
        measure(&a.redis, time, name, bar, table).await;
        waiting.shutdown().await;
    }
    Ok(())
}

/// Waits for what never comes.
async fn wait_for(mut client: Client, n: usize, wait_ms: u64) {
    loop {
        let mut request = tonic::Request::new(ClientSimpleRecvRequest { message_id: format!("never/{n}") });
        request.metadata_mut().insert("petnet-wait-ms", wait_ms.into());
        let answer = client.client_simple_recv(request).await.unwrap().into_inner();
        assert!(answer.success && answer.payload.is_none(), "{answer:?}");
    }
}

async fn measure(
    server: &RedisServer,
    time: Duration,
    name: &str,
    bar: impl Into<Option<Bar>>,
    table: &mut Table,
) {
    let before = calls(server);
    on_worker(tokio::time::sleep(time)).await;
    let mut made = calls(server);
    for (command, count) in &mut made {
        *count -= before.get(command).unwrap_or(&0);
    }
    // Ours.
    made.remove("info");
    let a_second = |count: u64| count as f64 / time.as_secs_f64();
    let of_clients = OF_CLIENTS.iter().filter_map(|command| made.get(*command)).sum();
    let measured = format!("{:.1}/s with what scripts call", a_second(made.values().sum()));
    table.add(name, measured, (a_second(of_clients), "commands/s"), bar);
}

/// How often each command was called since the server began, by scripts too.
fn calls(server: &RedisServer) -> HashMap<String, u64> {
    let info = server.command(&["INFO", "commandstats"]).text();
    let line = |line: &str| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}
