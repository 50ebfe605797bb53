//! The face of a store: one trait, so that the gateway does not know which engine keeps its messages.
//!
//! Invariant of every implementation: a future that promises acceptance ([`Engine::accept`], [`Engine::store`])
//! resolves to `Ok` only after the sync that covers the message.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;

use crate::error::{Result, StoreError};
use crate::message::{
    Arrival, DeadLetter, DeadReason, DeliveryIdentity, FromSender, Message, MessageId, Outcome, PartyId,
    Pending, Sequence, Stored,
};
use crate::payload::{Found, Held, Outgoing, Payload, Upload};
use crate::spread::Spread;

/// What the store does when an id that is still held is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdReuse {
    /// The newer message replaces the older one, as in PETNet.
    #[default]
    Replace,
    /// The same bytes are accepted again as a repetition, other bytes are a [`StoreError::Conflict`].
    Reject,
}

/// Told of what becomes visible. Called from the store's own threads: must return at once and never block.
pub trait Observer: Send + Sync + 'static {
    /// A message is readable (its sync may still be running).
    fn arrived(&self, message: &Held);
    /// A message of `len` payload bytes for `peer` is pending. Sequences need not come in order: a large message is
    /// pending when its last slice is written. A hint; the store is the truth.
    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64);
    /// A message became a dead letter.
    fn died(&self, letter: &DeadLetter);
    /// News may have been lost: whoever waits for a message looks for itself.
    fn missed(&self) {}
    /// Whether messages for this peer can be delivered by this process.
    fn serves(&self, peer: &PartyId) -> bool {
        let _ = peer;
        true
    }
}

/// An [`Observer`] that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn arrived(&self, _: &Held) {}
    fn pending(&self, _: &PartyId, _: Sequence, _: u64) {}
    fn died(&self, _: &DeadLetter) {}
}

/// Whether the store takes and gives messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// Accepts and serves.
    Serving,
    /// A sync has been running for seconds: callers wait, within their own deadlines. Passes when it comes back.
    Stalled,
    /// Redis takes nothing new (it is full, say), and why; what is there can be read. Passes by itself.
    Refusing(Arc<str>),
    /// Redis cannot be reached, and why. Passes by itself.
    Unavailable(Arc<str>),
    /// A write or sync failed: accepts nothing until the process is started anew. Final.
    Poisoned(Arc<str>),
    /// [`Engine::close`] was called. Final.
    Closed,
}

/// Pending messages of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPending {
    /// The peer.
    pub peer: PartyId,
    /// Messages accepted for it and not settled.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// Counters since start and gauges of now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreStats {
    /// Pending messages by peer.
    pub pending: Vec<PeerPending>,
    /// Messages in the mailbox, newest per (sender, id); may count expired ones until their space is given back.
    pub mailbox_messages: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes that files of the store take on the disk.
    pub disk_bytes: u64,
    /// Bytes that count against the quota.
    pub used_bytes: u64,
    /// Bytes that new messages may use, 0 = what the disk has.
    pub quota_bytes: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Recycled segment files that wait for use.
    pub spare_segments: u64,
    /// Records appended since start.
    pub appends: u64,
    /// Syncs of the log since start.
    pub syncs: u64,
    /// Repeated deliveries that changed nothing.
    pub repeated: u64,
    /// Damaged frames set aside, found at start or on a read.
    pub damaged: u64,
    /// Index entries held in memory.
    pub index_in_memory: u64,
    /// Seconds of service time.
    pub service_seconds: u64,
    /// Messages in the mailbox whose time was over, since start; counted when their space is given back.
    pub expired: u64,
    /// Bytes in segments whose messages have ended: given back when all of a segment has, or its rest was moved.
    pub reclaimable_bytes: u64,
    /// How long each sync of the log took, in seconds. Embedded store only: Redis does not say.
    pub sync_seconds: Spread,
    /// Records that each sync covered. Embedded store only.
    pub sync_records: Spread,
}

