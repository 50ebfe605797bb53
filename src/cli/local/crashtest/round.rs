//! One round: load both ways, a blow at a random moment, a restart, and the check of what clients were told.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use petnet_storage::{MessageId, PartyId};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;

use super::ledger::{Judgement, Ledger, LedgerKey};
use crate::cli::local::world::{GatewayPair, Rng};
use crate::cli::messages::client::{self, Client};

/// Clients per direction that use a new id for each message, and clients that send under the same ids again.
const FRESH_CLIENTS: usize = 4;
const REUSING_CLIENTS: usize = 2;
/// Number of ids that one of the latter uses in turn.
const REUSED_IDS: u64 = 4;
/// Most messages of one client in one round.
const MESSAGES: usize = 300;
/// Most bytes of one client in one round.
const CLIENT_BYTES: usize = 8 << 20;
const SIZES: [usize; 8] = [64, 0, 1 << 10, 64, 16 << 10, 200, 100 << 10, 1 << 20];
/// Most receives under way at a time, per direction.
const RECEIVING: usize = 32;
/// Longest wait for an accepted message to arrive.
const PATIENCE: Duration = Duration::from_mins(2);
const ONE_WAIT: Duration = Duration::from_secs(5);
/// Pause after an answer that was no success, because the gateway is dead or starting.
const PAUSE: Duration = Duration::from_millis(20);

/// What is done to the gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    KillA,
    KillB,
    KillBoth,
    /// SIGTERM to one of them.
    Stop,
    /// SIGSTOP to one of them, followed by SIGCONT.
    Freeze,
}

/// All blows, with their names.
pub(crate) const BLOWS: [(Blow, &str); 5] = [
    (Blow::KillA, "party_a killed"),
    (Blow::KillB, "party_b killed"),
    (Blow::KillBoth, "both killed"),
    (Blow::Stop, "one stopped in order"),
    (Blow::Freeze, "one frozen, let go on"),
];

impl Blow {
    /// Mostly draws kills, which are what the test is about; the others come now and then.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.below(10) {
            0..3 => Self::KillA,
            3..6 => Self::KillB,
            6..8 => Self::KillBoth,
            8 => Self::Stop,
            _ => Self::Freeze,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        BLOWS.iter().find(|(blow, _)| *blow == self).map_or("", |(_, name)| name)
    }
}

/// One direction, from a client of one party to a client of the other one.
struct SendingWay {
    number: usize,
    sender: Client,
    receiver: Client,
    to: PartyId,
}

fn ways(world: &GatewayPair) -> anyhow::Result<[SendingWay; 2]> {
    let client = |address: &str| anyhow::Ok(client::client(client::endpoint(address)?.connect_lazy()));
    let (a, b) = (&world.a, &world.b);
    let way = |number, from: &str, to: &str, party: &PartyId| {
        anyhow::Ok(SendingWay { number, sender: client(from)?, receiver: client(to)?, to: party.clone() })
    };
    Ok([way(0, &a.address, &b.address, &b.party)?, way(1, &b.address, &a.address, &a.party)?])
}

/// Runs a round; returns how many messages were at risk when the blow struck.
pub(crate) async fn run(
    world: &mut GatewayPair,
    ledger: &Ledger,
    number: u64,
    blow: Blow,
    rng: &mut Rng,
) -> anyhow::Result<u64> {
    let ways = ways(world)?;
    let enough = AtomicBool::new(false);
    let [first, second] = &ways;
    let mut seed = || Rng::new(rng.next());
    let load = [(first, seed()), (second, seed())].map(|(way, rng)| {
        let (tell, told) = channel(RECEIVING);
        let sending = send(way, ledger, number, rng, &enough, tell);
        async move { tokio::join!(sending, receive_all(way, ledger, told)) }
    });
    let mut moments = seed();
    let strike = async {
        sleep(Duration::from_millis(50 + moments.below(600))).await;
        let at_risk = strike(world, ledger, blow, &mut moments).await;
        sleep(Duration::from_millis(100)).await;
        enough.store(true, Relaxed);
        at_risk
    };
    // A gateway that does not start again ends the round, since nothing would arrive any more.
    let (at_risk, ()) = tokio::try_join!(strike, async {
        join_all(load).await;
        Ok(())
    })?;
    for way in &ways {
        fresh_message_flows(way, ledger, number).await?;
    }
    // What was there before the blow is still there after it, and is unchanged.
    let recent = ledger.recent();
    stream::iter(&recent).for_each_concurrent(RECEIVING, |key| still_there(&ways[key.0], ledger, key)).await;
    Ok(at_risk)
}

