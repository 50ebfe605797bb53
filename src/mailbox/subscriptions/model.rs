//! Tests the subscriber against a store that keeps a list of everything: random messages, announced late, out of order or
//! not at all, random subscriptions, looks that see the store as it was at some moment, and a store that goes away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use petnet_storage::{Found, Held, Sequence};

use super::subscriber::{Subscriber, SubscriberBounds, SubscriptionLook, WaitingLoad};
use crate::testing::{Random, message_id};

const RUNS: usize = 1000;
const STEPS: u64 = 120;
/// Messages in one look.
const PAGE: usize = 3;
/// Messages that may have a sequence but not be visible, or be visible but not announced.
const MOMENT: usize = 4;
/// Messages by which the news of one, or the message itself, may be late.
const LATE: u64 = 8;
const NEWEST: usize = PAGE + 3 * LATE as usize;
/// Most messages that a store that loses news leaves unannounced.
const UNTOLD: usize = 12;
const NO_BOUND: WaitingLoad = WaitingLoad { tickets: usize::MAX, bytes: usize::MAX };

#[derive(Debug)]
struct ModelSubscription {
    /// The kinds of messages that the subscription covers, one bit for each.
    kinds: u64,
    owed: BTreeSet<u64>,
    /// Those of `owed` that it must be handed whatever happens next.
    due: BTreeSet<u64>,
    had: BTreeSet<u64>,
}

#[derive(Debug)]
struct LookUnderWay {
    look: SubscriptionLook,
    /// What the look sees; `None` if it has not looked yet.
    sees: Option<(Vec<u64>, bool)>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own that a run may have")]
struct SubscriberModel {
    subscriber: Subscriber,
    /// Whether news gets lost; if so, it otherwise comes in order.
    loses: bool,
    next_sequence: u64,
    visible: BTreeMap<u64, u64>,
    /// Messages that have a sequence but are not visible yet.
    hidden: Vec<(u64, u64)>,
    untold: VecDeque<u64>,
    lost: bool,
    next_subscription: u64,
    subscribed: BTreeMap<u64, ModelSubscription>,
    under_way: Option<LookUnderWay>,
    away: bool,
    overflown: bool,
}

impl SubscriberModel {
    fn new(random: &mut Random, bounds: SubscriberBounds) -> Self {
        Self {
            subscriber: Subscriber::new(bounds),
            loses: random.below(2) == 0,
            next_sequence: 1,
            visible: BTreeMap::new(),
            hidden: Vec::new(),
            untold: VecDeque::new(),
            lost: false,
            next_subscription: 0,
            subscribed: BTreeMap::new(),
            under_way: None,
            away: false,
            overflown: false,
        }
    }

    fn add(&mut self, random: &mut Random) {
        let (sequence, kind) = (self.next_sequence, random.below(4));
        self.next_sequence += 1;
        self.hidden.push((sequence, kind));
        while let Some(at) = self.hidden.iter().position(|(hidden, _)| hidden + LATE < sequence) {
            self.show_one(at, random);
        }
        while let Some(at) = self.untold.iter().position(|untold| untold + 2 * LATE < sequence)
            && !self.loses
        {
            self.tell_one(at);
        }
        if self.loses || self.hidden.len() > MOMENT || random.below(2) == 0 {
            self.show(random);
        }
    }

    fn show(&mut self, random: &mut Random) {
        if self.hidden.is_empty() {
            return;
        }
        let at = if self.loses { 0 } else { random.below(self.hidden.len() as u64) as usize };
        self.show_one(at, random);
    }

    fn show_one(&mut self, at: usize, random: &mut Random) {
        let (sequence, kind) = self.hidden.remove(at);
        self.visible.insert(sequence, kind);
        self.untold.push_back(sequence);
        for subscribed in self.subscribed.values_mut().filter(|s| s.kinds >> kind & 1 == 1) {
            subscribed.owed.insert(sequence);
        }
        while self.untold.len() > if self.loses { UNTOLD } else { MOMENT } {
            self.tell(random);
        }
    }

