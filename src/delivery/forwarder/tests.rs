//! The forwarder against a scripted peer, on paused time.

mod probing;

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use parking_lot::Mutex;
use petnet_storage::{DeadReason, Observer, Outgoing, Payload};
use tokio::task::JoinHandle;

use super::*;
use crate::delivery::peer_link::Verdict;
use crate::testing::{FakeEngine, Random, message_id, party, until};

const CAP: Duration = Duration::from_secs(30);

/// What the scripted peer answers to a message, by its id and how often it was asked before.
type Script = dyn Fn(&str, usize) -> Verdict + Send + Sync;

#[derive(Default)]
struct SeenAttempts {
    /// Attempts by id.
    begun: HashMap<String, usize>,
    last_begun: Option<Instant>,
    delivered: Vec<String>,
    under_way: Vec<String>,
    most_under_way: usize,
    most_bytes: usize,
    bytes: usize,
}

#[derive(Clone)]
struct ScriptedPeer {
    script: Arc<Script>,
    takes: Duration,
    seen: Arc<Mutex<SeenAttempts>>,
}

impl ScriptedPeer {
    fn new(script: impl Fn(&str, usize) -> Verdict + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), takes: Duration::from_millis(10), seen: Arc::default() }
    }

    fn attempts(&self, id: &str) -> usize {
        self.seen.lock().begun.get(id).copied().unwrap_or_default()
    }

    fn delivered(&self) -> Vec<String> {
        self.seen.lock().delivered.clone()
    }
}

/// The id under which the script counts a probe, which carries no message.
const PROBE: &str = "";

#[tonic::async_trait]
impl Deliver for ScriptedPeer {
    async fn probe(&self) -> Result<(), String> {
        let before = self.attempts(PROBE);
        *self.seen.lock().begun.entry(PROBE.into()).or_default() += 1;
        tokio::time::sleep(self.takes).await;
        match (self.script)(PROBE, before) {
            Verdict::TryAgain { reason, .. } => Err(reason),
            _ => Ok(()),
        }
    }

    async fn deliver(&self, message: &Outgoing, _: bool) -> Verdict {
        let id = message.id.as_str();
        let before = self.attempts(id);
        {
            let mut seen = self.seen.lock();
            assert!(!seen.under_way.contains(&id.to_owned()), "two attempts at {id} at a time");
            *seen.begun.entry(id.to_owned()).or_default() += 1;
            seen.last_begun = Some(Instant::now());
            seen.under_way.push(id.to_owned());
            seen.bytes += message.payload.len() as usize;
            seen.most_under_way = seen.most_under_way.max(seen.under_way.len());
            seen.most_bytes = seen.most_bytes.max(seen.bytes);
        }
        // A megabyte takes ten times as long as a small one.
        tokio::time::sleep(self.takes * (1 + 10 * (message.payload.len() >> 20) as u32)).await;
        let verdict = (self.script)(id, before);
        let mut seen = self.seen.lock();
        seen.under_way.retain(|other| other != id);
        seen.bytes -= message.payload.len() as usize;
        if matches!(verdict, Verdict::Delivered) {
            let Payload::Whole(bytes) = &message.payload else { panic!("{id} is in memory") };
            seen.delivered.push(format!("{id}={}", String::from_utf8_lossy(&bytes[..bytes.len().min(8)])));
        }
        verdict
    }
}

fn unreachable() -> Verdict {
    Verdict::TryAgain { reason: "no connection".into(), whole_peer: true }
}

fn trouble() -> Verdict {
    Verdict::TryAgain { reason: "trouble".into(), whole_peer: false }
}

/// Passes hints on and ignores everything else.
struct HintObserver(Arc<Wakes>);

impl Observer for HintObserver {
    fn arrived(&self, _: &petnet_storage::Held) {}
    fn pending(&self, _: &PartyId, sequence: Sequence, len: u64) {
        self.0.pending(sequence, len);
    }
    fn died(&self, _: &petnet_storage::DeadLetter) {}
}

