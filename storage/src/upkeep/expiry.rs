//! Removes what has expired: pending messages and unread mail become dead letters; mail that was read is counted and forgotten.
//!
//! Mail that was read is served to nobody from the second in which it expires; this only takes it out of the counts and the
//! index on disk, so that the numbers are true and the space is freed. Unread mail is served until it is a dead letter: a disk
//! that takes no more records must not hide it. All of it is found by its age, in time proportional to what has expired.

use std::time::{Duration, Instant};

use crate::core::shared::Shared;
use crate::face::clock::{is_over, latest_over};
use crate::face::error::StoreError;
use crate::face::message::{DeadReason, Sequence};
use crate::index::entry::Entry;
use crate::index::memory::State;
use crate::index::memory::aging::current;
use crate::index::on_disk::mail::{AgeKey, age};
use crate::index::on_disk::{Cold, ColdError};
use crate::read::frames::Reader;
use crate::write::settle::bury;

/// Pending messages of a peer that expire in one round.
const EXPIRE_BATCH: usize = 1024;
/// Unread messages that become dead letters at a time.
const UNREAD_BATCH: usize = 1024;
/// How many of the oldest messages in memory are looked at in one go.
const UNREAD_LOOKS: usize = 8 * UNREAD_BATCH;
/// Time that expiring may take in a round.
const ROUND: Duration = Duration::from_millis(500);
/// Messages that were read and are removed at a time.
const MAIL_BATCH: usize = 4096;

/// How far the list of ages was searched, for unread and for read mail, while nothing could be removed from it.
#[derive(Debug, Default)]
pub(crate) struct Expiry([Option<AgeKey>; 2]);

impl Expiry {
    /// Turns mail that has expired unread into dead letters. A message that is read at the very moment when its record is on its
    /// way becomes one all the same, and its reader has it.
    pub(crate) fn unread(&mut self, shared: &Shared) {
        let (now, Some(ttl)) = (shared.now(), shared.unread_ttl()) else { return };
        let Some(until) = latest_over(ttl, now) else { return };
        let started = Instant::now();
        while started.elapsed() < ROUND {
            let mut over = unread_in_memory(&shared.state.lock(), now, ttl);
            match self.aged_on_disk(shared, false, until, UNREAD_BATCH) {
                Ok(on_disk) => over.extend(on_disk.into_iter().filter(|(_, e)| e.is_unread())),
                // The store is poisoned.
                Err(_) => return,
            }
            if over.is_empty() || !shared.wait_visible_synced() {
                return;
            }
            let burials: Vec<_> =
                over.into_iter().map(|(key, entry)| bury(shared, key, entry, DeadReason::Unread)).collect();
            for burial in burials {
                if let Err(error) = burial.and_then(|burial| burial.wait_blocking(shared)) {
                    tracing::warn!(%error, "cannot record an unread message whose time is over; it is tried again");
                    return;
                }
            }
        }
    }

    /// Takes mail that was read and has expired out of the counts and the index on disk.
    pub(crate) fn read(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let (now, Some(ttl)) = (shared.now(), shared.message_ttl()) else { return Ok(()) };
        let Some(until) = latest_over(ttl, now) else { return Ok(()) };
        loop {
            let mut state = shared.state.lock();
            let over = state.read_until(until, MAIL_BATCH);
            for (key, sequence) in &over {
                state.expire(*key, *sequence);
            }
            if over.len() < MAIL_BATCH {
                break;
            }
        }
        let started = Instant::now();
        while started.elapsed() < ROUND {
            let over = self.aged_on_disk(shared, true, until, MAIL_BATCH)?;
            let Some(cold) = shared.cold().filter(|_| !over.is_empty()) else { break };
            for (key, entry) in over {
                {
                    let mut state = shared.state.lock();
                    if cold.is_lost() {
                        return Ok(());
                    }
                    state.expire_cold(key, &entry);
                }
                shared.remove_from_cold(|cold| cold.remove(key, &entry).map(drop))?;
            }
        }
        Ok(())
    }

    /// Messages in the index on disk that arrived, or were first read, by a given time.
    fn aged_on_disk(
        &mut self,
        shared: &Shared,
        read: bool,
        until: u32,
        most: usize,
    ) -> Result<Vec<(u128, Entry)>, StoreError> {
        let Some(cold) = shared.cold().filter(|_| shared.state.lock().cold_mail > 0) else {
            return Ok(Vec::new());
        };
        match self.aged(shared, &cold, read, until, most) {
            Ok(found) => Ok(found),
            // The index was given up: everything is in memory, and found there.
            Err(error) => shared.index_failed(&cold, &error).map(|()| Vec::new()),
        }
    }

    /// Searches the list of ages for these messages. Removes stale items from it or, while the disk is full, continues after
    /// them.
    fn aged(
        &mut self,
        shared: &Shared,
        cold: &Cold,
        read: bool,
        until: u32,
        most: usize,
    ) -> Result<Vec<(u128, Entry)>, ColdError> {
        let may_remove = shared.cold_for_removal().is_some();
        let after = &mut self.0[usize::from(read)];
        if may_remove {
            *after = None;
        }
        let mut found = Vec::new();
        for item in cold.aged(read, *after, until) {
            let (at, key) = item?;
            let entry = cold.mail(key)?.filter(|entry| age(entry) == at);
            let current = entry.and_then(|entry| {
                let state = shared.state.lock();
                let current = !state.live.contains_key(&key) && state.is_current_cold(&entry);
                current.then(|| state.with_mark(key, entry))
            });
            match current {
                Some(entry) => found.push((key, entry)),
                None if may_remove => cold.forget_age(&at)?,
                None => {}
            }
            if !may_remove {
                *after = Some(at);
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }
}

/// Turns expired pending messages into dead letters.
pub(crate) fn expire_pending(shared: &Shared) {
    let Some(ttl) = shared.send_ttl() else { return };
    let now = shared.now();
    let parties: Vec<_> = {
        let state = shared.state.lock();
        let names = state.parties.names();
        let pending = |i: usize| state.parties.counts.get(i + 1).is_some_and(|c| c.pending > 0);
        names.iter().enumerate().filter(|(i, _)| pending(*i)).map(|(i, _)| (i + 1) as u16).collect()
    };
    let reader = Reader { shared };
    for party in parties {
        let Ok(first) = reader.pending_entries(party, Sequence(0), EXPIRE_BATCH) else { return };
        let expired: Vec<_> = first.into_iter().take_while(|(_, e)| e.is_expired(now, Some(ttl))).collect();
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

/// Expired unread mail in memory, among the oldest messages. If there is an index on disk, it has what is older than a minute:
/// what this does not reach is found there.
fn unread_in_memory(state: &State, now: u32, ttl: u32) -> Vec<(u128, Entry)> {
    let mut over = Vec::new();
    for fifo in &state.fifo {
        // No message that came later has expired.
        let old = fifo.iter().take(UNREAD_LOOKS).take_while(|recent| is_over(recent.time, ttl, now));
        let entries = old.filter(|recent| !recent.dead_letter).filter_map(|recent| {
            let entry = current(&state.live, recent)?;
            entry.is_unread_over(now, Some(ttl)).then_some((recent.key, entry))
        });
        over.extend(entries.take(UNREAD_BATCH));
    }
    over
}
