//! Streams that subscribed to ids and topics, and are handed what arrives without asking for each message.
//!
//! Invariants: a subscription exists exactly as long as its [`Subscription`], and there are at most `max` of them; one
//! inbox holds at most [`TICKETS`] messages, all inboxes together at most [`ALL_TICKETS`] messages and [`ALL_BYTES`] of
//! payload: further payloads are read from the store when their turn comes, and an inbox that overflows reports that
//! instead of silently losing a message. Of each of these, one caller has at most three quarters, over however many
//! streams. [`Subscriber`] decides what a stream does next; this module feeds it.

#[cfg(test)]
mod model;
mod subscriber;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use petnet_storage::{Found, FromSender, Held, MessageId};
use tokio::sync::Notify;

pub(crate) use self::subscriber::{Overflown, SubscriptionLook, Ticket};
use self::subscriber::{Subscriber, SubscriberBounds, WaitingLoad};

/// At most this many messages wait in one inbox.
const TICKETS: usize = 65_536;
/// At most this many messages wait in all inboxes together.
const ALL_TICKETS: usize = 262_144;
/// Bytes of payload kept in memory for all inboxes.
const ALL_BYTES: usize = 32 << 20;
/// Bytes of payload kept for one inbox.
const INBOX_BYTES: usize = 2 << 20;
/// A look can find a message before its notification arrives. At most this many of the newest messages can be in that gap.
const NEWEST: usize = 4096;
/// At most this many messages are returned by one look.
pub(crate) const PAGE: usize = 4096;

const BOUNDS: SubscriberBounds =
    SubscriberBounds { tickets: TICKETS, bytes: INBOX_BYTES, newest: NEWEST, page: PAGE };

/// What a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Coverage {
    Id(MessageId),
    /// Every id that begins with this text.
    Topic(String),
}

/// How much may wait in all inboxes.
const ALL: WaitingLoad = WaitingLoad { tickets: ALL_TICKETS, bytes: ALL_BYTES };
/// How much may wait in the inboxes of one caller.
const SHARE: WaitingLoad = WaitingLoad { tickets: share(ALL_TICKETS), bytes: share(ALL_BYTES) };

/// One caller's share of a limit.
const fn share(all: usize) -> usize {
    all - all / 4
}

/// What the streams of one caller hold, or those of all callers.
#[derive(Debug, Default)]
struct StreamTotal {
    subscriptions: AtomicUsize,
    tickets: AtomicUsize,
    bytes: AtomicUsize,
}

impl StreamTotal {
    /// What remains of the limit `most`.
    fn room(&self, most: WaitingLoad) -> WaitingLoad {
        WaitingLoad {
            tickets: most.tickets.saturating_sub(self.tickets.load(Ordering::Relaxed)),
            bytes: most.bytes.saturating_sub(self.bytes.load(Ordering::Relaxed)),
        }
    }

    fn change(&self, from: WaitingLoad, to: WaitingLoad) {
        // Wrapping, because the difference may be negative.
        if from.tickets != to.tickets {
            self.tickets.fetch_add(to.tickets.wrapping_sub(from.tickets), Ordering::Relaxed);
        }
        if from.bytes != to.bytes {
            self.bytes.fetch_add(to.bytes.wrapping_sub(from.bytes), Ordering::Relaxed);
        }
    }
}

/// Where the messages of one stream wait.
#[derive(Debug)]
pub(crate) struct Inbox {
    all: Arc<StreamTotal>,
    /// The totals of its caller.
    own: Arc<StreamTotal>,
    subscriber: Mutex<Subscriber>,
    /// Wakes the stream when something came.
    pub(crate) came: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Subscriber> {
        self.subscriber.lock()
    }

    /// Lets the subscriber do something, and counts what that changes.
    fn with<T>(&self, act: impl FnOnce(&mut Subscriber) -> T) -> T {
        let mut subscriber = self.lock();
        let before = subscriber.load();
        let done = act(&mut subscriber);
        let now = subscriber.load();
        self.all.change(before, now);
        self.own.change(before, now);
        done
    }

    /// Passes on a message that came. Called by the store's threads, so it must be short.
    fn news(&self, subscription: u64, message: &Held) {
        let room = self.all.room(ALL).least(self.own.room(SHARE));
        if self.with(|subscriber| subscriber.news(subscription, message, room)) {
            self.came.notify_one();
        }
    }

    /// Notes that news may have been missed.
    fn missed(&self, subscription: u64) {
        self.with(|subscriber| subscriber.missed(subscription));
        self.came.notify_one();
    }

