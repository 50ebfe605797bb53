//! The face of a store: one trait, so that the gateway does not know which engine keeps its messages.
//!
//! Invariant of every implementation: a future that promises acceptance ([`Engine::accept`], [`Engine::store`])
//! resolves to `Ok` only after the sync that covers the message.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;

use crate::face::error::{Result, StoreError};
use crate::face::histogram::Spread;
use crate::face::message::{
    Arrival, DeadLetter, DeadReason, DeliveryIdentity, FromSender, Message, MessageId, Outcome, PartyId,
    Pending, SendKey, Sending, Sequence, Stored,
};
use crate::face::payload::{Found, Handed, Held, Outgoing, Payload, Upload};

/// What the store does if an id that is still held is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdReuse {
    /// The newer message replaces the older one, as in PETNet.
    #[default]
    Replace,
    /// Accepts the same bytes again, as a repetition; other bytes are a [`StoreError::Conflict`].
    Reject,
}

/// Learns what becomes visible. Called from the store's own threads: must return at once and never block.
pub trait Observer: Send + Sync + 'static {
    /// A message can be read (its sync may still be running).
    fn arrived(&self, message: &Held);
    /// A message of `len` payload bytes for `peer` is pending. Sequences need not come in order, because a large message is
    /// pending only when its last slice is written. This is a hint; the store is the truth.
    fn pending(&self, peer: &PartyId, sequence: Sequence, len: u64);
    /// A message became a dead letter.
    fn died(&self, letter: &DeadLetter);
    /// Notifications may have been lost: everything that waits for a message must look for itself.
    fn missed(&self) {}
    /// The operator wants an attempt at a peer now; the request may have been made at another gateway of the party.
    fn try_at_once(&self, peer: &PartyId) {
        let _ = peer;
    }
    /// Whether a delivery to a peer is under way.
    fn is_delivering(&self, peer: &PartyId) -> bool {
        let _ = peer;
        false
    }
    /// Whether messages for this peer can be delivered by this process.
    fn serves(&self, peer: &PartyId) -> bool {
        let _ = peer;
        true
    }
}

/// A page of [`pending_named`](Engine::pending_named).
#[derive(Debug, Clone, Default)]
pub struct NamedPending {
    /// The messages with their receivers and ids, in order of acceptance.
    pub messages: Vec<(PartyId, Pending, MessageId)>,
    /// There may be more after this sequence; `None` if there are no more.
    pub next: Option<Sequence>,
}

/// An [`Observer`] that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn arrived(&self, _: &Held) {}
    fn pending(&self, _: &PartyId, _: Sequence, _: u64) {}
    fn died(&self, _: &DeadLetter) {}
}

/// Whether the store accepts and serves messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// Accepts and serves.
    Serving,
    /// A sync has been running for seconds: callers wait, within their own deadlines. Passes when the sync returns.
    Stalled,
    /// There is no room for new messages, with the reason; everything else goes on. Passes by itself.
    Full(Arc<str>),
    /// Redis takes no changes, with the reason; what is there can be read. Passes by itself.
    Refusing(Arc<str>),
    /// Redis cannot be reached, with the reason. Passes by itself.
    Unavailable(Arc<str>),
    /// A write or sync failed: nothing is accepted until the process is restarted. Final.
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

/// Counters since the start and current gauges.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreStats {
    /// Pending messages by peer.
    pub pending: Vec<PeerPending>,
    /// Messages in the mailbox, newest per (sender, id); may count expired ones until their space is freed.
    pub mailbox_messages: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes that files of the store take on the disk.
    pub disk_bytes: u64,
    /// Bytes that messages and records take.
    pub used_bytes: u64,
    /// Bytes that messages and records may take, given the quota and the disk, without what is kept free for records: at
    /// this limit the store is full. 0 if it is not known (Redis without a quota).
    pub limit_bytes: u64,
    /// The configured quota; 0 = what the disk has.
    pub quota_bytes: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Recycled segment files that are ready for use.
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
    /// Messages examined by listings of the mailbox and of topics, since the start. Embedded store only.
    pub listed: u64,
    /// Seconds of service time.
    pub service_seconds: u64,
    /// Messages that expired in the mailbox, since the start; counted when their space is freed.
    pub expired: u64,
    /// Bytes in segments that belong to messages that have ended: freed once all of a segment has ended or the rest was moved.
    pub reclaimable_bytes: u64,
    /// Duration of each sync of the log, in seconds. Embedded store only: Redis does not report it.
    pub sync_seconds: Spread,
    /// Number of records that each sync covered. Embedded store only.
    pub sync_records: Spread,
}