    fn tell(&mut self, random: &mut Random) {
        if self.untold.is_empty() {
            return;
        }
        let at = if self.loses { 0 } else { random.below(self.untold.len() as u64) as usize };
        self.tell_one(at);
    }

    fn tell_one(&mut self, at: usize) {
        let Some(sequence) = self.untold.remove(at) else { return };
        if std::mem::take(&mut self.lost) {
            self.missed();
        }
        let kind = self.visible[&sequence];
        let message = Held {
            sender: None,
            id: message_id("m"),
            sequence: Sequence(sequence),
            payload: Bytes::from_static(b"x").into(),
            unread: true,
            age: 0,
        };
        let to: Vec<u64> =
            self.subscribed.iter().filter(|(_, s)| s.kinds >> kind & 1 == 1).map(|(n, _)| *n).collect();
        for number in to {
            self.subscriber.news(number, &message, NO_BOUND);
            if let Some(subscribed) = self.subscribed.get_mut(&number) {
                subscribed.due.insert(sequence);
            }
        }
    }

    fn missed(&mut self) {
        self.away = false;
        for (number, subscribed) in &mut self.subscribed {
            self.subscriber.missed(*number);
            // Everything that was visible then will be found.
            subscribed.due = subscribed.owed.iter().filter(|s| !self.untold.contains(s)).copied().collect();
        }
    }

    fn subscribe(&mut self, random: &mut Random) {
        let (number, kinds) = (self.next_subscription, random.below(16));
        self.next_subscription += 1;
        self.subscriber.subscribe(number);
        let owed: BTreeSet<u64> =
            self.visible.iter().filter(|(_, kind)| kinds >> **kind & 1 == 1).map(|(s, _)| *s).collect();
        let due = owed.clone();
        self.subscribed.insert(number, ModelSubscription { kinds, owed, due, had: BTreeSet::new() });
    }

    fn take_back(&mut self, random: &mut Random) {
        if self.subscribed.is_empty() {
            return;
        }
        let at = random.below(self.subscribed.len() as u64) as usize;
        let number = *self.subscribed.keys().nth(at).unwrap();
        self.subscribed.remove(&number);
        self.subscriber.take_back(number);
    }

    /// Lets the look that is under way see what is there now.
    fn see(&mut self) {
        let Some(under_way) = &mut self.under_way else { return };
        let kinds = self.subscribed.get(&under_way.look.subscription).map_or(0, |s| s.kinds);
        let after = under_way.look.after.0;
        let all = self.visible.range(after + 1..).filter(|(_, kind)| kinds >> **kind & 1 == 1);
        let found: Vec<u64> = all.map(|(sequence, _)| *sequence).take(PAGE).collect();
        let is_last = found.len() < PAGE;
        under_way.sees = Some((found, is_last));
    }

    fn end_look(&mut self) {
        if self.under_way.as_ref().is_some_and(|under_way| under_way.sees.is_none()) {
            self.see();
        }
        let Some(LookUnderWay { look, sees: Some((found, is_last)) }) = self.under_way.take() else { return };
        if self.away {
            return self.subscriber.away(Some(look));
        }
        let found = found.into_iter().map(|sequence| Found {
            sender: None,
            id: message_id("m"),
            sequence: Sequence(sequence),
            len: 1,
            unread: true,
            age: 0,
        });
        self.subscriber.page(look, found.collect(), is_last);
    }

    /// Takes some tickets, and begins the look that is due. False if there was nothing to do. If the store turns out to be
    /// away, the ticket is put back.
    fn step(&mut self, most: u64) -> bool {
        let mut went_on = false;
        for _ in 0..most {
            let Ok(taken) = self.subscriber.take() else {
                self.overflown = true;
                return false;
            };
            let Some(ticket) = taken else { break };
            went_on = true;
            if self.away && ticket.payload.is_none() {
                self.subscriber.put_back(ticket);
                self.subscriber.away(None);
                break;
            }
            let sequence = ticket.message.sequence.0;
            let subscribed = self.subscribed.get_mut(&ticket.subscription);
            let subscribed = subscribed.expect("nothing is handed out for what was taken back");
            assert!(subscribed.owed.contains(&sequence), "{sequence} was not asked for");
            assert!(subscribed.had.insert(sequence), "{sequence} is handed out twice");
        }
        if let Some(look) = self.subscriber.next_look() {
            assert!(self.under_way.is_none(), "one look at a time");
            self.under_way = Some(LookUnderWay { look, sees: None });
            went_on = true;
        }
        went_on
    }

