//! The rules: who may send what to whom, limits, waiting, and what goes to the store.
//!
//! Knows nothing of the wire. Invariant: [`Mailbox::accept`] and [`Mailbox::store`] return `Ok` only after the engine did,
//! that is, after the sync that covers the message.
//!
//! A caller may go away while it waits; these futures are then dropped half-way. That is harmless and needs no task of its
//! own: the caller was given no answer, so the message may or may not be accepted; a client sends it again, and a peer's
//! repetition is recognised by its identity.

pub(crate) mod finding;
pub(crate) mod handed;
mod releasing;
pub(crate) mod subscriptions;
pub(crate) mod uploads;
pub(crate) mod waiting;

use crate::rules::refusal::Refusal;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use petnet_storage::{
    Arrival, DeliveryIdentity, Engine, MessageId, PartyId, SendKey, Sending, Sequence, StoreError, Stored,
    Upload,
};
use tokio_util::sync::CancellationToken;

use crate::mailbox::uploads::{UploadSeat, Uploads};
use crate::mailbox::waiting::Waiters;
use crate::proto::mailbox::Outgoing;
use crate::record::recorder::Record;
use crate::rules::access::{self};
use crate::tls::trust::CurrentTrust;

/// Payloads below this size are copied out of the buffer they came in: a slice keeps the whole buffer alive, be it a frame
/// of many messages or whatever a client has put around its own.
const COPY_BELOW: usize = 256 << 10;

/// A message that comes in pieces, with the seat it occupies.
#[derive(Debug)]
pub(crate) struct SeatedUpload {
    pub(crate) upload: Box<dyn Upload>,
    pub(crate) seat: UploadSeat,
}

/// The rules of one gateway over its store.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Our own party.
    pub(crate) party: PartyId,
    /// Who the parties are.
    pub(crate) trust: CurrentTrust,
    /// Where messages are kept.
    pub(crate) engine: Arc<dyn Engine>,
    /// Receives that wait.
    pub(crate) waiters: Arc<Waiters>,
    /// Where everything that happens is recorded.
    pub(crate) record: Arc<Record>,
    /// `MAX_MESSAGE_BYTES`.
    pub(crate) max_message_bytes: u64,
    /// `MAX_STREAM_BYTES`; 0 means whatever there is room for.
    pub(crate) max_stream_bytes: u64,
    /// `MAX_UPLOADS`.
    pub(crate) uploads: Uploads,
    /// Cancelled when shutdown begins.
    pub(crate) draining: CancellationToken,
}

impl Mailbox {
    /// Takes a client's message to another party. `Ok` means accepted.
    pub(crate) async fn accept(&self, receiver: &str, id: &str, payload: Bytes) -> Result<Sequence, Refusal> {
        self.accept_called(receiver, id, payload, &[]).await
    }

    /// Takes a client's message as [`accept`](Self::accept) does, with a key; an empty one means none.
    pub(crate) async fn accept_called(
        &self,
        receiver: &str,
        id: &str,
        payload: Bytes,
        key: &[u8],
    ) -> Result<Sequence, Refusal> {
        let (since, len) = (Instant::now(), payload.len() as u64);
        let message = self.message(receiver, id, payload, key)?;
        let (receiver, id) = (message.receiver.clone(), message.id.clone());
        let sequence = self.engine.accept_one(message).await?;
        self.record.accepted(&receiver, &id, sequence, len, since);
        Ok(sequence)
    }

