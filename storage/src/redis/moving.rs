//! The store of a party in Redis as an end of a migration, with no gateway running.
//!
//! Invariants: gateways and other migrations are kept away for as long as this lives; of a session that is lost nothing is
//! begun anew: the migration ends, and the same command goes on where it was.

mod source;
mod target;

use std::sync::Arc;
use std::time::Duration;

pub use self::source::RedisSource;
pub use self::target::RedisTarget;
use super::connect::Connector;
use super::inner::Inner;
use super::leases::SILENCE;
use super::news;
use super::options::RedisOptions;
use super::scripts::SCRIPTS;
use super::session::{Purpose, Session, Way};
use crate::engine::NoObserver;
use crate::error::OpenError;
use crate::transfer::{Result, TransferError};

/// How long the lock holds when nobody asks for it again.
const LOCK: Duration = Duration::from_secs(10);
/// Pause between asking.
const AGAIN: Duration = Duration::from_secs(3);

/// A party's store in Redis that is locked for a migration.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) inner: Arc<Inner>,
    pub(super) name: String,
}

impl Locked {
    /// Connects and locks.
    pub(super) async fn open(options: RedisOptions) -> Result<Arc<Self>> {
        let url = options.url.to_string();
        let refused = |why: String| TransferError::Open(OpenError::Redis { url: url.clone(), why });
        let connector = Connector::new(&options);
        let inner = Inner::new(options, Arc::new(NoObserver))?;
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

    /// Lets gateways in again; `whole`: also where they were kept out by an unfinished migration.
    async fn end(&self, whole: bool) -> crate::error::Result<()> {
        self.inner.stop.cancel();
        self.inner
            .ask::<u8>(Way::Write, &SCRIPTS.move_end, |call| {
                call.arg(&self.inner.name).arg(u8::from(whole));
            })
            .await
            .map(drop)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

/// Holds the lock until the end. With the session the lock goes, too, and then nothing more may be written.
async fn keep(inner: Arc<Inner>, session: Arc<Session>) {
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
        why = session.ended() => inner.sessions.down(&why),
    }
}
