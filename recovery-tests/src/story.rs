//! A story: two gateways, clients, a ledger, faults, and the judgement at the end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use crate::clients::{Client, Load, Mix};
use crate::counts::Counts;
use crate::harness::{Found, Gateway, Pair};
use crate::ledger::{Answer, Key, Ledger, Party, Verdict};
use crate::random::Random;
use crate::volume::Volume;
use crate::{DEADLINE, LOOK_EVERY, until};

pub use crate::ledger::Party::{A, B};

/// Reads under way at a time.
const READERS: usize = 32;
/// How long one read waits at the gateway.
const WAIT: Duration = Duration::from_secs(5);
/// Sends under way at a time when many are sent.
const SENDERS: usize = 64;

/// Everything of one story.
#[derive(Debug)]
pub struct Story {
    name: String,
    /// The gateways, and the links between them.
    pub pair: Pair,
    /// What clients were told.
    pub ledger: Arc<Ledger>,
    /// What happened so far.
    pub counts: Counts,
    /// Every choice of the story comes from here.
    pub random: Random,
    loads: u64,
}

impl Story {
    /// Two gateways that reach each other directly; none runs yet.
    pub fn new() -> Self {
        Self::of(Pair::direct())
    }

    /// Two gateways that reach each other over links that can be broken.
    pub fn with_links() -> Self {
        Self::of(Pair::linked())
    }

    fn of(pair: Pair) -> Self {
        let name = std::thread::current().name().unwrap_or("story").to_owned();
        let random = Random::new();
        // Also when it fails before its end.
        println!("{name}: PETNET_SEED={} makes the same choices again", random.seed());
        Self { name, pair, ledger: Arc::default(), counts: Counts::default(), random, loads: 0 }
    }

    /// Starts what does not run; returns when both serve.
    pub async fn start(&mut self) -> [Found; 2] {
        self.pair.start().await
    }

    /// Starts a gateway anew with another setting.
    pub async fn stop_and_set(&mut self, party: Party, name: &'static str, value: &str) {
        self.gateway(party).stop().await;
        self.gateway(party).set(name, value);
        self.gateway(party).start().await;
    }

    /// The gateway of a party.
    pub fn gateway(&mut self, party: Party) -> &mut Gateway {
        self.pair.gateway(party)
    }

    /// Clients of both parties begin to send without pause.
    pub fn load(&mut self) -> Loads {
        self.load_of(Mix::default())
    }

    /// The same, with other sizes.
    pub fn load_of(&mut self, mix: Mix) -> Loads {
        self.loads += 1;
        let name = format!("load {}", self.loads);
        let loads = [A, B].map(|party| {
            let client = self.pair.gateway(party).client();
            Load::start(&[client], party, &name, mix, &self.ledger, &mut self.random)
        });
        Loads(loads.into())
    }

    /// Sends messages from one party, many at a time; all must be accepted.
    pub async fn send(&mut self, from: Party, count: u64, len: usize) {
        let (accepted, answers) = self.try_to_send(from, count, len).await;
        assert_eq!(accepted, count, "{answers:?}");
    }

    /// Sends one message in pieces; it must be accepted.
    pub async fn send_in_pieces(&mut self, from: Party, len: usize) -> Key {
        self.loads += 1;
        let key = Key { from, id: format!("in pieces {}", self.loads) };
        let answer = self.gateway(from).streams().send(&self.ledger, &key, len).await;
        assert_eq!(answer, Answer::Accepted);
        key
    }

    /// Sends messages from one party. Gives how many were accepted, and an answer that was not.
    pub async fn try_to_send(&mut self, from: Party, count: u64, len: usize) -> (u64, Option<Answer>) {
        self.loads += 1;
        let (batch, client, ledger) = (self.loads, self.pair.gateway(from).client(), self.ledger.clone());
        let answers = stream::iter(0..count).map(|number| {
            let (mut client, ledger) = (client.clone(), ledger.clone());
            let key = Key { from, id: format!("batch {batch}/{number}") };
            async move { client.send(&ledger, &key, len).await }
        });
        let not_accepted = |answer| async move { (answer != Answer::Accepted).then_some(answer) };
        let failures: Vec<_> = answers.buffer_unordered(SENDERS).filter_map(not_accepted).collect().await;
        (count - failures.len() as u64, failures.into_iter().next())
    }

    /// A moment under load: after something was accepted that no reader has yet, at a random time below `limit`.
    pub async fn random_moment(&mut self, limit: Duration) {
        until("a message is at risk", async || (self.ledger.at_risk() > 0).then_some(())).await;
        sleep(self.random.moment(limit)).await;
    }

    /// Notes how much is at risk now. Called when a fault comes.
    pub fn fault(&mut self) {
        self.counts.at_risk += self.ledger.at_risk();
    }

    /// SIGKILL for gateways, all at the same moment.
    pub async fn kill(&mut self, victims: &[Party]) {
        self.fault();
        for party in victims {
            self.gateway(*party).signal(Signal::KILL);
        }
        for party in victims {
            self.gateway(*party).ended().await;
            self.counts.kills += 1;
        }
    }

