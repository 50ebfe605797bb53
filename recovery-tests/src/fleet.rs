//! The story of two parties with several gateways each, whose messages are kept in Redis.
//!
//! The same ledger, and the same judgement as that of [`story`](crate::story), with more in it: readers release half of what
//! they were handed, and that must not come back; and in the end Redis is read past the gateways and must hold exactly the
//! messages that the ledger knows to be there.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::clients::{Client, Load, Mix};
use crate::counts::Counts;
use crate::harness::{Gateway, free_ports};
use crate::home::{Held, Home, cost};
use crate::ledger::{Answer, Key, Ledger, Party, Verdict};
use crate::random::Random;
use crate::story::{A, B, Loads, until_kept};
use crate::streams::Streams;
use crate::{DEADLINE, until};

/// Reads under way at a time.
const READERS: usize = 32;
/// Sends under way at a time when many are sent.
const SENDERS: usize = 64;
/// Gateways of a party, at most.
const MOST: usize = 2;

/// One party: its gateways, and where their messages are.
#[derive(Debug)]
pub struct Side {
    /// Where its messages are kept.
    pub home: Home,
    /// Its gateways.
    pub gateways: Vec<Gateway>,
}

/// Who gets killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// A gateway of a party.
    Gateway(Party, usize),
    /// The only Redis server of a party.
    Redis(Party),
}

/// Everything of one story.
#[derive(Debug)]
pub struct Fleet {
    name: String,
    /// `party_a`
    pub a: Side,
    /// `party_b`
    pub b: Side,
    /// What clients were told.
    pub ledger: Arc<Ledger>,
    /// What happened so far.
    pub counts: Counts,
    /// Every choice of the story comes from here.
    pub random: Random,
    /// Longest wait for all that is promised. Shorter where losses are allowed: it is over before they are counted.
    pub patience: Duration,
    batches: u64,
    dir: Option<TempDir>,
}

