//! What came of large messages whose streams broke: kept for a while, so that the next stream goes on there.
//!
//! Invariants: of one delivery there is one upload; a stream that asks for one which another stream has takes it over;
//! each is one of `MAX_UPLOADS`, and one that nobody comes for goes after `LINK_RESUME`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use petnet_storage::{DeliveryIdentity, Incarnation, PartyId};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::mailbox::Uploading;

/// Which delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(PartyId, Incarnation, u64);

impl Key {
    pub(super) fn new(sender: &PartyId, identity: &DeliveryIdentity) -> Self {
        Self(sender.clone(), identity.incarnation, identity.number)
    }
}

/// One delivery's upload.
#[derive(Debug, Default)]
struct Partial {
    upload: Arc<tokio::sync::Mutex<Option<Uploading>>>,
    /// Tells who has it that it is wanted.
    wanted: Mutex<CancellationToken>,
    /// When it was last given up.
    given_up: Mutex<Option<Instant>>,
}

impl Partial {
    /// Whoever had it gives it up.
    fn want(&self) -> CancellationToken {
        let mine = CancellationToken::new();
        std::mem::replace(&mut *lock(&self.wanted), mine.clone()).cancel();
        mine
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Partials {
    /// `LINK_RESUME`.
    keep: Duration,
    by_key: Mutex<HashMap<Key, Arc<Partial>>>,
}

/// An upload that a stream has. Dropped before its end, it stays for the next one.
#[derive(Debug)]
pub(super) struct Lease {
    partials: Arc<Partials>,
    key: Key,
    partial: Arc<Partial>,
    held: OwnedMutexGuard<Option<Uploading>>,
    /// Another stream wants it.
    pub(super) wanted: CancellationToken,
}

impl Partials {
    /// None yet; each is kept so long.
    pub(crate) fn new(keep: Duration) -> Arc<Self> {
        Arc::new(Self { keep, by_key: Mutex::default() })
    }

    /// The upload of a delivery, if there is one; taken over from the stream that has it.
    pub(super) async fn lease(self: &Arc<Self>, key: Key) -> Lease {
        let partial = lock(&self.by_key).entry(key.clone()).or_default().clone();
        let wanted = partial.want();
        let held = partial.upload.clone().lock_owned().await;
        Lease { partials: self.clone(), key, partial, held, wanted }
    }

    /// Uploads that are kept or under way.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.by_key).len()
    }

    fn forget(&self, key: &Key, partial: &Arc<Partial>) {
        let mut by_key = lock(&self.by_key);
        if by_key.get(key).is_some_and(|held| Arc::ptr_eq(held, partial)) {
            by_key.remove(key);
        }
    }
}

impl Lease {
    /// What there is of it.
    pub(super) fn upload(&mut self) -> Option<&mut Uploading> {
        self.held.as_mut()
    }

    /// Nothing is there, or nothing that is of use: this is it from now on.
    pub(super) fn begin(&mut self, uploading: Uploading) -> &mut Uploading {
        self.held.insert(uploading)
    }

    /// It is to be stored, or of no use. Who wants it waits as long as this lease lives.
    pub(super) fn take(&mut self) -> Option<Uploading> {
        self.held.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held.is_none() {
            self.partials.forget(&self.key, &self.partial);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let now = Instant::now();
        *lock(&self.partial.given_up) = Some(now);
        let (partials, key, partial) = (self.partials.clone(), self.key.clone(), self.partial.clone());
        runtime.spawn(async move {
            tokio::time::sleep(partials.keep).await;
            // Who has it, or had it since, has a timer of its own.
            let unused = partial.upload.try_lock().is_ok() && *lock(&partial.given_up) == Some(now);
            if unused {
                partials.forget(&key, &partial);
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
