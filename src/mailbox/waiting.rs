//! Receives that wait for a message that is not there yet.
//!
//! A waiting receive is a slot that the store's observer fills; nothing polls. Invariants: a slot exists exactly as long as
//! its [`Waiter`] (a cancelled call leaves nothing behind); there are at most `max` slots, at most three quarters of them
//! for one caller; and a caller that registers before it reads the store misses no message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use petnet_storage::{FromSender, Held, MessageId};
use tokio::sync::{oneshot, watch};

/// All waiting receives of a gateway.
#[derive(Debug)]
pub(crate) struct Waiters {
    max: usize,
    /// Increases when news may have been missed.
    look_again: watch::Sender<u64>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_id: HashMap<MessageId, Vec<Slot>>,
    by_caller: HashMap<u64, usize>,
    count: usize,
    next_ticket: u64,
}

#[derive(Debug)]
struct Slot {
    ticket: u64,
    caller: u64,
    from: FromSender,
    tell: oneshot::Sender<Held>,
}

/// One waiting receive.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    id: MessageId,
    ticket: u64,
    told: oneshot::Receiver<Held>,
}

impl Waiters {
    /// Room for `max` waiting receives.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, look_again: watch::Sender::new(0), slots: Mutex::default() }
    }

    /// Registers a receive of a caller; `None` when too many wait already.
    pub(crate) fn register(self: &Arc<Self>, caller: u64, from: FromSender, id: MessageId) -> Option<Waiter> {
        let (tell, told) = oneshot::channel();
        let mut slots = self.lock();
        let of_caller = slots.by_caller.get(&caller).copied().unwrap_or(0);
        if slots.count >= self.max || of_caller >= self.max - self.max / 4 {
            return None;
        }
        slots.by_caller.insert(caller, of_caller + 1);
        let ticket = slots.next_ticket;
        slots.next_ticket += 1;
        slots.count += 1;
        slots.by_id.entry(id.clone()).or_default().push(Slot { ticket, caller, from, tell });
        Some(Waiter { waiters: self.clone(), id, ticket, told })
    }

    /// Makes all waiting receives look for themselves, because news may have been missed.
    pub(crate) fn missed(&self) {
        self.look_again.send_modify(|count| *count += 1);
    }

    /// Changes when it is time to look again.
    pub(crate) fn look_again(&self) -> watch::Receiver<u64> {
        self.look_again.subscribe()
    }

    /// Hands an arrived message to all receives that wait for it. Called by the store's threads, so it must be short and
    /// never block on I/O.
    pub(crate) fn arrived(&self, message: &Held) {
        let mut slots = self.lock();
        let Some(waiting) = slots.by_id.get_mut(&message.id) else { return };
        let mut woken = Vec::new();
        for slot in waiting.extract_if(.., |slot| slot.from.admits(message.sender.as_ref())) {
            woken.push(slot.caller);
            // The receive may just have been cancelled; then nothing is owed to anybody.
            drop(slot.tell.send(message.clone()));
        }
        if waiting.is_empty() {
            slots.by_id.remove(&message.id);
        }
        for caller in woken {
            slots.gone(caller);
        }
    }

    /// Number of receives that are waiting now.
    pub(crate) fn len(&self) -> usize {
        let slots = self.lock();
        debug_assert_eq!(slots.count, slots.by_id.values().map(Vec::len).sum::<usize>());
        slots.count
    }

    /// No code under this lock can panic half-way through a change, so a poisoned lock means nothing.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock()
    }
}

impl Slots {
    fn gone(&mut self, caller: u64) {
        self.count -= 1;
        if let Entry::Occupied(mut of_caller) = self.by_caller.entry(caller) {
            *of_caller.get_mut() -= 1;
            if *of_caller.get() == 0 {
                of_caller.remove();
            }
        }
    }
}

impl Waiter {
    /// Resolves with the message when it arrives.
    pub(crate) async fn message(&mut self) -> Held {
        match (&mut self.told).await {
            Ok(message) => message,
            // The slot lives as long as we do; this is reached only after the message was handed over.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut slots = self.waiters.lock();
        let Entry::Occupied(mut waiting) = slots.by_id.entry(self.id.clone()) else { return };
        let Some(at) = waiting.get().iter().position(|slot| slot.ticket == self.ticket) else { return };
        let slot = waiting.get_mut().swap_remove(at);
        if waiting.get().is_empty() {
            waiting.remove();
        }
        slots.gone(slot.caller);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use petnet_storage::{PartyId, Sequence};

    use super::*;

    fn id(text: &str) -> MessageId {
        MessageId::new(text).unwrap()
    }

    fn message(sender: Option<&str>, name: &str) -> Held {
        Held {
            sender: sender.map(|party| PartyId::new(party).unwrap()),
            id: id(name),
            payload: Bytes::from_static(b"x").into(),
            sequence: Sequence(1),
            unread: true,
            age: 0,
        }
    }

    #[tokio::test]
    async fn arrival_wakes_all_who_wait_for_it_and_no_others() {
        let waiters = Arc::new(Waiters::new(10));
        let party = |name| FromSender::Party(PartyId::new(name).unwrap());
        let mut any = waiters.register(1, FromSender::Any, id("m")).unwrap();
        let mut from_a = waiters.register(1, party("a"), id("m")).unwrap();
        let _from_b = waiters.register(1, party("b"), id("m")).unwrap();
        let _unnamed = waiters.register(1, FromSender::Unnamed, id("m")).unwrap();
        let _other = waiters.register(1, FromSender::Any, id("other")).unwrap();
        waiters.arrived(&message(Some("a"), "m"));
        assert_eq!(any.message().await.id, id("m"));
        assert_eq!(from_a.message().await.id, id("m"));
        assert_eq!(waiters.len(), 3);
    }

    #[test]
    fn dropped_waiter_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::new(2));
        let first = waiters.register(1, FromSender::Any, id("m")).unwrap();
        let second = waiters.register(1, FromSender::Any, id("m")).unwrap();
        assert!(waiters.register(2, FromSender::Any, id("n")).is_none(), "no more than max");
        drop(first);
        assert_eq!(waiters.len(), 1);
        waiters.arrived(&message(None, "m"));
        assert_eq!(waiters.len(), 0);
        drop(second);
        assert_eq!(waiters.len(), 0);
        assert!(waiters.lock().by_id.is_empty() && waiters.lock().by_caller.is_empty());
    }

    #[test]
    fn one_caller_leaves_room_for_others_to_wait() {
        let waiters = Arc::new(Waiters::new(8));
        let wait = |caller: u64| waiters.register(caller, FromSender::Any, id("m"));
        let hostile: Vec<_> = (0..20).map_while(|_| wait(1)).collect();
        assert_eq!(hostile.len(), 6);
        let good = wait(2).unwrap();
        waiters.arrived(&message(None, "m"));
        assert!(waiters.lock().by_caller.is_empty(), "who was answered waits no more");
        drop((hostile, good));
        assert_eq!(waiters.len(), 0);
    }
}