    /// The next message to hand out. Fails if some message could not be kept.
    pub(crate) fn take(&self) -> Result<Option<Ticket>, Overflown> {
        self.with(Subscriber::take)
    }

    /// Takes back a ticket that could not be handed out because the store is away; it keeps its turn.
    pub(crate) fn put_back(&self, ticket: Ticket) {
        self.with(|subscriber| {
            subscriber.put_back(ticket);
            subscriber.away(None);
        });
    }

    /// The look to be done now; its result is reported with [`page`](Self::page) or [`away`](Self::away).
    pub(crate) fn next_look(&self) -> Option<SubscriptionLook> {
        self.with(Subscriber::next_look)
    }

    /// Reports what a look found, in order of arrival. `is_last` means that there was no more.
    pub(crate) fn page(&self, look: SubscriptionLook, messages: Vec<Found>, is_last: bool) {
        self.with(|subscriber| subscriber.page(look, messages, is_last));
    }

    /// Reports that a look failed because the store is away.
    pub(crate) fn away(&self, look: SubscriptionLook) {
        self.with(|subscriber| subscriber.away(Some(look)));
    }

    /// Notes that the store may be back.
    pub(crate) fn back(&self) {
        self.with(Subscriber::back);
    }

    /// Whether the store is away.
    pub(crate) fn is_away(&self) -> bool {
        self.lock().is_away()
    }

    /// Stops handing anything out.
    pub(crate) fn close(&self) {
        self.with(Subscriber::close);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}

/// All subscriptions of a gateway.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    max: usize,
    all: Arc<StreamTotal>,
    /// The totals of every caller that has a stream.
    by_caller: Mutex<HashMap<u64, Weak<StreamTotal>>>,
    inner: Mutex<Registrations>,
}

#[derive(Debug, Default)]
struct Registrations {
    next: u64,
    ids: HashMap<MessageId, Vec<Registration>>,
    topics: HashMap<String, Vec<Registration>>,
    /// How many topics there are of each length in bytes.
    lengths: BTreeMap<usize, usize>,
}

#[derive(Debug)]
struct Registration {
    number: u64,
    from: FromSender,
    inbox: Arc<Inbox>,
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    all: Arc<Subscriptions>,
    pub(crate) which: Coverage,
    pub(crate) number: u64,
    inbox: Arc<Inbox>,
}

