//! Opening and closing the Redis store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::durability::Durability;
use super::engine::{Life, RedisStore};
use super::inner::Inner;
use super::keeper::Keeper;
use super::lane::{Item, Lane};
use super::leases::SILENCE;
use super::options::{RedisOptions, seconds};
use super::scripts::SCRIPTS;
use super::session::Way;
use crate::engine::{Engine, Observer};
use crate::error::OpenError;
use crate::log::lock;

/// What opening found; its text is the one line a start prints.
#[derive(Debug, Clone)]
pub struct RedisReport {
    /// The server.
    pub node: String,
    /// What "accepted" means there.
    pub durability: Durability,
}

impl fmt::Display for RedisReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis at {}; {}", self.node, self.durability)
    }
}

impl RedisStore {
    /// Connects, and returns when there is a session. Waits for a Redis that is not there yet, within `start_wait`.
    pub async fn open(
        options: RedisOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<(Arc<dyn Engine>, RedisReport), OpenError> {
        let url = options.url.to_string();
        let refused = |why: String| OpenError::Redis { url: url.clone(), why };
        let inner = Inner::new(options, observer)?;
        let lane = Arc::new(Lane::start(&inner));
        let (started, start) = oneshot::channel();
        inner.tasks.spawn(Keeper::new(inner.clone(), lane.clone(), started).run());
        let store = Self { _life: Arc::new(Life(inner.clone())), inner, lane };
        match start.await {
            Ok(Ok(session)) => {
                let report =
                    RedisReport { node: session.node.to_string(), durability: session.durability.clone() };
                Ok((Arc::new(store), report))
            }
            Ok(Err(why)) => {
                store.inner.stop.cancel();
                Err(refused(why.why().to_owned()))
            }
            Err(_) => Err(refused("the task that connects ended".into())),
        }
    }

    /// Agrees with the other gateways, now.
    pub(super) async fn agree(&self) {
        let inner = &self.inner;
        let mut beats = inner.beats.subscribe();
        let before = *beats.borrow_and_update();
        inner.beat.notify_one();
        drop(timeout(inner.options.timeout, beats.wait_for(|count| *count > before)).await);
    }

    /// Lets what is queued end, and tells the other gateways at once.
    pub(super) async fn leave(&self) {
        let inner = &self.inner;
        let limit = inner.options.timeout;
        // Behind everything that is queued. Those who wait for that are answered in any case.
        drop(timeout(limit, self.lane.write(Item::Probe)).await);
        inner.stop.cancel();
        if let Ok(session) = inner.sessions.get(Instant::now() + Duration::from_millis(1)).await {
            let options = &inner.options;
            let leaving = session.script_at::<redis::Value>(
                Way::Write,
                &SCRIPTS.tick,
                inner.service.report().0,
                |call| {
                    call.arg(&inner.name).arg(&options.label);
                    call.arg(seconds(options.message_ttl))
                        .arg(seconds(options.send_ttl))
                        .arg(options.dead_letter_bytes);
                    call.arg(SILENCE.as_millis() as u64).arg(0).arg("leaves");
                },
            );
            if let Err(fault) = leaving.await {
                tracing::debug!(%fault, "the other gateways were not told that this one leaves");
            }
            session.end("closed");
        }
        lock(&inner.leases).clear();
        inner.sessions.close();
    }
}
