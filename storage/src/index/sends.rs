//! The keys of sends: which acceptance a key names, so that a repeated send is the same acceptance.
//!
//! A key stands in the frame of its message. The last [`MAX_KEYS`] of them are kept here, and in checkpoints too, since the
//! frames may be gone by the time a key is needed. Pure. Invariants: the key of a message that is not in the log yet is removed
//! with the message; a key whose message is in the log stays until [`MAX_KEYS`] later ones have come, whatever became of the
//! message.

use std::collections::{BTreeSet, HashMap};

use crate::face::message::SendKey;
use crate::log::codec::{Fields, PutFields, Short};

/// Number of keys that are remembered, the newest ones: at a thousand sends a second they reach back a minute, which is as long
/// as our own clients repeat a send. They take 7 MB of memory, and 40 bytes each in a checkpoint.
pub(crate) const MAX_KEYS: usize = 65_536;
/// Bytes of a key in a checkpoint.
const ENCODED_BYTES: usize = 40;

/// What distinguishes one send from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SendFingerprint {
    /// Half of the index key, which is a hash of receiver and id.
    pub(crate) name: u64,
    /// The lower 32 bits of the length.
    pub(crate) len: u32,
    /// CRC-32 of the content.
    pub(crate) crc: u32,
}

impl SendFingerprint {
    /// `key`: the message's index key.
    pub(crate) fn new(key: u128, len: u64, crc: u32) -> Self {
        Self { name: key as u64, len: len as u32, crc }
    }

    /// What the other one has different; `None` if they are the same.
    pub(crate) fn differs(self, other: Self) -> Option<&'static str> {
        if self.name != other.name {
            Some("another receiver or message id")
        } else if (self.len, self.crc) != (other.len, other.crc) {
            Some("other bytes")
        } else {
            None
        }
    }
}

/// The acceptance that a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownSend {
    pub(crate) sequence: u64,
    pub(crate) print: SendFingerprint,
}

/// A key that came for a message that is already held: with [`IdReuse::Reject`](crate::IdReuse) the same bytes are the same
/// message, whatever their keys. In the log, the sequence in the header is that of the message.
///
/// ```text
/// fields: key (16), half of the index key (8), length (4), CRC-32 of the content (4), its place among the keys (8)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnotherSendKey {
    pub(crate) key: SendKey,
    pub(crate) sent: KnownSend,
    /// The newest sequence when the key came.
    pub(crate) place: u64,
}

impl AnotherSendKey {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(ENCODED_BYTES);
        fields.put(&self.key.0);
        fields.put_u64(self.sent.print.name);
        fields.put_u32(self.sent.print.len);
        fields.put_u32(self.sent.print.crc);
        fields.put_u64(self.place);
        fields
    }

    pub(crate) fn decode(sequence: u64, fields: &[u8]) -> Result<Self, Short> {
        let mut f = Fields(fields);
        let key = SendKey(f.take(SendKey::BYTES)?.try_into().map_err(|_| Short)?);
        let print = SendFingerprint { name: f.u64()?, len: f.u32()?, crc: f.u32()? };
        Ok(Self { key, sent: KnownSend { sequence, print }, place: f.u64()? })
    }
}

/// All keys that are remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownSends {
    /// Each with its place in the order.
    by_key: HashMap<SendKey, (KnownSend, u64)>,
    order: BTreeSet<(u64, SendKey)>,
    /// Keys of messages on their way into the log.
    queued: HashMap<SendKey, KnownSend>,
}

impl KnownSends {
    /// The acceptance that a key names.
    pub(crate) fn find(&self, key: &SendKey) -> Option<KnownSend> {
        self.queued.get(key).or_else(|| self.by_key.get(key).map(|(sent, _)| sent)).copied()
    }

    /// Whether the message that a key names is in the log.
    pub(crate) fn is_in_log(&self, key: &SendKey) -> bool {
        self.by_key.contains_key(key) && !self.queued.contains_key(key)
    }

    /// A message with a key is queued.
    pub(crate) fn queue(&mut self, key: SendKey, sent: KnownSend) {
        self.queued.insert(key, sent);
    }

    /// A queued message will not be written.
    pub(crate) fn withdraw(&mut self, key: &SendKey) {
        self.queued.remove(key);
    }

    /// A message with a key is in the log. Calls may come in any order: the highest sequences stay.
    pub(crate) fn remember(&mut self, key: SendKey, sent: KnownSend) {
        self.remember_at(key, sent, sent.sequence);
    }

    /// One more key of a message is in the log.
    pub(crate) fn name(&mut self, named: &AnotherSendKey) {
        self.remember_at(named.key, named.sent, named.place);
    }

    /// Enters keys of a checkpoint, oldest first.
    pub(crate) fn restore(&mut self, keys: &[(SendKey, KnownSend)]) {
        let mut place = 0;
        for (key, sent) in keys {
            place = sent.sequence.max(place);
            self.remember_at(*key, *sent, place);
        }
    }

