//! Random operations and faults against a ledger of what callers were told, several starts per seed.
//!
//! `PETNET_SEED=n` replays one seed, `PETNET_SEEDS=n` sets how many run. One seed in eight has an index on a real file
//! system beside its simulated disk.

mod common;
mod ledger;
mod sim_disk;
mod trials;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{copy_folder, until};
use ledger::{Direction, Ledger};
use petnet_storage::{Engine, ManualClock, NoObserver, OpenReport, Store, StoreOptions, StoreState};
use sim_disk::{Fault, Rng, SimDisk};
use trials::{block_on, each, number};

const SEEDS: u64 = 2000;
const PEERS: [&str; 2] = ["party_b", "party_c"];
const SENDERS: [&str; 2] = ["party_a", "party_d"];
const IDS: u64 = 6;

/// One run: a disk, a store on it, what was promised, and how it goes on.
struct Run {
    rng: Rng,
    disk: SimDisk,
    store: Arc<dyn Engine>,
    clock: Arc<ManualClock>,
    ledger: Ledger,
    /// The index's folder, and a copy of it from some time before.
    index: Option<(PathBuf, PathBuf)>,
    delivered: u64,
    lengths: u64,
    is_full: bool,
    log: Vec<String>,
}

/// What happened in all runs.
#[derive(Debug, Default)]
struct Totals {
    steps: AtomicU64,
    starts: AtomicU64,
    at_risk: AtomicU64,
    checked: AtomicU64,
}

fn open(disk: &SimDisk, ledger: &Ledger) -> (Arc<dyn Engine>, OpenReport, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let options = StoreOptions {
        clock: clock.clone(),
        checkpoint_every: Duration::ZERO,
        spill_after: Duration::from_secs(if ledger.rests { 60 } else { 0 }),
        index_memory_entries: if ledger.rests { 20 } else { 250_000 },
        housekeeping_every: Duration::from_millis(5),
        segment_bytes: 1 << 20,
        disk: Arc::new(disk.clone()),
        message_ttl: ledger.message_ttl.map(Duration::from_secs),
        unread_ttl: ledger.message_ttl.map(Duration::from_secs),
        send_ttl: ledger.send_ttl.map(Duration::from_secs),
        cache_bytes: 0,
        ..StoreOptions::new("/data")
    };
    let (store, report) =
        Store::open(options, Arc::new(NoObserver)).unwrap_or_else(|e| panic!("does not open: {e}"));
    (store, report, clock)
}

impl Run {
    fn new(seed: u64, folder: Option<&Path>) -> Self {
        let mut rng = Rng::new(seed);
        let index = folder.map(|f| (f.join("real").join("index"), f.join("copy")));
        if let Some((index, _)) = &index {
            std::fs::create_dir_all(index.parent().expect("a parent")).expect("makes a folder");
        }
        let disk = SimDisk::new(Path::new("/data"), index.as_ref().map(|i| i.0.clone()));
        let mut ledger = Ledger::default();
        if rng.chance(4) {
            ledger.message_ttl = Some(100);
            ledger.send_ttl = Some(200);
        }
        ledger.rests = seed.is_multiple_of(3);
        let (store, _, clock) = open(&disk, &ledger);
        let (delivered, lengths) = (0, 0);
        Self { rng, disk, store, clock, ledger, index, delivered, lengths, is_full: false, log: Vec::new() }
    }

