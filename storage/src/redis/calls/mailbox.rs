//! Finding, listing and releasing messages in the mailbox.

use redis::{FromRedisValue, Value};

use crate::face::direction::Class;
use crate::face::engine::Tracked;
use crate::face::error::{Result, StoreError};
use crate::face::message::{FromSender, MessageId, PartyId, Sequence};
use crate::face::payload::{Found, Held};
use crate::redis::calls::store::RedisStore;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::content::pieces::RedisPieces;
use crate::redis::content::words::{from_text, sender_of, tracked_end};
use crate::store::plain_receive::{Candidate, Choice, choose};

/// Messages that one look at a topic goes through, or searches in lists: Redis serves others between two looks.
const LOOK: usize = 250;
/// Messages released at a time.
const RELEASE: usize = 256;

/// How often to look for a message that keeps ending before it can be opened.
const LOOKS: usize = 8;

/// What a look at a topic returns for a message: sequence, length, sender, class, id, 1 if it is unread, age.
type MessageByTopic = (u64, u64, String, u8, String, u8, u64);
/// What a look at an id returns for a message: sequence, length, sender, class, when it was last read, age.
type MessageById = (u64, u64, String, String, String, u64);
/// A message that is opened: sequence, record, 1 if it is unread, age.
type OpenedMessage = (u64, Vec<u8>, u8, u64);

/// When a message was last read, as a number that rises with each read: the scripts write `seconds.count`.
fn read_at(text: &str) -> Option<u64> {
    text.replace('.', "").parse().ok()
}

fn understood<T: FromRedisValue>(value: Value) -> Result<T> {
    T::from_redis_value(value).map_err(|why| StoreError::Unavailable(why.to_string().into()))
}

impl RedisStore {
    fn message_ttl(&self) -> u64 {
        self.inner.rules().message_ttl()
    }

    fn held(&self, (sequence, bytes, unread, age): OpenedMessage) -> Result<Held> {
        let record = self.inner.record(sequence, &bytes.into())?;
        let payload = RedisPieces::of(&self.inner, &record);
        let unread = unread == 1 && !self.inner.reads.has(&record.id, sequence);
        let (sender, id, sequence) = (record.party, record.id, Sequence(sequence));
        Ok(Held { sender, id, sequence, payload, unread, age })
    }

    /// What a reader is handed that asks for messages of these senders.
    pub(crate) async fn open_one(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        for _ in 0..LOOKS {
            let found: Value = self
                .inner
                .ask(Way::Read, &SCRIPTS.find, |call| {
                    call.arg("open").arg(from_text(from)).arg(id.as_str()).arg(self.message_ttl());
                })
                .await?;
            let several = match &found {
                Value::Nil => return Ok(None),
                Value::Array(all) => matches!(all.first(), Some(Value::Array(_))),
                _ => false,
            };
            if !several {
                return self.held(understood(found)?).map(Some);
            }
            let candidates: Vec<MessageById> = understood(found)?;
            match choose(self.candidates(id, candidates)) {
                Choice::None => return Ok(None),
                Choice::Ambiguous(senders) => {
                    return Err(StoreError::ambiguous(
                        id,
                        senders.into_iter().map(|(_, sender)| PartyId::new(sender).ok()),
                    ));
                }
                Choice::One((sequence, _)) => {
                    if let Some(held) = self.fetch(Sequence(sequence)).await? {
                        return Ok(Some(held));
                    }
                    // It has ended in the meantime.
                }
            }
        }
        Ok(None)
    }

    /// The candidates, each with its sequence and sender. Reads that are not written yet are later than all that are.
    fn candidates(&self, id: &MessageId, listed: Vec<MessageById>) -> Vec<Candidate<(u64, String)>> {
        let noted = self.inner.reads.of(id);
        let place = |sequence: u64| noted.iter().rposition(|noted| *noted == sequence);
        let candidate = |(sequence, _, sender, _, last, _): MessageById| Candidate {
            what: (sequence, sender),
            sequence,
            last_read: match place(sequence) {
                Some(place) => Some(u64::MAX - (noted.len() - place) as u64),
                None => read_at(&last),
            },
        };
        listed.into_iter().map(candidate).collect()
    }