/// What became of a message. Messages that ended are remembered for a while: the last 65,536 since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracked {
    /// It is not held, and not among those that ended lately.
    Unknown,
    /// It is accepted and still to be delivered.
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
    /// It became a dead letter.
    Dead {
        /// Its place in our store.
        sequence: Sequence,
        /// Payload bytes.
        len: u64,
        /// Why it became one.
        reason: DeadReason,
        /// Seconds of service time since it became one; `None` if that is not known.
        dead_for: Option<u64>,
    },
    /// The operator dropped it.
    Dropped {
        /// Its place in our store.
        sequence: Sequence,
    },
    /// It is in the mailbox.
    Held {
        /// The sending party, where known.
        sender: Option<PartyId>,
        /// Its place in our store.
        sequence: Sequence,
        /// Payload bytes.
        len: u64,
    },
    /// Its reader released it.
    Released {
        /// Its place in our store.
        sequence: Sequence,
    },
    /// It expired in the mailbox.
    Expired {
        /// Its place in our store.
        sequence: Sequence,
    },
}

/// The peers that the operator paused at all gateways of the party: the current set, and every change.
pub type Pauses = watch::Receiver<Arc<BTreeSet<PartyId>>>;

/// Many messages that wait for their syncs; resolves to what became of each, in their order.
pub type Accepting = Pin<Box<dyn Future<Output = Vec<Result<Sequence>>> + Send>>;

