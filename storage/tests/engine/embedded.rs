//! The embedded store under test: small segments, and a clock that moves by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{
    Engine, IndexFound, ManualClock, NoObserver, Observer, OpenReport, Sequence, Store, StoreOptions,
};
use tempfile::TempDir;

use super::bench::{Bench, Counts, End, Opened, Settings, sync_ends};
use crate::common::{arrival, clocked, until};

/// With its usual cache of recent payloads, or with none: then everything is read from its files.
#[derive(Debug)]
pub struct OnFiles<const CACHED: bool> {
    folder: TempDir,
    options: StoreOptions,
    clock: Arc<ManualClock>,
}

pub type Embedded = OnFiles<true>;
pub type WithoutCache = OnFiles<false>;

impl<const CACHED: bool> OnFiles<CACHED> {
    fn open_store(&self, settings: &Settings, observer: Arc<dyn Observer>) -> (Arc<dyn Engine>, OpenReport) {
        let Settings { message_ttl, unread_ttl, send_ttl, max_bytes, dead_letter_bytes, id_reuse } =
            settings.clone();
        let options = StoreOptions {
            message_ttl,
            unread_ttl,
            send_ttl,
            max_bytes,
            dead_letter_bytes,
            id_reuse,
            ..self.options.clone()
        };
        let (engine, report) = Store::open(options, observer).expect("the store opens");
        assert_eq!(report.damaged, 0, "{report}");
        (engine, report)
    }
}

fn opened((engine, report): (Arc<dyn Engine>, OpenReport)) -> Opened {
    let OpenReport { pending, mailbox, dead_letters, .. } = report;
    Opened { engine, found: Some(Counts { pending, mailbox, dead_letters }) }
}

impl<const CACHED: bool> Bench for OnFiles<CACHED> {
    const DENSE: bool = true;
    const ENDS: &[End] = &[End::Closed, End::Dropped, End::IndexLost];

    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut options, clock) = clocked(folder.path());
        options.housekeeping_every = Duration::from_millis(5);
        if !CACHED {
            options.cache_bytes = 0;
        }
        Self { folder, options, clock }
    }

    async fn open_observed(&self, settings: &Settings, observer: Arc<dyn Observer>) -> Opened {
        opened(self.open_store(settings, observer))
    }

    async fn reopen(&self, engine: Arc<dyn Engine>, settings: &Settings, end: End) -> Opened {
        assert_eq!(Arc::strong_count(&engine), 1, "somebody else has it still");
        if end != End::Dropped {
            engine.close().await.expect("closes");
        }
        drop(engine);
        let index = match end {
            End::Closed => Some(IndexFound::CaughtUp),
            End::Dropped => None,
            End::IndexLost => {
                std::fs::remove_dir_all(self.folder.path().join("index")).expect("the index is there");
                Some(IndexFound::Rebuilt)
            }
            End::ServerKilled => panic!("there is no server"),
        };
        let (engine, report) = self.open_store(settings, Arc::new(NoObserver));
        assert_eq!(report.index, index.unwrap_or(report.index), "{end:?}: {report}");
        opened((engine, report))
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn settle_down(&self, engine: &Arc<dyn Engine>) {
        self.clock.advance(Duration::from_secs(1));
        until("all is indexed on disk", async || engine.stats().index_in_memory == 0).await;
    }

    async fn until_read_is_kept(&self, engine: &Arc<dyn Engine>, _: Sequence) {
        sync_ends(engine).await;
    }

    async fn until_space_is_back(&self, engine: &Arc<dyn Engine>) {
        until("the segments are given back", async || {
            // Time goes on, and something happens now and then.
            self.clock.advance(Duration::from_secs(1));
            engine.store(arrival("party_a", "tick", Bytes::new(), None)).await.expect("stores");
            engine.stats().segments <= 4
        })
        .await;
    }
}
