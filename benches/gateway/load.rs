//! What clients do in one row of the matrix, for a fixed time: senders that send one message after the other, and a
//! receiver for each, which reads them all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::mailbox::{mailbox, receive_stream, send_stream};
use crate::ways::{Ends, Unary, Way};

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// What all ids begin with; nothing else that was sent between these ends begins with it.
    pub(crate) run: String,
    /// Payload bytes.
    pub(crate) size: usize,
    pub(crate) senders: usize,
    /// How long they begin new messages.
    pub(crate) time: Duration,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Done {
    /// How long each send, or round trip, took.
    pub(crate) times: Vec<Duration>,
    /// Messages that were accepted in the time that counts.
    pub(crate) messages: usize,
    /// Messages before it, so that all are connected.
    pub(crate) before: usize,
    /// From the first send until the last was accepted.
    pub(crate) accepted_in: Duration,
    /// From the first send until the last was received and read at the other end.
    pub(crate) received_in: Duration,
}

/// Payloads of a size.
pub(crate) fn content(size: usize) -> Bytes {
    Bytes::from(vec![7; size])
}

/// Everything that tasks have to say, or the first failure; what is left of them ends with it.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut said = Vec::with_capacity(tasks.len());
    while let Some(one) = tasks.join_next().await {
        said.push(one??);
    }
    Ok(said)
}

/// Senders with a connection each, and as many receivers. A receiver asks for a message once it is accepted: a relay
/// has it then, and is not asked in vain.
pub(crate) async fn senders(way: Way, ends: &Ends, load: &Load) -> Result<Done> {
    let (load, ends) = (Arc::new(load.clone()), Arc::new(ends.clone()));
    let payload = content(load.size);
    let mut tasks = JoinSet::new();
    for n in 0..load.senders {
        tasks.spawn(connected(way, ends.clone(), format!("{}warm/{n}", load.run), payload.clone()));
    }
    let clients = all(tasks).await?;
    let start = Instant::now();
    let (mut sending, mut receiving) = (JoinSet::new(), JoinSet::new());
    for (n, [sender, receiver]) in clients.into_iter().enumerate() {
        let (accepted, to_receive) = mpsc::unbounded_channel();
        sending.spawn(send_all(sender, n, load.clone(), ends.clone(), payload.clone(), start, accepted));
        receiving.spawn(receive_all(receiver, to_receive, load.size));
    }
    let times = all(sending).await?.concat();
    let accepted_in = start.elapsed();
    all(receiving).await?;
    let (messages, before) = (times.len(), load.senders);
    Ok(Done { times, messages, before, accepted_in, received_in: start.elapsed() })
}

/// A sender and a receiver that have moved a message.
async fn connected(way: Way, ends: Arc<Ends>, id: String, payload: Bytes) -> Result<[Unary; 2]> {
    let [mut a, mut b] = ends.addresses.map(|address| way.client(address));
    let len = payload.len();
    a.send(&ends.parties[1], id.clone(), payload).await?;
    b.receive(&id, len).await?;
    Ok([a, b])
}

async fn send_all(
    mut client: Unary,
    sender: usize,
    load: Arc<Load>,
    ends: Arc<Ends>,
    payload: Bytes,
    start: Instant,
    accepted: mpsc::UnboundedSender<String>,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while times.is_empty() || start.elapsed() < load.time {
        let id = format!("{}{sender}:{}", load.run, times.len());
        let begun = Instant::now();
        client.send(&ends.parties[1], id.clone(), payload.clone()).await?;
        times.push(begun.elapsed());
        // A receiver that is gone has failed, and says so.
        drop(accepted.send(id));
    }
    Ok(times)
}

async fn receive_all(
    mut client: Unary,
    mut accepted: mpsc::UnboundedReceiver<String>,
    size: usize,
) -> Result<()> {
    while let Some(id) = accepted.recv().await {
        client.receive(&id, size).await?;
    }
    Ok(())
}

/// One message there and one back, again and again.
pub(crate) async fn ping_pong(way: Way, ends: &Ends, load: &Load) -> Result<Done> {
    let Load { run, size, time, .. } = load.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(echo(way.client(ends.addresses[1]), ends.parties[0].clone(), run.clone(), size));
    let (mut a, to) = (way.client(ends.addresses[0]), ends.parties[1].clone());
    tasks.spawn(async move {
        let (mut start, mut times) = (Instant::now(), Vec::new());
        for n in 0.. {
            let begun = Instant::now();
            a.send(&to, format!("{run}ping:{n}"), content(size)).await?;
            a.receive(&format!("{run}pong:{n}"), size).await?;
            if n == 0 {
                start = Instant::now();
                continue;
            }
            times.push(begun.elapsed());
            if start.elapsed() >= time {
                break;
            }
        }
        let (messages, took) = (2 * times.len(), start.elapsed());
        Ok(Done { times, messages, before: 2, accepted_in: took, received_in: took })
    });
    // The echo only ends when it fails.
    tasks.join_next().await.expect("two tasks")?
}

async fn echo(mut client: Unary, to: String, run: String, size: usize) -> Result<Done> {
    for n in 0.. {
        client.receive(&format!("{run}ping:{n}"), size).await?;
        client.send(&to, format!("{run}pong:{n}"), content(size)).await?;
    }
    unreachable!("it counts for ever")
}

/// One message in pieces after the other; each is read in pieces as soon as it is there.
pub(crate) async fn streams(ends: &Ends, load: &Load) -> Result<Done> {
    let [mut a, mut b] = ends.addresses.map(mailbox);
    let warm = format!("{}warm", load.run);
    send_stream(&mut a, &ends.parties[1], &warm, 1).await?;
    receive_stream(&mut b, &warm).await?;
    let (begun, mut to_receive) = mpsc::unbounded_channel::<String>();
    let mut receiving = JoinSet::new();
    receiving.spawn(async move {
        while let Some(id) = to_receive.recv().await {
            receive_stream(&mut b, &id).await?;
        }
        Ok(())
    });
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < load.time {
        let (id, at) = (format!("{}{}", load.run, times.len()), Instant::now());
        drop(begun.send(id.clone()));
        send_stream(&mut a, &ends.parties[1], &id, load.size as u64).await?;
        times.push(at.elapsed());
    }
    drop(begun);
    let accepted_in = start.elapsed();
    all(receiving).await?;
    let messages = times.len();
    Ok(Done { times, messages, before: 1, accepted_in, received_in: start.elapsed() })
}
