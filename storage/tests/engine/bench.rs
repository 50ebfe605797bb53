//! What the suite asks of an engine besides being one: to be opened with some settings, ended, and moved in time.
//!
//! The suite allows engines to differ in what their users must not rely on: `stats()` may be some seconds old, so that it
//! is awaited; sequences rise, with gaps ([`Bench::DENSE`] says where there are none); the report of an opening may give
//! counts or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{Engine, FromSender, Handed, IdReuse, NoObserver, Observer, Sequence, StoreStats};

use crate::common::{id, party, until};

/// Settings that every engine has.
#[derive(Debug, Clone)]
pub struct Settings {
    pub message_ttl: Option<Duration>,
    pub unread_ttl: Option<Duration>,
    pub send_ttl: Option<Duration>,
    pub max_bytes: u64,
    pub dead_letter_bytes: u64,
    pub id_reuse: IdReuse,
}

impl Default for Settings {
    /// Those of a gateway.
    fn default() -> Self {
        Self {
            message_ttl: Some(Duration::from_secs(3600)),
            unread_ttl: Some(Duration::from_secs(604_800)),
            send_ttl: Some(Duration::from_secs(604_800)),
            max_bytes: 0,
            dead_letter_bytes: 64 << 20,
            id_reuse: IdReuse::Replace,
        }
    }
}

/// How a life of a store ends, before the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    /// As when its process is killed: nothing is closed.
    Dropped,
    /// In order; then its index is removed, which it can do without.
    #[cfg_attr(feature = "redis", allow(dead_code, reason = "not every engine has all of them"))]
    IndexLost,
    /// The server where it keeps its messages is killed under it, and started anew.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store has none"))]
    ServerKilled,
}

/// What an opening says that it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub pending: u64,
    pub mailbox: u64,
    pub dead_letters: u64,
}

/// An open store.
pub struct Opened {
    pub engine: Arc<dyn Engine>,
    /// `None`: it does not say.
    pub found: Option<Counts>,
}

impl Opened {
    /// Its report must say so, if it says anything.
    pub fn that_found(self, pending: usize, mailbox: usize, dead_letters: usize) -> Arc<dyn Engine> {
        let counts = [pending, mailbox, dead_letters].map(|n| n as u64);
        let [pending, mailbox, dead_letters] = counts;
        let expected = Counts { pending, mailbox, dead_letters };
        assert_eq!(self.found.unwrap_or(expected), expected, "what the opening found");
        self.engine
    }
}

/// An engine under test, with a place of its own where it keeps its messages.
pub trait Bench: Sized {
    /// Sequences have no gaps.
    const DENSE: bool;
    /// Every start accepts under an incarnation of its own; else every start of the server does where it keeps its messages.
    const STARTS_HAVE_NAMES: bool = true;
    /// Everything that it must survive.
    const ENDS: &[End];

    /// A new place, with nothing in it.
    async fn new() -> Self;

    /// Opens it.
    async fn open_observed(&self, settings: &Settings, observer: Arc<dyn Observer>) -> Opened;

    /// Ends a life of it, of which nobody else has a part any more, and begins the next.
    async fn reopen(&self, engine: Arc<dyn Engine>, settings: &Settings, end: End) -> Opened;

    /// Service time goes on.
    fn advance(&self, by: Duration);

    /// A second later, what is here has gone wherever it goes when it is not the newest any more.
    async fn settle_down(&self, engine: &Arc<dyn Engine>);

    /// Returns when what has ended takes no room any more. It may move time on, and leave a message of `party_a` in the
    /// mailbox.
    async fn until_space_is_back(&self, engine: &Arc<dyn Engine>);

    /// Returns when it is durable that a message was read, which was [noted](Engine::note_read). It may leave a pending message
    /// for `party_sync`.
    async fn until_read_is_kept(&self, engine: &Arc<dyn Engine>, message: Sequence);

    /// Opens it with nobody watching.
    async fn open(&self, settings: &Settings) -> Arc<dyn Engine> {
        self.open_observed(settings, Arc::new(NoObserver)).await.engine
    }
}

/// A reader is handed a message; gives its place in the order.
pub async fn hand(engine: &Arc<dyn Engine>, name: &str) -> Sequence {
    let held = engine.open(&FromSender::Any, &id(name)).await.expect("opens").expect("is there");
    engine.note_read(&[Handed::from(&held)]);
    held.sequence
}

/// Waits until the counters say something.
pub async fn until_stats(engine: &Arc<dyn Engine>, what: &str, say: impl Fn(&StoreStats) -> bool) {
    until(what, async || say(&engine.stats())).await;
}

/// Ends of messages are lazy and ride on the next sync: one more message, for `party_sync`, brings it. One that was there
/// before is replaced.
pub async fn sync_ends(engine: &Arc<dyn Engine>) {
    // The same bytes would be the same message.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let other = COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    engine.accept(&party("party_sync"), &id("sync"), Bytes::copy_from_slice(&other)).await.expect("accepts");
}

/// Ids and sequences of what is pending for a peer, in order.
pub async fn listed(engine: &Arc<dyn Engine>, peer: &str) -> Vec<Sequence> {
    let list = engine.pending(&party(peer), Sequence(0), 100_000).await.expect("lists");
    list.into_iter().map(|pending| pending.sequence).collect()
}