    fn one_of(&mut self, all: [&'static str; 2]) -> &'static str {
        all[self.rng.below(2) as usize]
    }

    fn name(&mut self) -> String {
        format!("m{}", self.rng.below(IDS))
    }

    /// A length that no other message has.
    fn len(&mut self) -> usize {
        self.lengths += 1;
        let base = match self.rng.below(20) {
            0..2 => 300_000,
            2..4 => 66_000,
            4..7 => 40_000,
            _ => 0,
        };
        base + self.lengths as usize
    }

    fn is_well(&self) -> bool {
        self.disk.is_well()
            && matches!(*self.store.state().borrow(), StoreState::Serving | StoreState::Full(_))
    }

    async fn step(&mut self) {
        let what = self.rng.below(20);
        self.log.push(format!("{what}"));
        let store = self.store.clone();
        match what {
            0..6 => {
                let mut sends = Vec::new();
                for _ in 0..=self.rng.below(6) {
                    sends.push((self.one_of(PEERS), self.name(), self.len()));
                }
                // At once only under different ids: else nobody knows which came last.
                sends.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
                sends.dedup_by(|a, b| (a.0, &a.1) == (b.0, &b.1));
                self.ledger.accept(&store, &sends).await;
            }
            6 => {
                let mut deliveries = Vec::new();
                for name in 0..=self.rng.below(IDS) {
                    self.delivered += 1;
                    let (sender, len) = (self.one_of(SENDERS), self.len());
                    deliveries.push((sender, format!("m{name}"), len, self.delivered));
                }
                self.ledger.store_many(&store, &deliveries).await;
            }
            7..10 => {
                let number = self.rng.chance(2).then_some(self.delivered + 1);
                self.delivered += u64::from(number.is_some());
                let (sender, name, len) = (self.one_of(SENDERS), self.name(), self.len());
                self.ledger.store(&store, sender, &name, len, number).await;
            }
            10 if self.disk.has_no_fault() && self.is_well() && !self.is_full => {
                self.ledger.repeat(&store).await;
            }
            11..14 => {
                let (peer, name, dead) = (self.one_of(PEERS), self.name(), self.rng.chance(3));
                self.ledger.settle(&store, peer, &name, dead).await;
            }
            14 => {
                let (sender, name) = (self.one_of(SENDERS), self.name());
                self.ledger.release(&store, sender, &name).await;
            }
            16 if self.rng.chance(2) => {
                let (sender, name) = (self.one_of(SENDERS), self.name());
                self.ledger.read(&store, sender, &name).await;
            }
            15 => self.ledger.retry_letter(&store).await,
            16 if self.rng.chance(3) => self.ledger.drop_letters(&store).await,
            17 => {
                let seconds = 1 + self.rng.below(40);
                self.clock.advance(Duration::from_secs(seconds));
                self.ledger.now += seconds;
            }
            18 => self.housekeeping().await,
            _ => self.trouble(),
        }
    }

    /// Waits until everything old enough is in the index on disk, and a checkpoint knows.
    async fn housekeeping(&mut self) {
        let generation = |disk: &SimDisk| {
            let of = |name: &str| {
                let bytes = disk.bytes(&Path::new("/data").join(name));
                u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes"))
            };
            of("CHECKPOINT.0").max(of("CHECKPOINT.1"))
        };
        let store = self.store.clone();
        let sends = [(PEERS[0], self.name(), self.len())];
        let before = generation(&self.disk);
        let accepted = self.ledger.accepted;
        self.ledger.accept(&store, &sends).await;
        if self.ledger.accepted == accepted {
            // Refused: perhaps nothing has changed, and no checkpoint is due.
            return;
        }
        let spills = self.index.is_some() && !self.is_full && !self.ledger.rests;
        until("housekeeping is done", async || {
            let spilled = !spills || store.stats().index_in_memory == 0;
            !self.is_well() || spilled && generation(&self.disk) > before || self.is_full
        })
        .await;
        if let Some((index, copy)) = self.index.as_ref().filter(|_| self.rng.chance(2)) {
            copy_folder(index, copy);
        }
    }

    /// From now on, or soon, something is wrong with the disk.
    fn trouble(&mut self) {
        let soon = 1 + self.rng.below(12);
        match self.rng.below(4) {
            0 | 1 => {
                self.is_full = !self.is_full;
                self.disk.set_full(self.is_full);
            }
            _ if !self.disk.is_well() => {}
            2 => self.disk.set_fault(Fault::PowerCut { at: self.disk.operations() + soon }),
            _ => {
                self.disk.set_fault(Fault::FailSync { at: self.disk.syncs() + soon / 3 + 1 });
                if self.rng.chance(2) {
                    self.disk.keep_writes_of_failed_syncs();
                }
            }
        }
        self.log.push(format!("full {}, well {}", self.is_full, self.disk.is_well()));
    }

    /// Ends the process in some way, harms the index in some way, and starts anew.
    async fn restart(&mut self) {
        let how = self.rng.below(3);
        let is_well = self.is_well();
        self.log.push(format!("restart {how} {is_well}"));
        match how {
            0 => {
                // Records of ends that found no room are not among what a close reports.
                if self.store.close().await.is_ok() && is_well && self.is_well_closed() && !self.is_full {
                    self.ledger.all_ends_are_durable();
                }
            }
            _ if how == 1 || !self.disk.has_power() => self.disk.cut_power(),
            _ => {
                let next = self.disk.after_kill();
                self.disk.cut_power();
                self.disk = next;
            }
        }
        let (other, _, _) = open(&SimDisk::new(Path::new("/data"), None), &Ledger::default());
        drop(std::mem::replace(&mut self.store, other));
        self.disk = if self.disk.has_power() {
            self.disk.after_kill()
        } else {
            let torn = self.rng.chance(4).then_some(self.rng.next());
            self.disk.after_power_cut(torn)
        };
        self.disk.set_full(false);
        self.is_full = false;
        self.harm_index();
        self.ledger.reopened();
        let (store, report, clock) = open(&self.disk, &self.ledger);
        self.log.push(report.to_string());
        (self.store, self.clock) = (store, clock);
    }

    fn is_well_closed(&self) -> bool {
        self.disk.is_well() && !matches!(*self.store.state().borrow(), StoreState::Poisoned(_))
    }

    fn harm_index(&mut self) {
        let Some((index, copy)) = &self.index else { return };
        let how = self.rng.below(6);
        self.log.push(format!("index {how}"));
        match how {
            0 => drop(std::fs::remove_dir_all(index)),
            1 if copy.exists() => copy_folder(copy, index),
            2 => {
                let len = std::fs::metadata(index.join("db")).map_or(0, |m| m.len());
                let file = std::fs::OpenOptions::new().write(true).open(index.join("db"));
                if let Ok(file) = file {
                    file.set_len(self.rng.below(len + 1)).expect("cuts");
                }
            }
            _ => {}
        }
    }
}

async fn run(run: &mut Run, totals: &Totals) {
    for start in 0..5 {
        for _ in 0..=run.rng.below(24) {
            run.step().await;
            totals.steps.fetch_add(1, Ordering::Relaxed);
            // A power cut to come would come while it is checked.
            if run.disk.has_no_fault() && run.is_well() && run.rng.chance(8) {
                let store = run.store.clone();
                run.ledger.check(&store, "while it runs").await;
            }
            if !run.disk.has_power() {
                break;
            }
        }
        run.restart().await;
        totals.starts.fetch_add(1, Ordering::Relaxed);
        let store = run.store.clone();
        run.ledger.check(&store, &format!("after start {start}")).await;
        run.ledger.repeat(&store).await;
        run.ledger.settle_for_what_is_there(&store).await;
    }
    let fresh = [(PEERS[0], "fresh".to_owned(), 7), (PEERS[1], "fresh".to_owned(), 70_007)];
    let accepted = run.ledger.accepted;
    let store = run.store.clone();
    run.ledger.accept(&store, &fresh).await;
    assert_eq!(run.ledger.accepted, accepted + 2, "fresh messages flow");
    run.ledger.check(&store, "with fresh messages").await;
    assert!(run.ledger.keys().iter().any(|k| k.0 == Direction::Outgoing));
}

#[test]
fn a_store_keeps_to_a_plain_model_through_faults_and_restarts() {
    let step = number("PETNET_SEED_STEP").unwrap_or(1);
    let seeds: Vec<u64> = match number("PETNET_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PETNET_SEEDS").unwrap_or(SEEDS)).map(|n| n * step).collect(),
    };
    let totals = Totals::default();
    let shm = Path::new("/dev/shm");
    each(&seeds, |seed| {
        let real = seed.is_multiple_of(8).then(|| {
            if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a folder")
        });
        let mut one = Run::new(seed, real.as_ref().map(tempfile::TempDir::path));
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block_on(run(&mut one, &totals))));
        if let Err(panic) = ran {
            println!("seed {seed} failed (PETNET_SEED={seed} replays it): {}", one.log.join(", "));
            std::panic::resume_unwind(panic);
        }
        totals.at_risk.fetch_add(one.ledger.accepted, Ordering::Relaxed);
        totals.checked.fetch_add(one.ledger.checked, Ordering::Relaxed);
    });
    let Totals { steps, starts, at_risk, checked } = totals;
    println!(
        "{} seeds: {} steps, {} restarts, {} messages at risk, found {} times, lost=0, wrong=0",
        seeds.len(),
        steps.into_inner(),
        starts.into_inner(),
        at_risk.into_inner(),
        checked.into_inner()
    );
}

