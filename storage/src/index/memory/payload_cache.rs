//! Recent payloads in memory, so that a message that is delivered or read soon after it arrives needs no disk access.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::face::message::MessageId;
use crate::index::maps::Map;

/// Bytes that a cached message takes besides its payload and id (estimate).
const OVERHEAD: u64 = 160;

/// A cached message: the parts that an index entry does not hold.
#[derive(Debug, Clone)]
pub(crate) struct CachedMessage {
    pub(crate) id: MessageId,
    pub(crate) payload: Bytes,
}

impl CachedMessage {
    fn cost(&self) -> u64 {
        self.payload.len() as u64 + self.id.as_str().len() as u64 + OVERHEAD
    }
}

/// The cache: first in, first out, within a limit of bytes.
#[derive(Debug)]
pub(crate) struct PayloadCache {
    limit: u64,
    used: u64,
    messages: Map<u64, CachedMessage>,
    order: VecDeque<u64>,
}

impl PayloadCache {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0, messages: Map::default(), order: VecDeque::new() }
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<CachedMessage> {
        self.messages.get(&sequence).cloned()
    }

    /// The id of a cached message.
    pub(crate) fn id(&self, sequence: u64) -> Option<MessageId> {
        self.messages.get(&sequence).map(|message| message.id.clone())
    }

    pub(crate) fn put(&mut self, sequence: u64, message: CachedMessage) {
        let cost = message.cost();
        if cost > self.limit / 2 {
            return;
        }
        if let Some(old) = self.messages.insert(sequence, message) {
            self.used -= old.cost();
        } else {
            self.order.push_back(sequence);
        }
        self.used += cost;
        while self.used > self.limit {
            let Some(oldest) = self.order.pop_front() else { return };
            self.remove(oldest);
        }
        // Removed messages leave their item in `order` behind; it must not outgrow what it orders.
        if self.order.len() > 64 + 2 * self.messages.len() {
            let messages = &self.messages;
            self.order.retain(|sequence| messages.contains_key(sequence));
        }
    }

    pub(crate) fn remove(&mut self, sequence: u64) {
        if let Some(message) = self.messages.remove(&sequence) {
            self.used -= message.cost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> CachedMessage {
        CachedMessage { id: MessageId::new("m").expect("valid"), payload: Bytes::from(vec![0; len]) }
    }

    #[test]
    fn the_cache_stays_within_its_bound_and_drops_the_oldest() {
        let mut cache = PayloadCache::new(10_000);
        for sequence in 0..1000 {
            cache.put(sequence, message(1000));
            assert!(cache.used <= 10_000 && cache.order.len() <= 64 + 2 * cache.messages.len());
        }
        assert!(cache.get(0).is_none() && cache.get(999).is_some());
        cache.put(1000, message(9000));
        assert!(cache.get(1000).is_none(), "a message that would push out all others is not kept");
    }
}