    /// Lets nothing more happen except what the subscriber itself asks for.
    fn settle(&mut self) {
        self.away = false;
        self.subscriber.back();
        while self.step(u64::MAX) || self.under_way.is_some() {
            self.end_look();
        }
        if self.overflown {
            return;
        }
        for (number, subscribed) in &self.subscribed {
            let missing: Vec<_> = subscribed.due.difference(&subscribed.had).collect();
            assert!(missing.is_empty(), "subscription {number} waits for {missing:?} until something comes");
        }
    }

    fn happen(&mut self, random: &mut Random) {
        match random.below(20) {
            0..5 => self.add(random),
            5 => self.show(random),
            6..9 => self.tell(random),
            9 | 10 => self.subscribe(random),
            11 => self.take_back(random),
            12 => self.see(),
            13 => self.end_look(),
            14 if self.loses && !self.untold.is_empty() => {
                self.untold.pop_front();
                self.lost = true;
            }
            15 => {
                self.away = random.below(3) == 0;
                if !self.away {
                    self.subscriber.back();
                }
            }
            16 => self.settle(),
            17 if self.loses => {
                self.lost = false;
                self.missed();
            }
            _ => {
                let most = random.below(4);
                self.step(most);
            }
        }
    }

    /// Announces everything, after which every subscription must have had everything.
    fn end(&mut self, random: &mut Random) {
        while !self.hidden.is_empty() {
            self.show(random);
        }
        while !self.untold.is_empty() {
            self.tell(random);
        }
        if self.lost {
            self.missed();
        }
        self.settle();
        if self.overflown {
            return;
        }
        for (number, subscribed) in &self.subscribed {
            assert_eq!(subscribed.had, subscribed.owed, "subscription {number}");
        }
        while !self.subscribed.is_empty() {
            self.take_back(random);
        }
        assert!(self.subscriber.is_empty(), "something is kept: {:?}", self.subscriber);
    }
}

/// How many runs ended with a reader that was too slow, and how many did not.
fn runs(bounds: SubscriberBounds) -> (usize, usize) {
    let mut random = Random::new();
    let mut overflown = 0;
    for run in 0..RUNS {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut world = SubscriberModel::new(&mut random, bounds);
            for _ in 0..STEPS {
                world.happen(&mut random);
                let load = world.subscriber.load();
                assert!(load.tickets <= bounds.tickets && load.bytes <= bounds.bytes, "{load:?}");
                assert!(world.subscriber.keeps_little(), "{:?}", world.subscriber);
                if world.overflown {
                    return true;
                }
            }
            world.end(&mut random);
            world.overflown
        }));
        assert!(ran.is_ok(), "{random:?}, run {run}");
        overflown += usize::from(ran.unwrap_or_default());
    }
    (overflown, RUNS - overflown)
}

#[test]
fn every_message_is_handed_out_once_for_each_subscription_in_any_order_of_events() {
    let bounds = SubscriberBounds { tickets: usize::MAX, bytes: 4, newest: NEWEST, page: PAGE };
    assert_eq!(runs(bounds), (0, RUNS));
}

/// So few messages may wait that the reader is sometimes too slow: that is reported, and nothing is lost silently.
#[test]
fn a_subscriber_says_when_it_lost_a_message_and_keeps_within_its_bounds() {
    for tickets in [2, 5] {
        let (overflown, whole) = runs(SubscriberBounds { tickets, bytes: 3, newest: NEWEST, page: PAGE });
        assert!(overflown > 0 && whole > 0, "{overflown} {whole}");
    }
}