struct ForwarderBench {
    engine: Arc<FakeEngine>,
    wakes: Arc<Wakes>,
    course: Arc<Course>,
    record: Arc<Record>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl ForwarderBench {
    fn new() -> Self {
        let wakes: Arc<Wakes> = Arc::default();
        let engine = FakeEngine::new(Arc::new(HintObserver(wakes.clone())));
        let course = Arc::new(Course::new(wakes.clone(), false));
        Self {
            engine,
            wakes,
            course,
            record: Arc::default(),
            stop: CancellationToken::new(),
            tasks: Vec::new(),
        }
    }

    fn start(&mut self, peer: &ScriptedPeer) {
        let window = Window { messages: 8, bytes: 1 << 20, retry_cap: CAP };
        for lane in [Lane::Small, Lane::Bulk] {
            let engine: Arc<dyn Engine> = self.engine.clone();
            let (wakes, course) = (self.wakes.clone(), self.course.clone());
            let context = ForwarderContext { wakes, course, record: self.record.clone() };
            let forwarder = Forwarder::new(party("b"), lane, engine, peer.clone(), context, window);
            self.tasks.push(tokio::spawn(forwarder.run(self.stop.clone())));
        }
    }

    async fn accept(&self, id: &str, payload: &[u8]) -> Sequence {
        self.engine.accept(&party("b"), &message_id(id), Bytes::copy_from_slice(payload)).await.unwrap()
    }

    async fn until_settled(&self) {
        self.until_pending(0).await;
    }

