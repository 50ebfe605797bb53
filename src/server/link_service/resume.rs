//! What came of large messages whose streams broke: it is kept for a while, so that the next stream can go on there.
//!
//! Invariants: a delivery has one upload; a stream that asks for an upload that another stream has takes it over; each
//! upload counts toward `MAX_UPLOADS`, and one that no stream comes for is removed after `LINK_RESUME`, or when its party
//! needs the seat for another one. An upload of which nothing is durable is removed at once, and so is one of a party that
//! is no longer in the party file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use petnet_storage::{DeliveryIdentity, Incarnation, PartyId};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::mailbox::SeatedUpload;
use crate::tls::trust::CurrentTrust;

/// How long each is kept at least, for a stream that comes again at once.
const AT_LEAST: Duration = Duration::from_secs(10);

/// Which delivery an upload belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct UploadedDelivery(PartyId, Incarnation, u64);

impl UploadedDelivery {
    pub(super) fn new(sender: &PartyId, identity: &DeliveryIdentity) -> Self {
        Self(sender.clone(), identity.incarnation, identity.number)
    }
}

/// One delivery's upload.
#[derive(Debug, Default)]
struct PartialUpload {
    upload: Arc<tokio::sync::Mutex<Option<SeatedUpload>>>,
    /// Cancelled, for the stream that has the upload, when another one wants it.
    wanted: Mutex<CancellationToken>,
    /// When it was last given up.
    given_up: Mutex<Option<Instant>>,
}

impl PartialUpload {
    /// Makes the stream that has the upload give it up; returns the token for the new one.
    fn want(&self) -> CancellationToken {
        let mine = CancellationToken::new();
        std::mem::replace(&mut *self.wanted.lock(), mine.clone()).cancel();
        mine
    }
}

/// All uploads that are kept or under way.
#[derive(Debug)]
pub(crate) struct PartialUploads {
    /// `LINK_RESUME`.
    keep: Duration,
    /// Which parties there are.
    trust: CurrentTrust,
    by_key: Mutex<HashMap<UploadedDelivery, Arc<PartialUpload>>>,
    /// Uploads that no stream has.
    idle: Mutex<HashMap<UploadedDelivery, Arc<PartialUpload>>>,
}

/// An upload that a stream has. If dropped before its end, the upload stays for the next stream.
#[derive(Debug)]
pub(super) struct HeldUpload {
    partials: Arc<PartialUploads>,
    key: UploadedDelivery,
    partial: Arc<PartialUpload>,
    held: OwnedMutexGuard<Option<SeatedUpload>>,
    /// Cancelled when another stream wants it.
    pub(super) wanted: CancellationToken,
}

impl PartialUploads {
    /// Without uploads; each will be kept for `keep`.
    pub(crate) fn new(keep: Duration, trust: CurrentTrust) -> Arc<Self> {
        Arc::new(Self { keep, trust, by_key: Mutex::default(), idle: Mutex::default() })
    }

    /// Runs until stopped: gives up what is kept of parties that are removed from the party file.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut trust = self.trust.clone();
        while let Some(Ok(())) = stop.run_until_cancelled(trust.changed()).await {
            let idle = self.idle.lock().clone();
            for (key, partial) in idle.iter().filter(|(key, _)| self.is_gone(&key.0)) {
                self.give_up(key, partial);
            }
        }
    }

    fn is_gone(&self, party: &PartyId) -> bool {
        !self.trust.borrow().parties.contains(party)
    }

    /// Called when there is no seat for a message of a party: gives up the upload that has been kept longest, of that
    /// party, or else of the party that has most.
    pub(super) fn make_room_for(&self, party: &PartyId) {
        let now = Instant::now();
        let long = |partial: &PartialUpload| partial.given_up.lock().is_some_and(|at| now - at >= AT_LEAST);
        let mut idle = self.idle.lock().clone();
        idle.retain(|_, partial| long(partial));
        let mut counts: HashMap<&PartyId, usize> = HashMap::new();
        for key in idle.keys() {
            *counts.entry(&key.0).or_default() += 1;
        }
        let most = counts.iter().max_by_key(|(_, count)| **count).map(|(party, _)| *party);
        let Some(of) = Some(party).filter(|party| counts.contains_key(party)).or(most) else { return };
        let oldest = idle.iter().filter(|(key, _)| key.0 == *of).min_by_key(|(_, p)| *p.given_up.lock());
        if let Some((key, partial)) = oldest {
            self.give_up(key, partial);
        }
    }

    /// Frees the seat of an upload, unless a stream has come for it.
    fn give_up(&self, key: &UploadedDelivery, partial: &Arc<PartialUpload>) {
        if let Ok(mut held) = partial.upload.try_lock() {
            held.take();
            self.forget(key, partial);
        }
    }

    /// The upload of a delivery, if there is one; it is taken over from the stream that has it.
    pub(super) async fn lease(self: &Arc<Self>, key: UploadedDelivery) -> HeldUpload {
        let partial = self.by_key.lock().entry(key.clone()).or_default().clone();
        let wanted = partial.want();
        let held = partial.upload.clone().lock_owned().await;
        self.idle.lock().remove(&key);
        HeldUpload { partials: self.clone(), key, partial, held, wanted }
    }

    /// Uploads that are kept or under way.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.lock().len()
    }

    fn forget(&self, key: &UploadedDelivery, partial: &Arc<PartialUpload>) {
        let is_it = |held: &Arc<PartialUpload>| Arc::ptr_eq(held, partial);
        let mut idle = self.idle.lock();
        if idle.get(key).is_some_and(is_it) {
            idle.remove(key);
        }
        drop(idle);
        let mut by_key = self.by_key.lock();
        if by_key.get(key).is_some_and(is_it) {
            by_key.remove(key);
        }
    }
}

impl HeldUpload {
    /// What there is of the upload.
    pub(super) fn upload(&mut self) -> Option<&mut SeatedUpload> {
        self.held.as_mut()
    }

    /// Begins the upload, when there is nothing, or nothing of use.
    pub(super) fn begin(&mut self, uploading: SeatedUpload) -> &mut SeatedUpload {
        self.held.insert(uploading)
    }

    /// Takes the upload, to store it or because it is of no use. A stream that wants it waits as long as this lease lives.
    pub(super) fn take(&mut self) -> Option<SeatedUpload> {
        self.held.take()
    }
}

impl Drop for HeldUpload {
    fn drop(&mut self) {
        let is_gone = self.partials.is_gone(&self.key.0);
        self.held.take_if(|uploading| is_gone || uploading.upload.durable() == 0);
        if self.held.is_none() {
            self.partials.forget(&self.key, &self.partial);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let now = Instant::now();
        *self.partial.given_up.lock() = Some(now);
        self.partials.idle.lock().insert(self.key.clone(), self.partial.clone());
        let (partials, key, partial) = (self.partials.clone(), self.key.clone(), self.partial.clone());
        runtime.spawn(async move {
            tokio::time::sleep(partials.keep).await;
            // A stream that has it, or had it since, has a timer of its own.
            let unused = partial.upload.try_lock().is_ok() && *partial.given_up.lock() == Some(now);
            if unused {
                partials.forget(&key, &partial);
            }
        });
    }
}