    fn remember_at(&mut self, key: SendKey, sent: KnownSend, place: u64) {
        self.queued.remove(&key);
        if let Some((known, at)) = self.by_key.get(&key).copied() {
            if known.sequence > sent.sequence || at >= place {
                return;
            }
            self.order.remove(&(at, key));
        }
        self.by_key.insert(key, (sent, place));
        self.order.insert((place, key));
        while self.order.len() > MAX_KEYS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.by_key.remove(&oldest);
        }
    }

    /// The keys whose messages are in the log, oldest first.
    pub(crate) fn all(&self) -> Vec<(SendKey, KnownSend)> {
        self.order.iter().filter_map(|(_, key)| self.by_key.get(key).map(|(sent, _)| (*key, *sent))).collect()
    }
}

/// Appends keys to a checkpoint: as many of the last ones in the list as fit into `room` bytes.
pub(crate) fn encode(keys: &[(SendKey, KnownSend)], room: usize, out: &mut Vec<u8>) {
    let count = (room.saturating_sub(4) / ENCODED_BYTES).min(keys.len());
    out.put_u32(count as u32);
    for (SendKey(key), KnownSend { sequence, print }) in &keys[keys.len() - count..] {
        out.put(key);
        out.put_u64(*sequence);
        out.put_u64(print.name);
        out.put_u32(print.len);
        out.put_u32(print.crc);
    }
}

/// Reads what [`encode`] wrote; an older checkpoint ends before it.
pub(crate) fn decode(f: &mut Fields<'_>) -> Result<Vec<(SendKey, KnownSend)>, Short> {
    let mut keys = Vec::new();
    if f.0.is_empty() {
        return Ok(keys);
    }
    for _ in 0..f.u32()? {
        let key = SendKey(f.take(SendKey::BYTES)?.try_into().map_err(|_| Short)?);
        let sequence = f.u64()?;
        let print = SendFingerprint { name: f.u64()?, len: f.u32()?, crc: f.u32()? };
        keys.push((key, KnownSend { sequence, print }));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> SendKey {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&n.to_le_bytes());
        SendKey(key)
    }

    fn sent(sequence: u64) -> KnownSend {
        KnownSend { sequence, print: SendFingerprint::new(7, 5, 9) }
    }

    #[test]
    fn the_last_keys_are_remembered_within_the_bound_in_whatever_order_they_come() {
        let mut sends = KnownSends::default();
        for n in (1..=MAX_KEYS as u64 + 10).rev() {
            sends.remember(key(n), sent(n));
        }
        assert_eq!((sends.by_key.len(), sends.order.len()), (MAX_KEYS, MAX_KEYS));
        assert!(sends.find(&key(10)).is_none() && sends.find(&key(11)).is_some());
        // The key was used once more after it was forgotten: the newer acceptance counts.
        sends.remember(key(11), sent(1 << 40));
        sends.remember(key(11), sent(11));
        assert_eq!(sends.find(&key(11)), Some(sent(1 << 40)));
        assert_eq!((sends.by_key.len(), sends.order.len()), (MAX_KEYS, MAX_KEYS));
    }

    #[test]
    fn a_message_that_is_not_written_leaves_no_memory_of_its_key() {
        let mut sends = KnownSends::default();
        sends.queue(key(1), sent(1));
        assert!(sends.find(&key(1)).is_some() && !sends.is_in_log(&key(1)) && sends.all().is_empty());
        sends.withdraw(&key(1));
        assert!(sends.find(&key(1)).is_none());
        sends.queue(key(1), sent(2));
        sends.remember(key(1), sent(2));
        assert!(sends.is_in_log(&key(1)) && sends.all() == [(key(1), sent(2))]);
    }

    #[test]
    fn keys_are_read_back_from_a_checkpoint_as_many_as_there_was_room_for() {
        let keys: Vec<_> = (1..=5).map(|n| (key(n), sent(n))).collect();
        for (room, kept) in [(usize::MAX, 5), (4 + 3 * ENCODED_BYTES, 3), (4 + ENCODED_BYTES - 1, 0), (0, 0)]
        {
            let mut out = Vec::new();
            encode(&keys, room, &mut out);
            assert_eq!(decode(&mut Fields(&out)), Ok(keys[5 - kept..].to_vec()), "the last {kept}");
        }
        assert_eq!(decode(&mut Fields(&[])), Ok(Vec::new()), "an older checkpoint");
        assert_eq!(decode(&mut Fields(&[1, 0, 0, 0, 9])), Err(Short));
    }

    #[test]
    fn what_differs_between_two_sends_is_said() {
        let print = SendFingerprint::new(7, 5, 9);
        assert_eq!(print.differs(print), None);
        assert_eq!(print.differs(SendFingerprint::new(8, 5, 9)), Some("another receiver or message id"));
        assert_eq!(print.differs(SendFingerprint::new(7, 6, 9)), Some("other bytes"));
        assert_eq!(print.differs(SendFingerprint::new(7, 5, 8)), Some("other bytes"));
    }
}