async fn strike(world: &mut GatewayPair, ledger: &Ledger, blow: Blow, rng: &mut Rng) -> anyhow::Result<u64> {
    let dead = Duration::from_millis(rng.below(400));
    let (a, b) = (&mut world.a, &mut world.b);
    let one = if rng.below(2) == 0 { &mut *a } else { &mut *b };
    let mut at_risk = 0;
    match blow {
        Blow::KillA | Blow::KillB => {
            let one = if blow == Blow::KillA { a } else { b };
            at_risk = ledger.kill();
            one.kill().await?;
            sleep(dead).await;
            one.start().await?;
        }
        Blow::KillBoth => {
            at_risk = ledger.kill();
            let (first, second) = tokio::join!(a.kill(), b.kill());
            first.and(second)?;
            sleep(dead).await;
            let (first, second) = tokio::join!(a.start(), b.start());
            first.and(second)?;
        }
        Blow::Stop => {
            if !one.terminate().await? {
                bail!("the gateway of {} did not stop in order", one.party);
            }
            one.start().await?;
        }
        Blow::Freeze => {
            one.freeze()?;
            sleep(Duration::from_millis(300) + dead * 3).await;
            one.thaw()?;
        }
    }
    Ok(at_risk)
}

/// Runs all sending clients of a direction.
async fn send(
    way: &SendingWay,
    ledger: &Ledger,
    round: u64,
    mut rng: Rng,
    enough: &AtomicBool,
    tell: Sender<LedgerKey>,
) {
    let clients = (0..FRESH_CLIENTS + REUSING_CLIENTS).map(|client| {
        let (mut rng, tell) = (Rng::new(rng.next()), tell.clone());
        async move {
            let mut sent_bytes = 0;
            for n in 0..MESSAGES {
                let mut len = SIZES[rng.below(SIZES.len() as u64) as usize];
                let id = if client < FRESH_CLIENTS {
                    format!("crashtest/{round}/{client}/{n}")
                } else {
                    // Long enough to make every attempt different.
                    len = len.max(64);
                    format!("crashtest/again/{client}/{}", n as u64 % REUSED_IDS)
                };
                sent_bytes += len;
                if enough.load(Relaxed) || sent_bytes > CLIENT_BYTES {
                    return;
                }
                if send_one(way, ledger, &(way.number, id), len, &tell).await.is_err() {
                    sleep(PAUSE).await;
                }
            }
        }
    });
    join_all(clients).await;
}

/// Sends one message. An error means that nobody knows whether it was accepted.
async fn send_one(
    way: &SendingWay,
    ledger: &Ledger,
    key: &LedgerKey,
    len: usize,
    tell: &Sender<LedgerKey>,
) -> anyhow::Result<()> {
    let id = MessageId::new(&key.1)?;
    let (number, payload) = ledger.attempt(key, len);
    client::send(&mut way.sender.clone(), &way.to, &id, payload, PATIENCE).await?;
    ledger.accepted(key, number);
    // If the channel is full, the readers are behind, and the sender waits for them.
    tell.send(key.clone()).await.context("the readers are gone")
}

/// Receives what was accepted, until all senders have ended.
async fn receive_all(way: &SendingWay, ledger: &Ledger, told: Receiver<LedgerKey>) {
    ReceiverStream::new(told)
        .for_each_concurrent(RECEIVING, |key| async move {
            if !arrives(way, ledger, &key, PATIENCE).await {
                ledger.lost(&key, &format!("accepted, and not received within {PATIENCE:?}"));
            }
        })
        .await;
}

/// Waits for the newest accepted message under an id. False if it does not come and is the first that does not.
async fn arrives(way: &SendingWay, ledger: &Ledger, key: &LedgerKey, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let Ok(id) = MessageId::new(&key.1) else { return false };
    let mut receiver = way.receiver.clone();
    loop {
        let floor = ledger.seen(key);
        // An error means that the gateway is dead at the moment.
        if let Ok(Some(payload)) = client::receive(&mut receiver, &id, None, ONE_WAIT).await {
            match ledger.received(key, &payload, floor) {
                Judgement::Older => {}
                Judgement::Right | Judgement::WentBack | Judgement::Corrupt => return true,
            }
        }
        if ledger.counts().lost > 0 {
            // The test has failed; what else is missing need not be waited for.
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
}

async fn still_there(way: &SendingWay, ledger: &Ledger, key: &LedgerKey) {
    if !arrives(way, ledger, key, ONE_WAIT).await {
        ledger.lost(key, "received before, and not there any more");
    }
}

/// Checks that a new message arrives, and that one that nobody sent is not there.
async fn fresh_message_flows(way: &SendingWay, ledger: &Ledger, round: u64) -> anyhow::Result<()> {
    let key = (way.number, format!("crashtest/{round}/fresh"));
    let (tell, _told) = channel(1);
    send_one(way, ledger, &key, 1000, &tell).await.context("a fresh message is not accepted")?;
    if !arrives(way, ledger, &key, PATIENCE).await {
        ledger.lost(&key, "a fresh message does not arrive");
    }
    let never = MessageId::new(format!("crashtest/{round}/never"))?;
    if let Some(payload) = client::receive(&mut way.receiver.clone(), &never, None, Duration::ZERO).await? {
        ledger.received(&(way.number, never.to_string()), &payload, None);
    }
    Ok(())
}
