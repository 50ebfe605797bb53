//! Who is handed what arrives without asking for each message: streams that subscribed to ids and topics.
//!
//! Invariants: a subscription exists exactly as long as its [`Subscription`], there are at most `max` of them; an inbox
//! holds at most [`TICKETS`] messages, all of them [`ALL_TICKETS`], and of their payloads [`ALL_BYTES`]: further ones are
//! read from the store when their turn comes, and an inbox that overflows says so instead of losing one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use petnet_storage::{Found, FromSender, Held, MessageId, Payload, Sequence};
use tokio::sync::Notify;

/// Messages that wait in one inbox.
const TICKETS: usize = 65_536;
/// In all inboxes.
const ALL_TICKETS: usize = 262_144;
/// Bytes of their payloads kept in memory.
const ALL_BYTES: usize = 32 << 20;
/// Of them, for one inbox.
const INBOX_BYTES: usize = 2 << 20;

/// A message is found a moment before its news comes: so many of the newest ones may be in that moment.
const NEWEST: usize = 4096;

/// What a subscription is to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    Id(MessageId),
    /// Every id that begins with it.
    Topic(String),
}

/// A message that waits for its stream.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) message: Found,
    /// While there is room for it.
    pub(crate) payload: Option<Bytes>,
}

/// What all inboxes hold.
#[derive(Debug, Default)]
struct Load {
    tickets: AtomicUsize,
    bytes: AtomicUsize,
}

/// Where the messages of one stream wait.
#[derive(Debug)]
pub(crate) struct Inbox {
    all: Arc<Load>,
    waiting: Mutex<Waiting>,
    /// Something came.
    pub(crate) came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: VecDeque<Ticket>,
    bytes: usize,
    overflown: bool,
    /// By subscription that still looks for what was there before it, or was missed: what came since.
    fresh: HashMap<u64, Fresh>,
    /// By subscription: the newest of all that came or was found.
    newest: HashMap<u64, Sequence>,
    /// Subscriptions that are to look again, and after what.
    look_again: Vec<(u64, Sequence)>,
    /// By subscription: the newest that its looks found, whose news may still be on its way.
    found: HashMap<u64, BTreeSet<Sequence>>,
}

/// What came while looks are to be done or under way.
#[derive(Debug, Default)]
struct Fresh {
    looks: usize,
    came: HashSet<Sequence>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, subscription: u64, message: &Held) {
        let mut waiting = self.lock();
        if waiting.found.get_mut(&subscription).is_some_and(|found| found.remove(&message.sequence)) {
            return;
        }
        let all = self.all.tickets.load(Ordering::Relaxed);
        if waiting.tickets.len() >= TICKETS || all >= ALL_TICKETS {
            waiting.overflown = true;
        } else {
            if let Some(fresh) = waiting.fresh.get_mut(&subscription) {
                fresh.came.insert(message.sequence);
            }
            waiting.saw(subscription, message.sequence);
            let all = self.all.bytes.load(Ordering::Relaxed);
            let fits = |len: usize| waiting.bytes + len <= INBOX_BYTES && all + len <= ALL_BYTES;
            let payload = match &message.payload {
                Payload::Whole(bytes) if fits(bytes.len()) => Some(bytes.clone()),
                _ => None,
            };
            let len = payload.as_ref().map_or(0, Bytes::len);
            waiting.bytes += len;
            self.all.bytes.fetch_add(len, Ordering::Relaxed);
            self.all.tickets.fetch_add(1, Ordering::Relaxed);
            let message = Found {
                sender: message.sender.clone(),
                id: message.id.clone(),
                sequence: message.sequence,
                len: message.payload.len(),
            };
            waiting.tickets.push_back(Ticket { message, payload });
        }
        drop(waiting);
        self.came.notify_one();
    }

    /// The next message. An error: some could not be kept.
    pub(crate) fn take(&self) -> Result<Option<Ticket>, Overflown> {
        let mut waiting = self.lock();
        if waiting.overflown {
            return Err(Overflown);
        }
        let ticket = waiting.tickets.pop_front();
        if let Some(ticket) = &ticket {
            let len = ticket.payload.as_ref().map_or(0, Bytes::len);
            waiting.bytes -= len;
            self.all.bytes.fetch_sub(len, Ordering::Relaxed);
            self.all.tickets.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(ticket)
    }

    /// Takes out of what a look has found what came as news, too; the news of the rest is not handed out.
    pub(crate) fn found(&self, subscription: u64, page: &mut Vec<Found>) {
        let mut waiting = self.lock();
        if let Some(fresh) = waiting.fresh.get_mut(&subscription) {
            page.retain(|message| !fresh.came.contains(&message.sequence));
            // Another look begins where this one did, or between.
            if fresh.looks > 1 {
                fresh.came.extend(page.iter().map(|message| message.sequence));
            }
        }
        if let Some(newest) = page.iter().map(|message| message.sequence).max() {
            waiting.saw(subscription, newest);
        }
        let found = waiting.found.entry(subscription).or_default();
        found.extend(page.iter().map(|message| message.sequence));
        while found.len() > NEWEST {
            found.pop_first();
        }
    }

    /// A subscription has found everything that was there before it.
    pub(crate) fn looked(&self, subscription: u64) {
        let mut waiting = self.lock();
        if let Some(fresh) = waiting.fresh.get_mut(&subscription) {
            fresh.looks -= 1;
            if fresh.looks == 0 {
                waiting.fresh.remove(&subscription);
            }
        }
    }

    /// News may have been missed.
    fn missed(&self, subscription: u64) {
        let mut waiting = self.lock();
        if waiting.look_again.iter().any(|(number, _)| *number == subscription) {
            return;
        }
        let after = waiting.newest.get(&subscription).copied().unwrap_or_default();
        waiting.fresh.entry(subscription).or_default().looks += 1;
        waiting.look_again.push((subscription, after));
        drop(waiting);
        self.came.notify_one();
    }

    /// The subscriptions that are to look again, and after what; each look ends with [`looked`](Self::looked).
    pub(crate) fn look_again(&self) -> Vec<(u64, Sequence)> {
        std::mem::take(&mut self.lock().look_again)
    }

    fn forget(&self, subscription: u64) {
        let mut waiting = self.lock();
        waiting.fresh.remove(&subscription);
        waiting.found.remove(&subscription);
        waiting.newest.remove(&subscription);
        waiting.look_again.retain(|(number, _)| *number != subscription);
    }
}

