//! Finding, listing and releasing what is in the mailbox.

use super::engine::{RedisStore, found};
use super::options::seconds;
use super::pieces::Kept;
use super::scripts::SCRIPTS;
use super::session::Way;
use crate::engine::Tracked;
use crate::error::Result;
use crate::frame::Class;
use crate::log::lock;
use crate::message::{FromSender, MessageId, PartyId, Sequence};
use crate::past::End;
use crate::payload::{Found, Held};

/// Messages that one look at a topic goes through: Redis serves others between two looks.
const LOOK: usize = 1000;
/// Messages that are released at a time.
const RELEASE: usize = 256;

/// What a look at a topic says of a message: sequence, length, sender, class, id.
type Looked = (u64, u64, String, u8, String);

/// Whose messages are meant, as the scripts have it.
pub(super) fn from_text(from: &FromSender) -> String {
    match from {
        FromSender::Any => "*".into(),
        FromSender::Party(party) => format!("={party}"),
        FromSender::Unnamed => "=".into(),
    }
}

/// The sender in a record; `None`: it cannot be one.
#[expect(clippy::option_option, reason = "a sender may be unnamed")]
pub(super) fn sender_of(party: &str, class: u8) -> Option<Option<PartyId>> {
    match Class::from_byte(class).ok()? {
        Class::IncomingUnnamed => Some(None),
        _ => Some(Some(PartyId::new(party).ok()?)),
    }
}

impl RedisStore {
    fn message_ttl(&self) -> u64 {
        seconds(self.inner.options.message_ttl)
    }

    fn held(&self, sequence: u64, bytes: Vec<u8>) -> Result<Held> {
        let record = self.inner.record(sequence, &bytes.into())?;
        let payload = Kept::of(&self.inner, &record);
        Ok(Held { sender: record.party, id: record.id, sequence: Sequence(sequence), payload })
    }

    pub(super) async fn open_newest(&self, from: &FromSender, id: &MessageId) -> Result<Option<Held>> {
        let newest: Option<(u64, Vec<u8>)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.find, |call| {
                call.arg("open").arg(from_text(from)).arg(id.as_str()).arg(self.message_ttl());
            })
            .await?;
        newest.map(|(sequence, bytes)| self.held(sequence, bytes)).transpose()
    }

    pub(super) async fn fetch(&self, sequence: Sequence) -> Result<Option<Held>> {
        let bytes: Option<Vec<u8>> = self
            .inner
            .ask(Way::Read, &SCRIPTS.fetch, |call| {
                call.arg(sequence.0).arg(self.message_ttl());
            })
            .await?;
        bytes.map(|bytes| self.held(sequence.0, bytes)).transpose()
    }

    pub(super) async fn list(&self, from: &FromSender, id: &MessageId) -> Result<Vec<Found>> {
        let all: Vec<(u64, u64, String, u8)> = self
            .inner
            .ask(Way::Read, &SCRIPTS.find, |call| {
                call.arg("list").arg(from_text(from)).arg(id.as_str()).arg(self.message_ttl());
            })
            .await?;
        Ok(all
            .into_iter()
            .filter_map(|(sequence, len, sender, class)| found(sequence, len, &sender, class, id))
            .collect())
    }

    pub(super) async fn look(
        &self,
        from: &FromSender,
        prefix: &str,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        let mut after = after.0.to_string();
        while all.len() < limit && !after.is_empty() {
            let (up_to, some): (String, Vec<Looked>) = self
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
            all.extend(some.into_iter().filter_map(|(sequence, len, sender, class, id)| {
                found(sequence, len, &sender, class, &MessageId::new(id).ok()?)
            }));
            after = up_to;
        }
        Ok(all)
    }

    pub(super) async fn release_all(&self, from: &FromSender, prefix: &str) -> Result<u64> {
        let mut released = 0;
        let mut after = Sequence(0);
        loop {
            let some = self.look(from, prefix, after, RELEASE).await?;
            let Some(last) = some.last() else { return Ok(released) };
            after = last.sequence;
            released += self
                .inner
                .change::<u64>(&SCRIPTS.release, |call| {
                    call.arg("these").arg(some.iter().map(|found| found.sequence.0).collect::<Vec<_>>());
                })
                .await?;
        }
    }

    /// How messages ended that are there no more.
    pub(super) async fn track_past(&self, from: &FromSender, id: &MessageId) -> Result<Tracked> {
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
        let past = lock(&self.inner.past);
        let ends = names.iter().filter_map(|name| past.last(self.inner.key(class(name), name, id)));
        Ok(ends.max_by_key(|(sequence, _)| *sequence).map_or(Tracked::Unknown, tracked))
    }
}

/// How a message ended that is there no more.
pub(super) fn tracked((sequence, end): (u64, End)) -> Tracked {
    let sequence = Sequence(sequence);
    match end {
        End::Delivered => Tracked::Delivered { sequence },
        End::Dropped => Tracked::Dropped { sequence },
        End::Released => Tracked::Released { sequence },
        End::Expired => Tracked::Expired { sequence },
    }
}