    /// Takes many messages, each on its own; they share a sync. Returns when they have their places in the order, which is
    /// that of the list; the future it returns resolves when they are accepted.
    pub(crate) async fn accept_many(
        &self,
        messages: Vec<Outgoing>,
    ) -> impl Future<Output = Vec<Result<Sequence, Refusal>>> + Send + use<> {
        let since = Instant::now();
        let mut refused: Vec<Option<Refusal>> = Vec::with_capacity(messages.len());
        let mut checked = Vec::with_capacity(messages.len());
        for Outgoing { receiver_id, message_id, payload, key, .. } in messages {
            let message = self.message(&receiver_id, &message_id, payload, &key);
            refused.push(message.map(|message| checked.push(message)).err());
        }
        let journal = &self.record.journal;
        let named = checked.iter().map(|message| {
            (message.receiver.clone(), journal.key(&message.id), message.payload.len() as u64)
        });
        let named: Vec<_> = named.collect();
        let accepting = self.engine.accept_all(checked).await;
        let record = self.record.clone();
        async move {
            let accepted = accepting.await;
            let places = named.into_iter().zip(&accepted).filter_map(|((receiver, id, len), accepted)| {
                accepted.as_ref().ok().map(|sequence| (receiver, id, len, *sequence))
            });
            record.accepted_many(places.collect(), since);
            let mut accepted = accepted.into_iter();
            let of = |refusal: Option<Refusal>| match refusal {
                Some(refusal) => Err(refusal),
                None => accepted.next().unwrap_or(Err(StoreError::Closed)).map_err(Refusal::from),
            };
            refused.into_iter().map(of).collect()
        }
    }

    /// A client's message, provided that it may be sent.
    fn message(&self, receiver: &str, id: &str, payload: Bytes, key: &[u8]) -> Result<Sending, Refusal> {
        self.open()?;
        let id = MessageId::new(id)?;
        let receiver = self.receiver(receiver)?;
        self.check_size(payload.len() as u64)?;
        Ok(Sending { receiver, id, payload: kept(payload), key: send_key(key)? })
    }

    /// The receiver of a client's message, provided that we may send there.
    pub(crate) fn receiver(&self, receiver: &str) -> Result<PartyId, Refusal> {
        let unknown = || Refusal::UnknownReceiver { id: shortened(receiver) };
        // An id that cannot belong to a party is simply one that nobody has.
        let receiver = PartyId::new(receiver).map_err(|_| unknown())?;
        if receiver == self.party {
            return Err(Refusal::OwnParty { id: receiver });
        }
        let trust = self.trust.borrow();
        if !trust.parties.contains(&receiver) {
            return Err(unknown());
        }
        access::may_send(&self.party, &trust.parties, &receiver)?;
        Ok(receiver)
    }

    /// Begins a client's message whose content comes in pieces; `len` is the length of the whole, if known.
    pub(crate) fn begin(&self, caller: u64, len: Option<u64>) -> Result<SeatedUpload, Refusal> {
        self.open()?;
        if let Some(len) = len {
            self.check_stream(len)?;
        }
        let seat = self.uploads.clients.try_take(&caller).ok_or(Refusal::TooManyUploads)?;
        Ok(SeatedUpload { upload: self.engine.begin(len)?, seat })
    }

    /// Begins such a message from a peer, which already has its seat. Room in the store counts only as the content comes:
    /// claiming a length costs a peer nothing.
    pub(crate) fn begin_delivery(&self, seat: UploadSeat, len: u64) -> Result<SeatedUpload, Refusal> {
        self.open()?;
        // Checks whether there is room for that much now.
        drop(self.engine.begin(Some(len))?);
        Ok(SeatedUpload { upload: self.engine.begin(None)?, seat })
    }

    /// Checks whether a message that comes in pieces may be this long.
    pub(crate) fn check_stream(&self, len: u64) -> Result<(), Refusal> {
        match self.max_stream_bytes {
            limit if limit > 0 && len > limit => Err(Refusal::StreamTooLarge { len, limit }),
            _ => Ok(()),
        }
    }