impl Waiting {
    fn saw(&mut self, subscription: u64, sequence: Sequence) {
        let newest = self.newest.entry(subscription).or_default();
        *newest = (*newest).max(sequence);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.all.bytes.fetch_sub(waiting.bytes, Ordering::Relaxed);
        self.all.tickets.fetch_sub(waiting.tickets.len(), Ordering::Relaxed);
    }
}

/// The reader was too slow for what it subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflown;

/// All subscriptions of a gateway.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    max: usize,
    count: AtomicUsize,
    inner: Mutex<Inner>,
    waiting: Arc<Load>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    ids: HashMap<MessageId, Vec<Subscriber>>,
    topics: HashMap<String, Vec<Subscriber>>,
    /// How many topics there are of each length in bytes.
    lengths: BTreeMap<usize, usize>,
}

#[derive(Debug)]
struct Subscriber {
    number: u64,
    from: FromSender,
    inbox: Arc<Inbox>,
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    all: Arc<Subscriptions>,
    pub(crate) which: Which,
    pub(crate) number: u64,
    inbox: Arc<Inbox>,
}

impl Subscriptions {
    /// Subscriptions there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Room for `max`.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, count: AtomicUsize::new(0), inner: Mutex::default(), waiting: Arc::default() })
    }

    /// An inbox for one stream.
    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Arc::new(Inbox { all: self.waiting.clone(), waiting: Mutex::default(), came: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what arrives to `inbox` from now on; `None`: there are too many. Until [`Inbox::looked`], the inbox knows what
    /// came, for what is found in the store meanwhile.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        which: Which,
        from: FromSender,
        inbox: &Arc<Inbox>,
    ) -> Option<Subscription> {
        let mut inner = self.lock();
        if self.count.load(Ordering::Relaxed) >= self.max {
            return None;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let number = inner.next;
        inner.next += 1;
        let subscriber = Subscriber { number, from, inbox: inbox.clone() };
        inbox.lock().fresh.insert(number, Fresh { looks: 1, came: HashSet::new() });
        match &which {
            Which::Id(id) => inner.ids.entry(id.clone()).or_default().push(subscriber),
            Which::Topic(topic) => {
                let subscribers = inner.topics.entry(topic.clone()).or_default();
                subscribers.push(subscriber);
                if subscribers.len() == 1 {
                    *inner.lengths.entry(topic.len()).or_default() += 1;
                }
            }
        }
        Some(Subscription { all: self.clone(), which, number, inbox: inbox.clone() })
    }

    /// Hands an arrived message to all who subscribed to it. Called by the store's threads: short, never blocks on I/O.
    pub(crate) fn arrived(&self, message: &Held) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let inner = self.lock();
        let id = message.id.as_str();
        let topics = inner.lengths.keys().take_while(|len| **len <= id.len());
        let of_topics = topics.filter_map(|len| inner.topics.get(id.get(..*len)?));
        for subscriber in inner.ids.get(&message.id).into_iter().chain(of_topics).flatten() {
            if subscriber.from.admits(message.sender.as_ref()) {
                subscriber.inbox.put(subscriber.number, message);
            }
        }
    }

    /// News may have been missed: every subscription is to look for itself.
    pub(crate) fn missed(&self) {
        let inner = self.lock();
        for subscriber in inner.ids.values().chain(inner.topics.values()).flatten() {
            subscriber.inbox.missed(subscriber.number);
        }
    }

    fn remove(&self, which: &Which, number: u64) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        match which {
            Which::Id(id) => {
                if let Some(subscribers) = inner.ids.get_mut(id) {
                    subscribers.retain(|subscriber| subscriber.number != number);
                    if subscribers.is_empty() {
                        inner.ids.remove(id);
                    }
                }
            }
            Which::Topic(topic) => {
                let Some(subscribers) = inner.topics.get_mut(topic) else { return };
                subscribers.retain(|subscriber| subscriber.number != number);
                if subscribers.is_empty() {
                    inner.topics.remove(topic);
                    let count = inner.lengths.entry(topic.len()).or_default();
                    *count -= 1;
                    if *count == 0 {
                        inner.lengths.remove(&topic.len());
                    }
                }
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.all.remove(&self.which, self.number);
        self.inbox.forget(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{message_id, party};

    fn message(sender: &str, id: &str, sequence: u64) -> Held {
        Held {
            sender: Some(party(sender)),
            id: message_id(id),
            sequence: Sequence(sequence),
            payload: Bytes::from_static(b"x").into(),
        }
    }

    fn taken(inbox: &Inbox) -> Vec<u64> {
        std::iter::from_fn(|| inbox.take().unwrap()).map(|ticket| ticket.message.sequence.0).collect()
    }

    #[test]
    fn what_arrives_goes_to_those_who_subscribed_to_it_and_no_others() {
        let all = Subscriptions::new(4);
        let inbox = all.inbox();
        let topic = |name: &str| Which::Topic(name.into());
        let a = FromSender::Party(party("a"));
        let of_id = all.subscribe(Which::Id(message_id("job:1")), FromSender::Any, &inbox).unwrap();
        let of_topic = all.subscribe(topic("job:"), a, &inbox).unwrap();
        let wide = all.subscribe(topic("é"), FromSender::Any, &inbox).unwrap();
        all.arrived(&message("b", "job:1", 1));
        all.arrived(&message("b", "job:2", 2));
        all.arrived(&message("a", "job:2", 3));
        all.arrived(&message("a", "other", 4));
        all.arrived(&message("a", "job:1", 5));
        assert_eq!(taken(&inbox), [1, 3, 5, 5], "once for each subscription");
        let ticket =
            |sequence| Found { sender: None, id: message_id("job:2"), sequence: Sequence(sequence), len: 1 };
        let mut page = vec![ticket(2), ticket(3), ticket(7)];
        inbox.found(of_topic.number, &mut page);
        assert_eq!(page.len(), 2, "one of them came as news, too");
        inbox.looked(of_topic.number);
        all.arrived(&message("a", "job:2", 7));
        assert!(taken(&inbox).is_empty(), "its news came after it was found");
        drop(of_id);
        all.arrived(&message("b", "job:1", 6));
        assert!(taken(&inbox).is_empty());
        let more: Vec<_> =
            (0..9).map_while(|n| all.subscribe(topic(&n.to_string()), FromSender::Any, &inbox)).collect();
        assert_eq!(more.len(), 2, "no more than there is room for");
        drop((more, of_topic, wide));
        let inner = all.lock();
        assert!(inner.ids.is_empty() && inner.topics.is_empty() && inner.lengths.is_empty());
        assert_eq!(all.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_all_inboxes_hold_is_bounded_and_given_back() {
        let all = Subscriptions::new(100);
        let large = Held { payload: Bytes::from(vec![0; INBOX_BYTES]).into(), ..message("a", "m", 1) };
        let inboxes: Vec<_> = (0..17).map(|_| all.inbox()).collect();
        let topic = || Which::Topic(String::new());
        let subscribe = |inbox| all.subscribe(topic(), FromSender::Any, inbox).unwrap();
        let subscriptions: Vec<_> = inboxes.iter().map(subscribe).collect();
        all.arrived(&large);
        let kept = inboxes.iter().filter(|inbox| inbox.lock().bytes > 0).count();
        assert_eq!(kept, ALL_BYTES / INBOX_BYTES);
        for _ in 0..=(ALL_TICKETS / 17) {
            all.arrived(&message("a", "m", 2));
        }
        assert!(inboxes.iter().any(|inbox| inbox.lock().overflown));
        drop((subscriptions, inboxes));
        assert_eq!(all.waiting.tickets.load(Ordering::Relaxed), 0);
        assert_eq!(all.waiting.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_inbox_keeps_payloads_within_its_bound_and_says_when_it_overflows() {
        let all = Subscriptions::new(1);
        let inbox = all.inbox();
        let whole = all.subscribe(Which::Topic(String::new()), FromSender::Any, &inbox).unwrap();
        let big = Held { payload: Bytes::from(vec![0; INBOX_BYTES]).into(), ..message("a", "big", 1) };
        all.arrived(&big);
        for n in 0..TICKETS as u64 {
            all.arrived(&message("a", "m", 2 + n));
        }
        assert_eq!(inbox.take().unwrap_err(), Overflown, "at once: what comes next is not all");
        let inbox = all.inbox();
        drop(whole);
        let _whole = all.subscribe(Which::Topic(String::new()), FromSender::Any, &inbox).unwrap();
        all.arrived(&big);
        all.arrived(&message("a", "m", 2));
        assert!(inbox.take().unwrap().unwrap().payload.is_some());
        assert!(inbox.take().unwrap().unwrap().payload.is_none(), "there was no room");
    }
}
