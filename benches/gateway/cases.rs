//! The loads of the cases, each the same for the floor and for the gateways: only the addresses differ.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::clients::{Client, PARTIES, client, receive, send};

/// `rounds` there and back of 64 B; how long each took. Both sides poll, and count their ids from the same start.
pub(crate) async fn ping_pong(addresses: [SocketAddr; 2], first: usize, rounds: usize) -> Vec<Duration> {
    let echo = tokio::spawn(async move {
        let mut b = client(addresses[1]);
        for n in first..first + rounds {
            let ping = receive(&mut b, &format!("ping:{n}")).await;
            send(&mut b, PARTIES[0], format!("pong:{n}"), ping).await;
        }
    });
    let mut a = client(addresses[0]);
    let mut times = Vec::with_capacity(rounds);
    for n in first..first + rounds {
        let start = Instant::now();
        send(&mut a, PARTIES[1], format!("ping:{n}"), Bytes::from_static(&[7; 64])).await;
        let pong = receive(&mut a, &format!("pong:{n}")).await;
        assert_eq!(pong.len(), 64);
        times.push(start.elapsed());
    }
    echo.await.unwrap();
    times
}

/// Senders of [`sends`].
pub(crate) const SENDERS: usize = 64;

/// Sends accepted a second with as many senders as there are clients, each over a connection of its own; how many each
/// had accepted.
pub(crate) async fn sends(senders: &[Client], first: usize, time: Duration) -> (f64, Vec<usize>) {
    let start = Instant::now();
    let tasks: Vec<_> = senders
        .iter()
        .enumerate()
        .map(|(sender, client)| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let mut n = 0;
                while start.elapsed() < time {
                    let id = format!("send/{sender}:{}", first + n);
                    send(&mut client, PARTIES[1], id, Bytes::from_static(&[7; 64])).await;
                    n += 1;
                }
                n
            })
        })
        .collect();
    let mut counts = Vec::new();
    for task in tasks {
        counts.push(task.await.unwrap());
    }
    (counts.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64(), counts)
}

/// Receives the last message of each sender of [`sends`].
pub(crate) async fn receive_last(client: &mut Client, first: usize, counts: &[usize]) {
    for (sender, count) in counts.iter().enumerate() {
        receive(client, &format!("send/{sender}:{}", first + count - 1)).await;
    }
}

/// `count` sends of 64 B, one after the other; how long each took.
pub(crate) async fn one(client: Client, first: usize, count: usize) -> Vec<Duration> {
    one_to(client, PARTIES[1], first, count).await
}

/// The same to another party.
pub(crate) async fn one_to(mut client: Client, to: &str, first: usize, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for n in first..first + count {
        let start = Instant::now();
        send(&mut client, to, format!("one:{n}"), Bytes::from_static(&[7; 64])).await;
        times.push(start.elapsed());
    }
    times
}

/// `count` messages of 64 B for each of which a receive waits at the other gateway: how long after the send began it was
/// accepted, and how long after it began the receive was answered.
pub(crate) async fn wakes(clients: [Client; 2], count: usize) -> Vec<(Duration, Duration)> {
    let [mut a, b] = clients;
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let (mut b, id) = (b.clone(), format!("wake:{n}"));
        let asked = id.clone();
        let waiting = tokio::spawn(async move {
            receive(&mut b, &asked).await;
            Instant::now()
        });
        // By then it waits.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let begun = Instant::now();
        send(&mut a, PARTIES[1], id, Bytes::from_static(&[7; 64])).await;
        let accepted = begun.elapsed();
        times.push((accepted, waiting.await.unwrap().saturating_duration_since(begun)));
    }
    times
}

/// Large messages end to end.
#[derive(Debug, Clone)]
pub(crate) struct Bulk {
    pub(crate) payload: Bytes,
    pub(crate) senders: usize,
    /// Messages a sender.
    pub(crate) each: usize,
}

/// MB/s from the first send to the last receive; ids count from `first`.
pub(crate) async fn bulk(addresses: [SocketAddr; 2], first: usize, bulk: Bulk) -> f64 {
    let Bulk { payload, senders, each } = bulk;
    let size = payload.len();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for sender in 0..senders {
        let payload = payload.clone();
        let id = move |n: usize| format!("bulk/{sender}:{n}");
        tasks.spawn(async move {
            let mut a = client(addresses[0]);
            for n in first..first + each {
                send(&mut a, PARTIES[1], id(n), payload.clone()).await;
            }
        });
        tasks.spawn(async move {
            let mut b = client(addresses[1]);
            for n in first..first + each {
                assert_eq!(receive(&mut b, &id(n)).await.len(), size);
            }
        });
    }
    tasks.join_all().await;
    (senders * each * size) as f64 / 1e6 / start.elapsed().as_secs_f64()
}
