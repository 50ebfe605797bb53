//! A party's store in Redis as source or target of a migration, with no gateway running.
//!
//! Invariants: gateways and other migrations are kept away for as long as this lives; when a session is lost nothing is begun
//! again: the migration ends, and the same command continues it.

mod source;
mod target;

use std::sync::Arc;
use std::time::Duration;

pub use self::source::RedisSource;
pub use self::target::RedisTarget;
use crate::face::engine::NoObserver;
use crate::face::error::OpenError;
use crate::offline::transfer::{Result, TransferError};
use crate::redis::connection::connect::Connector;
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::{Purpose, Session, Way};
use crate::redis::leases::SILENCE;
use crate::redis::shared::RedisShared;
use crate::redis::upkeep::news;

/// How long the lock lasts if it is not renewed.
const LOCK: Duration = Duration::from_secs(10);
/// Pause between renewals.
const AGAIN: Duration = Duration::from_secs(3);

/// A party's store in Redis that is locked for a migration.
#[derive(Debug)]
pub(crate) struct LockedStore {
    pub(crate) inner: Arc<RedisShared>,
    pub(crate) name: String,
}

impl LockedStore {
    /// Connects and locks the store.
    pub(crate) async fn open(options: RedisOptions) -> Result<Arc<Self>> {
        let url = options.url.to_string();
        let refused = |why: String| TransferError::Open(OpenError::Redis { url: url.clone(), why });
        let connector = Connector::new(&options);
        let inner = RedisShared::new(options, Arc::new(NoObserver))?;
        let service = inner.service.clone();
        let (pushes, _) = news::ear();
        let purpose = Purpose::Move { name: &inner.name, lock: LOCK, silence: SILENCE };
        let session = Session::open(&inner.options, &connector, service, pushes, purpose).await;
        let session = Arc::new(session.map_err(|why| refused(why.why().to_owned()))?);
        inner.sessions.up(session.clone());
        inner.tasks.spawn(keep(inner.clone(), session));
        let name = format!("the store of {} in {}", inner.options.party, inner.options.url);
        Ok(Arc::new(Self { inner, name }))
    }

    /// Lets gateways in again; `whole`: even if an unfinished migration kept them out.
    async fn end(&self, whole: bool) -> crate::face::error::Result<()> {
        self.inner.stop.cancel();
        self.inner
            .ask::<u8>(Way::Write, &SCRIPTS.move_end, |call| {
                call.arg(&self.inner.name).arg(u8::from(whole));
            })
            .await
            .map(drop)
    }
}

impl LockedStore {
    /// Lets gateways in again, unless the move is unfinished. Otherwise they would have to wait until the lock expires.
    async fn leave(&self) {
        if let Err(why) = self.end(false).await {
            tracing::debug!(%why, "the lock of a migration goes by itself");
        }
    }
}

impl Drop for LockedStore {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

/// Holds the lock until the end. The lock ends with the session, and then nothing more may be written.
async fn keep(inner: Arc<RedisShared>, session: Arc<Session>) {
    let lock = async {
        loop {
            tokio::time::sleep(AGAIN).await;
            let locked = session.script::<redis::Value>(Way::Write, &SCRIPTS.move_lock, |call| {
                call.arg(&inner.name).arg(LOCK.as_millis() as u64).arg(SILENCE.as_millis() as u64);
            });
            if let Err(fault) = locked.await {
                return fault.to_string();
            }
        }
    };
    tokio::select! {
        () = inner.stop.cancelled() => {}
        why = lock => inner.sessions.down(&why),
        why = session.life.ended() => inner.sessions.down(&why),
    }
}
