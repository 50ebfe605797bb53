//! The three cases, each the same for the floor and for the gateways: only the addresses differ.

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

/// MB/s of 16 MiB messages with four senders, from the first send to the last receive; `each` messages a sender.
pub(crate) async fn bulk(addresses: [SocketAddr; 2], payload: &Bytes, first: usize, each: usize) -> f64 {
    const SENDERS: usize = 4;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for sender in 0..SENDERS {
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
                assert_eq!(receive(&mut b, &id(n)).await.len(), 16 << 20);
            }
        });
    }
    tasks.join_all().await;
    (SENDERS * each * (16 << 20)) as f64 / 1e6 / start.elapsed().as_secs_f64()
}
