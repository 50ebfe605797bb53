//! The engine on Redis under test: a server of its own for each test, which syncs before it answers.

use std::sync::Arc;
use std::time::Duration;

use petnet_redis_servers::{Options, RedisServer, Reply};
use petnet_storage::redis::{RedisOptions, RedisStore};
use petnet_storage::{Engine, ManualClock, NoObserver, Observer, Sequence};

use super::bench::{Bench, Counts, End, Opened, Settings};
use crate::common::{party, until};

/// See the module.
#[derive(Debug)]
pub struct Redis {
    server: RedisServer,
    clock: Arc<ManualClock>,
}

impl Bench for Redis {
    const DENSE: bool = false;
    const STARTS_HAVE_NAMES: bool = false;
    const ENDS: &[End] = &[End::Closed, End::Dropped, End::ServerKilled];

    async fn new() -> Self {
        Self { server: RedisServer::start(Options::default()), clock: Arc::new(ManualClock::default()) }
    }

    async fn open_observed(&self, settings: &Settings, observer: Arc<dyn Observer>) -> Opened {
        let Settings { message_ttl, unread_ttl, send_ttl, max_bytes, dead_letter_bytes, id_reuse } =
            settings.clone();
        let defaults = RedisOptions::new(&self.server.url(), party("party_own")).expect("it is an address");
        let options = RedisOptions {
            message_ttl,
            unread_ttl,
            send_ttl,
            max_bytes,
            dead_letter_bytes,
            id_reuse,
            clock: self.clock.clone(),
            ..defaults
        };
        let (engine, report) = RedisStore::open(options, observer).await.expect("the store opens");
        Opened { engine, found: counts(&report.to_string()) }
    }

    async fn reopen(&self, engine: Arc<dyn Engine>, settings: &Settings, end: End) -> Opened {
        match end {
            End::Closed => engine.close().await.expect("closes"),
            End::Dropped => {}
            End::ServerKilled => self.server.kill(),
            End::IndexLost => panic!("there is no index"),
        }
        drop(engine);
        self.server.restart();
        self.open_observed(settings, Arc::new(NoObserver)).await
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn settle_down(&self, _: &Arc<dyn Engine>) {
        self.clock.advance(Duration::from_secs(1));
    }

    async fn until_read_is_kept(&self, _: &Arc<dyn Engine>, message: Sequence) {
        let message = message.0.to_string();
        until("the read is written", async || {
            self.server.command(&["ZSCORE", "petnet:{party_own}:read", &message]) != Reply::Nil
        })
        .await;
    }

    async fn until_space_is_back(&self, _: &Arc<dyn Engine>) {}
}

/// The numbers of a start line, in the words of the embedded store's: "1 pending, 2 in the mailbox, 3 dead letters".
fn counts(report: &str) -> Option<Counts> {
    let number = |what: &str| report.split_once(what)?.0.rsplit([' ', ',', ';']).next()?.parse().ok();
    Some(Counts {
        pending: number(" pending")?,
        mailbox: number(" in the mailbox")?,
        dead_letters: number(" dead letters")?,
    })
}