impl Subscriptions {
    /// Number of subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.all.subscriptions.load(Ordering::Relaxed)
    }

    /// Creates room for `max` subscriptions.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let (all, by_caller, inner) = (Arc::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { max, all, by_caller, inner })
    }

    /// A new inbox for one stream of a caller.
    pub(crate) fn inbox(&self, caller: u64) -> Arc<Inbox> {
        let subscriber = Mutex::new(Subscriber::new(BOUNDS));
        Arc::new(Inbox { all: self.all.clone(), own: self.of(caller), subscriber, came: Notify::new() })
    }

    /// The totals of a caller.
    fn of(&self, caller: u64) -> Arc<StreamTotal> {
        let mut by_caller = self.by_caller.lock();
        if let Some(own) = by_caller.get(&caller).and_then(Weak::upgrade) {
            return own;
        }
        by_caller.retain(|_, own| own.strong_count() > 0);
        let own = Arc::<StreamTotal>::default();
        by_caller.insert(caller, Arc::downgrade(&own));
        own
    }

    fn lock(&self) -> MutexGuard<'_, Registrations> {
        self.inner.lock()
    }

    /// Hands what arrives to `inbox` from now on, which itself looks for what was there before; `None` if there are too
    /// many subscriptions, in total or of its caller.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        which: Coverage,
        from: FromSender,
        inbox: &Arc<Inbox>,
    ) -> Option<Subscription> {
        let mut inner = self.lock();
        // Checked under the lock, so that the limit holds.
        let of_caller = inbox.own.subscriptions.load(Ordering::Relaxed);
        if self.len() >= self.max || of_caller >= share(self.max) {
            return None;
        }
        for total in [&self.all, &inbox.own] {
            total.subscriptions.fetch_add(1, Ordering::Relaxed);
        }
        let number = inner.next;
        inner.next += 1;
        let registered = Registration { number, from, inbox: inbox.clone() };
        inbox.with(|subscriber| subscriber.subscribe(number));
        match &which {
            Coverage::Id(id) => inner.ids.entry(id.clone()).or_default().push(registered),
            Coverage::Topic(topic) => {
                let subscribers = inner.topics.entry(topic.clone()).or_default();
                subscribers.push(registered);
                if subscribers.len() == 1 {
                    *inner.lengths.entry(topic.len()).or_default() += 1;
                }
            }
        }
        Some(Subscription { all: self.clone(), which, number, inbox: inbox.clone() })
    }

    /// Hands an arrived message to everyone who subscribed to it. Called by the store's threads, so it must be short and
    /// never block on I/O.
    pub(crate) fn arrived(&self, message: &Held) {
        if self.len() == 0 {
            return;
        }
        let inner = self.lock();
        let id = message.id.as_str();
        let topics = inner.lengths.keys().take_while(|len| **len <= id.len());
        let of_topics = topics.filter_map(|len| inner.topics.get(id.get(..*len)?));
        for subscriber in inner.ids.get(&message.id).into_iter().chain(of_topics).flatten() {
            if subscriber.from.admits(message.sender.as_ref()) {
                subscriber.inbox.news(subscriber.number, message);
            }
        }
    }

    /// Notes that news may have been missed: every subscription has to look for itself.
    pub(crate) fn missed(&self) {
        let inner = self.lock();
        for subscriber in inner.ids.values().chain(inner.topics.values()).flatten() {
            subscriber.inbox.missed(subscriber.number);
        }
    }

    fn remove(&self, which: &Coverage, number: u64, own: &StreamTotal) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        match which {
            Coverage::Id(id) => {
                if let Some(subscribers) = inner.ids.get_mut(id) {
                    subscribers.retain(|subscriber| subscriber.number != number);
                    if subscribers.is_empty() {
                        inner.ids.remove(id);
                    }
                }
            }
            Coverage::Topic(topic) => {
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
        for total in [&*self.all, own] {
            total.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.all.remove(&self.which, self.number, &self.inbox.own);
        self.inbox.with(|subscriber| subscriber.take_back(self.number));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use petnet_storage::Sequence;

    use super::*;
    use crate::testing::{message_id, party};

    fn message(sender: &str, id: &str, sequence: u64) -> Held {
        Held {
            sender: Some(party(sender)),
            id: message_id(id),
            sequence: Sequence(sequence),
            payload: Bytes::from_static(b"x").into(),
            unread: true,
            age: 0,
        }
    }

    /// Answers every look that is due with these messages.
    fn look(inbox: &Inbox, found: &[Found]) {
        while let Some(look) = inbox.next_look() {
            inbox.page(look, found.to_vec(), true);
        }
    }

    fn taken(inbox: &Inbox) -> Vec<u64> {
        std::iter::from_fn(|| inbox.take().unwrap()).map(|ticket| ticket.message.sequence.0).collect()
    }

    #[test]
    fn what_arrives_goes_to_those_who_subscribed_to_it_and_no_others() {
        let all = Subscriptions::new(6);
        let inbox = all.inbox(1);
        let topic = |name: &str| Coverage::Topic(name.into());
        let a = FromSender::Party(party("a"));
        let of_id = all.subscribe(Coverage::Id(message_id("job:1")), FromSender::Any, &inbox).unwrap();
        let of_topic = all.subscribe(topic("job:"), a, &inbox).unwrap();
        let wide = all.subscribe(topic("é"), FromSender::Any, &inbox).unwrap();
        look(&inbox, &[]);
        all.arrived(&message("b", "job:1", 1));
        all.arrived(&message("b", "job:2", 2));
        all.arrived(&message("a", "job:2", 3));
        all.arrived(&message("a", "other", 4));
        all.arrived(&message("a", "job:1", 5));
        assert_eq!(taken(&inbox), [1, 3, 5, 5], "once for each subscription");
        drop(of_id);
        all.arrived(&message("b", "job:1", 6));
        assert!(taken(&inbox).is_empty());
        let more: Vec<_> =
            (0..9).map_while(|n| all.subscribe(topic(&n.to_string()), FromSender::Any, &inbox)).collect();
        assert_eq!(more.len(), 3, "no more than there is room for");
        drop((more, of_topic, wide));
        let inner = all.lock();
        assert!(inner.ids.is_empty() && inner.topics.is_empty() && inner.lengths.is_empty());
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn what_all_inboxes_hold_is_bounded_and_given_back() {
        let all = Subscriptions::new(100);
        let large = Held { payload: Bytes::from(vec![0; INBOX_BYTES]).into(), ..message("a", "m", 1) };
        let inboxes: Vec<_> = (0..17).map(|caller| all.inbox(caller)).collect();
        let topic = || Coverage::Topic(String::new());
        let subscribe = |inbox| all.subscribe(topic(), FromSender::Any, inbox).unwrap();
        let subscriptions: Vec<_> = inboxes.iter().map(subscribe).collect();
        for inbox in &inboxes {
            look(inbox, &[]);
        }
        all.arrived(&large);
        let kept = inboxes.iter().filter(|inbox| inbox.lock().load().bytes > 0).count();
        assert_eq!(kept, ALL_BYTES / INBOX_BYTES);
        for _ in 0..=(ALL_TICKETS / 17) {
            all.arrived(&message("a", "m", 2));
        }
        assert!(inboxes.iter().any(|inbox| inbox.take().is_err()));
        drop((subscriptions, inboxes));
        assert_eq!(all.all.tickets.load(Ordering::Relaxed), 0);
        assert_eq!(all.all.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_inbox_keeps_payloads_within_its_bound_and_says_when_it_overflows() {
        let all = Subscriptions::new(2);
        let inbox = all.inbox(1);
        let whole = all.subscribe(Coverage::Topic(String::new()), FromSender::Any, &inbox).unwrap();
        look(&inbox, &[]);
        let big = Held { payload: Bytes::from(vec![0; INBOX_BYTES]).into(), ..message("a", "big", 1) };
        all.arrived(&big);
        for n in 0..TICKETS as u64 {
            all.arrived(&message("a", "m", 2 + n));
        }
        assert_eq!(inbox.take().unwrap_err(), Overflown, "at once: what comes next is not all");
        let inbox = all.inbox(1);
        drop(whole);
        let _whole = all.subscribe(Coverage::Topic(String::new()), FromSender::Any, &inbox).unwrap();
        look(&inbox, &[]);
        all.arrived(&big);
        all.arrived(&message("a", "m", 2));
        assert!(inbox.take().unwrap().unwrap().payload.is_some());
        assert!(inbox.take().unwrap().unwrap().payload.is_none(), "there was no room");
    }

    /// A subscription to everything that has finished looking for what was there before.
    fn to_all(all: &Arc<Subscriptions>, inbox: &Arc<Inbox>) -> Option<Subscription> {
        let subscription = all.subscribe(Coverage::Topic(String::new()), FromSender::Any, inbox);
        look(inbox, &[]);
        subscription
    }

    #[test]
    fn one_caller_leaves_subscriptions_to_others_however_many_streams_it_has() {
        let all = Subscriptions::new(8);
        let inboxes = [all.inbox(1), all.inbox(1)];
        let hostile: Vec<_> = (0..20).map_while(|n| to_all(&all, &inboxes[n % 2])).collect();
        assert_eq!(hostile.len(), 6);
        let good = all.inbox(2);
        let subscriptions = [to_all(&all, &good).unwrap(), to_all(&all, &good).unwrap()];
        assert!(to_all(&all, &good).is_none(), "no more than there may be");
        all.arrived(&message("a", "m", 1));
        assert_eq!(taken(&good), [1, 1]);
        drop(hostile);
        assert!(to_all(&all, &inboxes[0]).is_some(), "what it had is free");
        drop((subscriptions, good, inboxes));
        assert_eq!(all.len(), 0);
        let _other = all.inbox(3);
        assert_eq!(all.by_caller.lock().len(), 1, "who has left is forgotten");
    }

    #[test]
    fn messages_that_one_caller_does_not_read_leave_room_for_those_of_others() {
        let all = Subscriptions::new(100);
        let streams: Vec<_> = (0..20).map(|_| all.inbox(1)).collect();
        let _hostile: Vec<_> = streams.iter().map(|inbox| to_all(&all, inbox).unwrap()).collect();
        let good = all.inbox(2);
        let _good = to_all(&all, &good).unwrap();
        let large = |n| Held { payload: Bytes::from(vec![0; INBOX_BYTES]).into(), ..message("a", "m", n) };
        let mut sequence = 0;
        while streams.iter().any(|inbox| !inbox.lock().is_overflown()) {
            sequence += 1;
            all.arrived(&large(sequence));
            let ticket = good.take().unwrap().unwrap();
            assert_eq!(ticket.message.sequence.0, sequence);
            assert!(ticket.payload.is_some(), "there is room for its payload, too");
        }
        let own = &streams[0].own;
        let held = (own.tickets.load(Ordering::Relaxed), own.bytes.load(Ordering::Relaxed));
        assert_eq!(held, (SHARE.tickets, SHARE.bytes), "it is at its bound");
    }
}
