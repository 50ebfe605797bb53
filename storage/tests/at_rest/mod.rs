//! A store at rest on a simulated disk without an index, so that a start reads all of its log; what was sent to it, what
//! it says, and where its frames are.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use petnet_storage::{Engine, ManualClock, NoObserver, OpenError, OpenReport, Store, StoreOptions};

use crate::log_map::{self, Frame, PAGE};
use crate::sent::{All, Answers, Counts, Hit, accept, ask, judge};
use crate::sim_disk::SimDisk;
use crate::trials::{block_on, seed};

pub const DIR: &str = "/data";

pub fn open(disk: &SimDisk) -> Result<(Arc<dyn Engine>, OpenReport), OpenError> {
    let options = StoreOptions {
        clock: Arc::new(ManualClock::default()),
        checkpoint_every: Duration::ZERO,
        segment_bytes: 1 << 20,
        cache_bytes: 0,
        message_ttl: None,
        send_ttl: None,
        disk: Arc::new(disk.clone()),
        ..StoreOptions::new(DIR)
    };
    Store::open(options, Arc::new(NoObserver))
}

/// A store at rest: its disk, what it was given, what it says, and its segments.
#[derive(Debug)]
pub struct AtRest {
    pub disk: SimDisk,
    pub all: All,
    pub before: Answers,
    pub segments: Vec<Segment>,
}

/// A segment in use.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub frames: Vec<Frame>,
    pub bytes: Vec<u8>,
}

impl Segment {
    pub fn end(&self) -> u64 {
        self.frames.last().map_or(PAGE, |f| f.bytes.end)
    }

    /// Nothing but zeros stands there.
    pub fn is_zero(&self, bytes: Range<u64>) -> bool {
        self.bytes[bytes.start as usize..bytes.end as usize].iter().all(|b| *b == 0)
    }

    /// The frame whose header or body holds a byte. Padding is nobody's.
    pub fn owner(&self, byte: u64) -> Option<&Frame> {
        self.frames.iter().find(|f| (f.bytes.start..f.body_end).contains(&byte))
    }
}

/// The segments at one moment: a store that runs may take files away.
pub fn segments(disk: &SimDisk) -> Vec<Segment> {
    let disk = disk.after_kill();
    let log = Path::new(DIR).join("log");
    let names = disk.names(&log).into_iter().filter(|n| !n.starts_with("free"));
    let segment = |path: PathBuf| {
        let bytes = disk.bytes(&path);
        Segment { frames: log_map::frames(&bytes), path, bytes }
    };
    names.map(|n| segment(log.join(n))).collect()
}

/// Sends with `work`, and closes.
pub fn at_rest(work: impl AsyncFnOnce(&Arc<dyn Engine>) -> All) -> AtRest {
    let disk = SimDisk::new(Path::new(DIR), None);
    let (all, before) = block_on(async {
        let (store, _) = open(&disk).expect("opens");
        let all = work(&store).await;
        let before = ask(&store, &all).await;
        store.close().await.expect("closes");
        (all, before)
    });
    let segments = segments(&disk);
    AtRest { disk, all, before, segments }
}

/// Opens a damaged disk and compares. Where something is missing somebody was told, unless nobody can know.
pub async fn after_damage(rest: &AtRest, disk: &SimDisk, hit: &Hit, can_know: bool, when: &str) -> Counts {
    let (store, report) = open(disk).unwrap_or_else(|e| panic!("{when}: does not open: {e}"));
    let after = ask(&store, &rest.all).await;
    let counts = judge(&rest.before, &after, &rest.all, hit, when);
    let noted = report.damaged > 0 || report.torn_bytes > 0 || store.stats().damaged > 0;
    assert!(noted || !can_know || counts.damaged + counts.back == 0, "{when}: nobody was told; {report}");
    counts
}

/// After damage: a fresh message flows, and the next start says the same.
pub async fn goes_on(rest: &AtRest, disk: &SimDisk, when: &str) {
    let (store, _) = open(disk).expect("opens");
    let mut all = rest.all.clone();
    accept(&store, &mut all, "fresh", 100).await;
    accept(&store, &mut all, "fresh and large", 70_000).await;
    let first = ask(&store, &all).await;
    store.close().await.expect("closes");
    drop(store);
    let (store, report) = open(disk).expect("opens again");
    assert_eq!(ask(&store, &all).await, first, "{when}, after one more start; {report}");
}

/// Counts over many trials.
#[derive(Debug, Default)]
pub struct Total(Mutex<Counts>);

impl Total {
    pub fn add(&self, counts: Counts) {
        let mut total = self.0.lock().expect("not poisoned");
        total.damaged += counts.damaged;
        total.back += counts.back;
        total.served += counts.served;
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { damaged, back, served } = *self.0.lock().expect("not poisoned");
        write!(
            f,
            "{damaged} set aside, {back} back, {served} answers as before, lost=0, wrong=0 (seed {})",
            seed()
        )
    }
}

/// Every byte of the data folder, but for the lock.
pub fn everything(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for dir in [DIR.into(), Path::new(DIR).join("log"), Path::new(DIR).join("corrupt")] {
        let files =
            disk.names(&dir).into_iter().filter(|n| !["LOCK", "log", "corrupt"].contains(&n.as_str()));
        found.extend(files.map(|n| dir.join(n)).map(|path| (path.clone(), disk.bytes(&path))));
    }
    found
}
