//! Takes many small messages at once: one look at the state, one place in the queue, one answer for all. The locks and
//! wake-ups that a single message costs are shared by all of them.
//!
//! Anything that is not plain (large, under an id that must not be reused, possibly known or stale, no room for all) is
//! taken as a single message.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::core::reply::{FailedJobs, GatheredReply};
use crate::core::room::cost;
use crate::core::write_queue::Urgency;
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError};
use crate::face::message::{Arrival, Sending, Sequence, Stored};
use crate::intake::accept::{Intake, QueuedSend, SequencedMessage};
use crate::intake::draft::{Draft, EarlierTry};
use crate::log::segment::{BULK_FROM_BYTES, Lane};

/// Queued messages that wait for their syncs, in the order in which they were passed in.
pub(crate) struct QueuedBatch(Vec<AwaitedAnswer>);

enum AwaitedAnswer {
    Done(Result<Sequence>),
    /// An earlier try of the send exists; the message is there to be accepted if that try was refused.
    Again(Arc<Intake>, EarlierTry, Sending),
    One(Sequence, oneshot::Receiver<Result<()>>),
    Many(Vec<Result<Sequence>>, oneshot::Receiver<FailedJobs>),
}

impl QueuedBatch {
    /// Waits for the syncs; returns what became of each message.
    pub(crate) async fn synced(self) -> Vec<Result<Sequence>> {
        let mut accepted = Vec::with_capacity(self.0.len());
        for part in self.0 {
            match part {
                AwaitedAnswer::Done(result) => accepted.push(result),
                AwaitedAnswer::Again(intake, earlier, message) => {
                    accepted.push(match intake.is_kept(earlier).await {
                        Ok(true) => Ok(earlier.sequence),
                        Ok(false) => intake.accept_checked(message).await,
                        Err(error) => Err(error),
                    });
                }
                AwaitedAnswer::One(sequence, synced) => {
                    let synced = synced.await.unwrap_or(Err(StoreError::Closed));
                    accepted.push(synced.map(|()| sequence));
                }
                AwaitedAnswer::Many(mut all, done) => {
                    fail(&mut all, done.await.ok());
                    accepted.append(&mut all);
                }
            }
        }
        accepted
    }
}

impl Intake {
    /// See [`Engine::accept_all`](crate::Engine::accept_all). Returns when all are queued.
    pub(crate) async fn accept_all(self: &Arc<Self>, messages: Vec<Sending>) -> QueuedBatch {
        let is_plain = |message: &Sending| message.payload.len() < BULK_FROM_BYTES;
        let all = messages.len() > 1 && !self.rejects_reuse() && messages.iter().all(is_plain);
        if all && let Some(part) = self.queue_all(&messages).await {
            return QueuedBatch(vec![part]);
        }
        let mut parts = Vec::with_capacity(messages.len());
        for message in messages {
            parts.push(if self.rejects_reuse() {
                AwaitedAnswer::Done(self.accept_checked(message).await)
            } else {
                match self.queue_one(&message).await {
                    Ok(QueuedSend::New(sequence, synced)) => AwaitedAnswer::One(sequence, synced),
                    Ok(QueuedSend::Again(earlier)) => AwaitedAnswer::Again(self.clone(), earlier, message),
                    Err(error) => AwaitedAnswer::Done(Err(error)),
                }
            });
        }
        QueuedBatch(parts)
    }

    async fn queue_one(&self, message: &Sending) -> Result<QueuedSend> {
        let Sending { receiver, id, payload, key } = message;
        let draft = Draft::new(Class::Outgoing, Some(receiver), id, payload.clone()).await?;
        self.queue_draft(&draft.called(*key)).await
    }

    /// Queues all messages together. `None` if there is no room for all of them, or if some may be retries.
    async fn queue_all(&self, messages: &[Sending]) -> Option<AwaitedAnswer> {
        let mut drafts = Vec::with_capacity(messages.len());
        let mut keys = HashSet::new();
        for Sending { receiver, id, payload, key } in messages {
            let draft = Draft::new(Class::Outgoing, Some(receiver), id, payload.clone()).await.ok()?;
            if self.may_be_pending(&draft) || key.is_some_and(|key| !keys.insert(key)) {
                return None;
            }
            drafts.push(draft.called(*key));
        }
        let bytes = drafts.iter().map(|draft| draft.bytes() as u64).sum();
        let permit = self.room_in_queue(Lane::Small, bytes).await.ok()?;
        let costs: Vec<u64> = drafts.iter().map(|d| cost(d.bytes(), d.id.as_str().len())).collect();
        self.shared.space.try_admit(Lane::Small, costs.iter().sum()).ok()?;
        let (gather, done) = GatheredReply::new(drafts.len(), permit);
        let (mut jobs, mut all_news) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
        let mut accepted = Vec::with_capacity(drafts.len());
        {
            let mut state = self.shared.state.lock();
            if keys.iter().any(|key| state.sends.find(key).is_some()) {
                drop(state);
                self.shared.space.leave(Lane::Small, costs.iter().sum());
                return None;
            }
            for (at, (draft, cost)) in drafts.iter().zip(&costs).enumerate() {
                // Only deliveries, and sends with a key, can be anything but new.
                let Ok(entered) = self.enter(&mut state, draft, None, (gather.reply(at), *cost), 0) else {
                    continue;
                };
                let SequencedMessage { sequence, job, news } = entered;
                jobs.push(job);
                all_news.extend(news);
                accepted.push(Ok(sequence));
            }
            if !self.shared.queues[Lane::Small.index()].push_all(jobs, Urgency::AtOnce) {
                for sequence in accepted.iter().flatten() {
                    state.withdraw(sequence.0);
                }
                all_news.clear();
            }
        }
        for news in all_news {
            news.tell(&*self.shared.observer);
        }
        Some(AwaitedAnswer::Many(accepted, done))
    }