    pub(crate) async fn fetch(&self, sequence: Sequence) -> Result<Option<Held>> {
        let opened: Option<(Vec<u8>, u8, u64)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.fetch, |call| {
                call.arg(sequence.0).arg(self.message_ttl());
            })
            .await?;
        opened.map(|(bytes, unread, age)| self.held((sequence.0, bytes, unread, age))).transpose()
    }

    pub(crate) async fn list(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>> {
        let all: Option<Vec<MessageById>> = self
            .inner
            .ask(Way::Read, &SCRIPTS.find, |call| {
                call.arg("list").arg(from_text(from)).arg(id.as_str()).arg(self.message_ttl());
            })
            .await?;
        let found = |(sequence, len, sender, class, last, age): MessageById| {
            let unread = read_at(&last).is_none();
            // A damaged message has no class, and nothing can be said about it.
            self.found((sequence, len, sender, class.parse().ok()?, unread.into(), age), id)
        };
        Ok(all.into_iter().flatten().filter_map(found).collect())
    }

    /// Converts what a script returns for a message in the mailbox.
    fn found(&self, looked: (u64, u64, String, u8, u8, u64), id: &MessageId) -> Option<Found> {
        let (sequence, len, sender, class, unread, age) = looked;
        let sender = sender_of(&sender, class)?;
        let unread = unread == 1 && !self.inner.reads.has(id, sequence);
        Some(Found { sender, id: id.clone(), sequence: Sequence(sequence), len, unread, age })
    }

    pub(crate) async fn look(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        let mut after = after.0.to_string();
        while all.len() < limit && !after.is_empty() {
            let (up_to, some): (String, Vec<MessageByTopic>) = self
                .inner
                .ask(Way::Read, &SCRIPTS.topic, |call| {
                    let wanted = (limit - all.len()).min(LOOK);
                    call.arg(from_text(from))
                        .arg(prefix)
                        .arg(&after)
                        .arg(wanted)
                        .arg(LOOK)
                        .arg(self.message_ttl());
                })
                .await?;
            all.extend(some.into_iter().filter_map(|(sequence, len, sender, class, id, unread, age)| {
                self.found((sequence, len, sender, class, unread, age), &MessageId::new(id).ok()?)
            }));
            after = up_to;
        }
        Ok(all)
    }

    pub(crate) async fn release_all(&self, from: &FromSender, prefix: &str) -> Result<u64> {
        let mut released = 0;
        let mut after = Sequence(0);
        loop {
            let some = self.look(from, prefix, after, RELEASE).await?;
            let Some(last) = some.last() else { return Ok(released) };
            after = last.sequence;
            released += self
                .inner
                .change_for_good::<u64>(&SCRIPTS.release, |call| {
                    call.arg("these").arg(some.iter().map(|found| found.sequence.0).collect::<Vec<_>>());
                })
                .await?;
        }
    }

    /// How a message ended that is no longer there.
    pub(crate) async fn track_past(&self, from: &FromSender, id: &MessageId) -> Result<Tracked> {
        let letter = self.letter_from(from, id).await?;
        let names: Vec<String> = match from {
            FromSender::Party(party) => vec![party.to_string()],
            FromSender::Unnamed => vec![String::new()],
            FromSender::Any => {
                let mut members = redis::cmd("SMEMBERS");
                members.arg(format!("{}senders", self.inner.prefix));
                self.inner.ask_plainly(Way::Read, &members).await?
            }
        };
        let class = |name: &str| if name.is_empty() { Class::IncomingUnnamed } else { Class::Incoming };
        let past = self.inner.past.lock();
        let ends = names.iter().filter_map(|name| past.last(self.inner.key(class(name), name, id)));
        let past = ends.max_by_key(|(sequence, _)| *sequence);
        Ok(tracked_end(past, letter))
    }
}