    /// Stores what a peer delivers. `Ok` means that it is durable here, or already was.
    pub(crate) async fn store(
        &self,
        sender: Option<PartyId>,
        id: &str,
        payload: Bytes,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Stored, Refusal> {
        let arrival = self.arrival(sender.as_ref(), id, payload, identity)?;
        let (id, len) = (arrival.id.clone(), arrival.payload.len() as u64);
        let stored = self.engine.store(arrival).await?;
        self.record.stored(sender.as_ref(), &id, len, stored);
        Ok(stored)
    }

    /// What a peer delivers, provided that it may.
    pub(crate) fn arrival(
        &self,
        sender: Option<&PartyId>,
        id: &str,
        payload: Bytes,
        identity: Option<DeliveryIdentity>,
    ) -> Result<Arrival, Refusal> {
        self.may_deliver(sender)?;
        let id = MessageId::new(id)?;
        self.check_size(payload.len() as u64)?;
        Ok(Arrival { sender: sender.cloned(), id, payload: kept(payload), identity })
    }

    /// Checks whether a peer may deliver now.
    pub(crate) fn may_deliver(&self, sender: Option<&PartyId>) -> Result<(), Refusal> {
        self.open()?;
        Ok(access::may_deliver(&self.party, &self.trust.borrow().parties, sender)?)
    }

    /// Checks whether anything new may begin.
    pub(crate) fn open(&self) -> Result<(), Refusal> {
        if self.draining.is_cancelled() { Err(Refusal::Draining) } else { Ok(()) }
    }

    fn check_size(&self, len: u64) -> Result<(), Refusal> {
        let limit = self.max_message_bytes;
        if len > limit { Err(Refusal::TooLarge { len, limit }) } else { Ok(()) }
    }
}

/// The key of a send; an empty one means none.
pub(crate) fn send_key(key: &[u8]) -> Result<Option<SendKey>, Refusal> {
    if key.is_empty() {
        return Ok(None);
    }
    let wrong = |_| {
        let (wanted, has) = (SendKey::BYTES, key.len());
        Refusal::Invalid(format!("the key of a send has {wanted} bytes, and this one has {has}"))
    };
    Ok(Some(SendKey(key.try_into().map_err(wrong)?)))
}

fn kept(payload: Bytes) -> Bytes {
    if payload.len() < COPY_BELOW { Bytes::copy_from_slice(&payload) } else { payload }
}

/// As much of an id as an error text needs, however long the id is.
fn shortened(id: &str) -> String {
    match id.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &id[..at]),
        None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use petnet_storage::FromSender;
    use tokio::time::Instant;

    use super::*;
    use crate::mailbox::finding::AskingCaller;
    use crate::rules::parties::{Connection, ConnectionType, Parties};
    use crate::testing::{FakeEngine, party};

    const LIMIT: u64 = 100;

    struct Nobody;

    impl AskingCaller for Nobody {
        fn caller(&self) -> u64 {
            0
        }

        async fn make_room(&self, _: u64) {}
    }

    fn mailbox(own_whitelist: &[&str]) -> Mailbox {
        let connection = |whitelist: &[&str]| Connection {
            kind: ConnectionType::Direct,
            url: "localhost:1".into(),
            certificates: String::new(),
            whitelist: whitelist.iter().map(ToString::to_string).collect(),
        };
        let waiters = Arc::new(Waiters::new(2));
        Mailbox {
            party: party("party_a"),
            trust: crate::tls::trust::fixed(
                "party_a",
                Parties {
                    parties: [
                        (party("party_a"), vec![connection(own_whitelist)]),
                        (party("party_b"), vec![connection(&["*"])]),
                        (party("party_c"), vec![connection(&["*"])]),
                    ]
                    .into(),
                },
            ),
            engine: FakeEngine::new(Arc::new(petnet_storage::NoObserver)),
            waiters,
            record: Arc::default(),
            max_message_bytes: LIMIT,
            max_stream_bytes: 2 * LIMIT,
            uploads: Uploads::new(2),
            draining: CancellationToken::new(),
        }
    }

    #[test]
    fn a_payload_keeps_nothing_alive_but_itself() {
        let frame = Bytes::from(vec![7; 4 << 20]);
        let inside = |bytes: &Bytes| frame.as_ptr_range().contains(&bytes.as_ptr());
        assert!(!inside(&kept(frame.slice(100..4196))) && !inside(&kept(frame.slice(..COPY_BELOW - 1))));
        assert!(inside(&kept(frame.slice(..COPY_BELOW))), "what fills its frame is not copied");
    }

