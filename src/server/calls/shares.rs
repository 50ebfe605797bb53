//! How room is shared out among messages that are still coming or are large: the rules, without a clock and without
//! waiting.
//!
//! Each caller has a share of what is free. A message that needs more than its caller's share waits for the *turn*, which
//! one message has at a time, with room for the largest. So whatever is announced, only what has come counts; one caller
//! cannot take what others need; and some message can always go on to its end, so that nothing gets stuck.
//!
//! Invariants: `used` is the sum of what all callers have and at most `free`, and each caller has at most `line`, except
//! for one message of a stream that came whole in its turn; those that wait are served when there is room, or in turn, one
//! caller after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

/// How many of a caller's waiting messages are looked at when room is returned; the first of them gets the turn in the end.
const LOOK_AT: usize = 64;

/// Sizes of the parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoomSizes {
    /// For all callers.
    pub(super) free: u64,
    /// What one caller may have of it.
    pub(super) line: u64,
    /// For the message that has the turn.
    pub(super) turn: u64,
}

/// Which part the room of a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomOrigin {
    Share,
    Turn,
}

/// The message that has the turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) caller: u64,
    pub(super) message: u64,
    /// Bytes that it got in its turn.
    pub(super) used: u64,
    /// Whether it is one of a stream that may rest.
    pub(super) is_stream: bool,
    /// Whether it is not whole yet.
    pub(super) is_coming: bool,
}

#[derive(Debug)]
struct WaitingMessage<T> {
    message: u64,
    bytes: u64,
    is_stream: bool,
    tell: T,
}

#[derive(Debug)]
struct CallerShare<T> {
    used: u64,
    /// Its waiting messages by ticket, in the order in which they came.
    waiting: BTreeMap<u64, WaitingMessage<T>>,
}

/// Who has how much, and who waits. `T` is what notifies a waiter.
#[derive(Debug)]
pub(super) struct Shares<T> {
    sizes: RoomSizes,
    used: u64,
    next_ticket: u64,
    callers: BTreeMap<u64, CallerShare<T>>,
    /// Callers with messages that wait.
    waiting: BTreeSet<u64>,
    turn: Option<Turn>,
    /// The caller that had the last turn.
    last: u64,
}

impl<T> Shares<T> {
    pub(super) fn new(sizes: RoomSizes) -> Self {
        let (callers, waiting) = (BTreeMap::new(), BTreeSet::new());
        Self { sizes, used: 0, next_ticket: 0, callers, waiting, turn: None, last: 0 }
    }

    pub(super) fn turn(&mut self) -> Option<&mut Turn> {
        self.turn.as_mut()
    }

    /// What a caller has of the free part.
    #[cfg(test)]
    pub(super) fn used_by(&self, caller: u64) -> u64 {
        self.callers.get(&caller).map_or(0, |of| of.used)
    }

    #[cfg(test)]
    pub(super) fn used_by_each(&self) -> impl Iterator<Item = u64> {
        self.callers.values().map(|of| of.used)
    }

    fn of(&mut self, caller: u64) -> &mut CallerShare<T> {
        self.callers.entry(caller).or_insert_with(|| CallerShare { used: 0, waiting: BTreeMap::new() })
    }

    fn fits(&self, caller: u64, bytes: u64) -> bool {
        let used = self.callers.get(&caller).map_or(0, |of| of.used);
        used + bytes <= self.sizes.line && self.used + bytes <= self.sizes.free
    }

    /// A caller that is over its line because of a message of a stream has to deal with that one first.
    fn may_have_turn(&self, caller: u64, is_stream: bool) -> bool {
        !is_stream || self.callers.get(&caller).is_none_or(|of| of.used <= self.sizes.line)
    }

