//! What is over leaves: pending messages become dead letters, and mail that nobody reads any more is counted and forgotten.
//!
//! Expired mail is served to nobody from the second on in which it expires; this only takes it out of the counts and the
//! index on disk, so that the numbers tell the truth long before the space is given back.

use crate::cold::ColdError;
use crate::error::StoreError;
use crate::frame::Class;
use crate::keeper::Keeper;
use crate::log::lock;
use crate::message::{DeadReason, Sequence};
use crate::reader::Reader;
use crate::settle::bury;
use crate::state::Entry;

/// Pending messages of a peer that expire in one round.
const EXPIRE_BATCH: usize = 1024;
/// With more mail in the index on disk it is not looked through: what expires is counted when its segment goes.
const LOOKED_THROUGH: u64 = 65_536;
/// Seconds between two looks through all of it.
const PAUSE: u32 = 10;
/// Mail that leaves in one round.
const MAIL_BATCH: usize = 4096;

impl Keeper {
    /// Turns pending messages whose time is over into dead letters.
    pub(crate) fn expire_pending(&self) {
        let shared = &self.shared;
        let Some(ttl) = shared.send_ttl() else { return };
        let now = shared.now();
        let parties: Vec<_> = {
            let state = lock(&shared.state);
            let names = state.parties.names();
            let pending = |i: usize| state.parties.counts.get(i + 1).is_some_and(|c| c.pending > 0);
            names.iter().enumerate().filter(|(i, _)| pending(*i)).map(|(i, _)| (i + 1) as u16).collect()
        };
        let reader = Reader { shared };
        for party in parties {
            let Ok(first) = reader.pending_entries(party, Sequence(0), EXPIRE_BATCH) else { return };
            let expired: Vec<_> =
                first.into_iter().take_while(|(_, e)| e.is_expired(now, Some(ttl))).collect();
            if expired.is_empty() || !shared.wait_visible_synced() {
                continue;
            }
            let mut waiting = Vec::new();
            for (key, entry) in expired {
                waiting.extend(bury(shared, key, entry, DeadReason::Expired).ok());
            }
            for burial in waiting {
                if let Err(error) = burial.wait_blocking(shared) {
                    tracing::warn!(%error, "cannot record an expired message; it is tried again");
                    return;
                }
            }
        }
    }

    /// Takes expired mail out of the index on disk. Looks through it only when some of it may have expired since.
    pub(crate) fn expire_mail(&mut self) -> Result<(), ColdError> {
        let shared = &self.shared;
        let (now, Some(ttl)) = (shared.now(), shared.message_ttl()) else { return Ok(()) };
        let in_cold = lock(&shared.state).cold_mail;
        if now < self.next_expiry || in_cold == 0 || in_cold > LOOKED_THROUGH {
            return Ok(());
        }
        let Some(cold) = shared.cold_for_removal() else { return Ok(()) };
        // What is in memory now is young: it does not expire sooner.
        let mut next = now.saturating_add((ttl / 2).max(1));
        let mut over: Vec<(u128, Entry)> = Vec::new();
        for item in cold.all_mail() {
            let (key, entry) = item?;
            debug_assert!(entry.class != Class::Outgoing);
            if !entry.is_expired(now, Some(ttl)) {
                next = next.min(entry.time.saturating_add(ttl));
            } else if over.len() < MAIL_BATCH {
                over.push((key, entry));
            } else {
                next = now;
            }
        }
        for (key, entry) in over {
            lock(&shared.state).expire_cold(key, &entry);
            cold.remove(key, &entry)?;
        }
        // More than a batch was over: at once. Else not for each second of steady mail.
        self.next_expiry = if next == now { now } else { next.max(now.saturating_add(PAUSE)) };
        Ok(())
    }

    /// [`expire_mail`](Self::expire_mail), where a failure of the index on disk is the store's to judge.
    pub(crate) fn expire_mail_or_tell(&mut self) -> Result<(), StoreError> {
        self.expire_mail().map_err(|error| self.shared.cold_failed(&error))
    }
}
