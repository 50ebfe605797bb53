//! What one stream subscribed to: what is to be looked for next, and what is handed out. A state machine without I/O, clock
//! or lock; its driver calls [`take`](Subscriber::take) and [`next_look`](Subscriber::next_look) until both return nothing.
//!
//! Invariants
//! * A message that is there when a subscription begins, or comes later, is handed out once for it, whether it was found by
//!   a look or announced as news.
//! * Nothing waits for the next event: a look that is due is returned as soon as none is under way and everything that the
//!   last one found was taken, whatever became of the subscriptions before it.
//! * News waits within [`SubscriberBounds`]. What comes while its subscription is behind is left to the next look,
//!   which finds it.
//! * Of a subscription that was taken back nothing is kept, except that a look is under way, and at most as many tickets as
//!   there are others.
//!
//! What it relies on: a message can be found before it is announced; what is announced late was found at most
//! [`SubscriberBounds::newest`] messages ago; where news can be lost, it comes in the order of the sequences, and
//! `missed` comes before the news behind the gap.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use petnet_storage::{Found, Held, Payload, Sequence};

/// A message that waits for its stream.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    /// The subscription it is for.
    pub(crate) subscription: u64,
    /// The message.
    pub(crate) message: Found,
    /// Its content, while there is room for it.
    pub(crate) payload: Option<Bytes>,
}

/// A look for what was there before, to be done and answered with [`Subscriber::page`] or [`Subscriber::away`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubscriptionLook {
    /// The subscription it is for.
    pub(crate) subscription: u64,
    /// Only messages after this one are wanted.
    pub(crate) after: Sequence,
}

/// The reader was too slow for what it subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflown;

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubscriberBounds {
    /// Messages announced and not taken yet.
    pub(super) tickets: usize,
    /// Bytes of their payloads; further payloads are read when their turn comes.
    pub(super) bytes: usize,
    /// Per subscription: the newest messages found, which are remembered in case they are announced late; and the messages
    /// announced during a look.
    pub(super) newest: usize,
    /// Most messages that one look finds. They are remembered as long as another look may find them again.
    pub(super) page: usize,
}

/// Messages that wait, and the bytes of their payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WaitingLoad {
    pub(super) tickets: usize,
    pub(super) bytes: usize,
}

impl WaitingLoad {
    /// The smaller value of each.
    pub(super) fn least(self, other: Self) -> Self {
        Self { tickets: self.tickets.min(other.tickets), bytes: self.bytes.min(other.bytes) }
    }
}

/// How far a subscription has got with what was there before.
#[derive(Debug, Clone, Copy)]
enum LookProgress {
    /// A look for what comes after `after` is to be done, in this turn.
    Due { turn: u64, after: Sequence },
    /// The look is being done. If `again` is set, another one follows, for what comes after that, because something may be
    /// missing from this one.
    UnderWay { after: Sequence, again: Option<Sequence> },
    /// Everything was found: the rest is announced.
    Done,
}

/// Where the next message comes from.
#[derive(Debug, Clone, Copy)]
enum TicketSource {
    Found,
    News,
}

/// One subscription.
#[derive(Debug)]
struct SubscriptionState {
    progress: LookProgress,
    /// Messages announced since the beginning of a look that may find them, too.
    came: HashSet<Sequence>,
    /// The newest messages that were found, in order: news of them may still be on its way.
    found: VecDeque<Sequence>,
    /// The newest of all messages that were announced or found.
    newest: Sequence,
    /// Number of its tickets among the news in the queue.
    waiting: usize,
}

/// All subscriptions of one stream.
#[derive(Debug)]
pub(super) struct Subscriber {
    bounds: SubscriberBounds,
    courses: HashMap<u64, SubscriptionState>,
    /// Looks that are due, by turn.
    due: BTreeMap<u64, u64>,
    next_turn: u64,
    is_looking: bool,
    /// Tickets found by the last look and not taken yet.
    found: VecDeque<Ticket>,
    /// Tickets announced and not taken yet.
    news: VecDeque<Ticket>,
    bytes: usize,
    /// Number of tickets in `news` whose subscription was taken back.
    stale: usize,
    /// Where the next ticket comes from: what was found and what was announced take turns.
    turn: TicketSource,
    /// Whether the store cannot be read at the moment.
    is_away: bool,
    overflown: bool,
}

impl Subscriber {
    pub(super) fn new(bounds: SubscriberBounds) -> Self {
        Self {
            bounds,
            courses: HashMap::new(),
            due: BTreeMap::new(),
            next_turn: 0,
            is_looking: false,
            found: VecDeque::new(),
            news: VecDeque::new(),
            bytes: 0,
            stale: 0,
            turn: TicketSource::Found,
            is_away: false,
            overflown: false,
        }
    }