/// What became of a message. Those that ended are remembered for a while: the last 65,536, since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracked {
    /// Not held, and not among those that ended lately.
    Unknown,
    /// Accepted, and to be delivered.
    Pending {
        /// Its place in our store.
        sequence: Sequence,
        /// Payload bytes.
        len: u64,
    },
    /// The peer has it.
    Delivered {
        /// Its place in our store.
        sequence: Sequence,
    },
    /// A dead letter.
    Dead {
        /// Its place in our store.
        sequence: Sequence,
        /// Payload bytes.
        len: u64,
        /// Why.
        reason: DeadReason,
    },
    /// Dropped by the operator.
    Dropped {
        /// Its place in our store.
        sequence: Sequence,
    },
    /// In the mailbox.
    Held {
        /// The sending party, where known.
        sender: Option<PartyId>,
        /// Its place in our store.
        sequence: Sequence,
        /// Payload bytes.
        len: u64,
    },
    /// Released by its reader.
    Released {
        /// Its place in our store.
        sequence: Sequence,
    },
    /// Its time in the mailbox was over.
    Expired {
        /// Its place in our store.
        sequence: Sequence,
    },
}

/// Many messages that wait for their syncs; what becomes of each, in their order.
pub type Accepting = Pin<Box<dyn Future<Output = Vec<Result<Sequence>>> + Send>>;