impl Fleet {
    /// So many gateways of either party, with their messages there. None runs yet.
    pub fn new(a: (Home, usize), b: (Home, usize)) -> Self {
        let name = std::thread::current().name().unwrap_or("story").to_owned();
        let random = Random::new();
        println!("{name}: PETNET_SEED={} makes the same choices again", random.seed());
        let dir = tempfile::Builder::new().prefix("petnet-recovery-").tempdir().unwrap();
        let ports: [u16; 2 * MOST] = free_ports();
        let url = |port: &u16| format!(r#"{{"type": 1, "url": "127.0.0.1:{port}"}}"#);
        let entry = |ports: &[u16]| ports.iter().map(url).collect::<Vec<_>>().join(", ");
        let (of_a, of_b) = (&ports[..a.1], &ports[MOST..MOST + b.1]);
        let text = format!(
            r#"{{"party_a": {{"petnet": [{}]}}, "party_b": {{"petnet": [{}]}}}}"#,
            entry(of_a),
            entry(of_b)
        );
        fs::write(dir.path().join("party.json"), text).unwrap();
        let side = |party: Party, home: Home, ports: &[u16]| {
            let gateway = |(n, port): (usize, &u16)| {
                let name = format!("{}_{n}", party.name());
                let mut gateway = Gateway::named(party, &name, *port, dir.path());
                if let Some(url) = home.url() {
                    gateway.set("REDIS_URL", &url);
                }
                gateway
            };
            let gateways = ports.iter().enumerate().map(gateway).collect();
            Side { home, gateways }
        };
        let (a, b) = (side(A, a.0, of_a), side(B, b.0, of_b));
        let (ledger, counts) = Default::default();
        Self { name, a, b, ledger, counts, random, patience: DEADLINE, batches: 0, dir: Some(dir) }
    }

    /// The folder with everything in it but Redis.
    pub fn folder(&self) -> &std::path::Path {
        self.dir.as_ref().unwrap().path()
    }

    /// One of the parties.
    pub fn side(&mut self, party: Party) -> &mut Side {
        match party {
            Party::A => &mut self.a,
            Party::B => &mut self.b,
        }
    }

    fn sides(&self) -> [&Side; 2] {
        [&self.a, &self.b]
    }

    /// A setting for the next lives of all gateways.
    pub fn set(&mut self, name: &'static str, value: &str) {
        for party in [A, B] {
            self.side(party).gateways.iter_mut().for_each(|gateway| gateway.set(name, value));
        }
    }

    /// Starts what does not run, servers first; returns when all gateways are healthy.
    pub async fn start(&mut self) {
        for side in self.sides() {
            if let Home::Server(server) = &side.home {
                tokio::task::block_in_place(|| server.restart());
            }
        }
        for party in [A, B] {
            self.side(party).gateways.iter_mut().for_each(Gateway::spawn);
        }
        for party in [A, B] {
            for gateway in &mut self.side(party).gateways {
                gateway.healthy().await;
            }
        }
    }

    /// A client of each gateway of a party.
    pub fn clients(&self, party: Party) -> Vec<Client> {
        self.sides()[party as usize].gateways.iter().map(Gateway::client).collect()
    }

    /// Clients of both parties begin to send without pause, through all of their gateways.
    pub fn load(&mut self, mix: Mix) -> Loads {
        self.batches += 1;
        let name = format!("load {}", self.batches);
        let loads = [A, B].map(|party| {
            Load::start(&self.clients(party), party, &name, mix, &self.ledger, &mut self.random)
        });
        Loads(loads.into())
    }

    /// Sends messages through one gateway, many at a time; all must be accepted.
    pub async fn send(&mut self, from: Party, via: usize, count: u64, len: usize) {
        let answers = self.try_to_send(from, via, count, len).await;
        let other = answers.iter().find(|answer| **answer != Answer::Accepted);
        assert_eq!(other, None, "all are accepted");
    }

    /// Sends messages through one gateway, many at a time; what the answers were.
    pub async fn try_to_send(&mut self, from: Party, via: usize, count: u64, len: usize) -> Vec<Answer> {
        self.batches += 1;
        let (batch, client) = (self.batches, self.clients(from)[via].clone());
        let answers = (0..count).map(|number| {
            let (mut client, ledger) = (client.clone(), self.ledger.clone());
            let key = Key { from, id: format!("batch {batch}/{number}") };
            async move { client.send(&ledger, &key, len).await }
        });
        let answers: Vec<_> = answers.collect();
        stream::iter(answers).buffer_unordered(SENDERS).collect().await
    }

    /// Notes how much is at risk now. Called when a fault comes.
    pub fn fault(&mut self) {
        self.counts.at_risk += self.ledger.at_risk();
    }

    /// SIGKILL for gateways and servers, all at the same moment.
    pub async fn kill(&mut self, victims: &[Victim]) {
        self.fault();
        for victim in victims {
            match *victim {
                Victim::Gateway(party, n) => self.side(party).gateways[n].signal(Signal::KILL),
                Victim::Redis(party) => {
                    tokio::task::block_in_place(|| self.side(party).home.redis().kill());
                }
            }
            self.counts.kills += 1;
        }
        for victim in victims {
            if let Victim::Gateway(party, n) = *victim {
                self.side(party).gateways[n].ended().await;
            }
        }
    }

    /// A moment under load: after something was accepted that no reader has yet, at a random time below `limit`.
    pub async fn random_moment(&mut self, limit: Duration) {
        until("a message is at risk", async || (self.ledger.at_risk() > 0).then_some(())).await;
        sleep(self.random.moment(limit)).await;
    }

    /// Waits until readers, each at one of the gateways, were handed everything that was promised; half of them release it.
    pub async fn promises_are_kept(&mut self) {
        let clients = [A, B].map(|party| self.clients(party));
        let mailboxes = [A, B].map(|party| {
            let gateways = &self.sides()[party as usize].gateways;
            gateways.iter().map(Gateway::streams).collect::<Vec<_>>()
        });
        let owed: Vec<_> = self.ledger.owed().into_iter().map(|key| (key, self.random.number())).collect();
        let (ledger, deadline) = (&self.ledger, Instant::now() + self.patience);
        let reads = owed.into_iter().map(|(key, choice)| {
            let at = choice as usize % clients[key.from.other() as usize].len();
            let mut client = clients[key.from.other() as usize][at].clone();
            let mut mailbox = mailboxes[key.from.other() as usize][at].clone();
            async move {
                let arrives = until_kept(&mut client, ledger, &key);
                // One that does not come in time is judged as it is.
                timeout_at(deadline, arrives).await.ok();
                let found = client.receive(&key, Duration::ZERO).await.unwrap();
                let verdict = ledger.judge(&key, found.as_ref());
                if verdict != Verdict::Whole {
                    eprintln!("{verdict:?}: {}", ledger.describe(&key, found.as_ref()));
                } else if choice & (1 << 40) != 0 && ledger.may_be_released(&key) {
                    release(&mut mailbox, &key).await;
                    ledger.released(&key);
                }
                verdict
            }
        });
        let reads: Vec<_> = reads.collect();
        let verdicts: Vec<_> = stream::iter(reads).buffer_unordered(READERS).collect().await;
        for verdict in verdicts {
            self.counts.count(verdict);
        }
    }

    /// Waits until neither party owes the other anything.
    pub async fn nothing_is_pending(&mut self) {
        for party in [A, B] {
            if matches!(self.side(party).home, Home::Folder) {
                continue;
            }
            let home = self.side(party).home.clone();
            let name = format!("nothing of {} is pending", party.name());
            until(&name, async || (home.held(party).pending == 0).then_some(())).await;
        }
        let gateways = self.a.gateways.iter_mut().chain(&mut self.b.gateways);
        for gateway in gateways {
            gateway.stop().await;
        }
        for party in [A, B] {
            if matches!(self.side(party).home, Home::Folder) {
                let found = self.side(party).gateways[0].start().await;
                assert_eq!((found.dead_letters, found.damaged), (0, 0), "{found:?}");
            }
        }
        self.start().await;
    }

    /// Waits until this is what each gateway of a party says of its health.
    pub async fn until_health(&self, party: Party, wanted: ServingStatus) {
        for gateway in &self.sides()[party as usize].gateways {
            let name = format!("{} at {} is {wanted:?}", party.name(), gateway.address());
            until(&name, async || (gateway.health().await == Some(wanted)).then_some(())).await;
        }
    }

    /// The judgement; it fails unless all is well.
    pub async fn ends_well(self) {
        let (name, seed) = (self.name.clone(), self.random.seed());
        self.judge().await.conclude(&name, seed);
    }

    /// The same where the settings of Redis promise less than that nothing is lost.
    pub async fn ends_well_but_for_losses(self) {
        let (name, seed) = (self.name.clone(), self.random.seed());
        self.judge().await.conclude_but_for_losses(&name, seed);
    }

    /// The judgement as numbers. Everything promised arrives, and a fresh message through each gateway; then every message
    /// that was ever begun is looked at once more, after a restart; and Redis holds those and no other.
    pub async fn judge(mut self) -> Counts {
        self.start().await;
        self.promises_are_kept().await;
        for party in [A, B] {
            for via in 0..self.side(party).gateways.len() {
                self.send(party, via, 1, 100).await;
            }
        }
        self.promises_are_kept().await;
        self.nothing_is_pending().await;
        let expected = self.last_looks().await;
        for party in [A, B] {
            let side = self.side(party);
            if !matches!(side.home, Home::Folder) {
                let held = side.home.held(party);
                let expected = expected[party as usize];
                let name = party.name();
                let later = || format!("{:?}\n{}", side.home.held(party), side.home.astray(party));
                assert_eq!(held, expected, "held by the Redis of {name}; then {}", later());
            }
            for gateway in &side.gateways {
                assert!(!gateway.whole_log().contains("panicked at"), "{}", gateway.log_tail());
            }
        }
        self.counts.sent(&self.ledger);
        self.counts
    }

    /// Judges every message that was ever begun. Gives what each home must therefore hold.
    async fn last_looks(&mut self) -> [Held; 2] {
        let mut expected = [Held::default(); 2];
        let clients = [A, B].map(|party| self.clients(party));
        let looks = self.ledger.keys().into_iter().enumerate().map(|(n, key)| {
            let clients = &clients[key.from.other() as usize];
            let mut client = clients[n % clients.len()].clone();
            async move { (client.receive(&key, Duration::ZERO).await.unwrap(), key) }
        });
        let looks: Vec<_> = looks.collect();
        let mut looks = stream::iter(looks).buffer_unordered(READERS);
        while let Some((bytes, key)) = looks.next().await {
            let verdict = self.ledger.judge(&key, bytes.as_ref());
            if !matches!(verdict, Verdict::Whole | Verdict::Absent) {
                eprintln!("{verdict:?}: {}", self.ledger.describe(&key, bytes.as_ref()));
            }
            self.counts.count(verdict);
            let Some(bytes) = bytes else { continue };
            let held = &mut expected[key.from.other() as usize];
            held.mailbox += 1;
            held.records += 1;
            held.used += cost(key.from, &key.id, bytes.len());
        }
        expected
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            for gateway in self.a.gateways.iter().chain(&self.b.gateways) {
                eprintln!("--- end of the log of {}:\n{}", gateway.address(), gateway.log_tail());
            }
            eprintln!("--- all of it is kept in {}", dir.keep().display());
        }
    }
}

/// Releases a message; again when it is not known whether that was done.
async fn release(mailbox: &mut Streams, key: &Key) {
    let mut last = None;
    let releasing = async {
        while let Err(why) = mailbox.release(key).await {
            last = Some(why);
            sleep(crate::LOOK_EVERY).await;
        }
    };
    let released = timeout(DEADLINE, releasing).await;
    assert!(released.is_ok(), "{key:?} cannot be released: {last:?}");
}