    /// Takes room for `bytes` more of a message if that is possible at once. `is_stream`: it is one of a stream that may
    /// rest.
    pub(super) fn try_take(
        &mut self,
        caller: u64,
        message: u64,
        bytes: u64,
        is_stream: bool,
    ) -> Option<RoomOrigin> {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.message == message) {
            turn.used += bytes;
            return Some(RoomOrigin::Turn);
        }
        if self.fits(caller, bytes) {
            self.used += bytes;
            self.of(caller).used += bytes;
            return Some(RoomOrigin::Share);
        }
        if self.turn.is_none() && self.waiting.is_empty() && self.may_have_turn(caller, is_stream) {
            self.begin_turn(caller, message, bytes, is_stream);
            return Some(RoomOrigin::Turn);
        }
        None
    }

    fn begin_turn(&mut self, caller: u64, message: u64, bytes: u64, is_stream: bool) {
        self.last = caller;
        self.turn = Some(Turn { caller, message, used: bytes, is_stream, is_coming: true });
    }

    /// Queues a request that could not be met at once; the ticket withdraws it.
    pub(super) fn wait(&mut self, caller: u64, message: u64, bytes: u64, is_stream: bool, tell: T) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.of(caller).waiting.insert(ticket, WaitingMessage { message, bytes, is_stream, tell });
        self.waiting.insert(caller);
        ticket
    }

    /// Withdraws a request that nobody waits for any more. What was granted meanwhile is for the waiter to return.
    pub(super) fn take_back(&mut self, caller: u64, ticket: u64) {
        self.served(caller, ticket);
        self.forget_if_idle(caller);
    }

    fn served(&mut self, caller: u64, ticket: u64) -> Option<WaitingMessage<T>> {
        let of = self.callers.get_mut(&caller)?;
        let waiting = of.waiting.remove(&ticket);
        if of.waiting.is_empty() {
            self.waiting.remove(&caller);
        }
        waiting
    }

    fn forget_if_idle(&mut self, caller: u64) {
        if self.callers.get(&caller).is_some_and(|of| of.used == 0 && of.waiting.is_empty()) {
            self.callers.remove(&caller);
        }
    }

    /// A message of a stream came whole in its turn, or rests: what it has counts for its caller from now on, and the next
    /// message gets the turn.
    pub(super) fn turn_to_share(&mut self, message: u64) {
        if let Some(Turn { caller, used, .. }) = self.turn.take_if(|turn| turn.message == message) {
            self.used += used;
            self.of(caller).used += used;
        }
    }

    /// Returns what a message has, from its caller's share and from its turn.
    pub(super) fn give_back(&mut self, caller: u64, message: u64, of_share: u64, of_turn: u64) {
        let has_turn = self.turn.take_if(|turn| turn.message == message).is_some();
        // Otherwise what it got in its turn counts for its caller by now.
        let bytes = if has_turn { of_share } else { of_share + of_turn };
        self.used -= bytes;
        if let Some(of) = self.callers.get_mut(&caller) {
            of.used -= bytes;
        }
        self.forget_if_idle(caller);
    }

    /// Serves those that can be served: each with the part it got room from, and how many bytes.
    pub(super) fn serve(&mut self) -> Vec<(T, RoomOrigin, u64)> {
        let mut served = Vec::new();
        if self.waiting.is_empty() {
            return served;
        }
        let callers: Vec<u64> = self.waiting.iter().copied().collect();
        for caller in callers {
            let first = self.callers[&caller].waiting.iter().take(LOOK_AT);
            let tickets: Vec<(u64, u64)> = first.map(|(ticket, waiting)| (*ticket, waiting.bytes)).collect();
            for (ticket, bytes) in tickets {
                if self.fits(caller, bytes)
                    && let Some(waiting) = self.served(caller, ticket)
                {
                    self.used += bytes;
                    self.of(caller).used += bytes;
                    served.push((waiting.tell, RoomOrigin::Share, bytes));
                }
            }
        }
        if self.turn.is_none() {
            served.extend(self.next_turn().map(|(tell, bytes)| (tell, RoomOrigin::Turn, bytes)));
        }
        served
    }

    /// Gives the turn to the next caller that waits.
    fn next_turn(&mut self) -> Option<(T, u64)> {
        let after = self.waiting.range((Excluded(self.last), Unbounded));
        let order: Vec<u64> = after.chain(self.waiting.range(..=self.last)).copied().collect();
        for caller in order {
            let waiting = &self.callers[&caller].waiting;
            let first = waiting.iter().take(LOOK_AT).find(|(_, w)| self.may_have_turn(caller, w.is_stream));
            let Some(ticket) = first.map(|(ticket, _)| *ticket) else { continue };
            let waiting = self.served(caller, ticket)?;
            self.begin_turn(caller, waiting.message, waiting.bytes, waiting.is_stream);
            return Some((waiting.tell, waiting.bytes));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const SIZES: RoomSizes = RoomSizes { free: 100, line: 40, turn: 60 };

    #[test]
    fn one_caller_has_its_line_and_one_turn_and_others_do_not_feel_it() {
        let mut shares = Shares::<u64>::new(SIZES);
        for message in 0..4 {
            assert_eq!(shares.try_take(1, message, 10, false), Some(RoomOrigin::Share));
        }
        assert_eq!(
            shares.try_take(1, 4, 10, false),
            Some(RoomOrigin::Turn),
            "its fifth message has the turn"
        );
        assert_eq!(shares.try_take(1, 5, 10, false), None);
        let ticket = shares.wait(1, 5, 10, false, 5);
        assert_eq!(shares.try_take(2, 10, 40, false), Some(RoomOrigin::Share));
        assert_eq!(
            shares.try_take(1, 4, 50, false),
            Some(RoomOrigin::Turn),
            "whoever has the turn always goes on"
        );
        shares.give_back(1, 4, 0, 60);
        assert_eq!(shares.serve(), [(5, RoomOrigin::Turn, 10)]);
        shares.take_back(1, ticket);
        assert_eq!((shares.used, shares.used_by(1), shares.used_by(2)), (80, 40, 40));
    }

    #[test]
    fn the_turn_goes_from_caller_to_caller() {
        let mut shares = Shares::<u64>::new(RoomSizes { free: 0, line: 0, turn: 60 });
        assert_eq!(shares.try_take(1, 1, 10, false), Some(RoomOrigin::Turn));
        for message in [2, 3, 4] {
            shares.wait(1, message, 10, false, message);
        }
        shares.wait(2, 20, 10, false, 20);
        let mut order = vec![1];
        while let Some(turn) = shares.turn() {
            let (caller, message) = (turn.caller, turn.message);
            shares.give_back(caller, message, 0, 10);
            order.extend(shares.serve().into_iter().map(|(tell, ..)| tell));
        }
        assert_eq!(order, [1, 20, 2, 3, 4]);
        assert!(shares.callers.is_empty() && shares.waiting.is_empty());
    }

    #[test]
    fn a_whole_message_of_a_stream_leaves_the_turn_to_others() {
        let mut shares = Shares::<u64>::new(SIZES);
        assert_eq!(shares.try_take(1, 1, 40, true), Some(RoomOrigin::Share));
        assert_eq!(shares.try_take(1, 2, 20, true), Some(RoomOrigin::Turn));
        shares.turn_to_share(2);
        assert_eq!(shares.used_by(1), 60);
        assert_eq!(shares.try_take(1, 3, 20, true), None, "it is over its line");
        shares.wait(1, 3, 20, true, 3);
        assert_eq!(shares.serve(), []);
        assert_eq!(shares.try_take(2, 4, 40, false), Some(RoomOrigin::Share));
        shares.give_back(1, 2, 0, 20);
        assert_eq!(shares.serve(), [(3, RoomOrigin::Turn, 20)]);
    }

    /// Messages of several callers grow at random, are given up, or end. At every moment some message can go on.
    #[test]
    fn whatever_comes_and_goes_somebody_can_go_on_and_all_is_given_back() {
        #[derive(Debug)]
        struct ComingMessage {
            caller: u64,
            len: u64,
            share: u64,
            turn: u64,
            ticket: Option<(u64, u64)>,
        }
        let mut random = Random::new();
        for _ in 0..300 {
            let mut shares = Shares::<u64>::new(SIZES);
            let mut messages: BTreeMap<u64, ComingMessage> = BTreeMap::new();
            let mut next = 0;
            for step in 0..600 {
                let fresh = step < 400 && messages.len() < 30 && random.below(3) == 0;
                if fresh {
                    let (caller, len) = (1 + random.below(4), 1 + random.below(SIZES.turn));
                    messages.insert(next, ComingMessage { caller, len, share: 0, turn: 0, ticket: None });
                    next += 1;
                }
                let ready: Vec<u64> =
                    messages.iter().filter(|(_, m)| m.ticket.is_none()).map(|(id, _)| *id).collect();
                assert!(
                    messages.is_empty() || !ready.is_empty(),
                    "{random:?}: all of them wait: {messages:?}"
                );
                if ready.is_empty() {
                    continue;
                }
                let id = ready[random.below(ready.len() as u64) as usize];
                let m = messages.get_mut(&id).unwrap();
                let left = m.len - m.share - m.turn;
                let given_up = random.below(20) == 0;
                if left == 0 || given_up {
                    let m = messages.remove(&id).unwrap();
                    shares.give_back(m.caller, id, m.share, m.turn);
                } else {
                    let bytes = 1 + random.below(left);
                    match shares.try_take(m.caller, id, bytes, false) {
                        Some(RoomOrigin::Share) => m.share += bytes,
                        Some(RoomOrigin::Turn) => m.turn += bytes,
                        None => m.ticket = Some((shares.wait(m.caller, id, bytes, false, id), bytes)),
                    }
                }
                // A message that waits may be given up, too.
                let waits = messages.iter().find(|(_, m)| m.ticket.is_some()).map(|(id, _)| *id);
                if let Some(id) = waits.filter(|_| random.below(10) == 0) {
                    let m = messages.remove(&id).unwrap();
                    shares.take_back(m.caller, m.ticket.unwrap().0);
                    shares.give_back(m.caller, id, m.share, m.turn);
                }
                for (id, from, bytes) in shares.serve() {
                    let m = messages.get_mut(&id).unwrap();
                    assert_eq!(m.ticket.take().unwrap().1, bytes);
                    match from {
                        RoomOrigin::Share => m.share += bytes,
                        RoomOrigin::Turn => m.turn += bytes,
                    }
                }
                assert!(shares.used <= SIZES.free);
                assert!(shares.callers.values().all(|of| of.used <= SIZES.line));
                assert!(shares.turn.as_ref().is_none_or(|turn| turn.used <= SIZES.turn));
                let share: u64 = messages.values().map(|m| m.share).sum();
                assert_eq!(share, shares.used, "{random:?}");
            }
            for (id, m) in std::mem::take(&mut messages) {
                if let Some((ticket, _)) = m.ticket {
                    shares.take_back(m.caller, ticket);
                }
                shares.give_back(m.caller, id, m.share, m.turn);
            }
            assert!(shares.used == 0 && shares.callers.is_empty() && shares.turn.is_none());
        }
    }
}