    #[tokio::test]
    async fn over_long_and_empty_ids_are_refused_with_length_and_limit() {
        let mailbox = mailbox(&["*"]);
        let error = mailbox.accept("party_b", &"x".repeat(1025), Bytes::new()).await.unwrap_err();
        assert!(error.to_string().contains("1025") && error.to_string().contains("1024"), "{error}");
        let error = mailbox.accept("party_b", "", Bytes::new()).await.unwrap_err();
        assert!(matches!(&error, Refusal::Invalid(text) if text.contains("empty")), "{error}");
        let error = mailbox.receive(&Nobody, FromSender::Any, "", Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, Refusal::Invalid(_)));
        assert!(mailbox.accept("party_b", &"x".repeat(1024), Bytes::new()).await.is_ok());
    }

    #[tokio::test]
    async fn receiver_must_be_another_known_party() {
        let mailbox = mailbox(&["*"]);
        let long = "z".repeat(5000);
        for unknown in ["party_z", "", "bad\nid", &long] {
            let error = mailbox.accept(unknown, "m", Bytes::new()).await.unwrap_err();
            assert!(matches!(error, Refusal::UnknownReceiver { .. }), "{error}");
            assert!(error.to_string().len() < 400);
        }
        let error = mailbox.accept("party_a", "m", Bytes::new()).await.unwrap_err();
        assert!(matches!(&error, Refusal::OwnParty { .. }) && error.to_string().contains("party_a"));
    }

    #[tokio::test]
    async fn message_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        let mailbox = mailbox(&["*"]);
        let payload = |len: u64| Bytes::from(vec![7; len as usize]);
        assert!(mailbox.accept("party_b", "m", payload(LIMIT)).await.is_ok());
        let error = mailbox.accept("party_b", "m", payload(LIMIT + 1)).await.unwrap_err();
        assert!(matches!(error, Refusal::TooLarge { len: 101, limit: LIMIT }), "{error}");
        let error = mailbox.store(Some(party("party_b")), "m", payload(LIMIT + 1), None).await.unwrap_err();
        assert!(matches!(error, Refusal::TooLarge { .. }), "{error}");
    }

    #[tokio::test]
    async fn only_the_whitelisted_deliver() {
        let deliver = async |whitelist: &[&str], sender: Option<&str>| {
            mailbox(whitelist).store(sender.map(party), "m", Bytes::new(), None).await
        };
        assert!(deliver(&["*"], Some("party_b")).await.is_ok());
        assert!(deliver(&["party_b"], Some("party_b")).await.is_ok());
        assert!(deliver(&["*"], None).await.is_ok());
        for (whitelist, sender) in [
            (&["party_b"][..], Some("party_c")),
            (&["party_b"], None),
            (&[], Some("party_b")),
            (&["*"], Some("party_a")),
            (&["*"], Some("stranger")),
        ] {
            let result = deliver(whitelist, sender).await;
            assert!(matches!(result, Err(Refusal::Denied(_))), "{whitelist:?} {sender:?} {result:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn receive_beyond_the_waiting_limit_is_answered_at_once() {
        let mailbox = Arc::new(mailbox(&["*"]));
        let waiting = |n: u32| {
            let mailbox = mailbox.clone();
            async move { mailbox.receive(&Nobody, FromSender::Any, &n.to_string(), Duration::from_mins(1)).await }
        };
        let first = tokio::spawn(waiting(1));
        let second = tokio::spawn(waiting(2));
        while mailbox.waiters.len() < 2 {
            tokio::task::yield_now().await;
        }
        let start = Instant::now();
        assert!(waiting(3).await.unwrap().is_none());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(first.await.unwrap().unwrap().is_none());
        assert!(second.await.unwrap().unwrap().is_none());
        assert_eq!(start.elapsed(), Duration::from_mins(1));
        assert_eq!(mailbox.waiters.len(), 0);
    }

    #[tokio::test]
    async fn cancelled_receive_leaves_nothing_behind() {
        let mailbox = mailbox(&["*"]);
        let receive = mailbox.receive(&Nobody, FromSender::Any, "m", Duration::from_mins(1));
        assert!(tokio::time::timeout(Duration::from_millis(1), receive).await.is_err());
        assert_eq!(mailbox.waiters.len(), 0);
    }

    #[tokio::test]
    async fn draining_answers_waiting_receives_and_refuses_new_calls() {
        let mailbox = Arc::new(mailbox(&["*"]));
        let waiting = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.receive(&Nobody, FromSender::Any, "m", Duration::from_mins(10)).await }
        });
        while mailbox.waiters.len() < 1 {
            tokio::task::yield_now().await;
        }
        mailbox.draining.cancel();
        assert!(waiting.await.unwrap().unwrap().is_none());
        let error = mailbox.accept("party_b", "m", Bytes::new()).await.unwrap_err();
        assert!(matches!(error, Refusal::Draining));
    }
}