    async fn until_pending(&self, count: usize) {
        let wait = async {
            while self.engine.pending_count() > count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_mins(10), wait).await.is_ok(), "still pending");
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn everything_pending_is_delivered_within_the_window() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|_, _| Verdict::Delivered);
    for n in 0..2000 {
        bench.accept(&n.to_string(), b"x").await;
    }
    bench.start(&peer);
    bench.until_settled().await;
    assert_eq!(peer.delivered().len(), 2000);
    assert_eq!(peer.seen.lock().most_under_way, 8);
    bench.accept("later", b"x").await;
    bench.until_settled().await;
    assert_eq!(peer.delivered().len(), 2001);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn huge_messages_go_beside_the_others_and_hold_up_none() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|_, _| Verdict::Delivered);
    for n in 0..6 {
        bench.accept(&format!("huge{n}"), &vec![1; 3 << 20]).await;
    }
    for n in 0..6 {
        bench.accept(&format!("half{n}"), &vec![1; 512 << 10]).await;
    }
    bench.start(&peer);
    bench.until_settled().await;
    let delivered = peer.delivered();
    assert_eq!(delivered.len(), 12);
    assert!(delivered[6..].iter().all(|id| id.starts_with("huge")), "{delivered:?}");
    assert_eq!(peer.seen.lock().most_bytes, 4 * (3 << 20) + (1 << 20), "four huge ones and the window");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn peer_that_is_down_is_probed_with_one_message_at_growing_pauses() {
    let mut bench = ForwarderBench::new();
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let peer = ScriptedPeer::new({
        let up = up.clone();
        move |_, _| {
            if up.load(std::sync::atomic::Ordering::SeqCst) { Verdict::Delivered } else { unreachable() }
        }
    });
    for n in 0..100 {
        bench.accept(&n.to_string(), b"x").await;
    }
    bench.start(&peer);
    tokio::time::sleep(Duration::from_mins(10)).await;
    let (attempts, last) = {
        let seen = peer.seen.lock();
        (seen.begun.values().sum::<usize>(), seen.last_begun.unwrap())
    };
    // The first window, then pauses that double from 100 ms to 30 s (halved by jitter): at most this many in ten minutes.
    assert!(attempts < 8 + 10 + 600 / 15 + 2, "{attempts} attempts");
    assert!(last.elapsed() <= CAP);
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    let back = Instant::now();
    bench.until_settled().await;
    assert!(back.elapsed() <= CAP * 2, "noticed within one cap, and what had failed waits one more at most");
    assert_eq!(peer.delivered().len(), 100);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_probe_is_under_way_while_the_peer_is_down() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|_, _| unreachable());
    for n in 0..100 {
        bench.accept(&n.to_string(), b"x").await;
    }
    bench.start(&peer);
    tokio::time::sleep(Duration::from_secs(5)).await;
    peer.seen.lock().most_under_way = 0;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(peer.seen.lock().most_under_way, 1);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn message_that_cannot_be_delivered_blocks_no_other() {
    for poison in [trouble, unreachable] {
        let mut bench = ForwarderBench::new();
        let peer = ScriptedPeer::new(
            move |id, _| {
                if id.starts_with("poison") { poison() } else { Verdict::Delivered }
            },
        );
        for n in 0..20 {
            bench.accept(&format!("poison{n}"), b"x").await;
        }
        for n in 0..500 {
            bench.accept(&n.to_string(), b"x").await;
        }
        let start = Instant::now();
        bench.start(&peer);
        bench.until_pending(20).await;
        assert!(start.elapsed() < CAP, "{:?}", start.elapsed());
        let before = peer.attempts("poison0");
        tokio::time::sleep(Duration::from_hours(1)).await;
        let more = peer.attempts("poison0") - before;
        assert!((100..=300).contains(&more), "goes on at the longest pause: {more} attempts in an hour");
        bench.accept("late", b"x").await;
        bench.until_pending(20).await;
        bench.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_hopeless_messages_than_the_retry_queue_holds_block_no_other() {
    let mut bench = ForwarderBench::new();
    let hopeless = RETRIES + 500;
    let peer =
        ScriptedPeer::new(|id, _| if id.starts_with("poison") { trouble() } else { Verdict::Delivered });
    for n in 0..hopeless {
        bench.accept(&format!("poison{n}"), b"x").await;
    }
    bench.accept("good", b"x").await;
    bench.start(&peer);
    bench.until_pending(hopeless).await;
    tokio::time::sleep(Duration::from_mins(20)).await;
    bench.accept("late", b"x").await;
    bench.until_pending(hopeless).await;
    let last = format!("poison{}", hopeless - 1);
    assert!(peer.attempts(&last) > 5, "forgotten ones are found again: {}", peer.attempts(&last));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn newer_message_under_an_id_waits_for_the_attempt_at_the_older_one() {
    let mut bench = ForwarderBench::new();
    let mut peer = ScriptedPeer::new(|_, before| if before < 3 { trouble() } else { Verdict::Delivered });
    peer.takes = Duration::from_secs(1);
    bench.start(&peer);
    bench.accept("id", b"old").await;
    until("the attempt began", async || peer.attempts("id") == 1).await;
    // This also holds when the newer message takes the other lane. The scripted peer panics if both are under way.
    bench.accept("id", &vec![b'n'; 300 << 10]).await;
    bench.accept("id", b"newest").await;
    bench.until_settled().await;
    assert_eq!(peer.delivered(), ["id=newest"], "the superseded ones never go");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn refused_and_damaged_messages_become_dead_letters_with_the_reason() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|id, _| match id {
        "refused" => Verdict::RefusedForGood("too ugly".into()),
        _ => Verdict::Delivered,
    });
    bench.accept("refused", b"x").await;
    let damaged = bench.accept("damaged", b"x").await;
    bench.engine.damage(damaged);
    bench.accept("fine", b"x").await;
    bench.start(&peer);
    bench.until_settled().await;
    let letters = bench.engine.letters();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].reason, DeadReason::Refused("too ugly".into()));
    assert!(matches!(&letters[1].reason, DeadReason::Damaged(what) if what.contains("a test")));
    assert_eq!(peer.delivered(), ["fine=x"]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn message_that_becomes_pending_after_higher_numbers_is_found() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|_, _| Verdict::Delivered);
    bench.start(&peer);
    for len in [1, 300 << 10] {
        bench.accept("first", b"x").await;
        bench.until_settled().await;
        let hidden = bench.accept("hidden", &vec![1; len]).await;
        let held = bench.engine.hide(&party("b"), hidden);
        bench.accept("second", &vec![1; len]).await;
        bench.until_settled().await;
        bench.engine.show(held);
        bench.until_settled().await;
    }
    assert_eq!(peer.delivered().len(), 6);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn quiet_forwarder_does_nothing() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|_, _| Verdict::Delivered);
    bench.start(&peer);
    bench.accept("one", b"x").await;
    bench.until_settled().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = bench.engine.list_reads();
    tokio::time::sleep(Duration::from_hours(24)).await;
    assert_eq!(bench.engine.list_reads(), before);
    bench.stop().await;
}