/// A durable store of pending messages, mailbox and dead letters of one party.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Accepts a message for `receiver`. A pending one with the same id to the same receiver is superseded.
    /// Errors: [`StoreError::Full`], [`StoreError::Conflict`], [`StoreError::Poisoned`], [`StoreError::Closed`].
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence>;

    /// Keeps what a peer delivered. A repetition resolves only when the first copy is durable.
    /// Errors as [`accept`](Engine::accept).
    async fn store(&self, arrival: Arrival) -> Result<Stored>;

    /// [`accept`](Self::accept) for many messages (receiver, id, payload): each is accepted or refused for itself, and they
    /// share what a single one would cost. Returns when all have their place in the order, which is that of the list; what
    /// it gives resolves when they are synced.
    async fn accept_many(&self, messages: Vec<(PartyId, MessageId, Bytes)>) -> Accepting {
        let mut accepted = Vec::with_capacity(messages.len());
        for (receiver, id, payload) in messages {
            accepted.push(self.accept(&receiver, &id, payload).await);
        }
        Box::pin(std::future::ready(accepted))
    }

    /// [`store`](Self::store) for many, in the same way.
    async fn store_many(&self, arrivals: Vec<Arrival>) -> Vec<Result<Stored>> {
        join_all(arrivals.into_iter().map(|arrival| self.store(arrival))).await
    }

    /// Begins a message whose content comes in pieces. With the `len` of all of it there is room for that from now on, or an
    /// error says why not.
    fn begin(&self, len: Option<u64>) -> Result<Box<dyn Upload>>;

    /// True when a delivery is known, and durably so: it need not be brought again.
    async fn knows(&self, sender: &PartyId, identity: &DeliveryIdentity) -> Result<bool>;

    /// Finds a message; `None` when there is none (yet, or no more). A large one is read when its content is asked for.
    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>>;

    /// Reads a message into memory; `None` when there is none (yet, or no more). Reading does not remove.
    async fn read(&self, from: &FromSender, id: &MessageId) -> Result<Option<Message>> {
        loop {
            let Some(held) = self.open(from, id).await? else { return Ok(None) };
            match held.read().await {
                // Another one may be there now.
                Err(StoreError::Gone { .. }) => {}
                read => return read.map(Some),
            }
        }
    }

    /// The reader needs the message(s) no more. True when there was one.
    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool>;

    /// What is there under an id, of every sender that is meant, newest first; what is on its way into the log included.
    async fn held(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>>;

    /// Opens the message that was found; `None`: it ended, or another one has its place.
    async fn open_found(&self, found: &Found) -> Result<Option<Held>>;

    /// Messages whose id begins with `prefix`, after `after` in the order of arrival, at most `limit`. Looks at the whole
    /// mailbox.
    async fn topic(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>>;

    /// The reader needs the messages whose id begins with `prefix` no more; how many there were.
    async fn release_topic(&self, from: &FromSender, prefix: &str) -> Result<u64>;

    /// What became of a message for `receiver`.
    async fn track_sent(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked>;

    /// What became of a message that arrived.
    async fn track_received(&self, from: &FromSender, id: &MessageId) -> Result<Tracked>;

    /// Pending messages for `peer` after `after` in order of acceptance, at most `limit`.
    async fn pending(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>>;

    /// As [`pending`](Self::pending), with the id of each; without one: it cannot be read.
    async fn pending_with_ids(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(Pending, Option<MessageId>)>>;

    /// Peers that have pending messages.
    async fn peers_with_pending(&self) -> Result<Vec<PartyId>>;

    /// Loads a pending message for delivery; `None` when it is pending no more (superseded, settled, expired).
    /// [`StoreError::Damaged`]: settle it as dead.
    async fn load(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>>;

    /// [`load`](Self::load) for many.
    async fn load_many(&self, peer: &PartyId, sequences: &[Sequence]) -> Vec<Result<Option<Outgoing>>> {
        join_all(sequences.iter().map(|sequence| self.load(peer, *sequence))).await
    }

    /// Ends pending messages that the peer accepted, each as [`settle`](Self::settle) does.
    async fn settle_delivered(&self, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
        for sequence in sequences {
            self.settle(peer, *sequence, Outcome::Delivered).await?;
        }
        Ok(())
    }

    /// Ends a pending message. Lazy: rides on the next sync, and losing it costs a repeated delivery at most.
    /// Returns false when it was pending no more.
    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: Outcome) -> Result<bool>;

    /// Returns when nothing brings back what has ended up to now. For ends that somebody decided: losing one of those would
    /// undo the decision. A full disk is not waited for.
    async fn ends_kept(&self) -> Result<()> {
        Ok(())
    }

    /// Dead letters after `after`, oldest first, at most `limit`.
    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>>;

    /// The newest dead letters, newest first, at most `limit`.
    async fn newest_dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>>;

    /// How many dead letters there are for each [reason](DeadReason): expired, refused, damaged. At most `most` of them are
    /// looked at, the oldest first.
    async fn count_dead_letters(&self, most: usize) -> Result<[u64; 3]> {
        const PAGE: usize = 1000;
        let (mut counts, mut after, mut left) = ([0; 3], Sequence(0), most);
        while left > 0 {
            let page = self.dead_letters(after, left.min(PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            left = left.saturating_sub(page.len());
            for letter in &page {
                counts[letter.reason.number()] += 1;
            }
        }
        Ok(counts)
    }

    /// A dead letter with its content. `None` when there is no such letter.
    async fn open_dead_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>>;

    /// Accepts a dead letter's message anew and removes the letter. `None` when there is no such letter.
    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>>;

    /// Removes a dead letter for good. False when there is no such letter.
    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool>;

    /// Whether this process delivers to a peer. Of several gateways on one Redis only one does.
    fn delivers_to(&self, peer: &PartyId) -> bool {
        let _ = peer;
        true
    }

    /// Counters and gauges.
    fn stats(&self) -> StoreStats;

    /// The state, now and on change.
    fn state(&self) -> watch::Receiver<StoreState>;

    /// Takes nothing more, syncs what is queued, and returns when the disk has it.
    async fn close(&self) -> Result<()>;
}

impl fmt::Debug for dyn Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dyn Engine")
    }
}

/// The error of a state that takes nothing.
pub(crate) fn state_error(state: &StoreState) -> Option<StoreError> {
    match state {
        StoreState::Serving | StoreState::Stalled => None,
        StoreState::Refusing(why) | StoreState::Unavailable(why) => {
            Some(StoreError::Unavailable(why.clone()))
        }
        StoreState::Poisoned(why) => Some(StoreError::Poisoned(why.clone())),
        StoreState::Closed => Some(StoreError::Closed),
    }
}