/// Found by the model: while the disk is full nothing is taken out of the index on disk, so that a message that became a
/// dead letter was still pending there. The next message under its id then ended it once more, as pending: the letter was
/// gone at the second start.
#[test]
fn a_dead_letter_made_on_a_full_disk_stays_when_a_newer_message_takes_its_id() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let mut run = Run::new(1, Some(folder.path()));
        (run.ledger.message_ttl, run.ledger.send_ttl) = (None, None);
        let indexed = async |run: &Run| {
            until("all is in the index on disk", async || run.store.stats().index_in_memory == 0).await;
        };
        let store = run.store.clone();
        run.ledger.accept(&store, &[(PEERS[0], "m".into(), 10)]).await;
        indexed(&run).await;
        run.disk.set_full(true);
        until("the disk is known to be full", async || {
            run.ledger.accept(&store, &[(PEERS[1], "other".into(), 60_000)]).await;
            run.ledger.refused > 0
        })
        .await;
        run.ledger.settle(&store, PEERS[0], "m", true).await;
        run.disk.set_full(false);
        let accepted = run.ledger.accepted;
        until("there is room again", async || {
            run.ledger.accept(&store, &[(PEERS[0], "m".into(), 20)]).await;
            run.ledger.accepted > accepted
        })
        .await;
        indexed(&run).await;
        drop(store);
        for start in 0..3 {
            run.store.close().await.expect("closes");
            let next = open(&run.disk, &run.ledger);
            (run.store, run.clock) = (next.0, next.2);
            let store = run.store.clone();
            run.ledger.check(&store, &format!("start {start}")).await;
        }
    });
}