    /// See [`Engine::store_many`](crate::Engine::store_many).
    pub(crate) async fn store_many(&self, arrivals: Vec<Arrival>) -> Vec<Result<Stored>> {
        let bytes: u64 = arrivals.iter().map(|arrival| arrival.payload.len() as u64).sum();
        let mut stored: Vec<Option<Result<Stored>>> = arrivals.iter().map(|_| None).collect();
        if arrivals.len() > 1
            && !self.rejects_reuse()
            && let Ok(permit) = self.room_in_queue(Lane::Small, bytes).await
        {
            self.store_plain(&arrivals, permit, &mut stored).await;
        }
        join_all(arrivals.into_iter().zip(stored).map(|(arrival, stored)| async move {
            match stored {
                Some(stored) => stored,
                None => self.store_checked(arrival).await,
            }
        }))
        .await
    }

    /// Stores the arrivals that are certainly new.
    async fn store_plain(
        &self,
        arrivals: &[Arrival],
        permit: tokio::sync::OwnedSemaphorePermit,
        stored: &mut [Option<Result<Stored>>],
    ) {
        let mut drafts = Vec::with_capacity(arrivals.len());
        for (at, arrival) in arrivals.iter().enumerate() {
            let Arrival { sender: Some(sender), id, payload, identity: Some(identity) } = arrival else {
                continue;
            };
            if identity.is_numbered()
                && payload.len() < BULK_FROM_BYTES
                && let Ok(draft) = Draft::new(Class::Incoming, Some(sender), id, payload.clone()).await
                && let cost = cost(draft.bytes(), id.as_str().len())
                && self.shared.space.try_admit(Lane::Small, cost).is_ok()
            {
                drafts.push((at, draft, *identity, cost));
            }
        }
        if drafts.is_empty() {
            return;
        }
        let (gather, done) = GatheredReply::new(drafts.len(), permit);
        let (mut jobs, mut all_news) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
        let (mut new, mut places) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
        {
            let mut state = self.shared.state.lock();
            let hand_overs = state.hand_overs;
            for (n, (at, draft, identity, cost)) in drafts.iter().enumerate() {
                let reply = gather.reply(n);
                let party = draft.party.map_or(0, |party| state.parties.intern(party));
                // Something newer may be in the index on disk, which is not queried here.
                let may_be_stale = state.delivered.is_too_old(party, identity.incarnation)
                    || state.cold_mail > 0 && !state.delivered.is_newest(party, identity);
                let entered = if may_be_stale {
                    None
                } else {
                    self.enter(&mut state, draft, Some(*identity), (reply, *cost), hand_overs).ok()
                };
                let Some(SequencedMessage { sequence, job, news }) = entered else {
                    self.shared.space.leave(Lane::Small, *cost);
                    places.push(None);
                    new.push(Ok(Stored::Stale));
                    continue;
                };
                jobs.push(job);
                all_news.extend(news);
                places.push(Some((*at, sequence)));
                new.push(Ok(Stored::New(sequence)));
            }
            if !self.shared.queues[Lane::Small.index()].push_all(jobs, Urgency::Soon) {
                for (_, sequence) in places.iter().flatten() {
                    state.withdraw(sequence.0);
                }
                all_news.clear();
            }
        }
        drop(gather);
        for news in all_news {
            news.tell(&*self.shared.observer);
        }
        fail(&mut new, done.await.ok());
        for (place, new) in places.into_iter().zip(new) {
            if let Some((at, _)) = place {
                stored[at] = Some(new);
            }
        }
    }
}

/// Enters the failures into the results; `None` if no answer came, which fails all of them.
fn fail<T>(results: &mut [Result<T>], failed: Option<FailedJobs>) {
    let Some(failed) = failed else {
        for result in results {
            *result = Err(StoreError::Closed);
        }
        return;
    };
    for (at, error) in failed {
        if let Some(result) = results.get_mut(at) {
            *result = Err(error);
        }
    }
}
