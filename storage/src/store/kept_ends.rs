//! Ends that a caller waits for: releases, and what the operator drops, are answered after the sync that covers their records.
//!
//! The record goes to the small lane, and the caller waits behind it: one sync answers all that came during the previous one. If
//! the disk has no room for one more record (new messages never get the last segments, so that takes many ends), a checkpoint
//! keeps the end: its files have their room reserved. So a release neither waits for room nor fails for lack of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use crate::core::reply::Reply;
use crate::core::shared::blocking;
use crate::core::write_queue::{Job, Urgency};
use crate::face::direction::Class;
use crate::face::engine::StoreState;
use crate::face::error::{Result, StoreError};
use crate::face::message::FromSender;
use crate::index::memory::recent_ends::MessageEnd;
use crate::intake::accept::Intake;
use crate::log::segment::Lane;
use crate::read::frames::Reader;
use crate::store::topics;
use crate::write::settle;
use crate::write::settle::end_mail;

/// How long to wait for a checkpoint that keeps what the log has no room for. One takes a few milliseconds; housekeeping runs
/// four times a second.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(10);

impl Intake {
    /// Ends the messages under some keys in the mailbox. Returns true if there was one.
    pub(crate) async fn release(&self, keys: Vec<u128>) -> Result<bool> {
        let is_queued = {
            let state = self.shared.state.lock();
            keys.iter().any(|key| state.queued.newest(*key).is_some())
        };
        if is_queued {
            self.barrier_unless_full().await?;
        }
        let (released, is_large) = blocking(&self.shared, move |shared| {
            let reader = Reader { shared };
            let (mut released, mut is_large) = (false, false);
            // If any sender is meant, all of them are: ending the newest message must not uncover an older one.
            for key in keys {
                if let Some((key, entry)) = reader.find(&[key])? {
                    released = true;
                    is_large |= reader.lane(entry.place) == Lane::Bulk;
                    settle::older_in_cold(shared, key, &entry)?;
                    end_mail(shared, key, entry, MessageEnd::Released)?;
                }
            }
            Ok((released, is_large))
        })
        .await?;
        // If nothing was found, another call may just have released it, large or not.
        self.ends_synced(is_large || !released).await?;
        Ok(released)
    }

    /// Ends the messages of a topic; returns how many there were.
    pub(crate) async fn release_topic(&self, from: FromSender, prefix: String) -> Result<u64> {
        let is_queued = {
            let state = self.shared.state.lock();
            state
                .queued
                .shown()
                .any(|m| m.entry.class != Class::Outgoing && m.id.as_str().starts_with(&prefix))
        };
        if is_queued {
            self.barrier_unless_full().await?;
        }
        let released = blocking(&self.shared, move |shared| topics::release(shared, &from, &prefix)).await?;
        self.ends_synced(true).await?;
        Ok(released)
    }

    /// Returns when a sync covers the records of all ends up to now. `of_large`: including those of large messages, whose
    /// records may wait for the sync of the message itself.
    pub(crate) async fn ends_synced(&self, of_large: bool) -> Result<()> {
        let (reply, synced) = Reply::new(None);
        let waits =
            if of_large { self.shared.progress[Lane::Bulk.index()].defer_answer(reply) } else { Some(reply) };
        if let Some(reply) = waits {
            self.shared.queues[Lane::Small.index()].push(Job::Barrier(reply), Urgency::AtOnce);
        }
        let mut status = self.shared.status.subscribe();
        let answered = tokio::select! {
            biased;
            answered = synced => answered.map_err(|_| StoreError::Closed)?,
            // What waits for the sync of a large message would wait for ever if that sync failed.
            _ = status.wait_for(|state| matches!(state, StoreState::Poisoned(_))) => {
                return Err(self.shared.state_error().unwrap_or(StoreError::Closed));
            }
        };
        match answered {
            Err(StoreError::Full { .. } | StoreError::NoSegment { .. }) => self.in_a_checkpoint().await,
            done => done,
        }
    }

    /// Returns when a checkpoint has been written that includes everything up to now.
    async fn in_a_checkpoint(&self) -> Result<()> {
        let shared = &self.shared;
        let mut written = shared.checkpoints_written.subscribe();
        let mine = shared.checkpoints_asked.fetch_add(1, Ordering::AcqRel) + 1;
        shared.wake_keeper.notify_all();
        let is_written = timeout(CHECKPOINT_PATIENCE, written.wait_for(|last| *last >= mine)).await;
        if is_written.is_ok_and(|written| written.is_ok()) {
            return Ok(());
        }
        let (used, limit) = shared.space.used();
        let remedy = "it is done, and there is no room to keep that, so a restart may undo it: free disk space, then ask again";
        Err(shared.state_error().unwrap_or(StoreError::Full { used, limit, remedy }))
    }
}
