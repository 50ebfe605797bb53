//! Whose messages plain receives were handed, by id: for reporting that an id passes from one sender's message to
//! another's.
//!
//! Memory is bounded: only the ids read last are remembered.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use parking_lot::{Mutex, MutexGuard};
use petnet_storage::{MessageId, PartyId};

use crate::wire::wall_clock::now_ms;

/// Number of ids for which it is remembered whose message a plain receive was last handed.
const REMEMBERED: usize = 65_536;

/// The change of an id from one sender's message to another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SenderSwitch {
    /// Whose message plain receives were handed before.
    pub(crate) before: Option<PartyId>,
    /// Whose messages they have been handed since.
    pub(crate) now: Option<PartyId>,
    /// Milliseconds since the epoch.
    pub(crate) at_ms: u64,
}

#[derive(Debug)]
struct LastRead {
    sender: Option<PartyId>,
    change: Option<SenderSwitch>,
    /// The turn of its newest entry in `order`.
    turn: u64,
}

#[derive(Debug, Default)]
struct LastReads {
    by_id: HashMap<u64, LastRead>,
    order: VecDeque<(u64, u64)>,
    turns: u64,
}

/// Whose messages plain receives were handed, by id. In memory only.
#[derive(Debug, Default)]
pub(crate) struct PlainReads {
    hasher: RandomState,
    table: Mutex<LastReads>,
}

impl PlainReads {
    /// Notes that a plain receive was handed a message; returns the change if the sender is a different one.
    pub(crate) fn note(&self, id: &MessageId, sender: Option<&PartyId>) -> Option<SenderSwitch> {
        let id = self.hasher.hash_one(id);
        let mut table = self.lock();
        table.turns += 1;
        let turn = table.turns;
        table.order.push_back((id, turn));
        let change = match table.by_id.get_mut(&id) {
            None => {
                table.by_id.insert(id, LastRead { sender: sender.cloned(), change: None, turn });
                None
            }
            Some(last) => {
                last.turn = turn;
                let changed = last.sender.as_ref() != sender;
                changed.then(|| {
                    let before = std::mem::replace(&mut last.sender, sender.cloned());
                    let change = SenderSwitch { before, now: sender.cloned(), at_ms: now_ms() };
                    last.change = Some(change.clone());
                    change
                })
            }
        };
        while table.order.len() > REMEMBERED
            && let Some((id, turn)) = table.order.pop_front()
        {
            if table.by_id.get(&id).is_some_and(|last| last.turn == turn) {
                table.by_id.remove(&id);
            }
        }
        change
    }

    /// The last remembered change of an id.
    pub(crate) fn last_change(&self, id: &MessageId) -> Option<SenderSwitch> {
        let id = self.hasher.hash_one(id);
        self.lock().by_id.get(&id).and_then(|last| last.change.clone())
    }

    /// No code under this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, LastReads> {
        self.table.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{message_id, party};

    #[test]
    fn each_change_of_sender_under_an_id_is_told_once_and_remembered() {
        let reads = PlainReads::default();
        let (b, c, m) = (party("b"), party("c"), message_id("m"));
        assert_eq!(reads.note(&m, Some(&b)), None);
        assert_eq!(reads.note(&m, Some(&b)), None);
        let change = reads.note(&m, Some(&c)).expect("it is another one's");
        assert_eq!((change.before.as_ref(), change.now.as_ref()), (Some(&b), Some(&c)));
        assert_eq!(reads.note(&m, Some(&c)), None);
        assert_eq!(reads.last_change(&m), Some(change));
        assert_eq!(reads.note(&m, None).and_then(|change| change.before), Some(c));
        assert_eq!(reads.last_change(&message_id("other")), None);
    }

    #[test]
    fn no_more_ids_are_remembered_than_the_bound() {
        let reads = PlainReads::default();
        for n in 0..REMEMBERED + 1000 {
            reads.note(&message_id(&n.to_string()), None);
            reads.note(&message_id("kept"), None);
        }
        let table = reads.lock();
        assert!(table.order.len() <= REMEMBERED && table.by_id.len() <= REMEMBERED);
        drop(table);
        assert!(reads.note(&message_id("kept"), Some(&party("b"))).is_some());
    }
}
