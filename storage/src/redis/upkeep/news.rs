//! News of what any gateway of the party did, as the scripts publish them.
//!
//! Each carries a number that rises by one; heartbeats carry the last one. A gap means that news were lost on the way (a broken
//! connection, a reader that was too slow): then the observer is asked to look for itself. Nothing but speed depends on news.
//!
//! ```text
//! number 8, then per event: type 1 (a arrived, p pending, d delivered, o dropped, r released,
//!                           z the operator paused or resumed a peer, y wants an attempt)
//!                           sequence 8  length 8  class 1  party length 2  id length 2  party  id     big-endian
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use crate::face::direction::Class;
use crate::face::message::{MessageId, PartyId, Sequence};
use crate::face::payload::Held;
use crate::index::memory::recent_ends::MessageEnd;
use crate::redis::connection::connect::Pushes;
use crate::redis::content::pieces::RedisPieces;
use crate::redis::shared::RedisShared;

/// News that may wait for their reader; any that find no room are missed, which is noticed.
const WAITING: usize = 4096;

/// What was heard on the news connection of a session.
#[derive(Debug)]
pub(crate) enum HeardNews {
    News(Bytes),
    /// Nothing more will come.
    Silence,
}

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewsEvent {
    kind: u8,
    sequence: u64,
    len: u64,
    class: Class,
    party: Option<PartyId>,
    id: MessageId,
}

/// Creates an ear for one session: what a connection pushes to, and where it can be heard.
pub(crate) fn ear() -> (Pushes, mpsc::Receiver<HeardNews>) {
    let (tell, heard) = mpsc::channel(WAITING);
    let pushes = move |push: PushInfo| {
        let news = match (push.kind, push.data.into_iter().nth(1)) {
            (PushKind::Message, Some(Value::BulkString(bytes))) => HeardNews::News(bytes.into()),
            (PushKind::Disconnection, _) => HeardNews::Silence,
            _ => return,
        };
        // If it is full, the gap will be noticed.
        drop(tell.try_send(news));
    };
    (Box::new(pushes), heard)
}

/// The number of some news, and their events. `None` if it is not what a script publishes.
pub(crate) fn decode(mut bytes: Bytes) -> Option<(u64, Vec<NewsEvent>)> {
    let number = bytes.try_get_u64().ok()?;
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let kind = bytes.try_get_u8().ok()?;
        let (sequence, len) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        let class = Class::from_byte(bytes.try_get_u8().ok()?)?;
        let (party_len, id_len) = (bytes.try_get_u16().ok()? as usize, bytes.try_get_u16().ok()? as usize);
        if bytes.len() < party_len + id_len {
            return None;
        }
        let text = |bytes: Bytes| std::str::from_utf8(&bytes).map(str::to_owned).ok();
        let party = text(bytes.split_to(party_len))?;
        let party = if party.is_empty() { None } else { Some(PartyId::new(party).ok()?) };
        let id = MessageId::new(text(bytes.split_to(id_len))?).ok()?;
        events.push(NewsEvent { kind, sequence, len, class, party, id });
    }
    Some((number, events))
}

/// What a reader of news has heard so far in a session.
#[derive(Debug, Default)]
pub(crate) struct NewsReader {
    last: Option<u64>,
}

impl NewsReader {
    /// Passes news on to the observer.
    pub(crate) fn take(&mut self, inner: &Arc<RedisShared>, bytes: Bytes) {
        let Some((number, events)) = decode(bytes) else {
            tracing::warn!("news that cannot be understood; looking for what is there");
            inner.observer.0.missed();
            return;
        };
        let expected = self.last.map(|last| last + u64::from(!events.is_empty()));
        self.last = Some(number);
        if expected.is_some_and(|expected| expected != number) {
            tracing::debug!(number, "news were missed; looking for what is there");
            inner.observer.0.missed();
            inner.look_at_pending();
        }
        for event in events {
            inner.tell(event);
        }
    }
}

impl RedisShared {
    fn tell(self: &Arc<Self>, event: NewsEvent) {
        let NewsEvent { kind, sequence, len, class, party, id } = event;
        self.newest.fetch_max(sequence, Ordering::Relaxed);
        let end = match kind {
            b'a' => {
                let payload = RedisPieces::somewhere(self, sequence, id.clone(), len);
                let (sender, sequence) = (party, Sequence(sequence));
                let held = Held { sender, id, sequence, payload, unread: true, age: 0 };
                return self.observer.0.arrived(&held);
            }
            b'p' => {
                let Some(peer) = party else { return };
                if self.delivers_to(&peer) {
                    self.observer.0.pending(&peer, Sequence(sequence), len);
                } else if !self.leases.lock().is_owned(&peer) {
                    // Nobody delivers to it yet.
                    let mut early = self.early.lock();
                    if early.len() < WAITING {
                        early.push((peer, sequence, len));
                    }
                    drop(early);
                    self.beat.notify_one();
                }
                return;
            }
            // The next heartbeat says who is paused.
            b'z' => return self.beat.notify_one(),
            b'y' => {
                let Some(peer) = party else { return };
                return self.observer.0.try_at_once(&peer);
            }
            b'd' => MessageEnd::Delivered,
            b'o' => MessageEnd::Dropped,
            b'r' => MessageEnd::Released,
            _ => return,
        };
        let key = self.key(class, party.as_ref().map_or("", PartyId::as_str), &id);
        self.past.lock().note(key, sequence, end);
    }

    /// Passes on the news that came before it was agreed who delivers to their peers.
    pub(crate) fn tell_early(&self) {
        let agreed: Vec<_> = {
            let (leases, mut early) = (self.leases.lock(), self.early.lock());
            early.extract_if(.., |(peer, ..)| leases.is_owned(peer)).collect()
        };
        for (peer, sequence, len) in agreed {
            if self.delivers_to(&peer) {
                self.observer.0.pending(&peer, Sequence(sequence), len);
            }
        }
    }

    /// Hints that everything pending for our peers should be looked at.
    pub(crate) fn look_at_pending(&self) {
        let mine = self.leases.lock().mine();
        for peer in mine {
            self.hint(&peer);
        }
    }

    /// Hints the same for one peer, in both lanes.
    pub(crate) fn hint(&self, peer: &PartyId) {
        for len in [0, u64::MAX] {
            self.observer.0.pending(peer, Sequence(0), len);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    #[test]
    fn news_are_read_whole_or_not_at_all() {
        let mut bytes = BytesMut::new();
        bytes.put_u64(7);
        bytes.put_u8(b'a');
        bytes.put_u64(12);
        bytes.put_u64(3);
        bytes.put_u8(1);
        bytes.put_u16(1);
        bytes.put_u16(2);
        bytes.put_slice(b"bid");
        let bytes = bytes.freeze();
        let (number, events) = decode(bytes.clone()).unwrap();
        assert_eq!((number, events.len()), (7, 1));
        assert_eq!((events[0].sequence, events[0].id.as_str()), (12, "id"));
        for len in (0..bytes.len()).filter(|len| *len != 8) {
            assert_eq!(decode(bytes.slice(..len)), None, "cut to {len}");
        }
        assert!(decode(bytes.slice(..8)).unwrap().1.is_empty());
    }
}
