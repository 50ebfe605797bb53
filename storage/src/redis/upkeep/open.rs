//! Opening and closing the Redis store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::face::engine::{Engine, Observer};
use crate::face::error::OpenError;
use crate::redis::calls::store::{RedisStore, StoreLife};
use crate::redis::calls::write_lane::{WriteLane, WriteRequest};
use crate::redis::connection::connect::NoSession;
use crate::redis::connection::durability::Durability;
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::leases::SILENCE;
use crate::redis::shared::RedisShared;
use crate::redis::upkeep::heartbeat::SessionKeeper;

/// What opening found; its text is the line that is printed at a start.
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
    /// Connects, and returns once there is a session. Waits up to `start_wait` for a Redis that is not there yet.
    pub async fn open(
        options: RedisOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<(Arc<dyn Engine>, RedisReport), OpenError> {
        let url = options.url.to_string();
        let refused = |why: String| OpenError::Redis { url: url.clone(), why };
        let inner = RedisShared::new(options, observer)?;
        let lane = Arc::new(WriteLane::start(&inner));
        let (started, start) = oneshot::channel();
        let noting = inner.clone();
        inner.tasks.spawn(async move { noting.keep_reads().await });
        inner.tasks.spawn(SessionKeeper::new(inner.clone(), lane.clone(), started).run());
        let store = Self { _life: Arc::new(StoreLife(inner.clone())), inner, lane };
        match start.await {
            Ok(Ok(session)) => {
                let report =
                    RedisReport { node: session.node.to_string(), durability: session.durability.clone() };
                Ok((Arc::new(store), report))
            }
            Ok(Err(why)) => {
                store.inner.stop.cancel();
                Err(match why {
                    NoSession::Settings(why) => OpenError::Settings { url: url.clone(), why },
                    why => refused(why.why().to_owned()),
                })
            }
            Err(_) => Err(refused("the task that connects ended".into())),
        }
    }

    /// Agrees with the other gateways now.
    pub(crate) async fn agree(&self) {
        let inner = &self.inner;
        let mut beats = inner.beats.subscribe();
        let before = *beats.borrow_and_update();
        inner.beat.notify_one();
        drop(timeout(inner.options.timeout, beats.wait_for(|count| *count > before)).await);
    }

    /// Lets what is queued finish, and tells the other gateways at once that this one leaves.
    pub(crate) async fn leave(&self) {
        let inner = &self.inner;
        let limit = inner.options.timeout;
        // Behind everything that is queued. Callers that wait for that are answered in any case.
        drop(timeout(limit, self.lane.write(WriteRequest::Probe)).await);
        // Messages whose reads are not written live longer.
        drop(timeout(limit, inner.write_reads()).await);
        inner.stop.cancel();
        if let Ok(session) = inner.sessions.get(Instant::now() + Duration::from_millis(1)).await {
            let options = &inner.options;
            let leaving = session.script_at::<redis::Value>(
                Way::Write,
                &SCRIPTS.tick,
                inner.service.report().0,
                |call| {
                    call.arg(&inner.name).arg(&options.label);
                    let rules = inner.rules();
                    call.arg(rules.lifetimes()).arg(rules.send_ttl()).arg(rules.dead_letter_bytes());
                    call.arg(SILENCE.as_millis() as u64).arg(0).arg("leaves").arg(0);
                },
            );
            if let Err(fault) = leaving.await {
                tracing::debug!(%fault, "the other gateways were not told that this one leaves");
            }
            session.life.end("closed");
        }
        inner.leases.lock().clear();
        inner.sessions.close();
    }
}