    /// Begins a subscription. To be called before it is given any news.
    pub(super) fn subscribe(&mut self, subscription: u64) {
        let progress = self.turn(subscription, Sequence(0));
        let course = SubscriptionState {
            progress,
            came: HashSet::new(),
            found: VecDeque::new(),
            newest: Sequence(0),
            waiting: 0,
        };
        self.courses.insert(subscription, course);
    }

    /// Takes a subscription back: nothing more is handed out for it.
    pub(super) fn take_back(&mut self, subscription: u64) {
        let Some(course) = self.courses.remove(&subscription) else { return };
        if let LookProgress::Due { turn, .. } = course.progress {
            self.due.remove(&turn);
        }
        self.found.retain(|ticket| ticket.subscription != subscription);
        self.stale += course.waiting;
        self.forget_stale();
    }

    /// Takes all subscriptions back when the stream ends.
    pub(super) fn close(&mut self) {
        *self = Self { is_looking: self.is_looking, ..Self::new(self.bounds) };
    }

    /// Announces a message. `room` is what may wait in addition to what already does, in this stream and others. True if
    /// there is something to take.
    pub(super) fn news(&mut self, subscription: u64, message: &Held, room: WaitingLoad) -> bool {
        let Some(course) = self.courses.get_mut(&subscription) else { return false };
        let sequence = message.sequence;
        if course.was_found(sequence) {
            return false;
        }
        let is_full = self.news.len() >= self.bounds.tickets || room.tickets == 0;
        match &mut course.progress {
            // The look that is due finds it.
            LookProgress::Due { after, .. } if sequence > *after => return false,
            LookProgress::UnderWay { after, again } if sequence > *after => {
                if is_full || course.came.len() >= self.bounds.newest {
                    // It may be too new for this look, so the next one finds it.
                    let before = Sequence(sequence.0 - 1);
                    *again = Some(again.map_or(before, |again| again.min(before)));
                    return false;
                }
                course.came.insert(sequence);
            }
            _ => {}
        }
        if is_full {
            self.overflown = true;
            return true;
        }
        course.newest = course.newest.max(sequence);
        course.waiting += 1;
        let fits = |len: usize| self.bytes + len <= self.bounds.bytes && len <= room.bytes;
        let payload = match &message.payload {
            Payload::Whole(bytes) if fits(bytes.len()) => Some(bytes.clone()),
            _ => None,
        };
        let len = message.payload.len();
        let (sender, id, unread, age) =
            (message.sender.clone(), message.id.clone(), message.unread, message.age);
        let message = Found { sender, id, sequence, len, unread, age };
        let ticket = Ticket { subscription, message, payload };
        self.bytes += ticket.bytes();
        self.news.push_back(ticket);
        true
    }

    /// Makes the subscription look for itself, because news may have been lost. The store is there.
    pub(super) fn missed(&mut self, subscription: u64) {
        self.is_away = false;
        let Some(course) = self.courses.get_mut(&subscription) else { return };
        let newest = course.newest;
        match &mut course.progress {
            // The look has not begun.
            LookProgress::Due { .. } => {}
            LookProgress::UnderWay { again, .. } => {
                *again = Some(again.map_or(newest, |again| again.min(newest)));
            }
            LookProgress::Done => {
                let progress = self.turn(subscription, newest);
                self.progress(subscription, progress);
            }
        }
    }

    /// The look that is to be done now; there is only one at a time.
    pub(super) fn next_look(&mut self) -> Option<SubscriptionLook> {
        if self.is_looking || self.is_away || !self.found.is_empty() {
            return None;
        }
        while let Some((_, subscription)) = self.due.pop_first() {
            let Some(course) = self.courses.get_mut(&subscription) else { continue };
            let LookProgress::Due { after, .. } = course.progress else { continue };
            course.progress = LookProgress::UnderWay { after, again: None };
            self.is_looking = true;
            return Some(SubscriptionLook { subscription, after });
        }
        None
    }

    /// Reports what a look found, in order. `is_last` means that there was no more.
    pub(super) fn page(&mut self, look: SubscriptionLook, mut messages: Vec<Found>, is_last: bool) {
        self.is_looking = false;
        let Some(course) = self.courses.get_mut(&look.subscription) else { return };
        let LookProgress::UnderWay { again, .. } = course.progress else { return };
        let last = messages.last().map(|message| message.sequence);
        messages.retain(|m| !course.came.contains(&m.sequence) && !course.was_found(m.sequence));
        for message in &messages {
            course.remember(message.sequence, self.bounds.newest.max(self.bounds.page));
        }
        course.newest = course.newest.max(last.unwrap_or_default());
        let next = match (last.filter(|_| !is_last), again) {
            (Some(last), Some(again)) => Some(last.min(again)),
            (next, again) => next.or(again),
        };
        let subscription = look.subscription;
        let ticket = |message| Ticket { subscription, message, payload: None };
        self.found.extend(messages.into_iter().map(ticket));
        let Some(after) = next else {
            course.came = HashSet::new();
            course.found.drain(..course.found.len().saturating_sub(self.bounds.newest));
            course.found.shrink_to_fit();
            course.progress = LookProgress::Done;
            return;
        };
        course.came.retain(|sequence| *sequence > after);
        let progress = self.turn(subscription, after);
        self.progress(subscription, progress);
    }

