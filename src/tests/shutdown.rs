//! Shutdown: what is running finishes, and nothing else can hold it up.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::testing::{Fault, until};

/// Well below the grace time of five seconds.
const QUICK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn silent_and_idle_connections_do_not_hold_up_shutdown() {
    let a = RunningGateway::alone().await;
    let mut silent = TcpStream::connect(a.addr).await.unwrap();
    // Half a preface: hyper waits for the rest of it.
    let mut half = TcpStream::connect(a.addr).await.unwrap();
    half.write_all(b"PRI * HT").await.unwrap();
    let idle = a.client().await;
    assert!(idle.send("b", "m", "x").await.unwrap().success);
    let start = Instant::now();
    a.shutdown().await;
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    for socket in [&mut silent, &mut half] {
        // A reset is as good an end as any other.
        let read = tokio::time::timeout(LIMIT, socket.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "the connection is over");
    }
}

#[tokio::test]
async fn running_calls_finish_and_waiting_receives_are_answered() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    a.engine.set_sync_time(Duration::from_secs(1));
    let sending = tokio::spawn({
        let client = client.clone();
        async move { client.send("b", "m", "x").await }
    });
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.receive("nothing").await }
    });
    until("both run", async || a.gateway.waiting() == 1 && a.gateway.calls() == 2).await;
    let start = Instant::now();
    let engine = a.engine.clone();
    a.shutdown().await;
    assert!(sending.await.unwrap().unwrap().success);
    assert_eq!(engine.pending_count(), 1);
    assert_eq!(waiting.await.unwrap(), None);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn call_that_outlasts_the_grace_is_cut_off() {
    let entries = parties(&[("a", &[String::new()]), ("b", &[free_address().to_string()])]);
    let a = RunningGateway::start(
        Settings { shutdown_grace: Duration::from_millis(300), ..settings("a") },
        entries,
    )
    .await;
    let client = a.client().await;
    a.engine.set_sync_time(Duration::from_hours(1));
    let sending = tokio::spawn(async move { client.send("b", "m", "x").await });
    until("it runs", async || a.gateway.calls() == 1).await;
    let start = Instant::now();
    a.shutdown().await;
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    assert!(sending.await.unwrap().is_err());
}

#[tokio::test]
async fn calls_after_shutdown_began_are_refused_as_unavailable() {
    let a = RunningGateway::alone().await;
    let client = a.client().await;
    assert!(client.send("b", "m", "x").await.unwrap().success);
    a.engine.set_fault(Fault::None);
    a.shutdown().await;
    let status = client.send("b", "m", "x").await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}");
}

#[tokio::test]
async fn port_in_use_is_named_at_start() {
    let a = RunningGateway::alone().await;
    let taken = Settings { listen_addr: a.addr, ..settings("a") };
    let error = Gateway::start(taken, Parties::default()).await.unwrap_err();
    assert!(error.to_string().contains(&a.addr.to_string()), "{error}");
    a.shutdown().await;
}