    /// The volume loses its power, and the gateways on it end with it; then the power is back.
    pub async fn power_cut(&mut self, volume: &Volume, on_it: &[Party]) {
        let switch = volume.power_switch();
        self.fault();
        // A signal is not at once: on a busy machine the threads went on for a while, and an ext4 whose power was cut can say
        // of a sync under way that all is well. Nobody hears of it when the power really goes.
        for party in on_it {
            self.gateway(*party).halt().await;
        }
        switch.off();
        for party in on_it {
            // It may have seen the end of its disk already.
            self.gateway(*party).kill().await;
        }
        volume.power_on();
        self.counts.power_cuts += 1;
    }

    /// Waits until readers were handed everything that was promised.
    pub async fn promises_are_kept(&mut self) {
        let owed = self.ledger.owed();
        let ledger = self.ledger.clone();
        let clients = [A, B].map(|party| self.pair.gateway(party).client());
        let reads = owed.into_iter().map(|key| {
            let (ledger, mut client) = (ledger.clone(), clients[key.from.other() as usize].clone());
            async move {
                let arrives = until_kept(&mut client, &ledger, &key);
                // One that does not come in time is judged as it is.
                timeout(DEADLINE, arrives).await.ok();
                let found = client.receive(&key, WAIT).await.unwrap();
                let verdict = ledger.judge(&key, found.as_ref());
                if verdict != Verdict::Whole {
                    eprintln!("{verdict:?}: {}", ledger.describe(&key, found.as_ref()));
                }
                verdict
            }
        });
        let verdicts: Vec<_> = stream::iter(reads).buffer_unordered(READERS).collect().await;
        for verdict in verdicts {
            self.counts.count(verdict);
        }
    }

    /// Whether everything that was promised is at its receiver now. Nobody counts as having been handed anything.
    pub async fn is_delivered(&mut self) -> bool {
        for key in self.ledger.owed() {
            let mut reader = self.pair.gateway(key.from.other()).client();
            let found = reader.receive(&key, Duration::ZERO).await.ok().flatten();
            if !found.is_some_and(|found| self.ledger.is_kept(&key, &found)) {
                return false;
            }
        }
        true
    }

    /// Both gateways are stopped in order and started again until neither owes the other anything.
    pub async fn nothing_is_pending(&mut self) -> [Found; 2] {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            for party in [A, B] {
                self.gateway(party).stop().await;
            }
            let found = self.start().await;
            if found.iter().all(|found| found.pending == 0) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "still pending: {found:?}");
            // The next stop waits for deliveries under way; the links need a moment to be made.
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// The judgement. Everything promised arrives, and a fresh message each way; then every message that was ever
    /// begun is looked at once more, after a restart; and no gateway holds a message that nobody sent.
    pub async fn ends_well(self) {
        let (name, seed) = (self.name.clone(), self.random.seed());
        self.judge().await.conclude(&name, seed);
    }

    /// The judgement as numbers, for stories that are told many times over.
    pub async fn judge(mut self) -> Counts {
        self.start().await;
        self.promises_are_kept().await;
        for party in [A, B] {
            self.send(party, 1, 100).await;
        }
        self.promises_are_kept().await;
        let found = self.nothing_is_pending().await;
        let mut present = [0, 0];
        let clients = [A, B].map(|party| self.pair.gateway(party).client());
        let looks = self.ledger.keys().into_iter().map(|key| {
            let mut client = clients[key.from.other() as usize].clone();
            async move { (client.receive(&key, Duration::ZERO).await.unwrap(), key) }
        });
        let mut looks = stream::iter(looks).buffer_unordered(READERS);
        while let Some((bytes, key)) = looks.next().await {
            present[key.from.other() as usize] += u64::from(bytes.is_some());
            let verdict = self.ledger.judge(&key, bytes.as_ref());
            if !matches!(verdict, Verdict::Whole | Verdict::Absent) {
                eprintln!("{verdict:?}: {}", self.ledger.describe(&key, bytes.as_ref()));
            }
            self.counts.count(verdict);
        }
        drop(looks);
        assert_eq!(found.map(|found| found.mailbox), present, "messages held, and of them sent by somebody");
        assert_eq!(found.map(|found| (found.dead_letters, found.damaged)), [(0, 0); 2], "{found:?}");
        self.counts.sent(&self.ledger);
        self.counts
    }
}

impl Default for Story {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads until there is what was promised.
pub(crate) async fn until_kept(client: &mut Client, ledger: &Ledger, key: &Key) {
    loop {
        // A failed call: its gateway is on its way back.
        let found = client.receive(key, WAIT).await.ok().flatten();
        if found.is_some_and(|found| ledger.is_kept(key, &found)) {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Loads that run.
#[derive(Debug)]
pub struct Loads(pub(crate) Vec<Load>);

impl Loads {
    /// Lets calls under way end, and begins no more.
    pub async fn stop(self) {
        for load in self.0 {
            load.stop().await;
        }
    }
}