    /// Notes that the store could not be read. If it was a look that failed, it is done again when the store is back.
    pub(super) fn away(&mut self, look: Option<SubscriptionLook>) {
        self.is_away = true;
        let Some(SubscriptionLook { subscription, .. }) = look else { return };
        self.is_looking = false;
        let Some(course) = self.courses.get(&subscription) else { return };
        let LookProgress::UnderWay { after, .. } = course.progress else { return };
        let progress = self.turn(subscription, after);
        self.progress(subscription, progress);
    }

    /// Notes that the store may be back.
    pub(super) fn back(&mut self) {
        self.is_away = false;
    }

    /// Whether the store is away.
    pub(super) fn is_away(&self) -> bool {
        self.is_away
    }

    /// The next message to hand out. Fails if one could not be kept.
    pub(super) fn take(&mut self) -> Result<Option<Ticket>, Overflown> {
        if self.overflown {
            return Err(Overflown);
        }
        if self.is_away {
            return Ok(None);
        }
        match self.turn {
            TicketSource::Found => {
                self.turn = TicketSource::News;
                Ok(self.found.pop_front().or_else(|| self.take_news()))
            }
            TicketSource::News => {
                self.turn = TicketSource::Found;
                Ok(self.take_news().or_else(|| self.found.pop_front()))
            }
        }
    }

    /// Takes back a ticket that could not be handed out; it keeps its turn.
    pub(super) fn put_back(&mut self, ticket: Ticket) {
        if self.courses.contains_key(&ticket.subscription) {
            self.found.push_front(ticket);
        }
    }

    /// How much of what was announced is waiting.
    pub(super) fn load(&self) -> WaitingLoad {
        WaitingLoad { tickets: self.news.len(), bytes: self.bytes }
    }

    /// Whether a message could not be kept.
    #[cfg(test)]
    pub(super) fn is_overflown(&self) -> bool {
        self.overflown
    }

    /// Whether nothing is kept for any subscription.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let waits = self.found.len() + self.news.len() + self.bytes + self.stale;
        self.courses.is_empty() && self.due.is_empty() && waits == 0
    }

    /// Whether everything it keeps belongs to existing subscriptions, except for some tickets.
    #[cfg(test)]
    pub(super) fn keeps_little(&self) -> bool {
        let known = |ticket: &Ticket| self.courses.contains_key(&ticket.subscription);
        let stale = self.news.iter().filter(|ticket| !known(ticket)).count();
        self.due.values().all(|number| self.courses.contains_key(number))
            && self.found.iter().all(known)
            && stale == self.stale
            && stale * 2 <= self.news.len()
            && self.courses.values().all(|course| course.came.len() <= self.bounds.newest)
    }

    fn take_news(&mut self) -> Option<Ticket> {
        while let Some(ticket) = self.news.pop_front() {
            self.bytes -= ticket.bytes();
            if let Some(course) = self.courses.get_mut(&ticket.subscription) {
                course.waiting -= 1;
                self.forget_stale();
                return Some(ticket);
            }
            self.stale -= 1;
        }
        None
    }

    /// Removes stale tickets. Not after every subscription that is taken back: that would go through the whole queue each
    /// time.
    fn forget_stale(&mut self) {
        if self.stale * 2 > self.news.len() {
            self.news.retain(|ticket| self.courses.contains_key(&ticket.subscription));
            self.bytes = self.news.iter().map(Ticket::bytes).sum();
            self.stale = 0;
        }
    }

    /// Makes a look due, behind all others.
    fn turn(&mut self, subscription: u64, after: Sequence) -> LookProgress {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.due.insert(turn, subscription);
        LookProgress::Due { turn, after }
    }

    fn progress(&mut self, subscription: u64, progress: LookProgress) {
        if let Some(course) = self.courses.get_mut(&subscription) {
            course.progress = progress;
        }
    }
}

impl SubscriptionState {
    fn was_found(&self, sequence: Sequence) -> bool {
        // Most messages that are announced are newer than all that were found.
        self.found.back().is_some_and(|last| sequence <= *last) && self.found.binary_search(&sequence).is_ok()
    }

    fn remember(&mut self, sequence: Sequence, most: usize) {
        let at = self.found.partition_point(|known| *known < sequence);
        self.found.insert(at, sequence);
        if self.found.len() > most {
            self.found.pop_front();
        }
    }
}

impl Ticket {
    fn bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }
}