/// Whatever the peer says and whenever: per id only newer versions ever arrive, and the newest one does.
#[tokio::test(start_paused = true)]
async fn order_per_id_holds_under_random_trouble() {
    let mut random = Random::new();
    for _ in 0..10 {
        let seed = random.next();
        let mut bench = ForwarderBench::new();
        let peer = ScriptedPeer::new(move |id, before| {
            let mut hasher = DefaultHasher::new();
            (seed, id, before).hash(&mut hasher);
            match hasher.finish() % 4 {
                0 => trouble(),
                1 => unreachable(),
                _ => Verdict::Delivered,
            }
        });
        bench.start(&peer);
        let mut newest = HashMap::new();
        for version in 0..300 {
            let id = format!("id{}", random.below(20));
            // Padded so that versions compare as text and some of the messages go by the bulk lane.
            let mut payload = format!("{version:08}").into_bytes();
            payload.resize(if random.below(5) == 0 { 300 << 10 } else { 8 }, b' ');
            bench.accept(&id, &payload).await;
            newest.insert(id, format!("{version:08}"));
            tokio::time::sleep(Duration::from_millis(random.below(50))).await;
        }
        bench.until_settled().await;
        let mut arrived: HashMap<String, String> = HashMap::new();
        for delivery in peer.delivered() {
            let (id, version) = delivery.split_once('=').unwrap();
            let before = arrived.insert(id.into(), version.into());
            assert!(before.is_none_or(|before| before.as_str() < version), "{random:?}: {delivery}");
        }
        assert_eq!(arrived, newest, "{random:?}");
        bench.stop().await;
    }
}

/// Another gateway of our party delivered to the peer at the moment when the message was to be loaded, so it was gone for
/// us; we took over before that result was looked at, and read the list past it. The message was never delivered.
#[tokio::test(start_paused = true)]
async fn a_message_that_was_gone_for_us_and_came_back_meanwhile_is_delivered() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|id, before| match before {
        0 => Verdict::Unreadable(StoreError::Gone { id: id.into() }),
        _ => Verdict::Delivered,
    });
    bench.accept("m", b"x").await;
    bench.start(&peer);
    until("the first attempt is under way", async || peer.attempts("m") == 1).await;
    bench.wakes.pending(Sequence(0), 0);
    bench.until_settled().await;
    assert_eq!(peer.attempts("m"), 2);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_peer_gets_nothing_new_until_it_is_resumed() {
    let mut bench = ForwarderBench::new();
    let peer = ScriptedPeer::new(|_, _| Verdict::Delivered);
    bench.course.pause(true);
    bench.start(&peer);
    bench.accept("first", b"x").await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(bench.engine.pending_count(), 1);
    bench.course.pause(false);
    bench.until_pending(0).await;
    assert_eq!(bench.record.meters.peer(&party("b")).delivered.messages(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_at_once_does_not_wait_for_the_pause_to_end() {
    let mut bench = ForwarderBench::new();
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_up = up.clone();
    let peer = ScriptedPeer::new(move |_, _| {
        if is_up.load(std::sync::atomic::Ordering::SeqCst) { Verdict::Delivered } else { unreachable() }
    });
    bench.start(&peer);
    bench.accept("first", b"x").await;
    // Long enough for the pause between attempts to be at its longest.
    tokio::time::sleep(20 * CAP).await;
    let course = bench.course.now();
    assert!(course.down_since.is_some() && course.next_attempt.is_some());
    assert_eq!(&*bench.course.last_error().unwrap().why, "no connection");
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    let asked = Instant::now();
    bench.course.retry_at_once();
    bench.until_pending(0).await;
    assert!(asked.elapsed() < CAP / 10, "{:?}", asked.elapsed());
    assert!(
        bench.record.meters.peer(&party("b")).failed_attempts.load(std::sync::atomic::Ordering::Relaxed) > 2
    );
    assert!(bench.course.now().down_since.is_none());
}