/// A durable store of pending messages, mailbox and dead letters of one party.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Accepts a message for `receiver`. A pending message with the same id to the same receiver is superseded; if it has
    /// the same bytes, this is a retry of it, and its sequence is returned. Errors: [`StoreError::Full`],
    /// [`StoreError::Conflict`], [`StoreError::Poisoned`], [`StoreError::Closed`].
    async fn accept(&self, receiver: &PartyId, id: &MessageId, payload: Bytes) -> Result<Sequence>;

    /// Keeps what a peer delivered. A repetition resolves only when the first copy is durable. Errors are those of
    /// [`accept`](Engine::accept).
    async fn store(&self, arrival: Arrival) -> Result<Stored>;

    /// [`accept`](Self::accept) for a message that may have a key: the same key means the same acceptance, with the same
    /// sequence, even after the message was delivered, for as long as the key is remembered (the last 65,536). Additional
    /// error: [`StoreError::OtherSend`]. The key of a refused message is not remembered.
    async fn accept_one(&self, message: Sending) -> Result<Sequence> {
        self.accept(&message.receiver, &message.id, message.payload).await
    }

    /// The acceptance that a key names, once it is durable. `len`: length of the message, if that is known. Errors:
    /// [`StoreError::OtherSend`].
    async fn accepted_before(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        len: Option<u64>,
        key: SendKey,
    ) -> Result<Option<Sequence>> {
        let _ = (receiver, id, len, key);
        Ok(None)
    }

    /// [`accept_one`](Self::accept_one) for many messages: each is accepted or refused by itself, and together they cost
    /// what a single one would. Returns when all have their place in the order, which is that of the list; the returned
    /// future resolves when they are synced.
    async fn accept_all(&self, messages: Vec<Sending>) -> Accepting {
        let mut accepted = Vec::with_capacity(messages.len());
        for message in messages {
            accepted.push(self.accept_one(message).await);
        }
        Box::pin(std::future::ready(accepted))
    }

    /// [`accept_all`](Self::accept_all) for messages (receiver, id, payload) without keys.
    async fn accept_many(&self, messages: Vec<(PartyId, MessageId, Bytes)>) -> Accepting {
        let sending = |(receiver, id, payload)| Sending { receiver, id, payload, key: None };
        self.accept_all(messages.into_iter().map(sending).collect()).await
    }

    /// [`store`](Self::store) for many arrivals that share the costs; the results are in the order of the list.
    async fn store_many(&self, arrivals: Vec<Arrival>) -> Vec<Result<Stored>> {
        join_all(arrivals.into_iter().map(|arrival| self.store(arrival))).await
    }

    /// Begins a message whose content comes in pieces. With its `len`, room for all is reserved, or an error says why not.
    fn begin(&self, len: Option<u64>) -> Result<Box<dyn Upload>>;

    /// True if a delivery is known, and durably so: it need not be sent again. [`StoreError::TooOld`]: that cannot be told.
    async fn knows(&self, sender: &PartyId, identity: &DeliveryIdentity) -> Result<bool>;

    /// Finds a message; `None` if there is none (yet, or any more). A large one is read when its content is asked for.
    ///
    /// [`FromSender::Any`]: if several senders have a message under the id, one that nobody has read comes before those that
    /// were read; two unread ones are [`StoreError::Ambiguous`]; among read ones, it is the one that was read last. Finding
    /// a message does not mark it as read: see [`note_read`](Self::note_read).
    async fn open(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>>;

    /// Reads a message into memory; `None` if there is none (yet, or any more). Reading does not remove it.
    async fn read(&self, from: &FromSender, id: &MessageId) -> Result<Option<Message>> {
        loop {
            let Some(held) = self.open(from, id).await? else { return Ok(None) };
            match held.read().await {
                // Another message may be there now.
                Err(StoreError::Gone { .. }) => {}
                read => return read.map(Some),
            }
        }
    }

    /// Notes that messages were handed to readers. Lazy: the note rides on a later sync, and losing it only lengthens a
    /// message's life; `message_ttl` counts from the first time. Messages that are no longer held are ignored. Never blocks.
    fn note_read(&self, messages: &[Handed]);

    /// Releases the message(s): the reader no longer needs them. True if there was one. Returns after the sync that covers
    /// it: then neither a kill nor a power cut brings it back. All callers that wait share one sync.
    async fn release(&self, from: &FromSender, id: &MessageId) -> Result<bool>;

    /// The messages held under an id from every sender that is meant, newest first, including those on their way into the log.
    async fn held(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>>;

    /// Opens the message that was found; `None` if it ended, or if another one has taken its place.
    async fn open_found(&self, found: &Found) -> Result<Option<Held>>;

    /// Messages whose id begins with `prefix`, after `after` in the order of arrival, at most `limit`. The time it takes
    /// depends on what it returns, not on where it begins.
    async fn topic(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>>;

    /// Releases the messages whose id begins with `prefix`, and returns how many there were. Returns after the sync, as
    /// [`release`](Self::release) does.
    async fn release_topic(&self, from: &FromSender, prefix: &str) -> Result<u64>;

    /// What became of a message sent to `receiver`.
    async fn track_sent(&self, receiver: &PartyId, id: &MessageId) -> Result<Tracked>;

    /// What became of a message that arrived.
    async fn track_received(&self, from: &FromSender, id: &MessageId) -> Result<Tracked>;

    /// Pending messages for `peer` after `after` in order of acceptance, at most `limit`.
    async fn pending(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>>;

    /// [`pending`](Self::pending) with the id of each message; `None` in place of an id that cannot be read.
    async fn pending_with_ids(
        &self,
        peer: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<(Pending, Option<MessageId>)>>;

    /// [`pending`](Self::pending) for the operator: includes what another process delivers.
    async fn pending_anywhere(&self, peer: &PartyId, after: Sequence, limit: usize) -> Result<Vec<Pending>> {
        self.pending(peer, after, limit).await
    }

    /// Pending messages whose id begins with `prefix`, for one peer or all, after `after` in order of acceptance, at most
    /// `limit`. The time it takes depends on what it returns. `None` if there is no such list, or none that is known to be
    /// complete (soon after a start).
    async fn pending_named(
        &self,
        peer: Option<&PartyId>,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Option<NamedPending>> {
        let _ = (peer, prefix, after, limit);
        Ok(None)
    }

    /// Peers that have pending messages.
    async fn peers_with_pending(&self) -> Result<Vec<PartyId>>;

    /// Loads a pending message for delivery; `None` if it is no longer pending (superseded, settled, expired).
    /// [`StoreError::Damaged`]: settle it as dead.
    async fn load(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>>;

    /// [`load`](Self::load) for many messages.
    async fn load_many(&self, peer: &PartyId, sequences: &[Sequence]) -> Vec<Result<Option<Outgoing>>> {
        join_all(sequences.iter().map(|sequence| self.load(peer, *sequence))).await
    }

    /// A pending message with its content, for the operator: even if another process delivers it.
    async fn open_pending(&self, peer: &PartyId, sequence: Sequence) -> Result<Option<Outgoing>> {
        self.load(peer, sequence).await
    }

    /// The pauses that the store keeps for all gateways of the party; `None`: the caller must remember them.
    fn pauses(&self) -> Option<Pauses> {
        None
    }

    /// Pauses or resumes a peer at all gateways, if the store [keeps](Self::pauses) that. False if nothing changed.
    async fn pause(&self, peer: &PartyId, paused: bool) -> Result<bool> {
        let _ = (peer, paused);
        Err(StoreError::Closed)
    }

    /// Tells the other gateways of the party to try these peers at once. Does nothing if there are none.
    async fn try_at_once(&self, peers: &[PartyId]) -> Result<()> {
        let _ = peers;
        Ok(())
    }

    /// Ends pending messages that the peer accepted, each as [`settle`](Self::settle) does.
    async fn settle_delivered(&self, peer: &PartyId, sequences: &[Sequence]) -> Result<()> {
        for sequence in sequences {
            self.settle(peer, *sequence, Outcome::Delivered).await?;
        }
        Ok(())
    }

    /// Ends a pending message. Lazy: the record rides on the next sync, and losing it costs a repeated delivery at most.
    /// Returns false if it was no longer pending.
    async fn settle(&self, peer: &PartyId, sequence: Sequence, outcome: Outcome) -> Result<bool>;

    /// Returns when nothing can bring back the messages that have ended up to now. For ends that somebody decided: losing
    /// one of those would undo the decision. On a disk without room for another record, a checkpoint preserves them.
    async fn ends_kept(&self) -> Result<()> {
        Ok(())
    }

    /// [`dead_letters`](Self::dead_letters) of one party alone. `None` if this engine has no such list, as in this default:
    /// then the caller must go through all of them.
    async fn dead_letters_of(
        &self,
        party: &PartyId,
        after: Sequence,
        limit: usize,
    ) -> Result<Option<Vec<DeadLetter>>> {
        let _ = (party, after, limit);
        Ok(None)
    }

    /// Dead letters after `after`, oldest first, at most `limit`.
    async fn dead_letters(&self, after: Sequence, limit: usize) -> Result<Vec<DeadLetter>>;

    /// The newest dead letters, newest first, at most `limit`.
    async fn newest_dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>>;

    /// How many dead letters there are for each [reason](DeadReason), indexed by its number; at most `most`, oldest first.
    async fn count_dead_letters(&self, most: usize) -> Result<[u64; DeadReason::COUNT]> {
        const PAGE: usize = 1000;
        let (mut counts, mut after, mut left) = ([0; DeadReason::COUNT], Sequence(0), most);
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

    /// A dead letter with its content. `None` if there is no such letter.
    async fn open_dead_letter(&self, sequence: Sequence) -> Result<Option<(DeadLetter, Payload)>>;

    /// Retries a dead letter's message and removes the letter: a message to a peer is accepted again; one from a peer
    /// returns to the mailbox with a fresh lifetime, and readers that wait for it are woken. `None` if there is no such
    /// letter. [`StoreError::Conflict`] if a newer message from the same sender is in the mailbox under the same id; then
    /// nothing changed.
    async fn retry_dead_letter(&self, sequence: Sequence) -> Result<Option<Sequence>>;

    /// Removes a dead letter for good. False if there is no such letter.
    async fn drop_dead_letter(&self, sequence: Sequence) -> Result<bool>;

    /// Whether this process delivers to a peer. If several gateways share one Redis, only one does.
    fn delivers_to(&self, peer: &PartyId) -> bool {
        let _ = peer;
        true
    }

    /// Whether no other process delivers to a peer: deliveries under way to it may finish, even if no new ones are begun.
    fn holds(&self, peer: &PartyId) -> bool {
        self.delivers_to(peer)
    }

    /// [`holds`](Self::holds), asked where it is decided: for actions that must not come late, right before they are done.
    /// An error if that cannot be determined.
    async fn may_deliver(&self, peer: &PartyId) -> Result<bool> {
        Ok(self.holds(peer))
    }

    /// Counters and gauges.
    fn stats(&self) -> StoreStats;

    /// The current state, and every change of it.
    fn state(&self) -> watch::Receiver<StoreState>;

    /// Accepts nothing more, syncs what is queued, and returns when that is on the disk.
    async fn close(&self) -> Result<()>;
}

impl fmt::Debug for dyn Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dyn Engine")
    }
}

/// The error of a state in which nothing is accepted.
pub(crate) fn state_error(state: &StoreState) -> Option<StoreError> {
    match state {
        StoreState::Serving | StoreState::Stalled | StoreState::Full(_) => None,
        StoreState::Refusing(why) | StoreState::Unavailable(why) => {
            Some(StoreError::Unavailable(why.clone()))
        }
        StoreState::Poisoned(why) => Some(StoreError::Poisoned(why.clone())),
        StoreState::Closed => Some(StoreError::Closed),
    }
}
