//! What is under way to a peer in one lane, compared with the window.

use std::collections::HashSet;

use petnet_storage::{Pending, Sequence};

use super::Window;

/// Messages larger than the window that may be under way at the same time. They go in parts, and only parts are in memory.
const HUGE_AT_ONCE: usize = 4;

/// Whether a message fits the window at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowFit {
    Usual,
    Huge,
}

/// The messages of one lane that are under way to a peer.
#[derive(Debug)]
pub(super) struct InFlight {
    window: Window,
    messages: HashSet<Sequence>,
    /// Those of them that appeared again in the store's list meanwhile.
    listed_again: HashSet<Sequence>,
    /// Payload bytes of the messages that fit the window.
    bytes: u64,
    /// Number of larger messages.
    huge: usize,
}

impl InFlight {
    pub(super) fn new(window: Window) -> Self {
        let (messages, listed_again) = (HashSet::new(), HashSet::new());
        Self { window, messages, listed_again, bytes: 0, huge: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether a message that the list contains is under way; if so, that is noted, so that its end is looked at more
    /// closely.
    pub(super) fn has_listed(&mut self, sequence: Sequence) -> bool {
        let has = self.messages.contains(&sequence);
        if has {
            self.listed_again.insert(sequence);
        }
        has
    }

    pub(super) fn size_of(&self, len: u64) -> WindowFit {
        if len > self.window.bytes { WindowFit::Huge } else { WindowFit::Usual }
    }

    pub(super) fn fits(&self, len: u64) -> bool {
        match self.size_of(len) {
            WindowFit::Usual => self.bytes == 0 || self.bytes + len <= self.window.bytes,
            WindowFit::Huge => self.huge < HUGE_AT_ONCE,
        }
    }

    pub(super) fn begin(&mut self, pending: &Pending) {
        self.messages.insert(pending.sequence);
        match self.size_of(pending.len) {
            WindowFit::Usual => self.bytes += pending.len,
            WindowFit::Huge => self.huge += 1,
        }
    }

    /// Ends a delivery. True if the message appeared again in the list while it was under way.
    pub(super) fn end(&mut self, pending: &Pending) -> bool {
        self.messages.remove(&pending.sequence);
        match self.size_of(pending.len) {
            WindowFit::Usual => self.bytes -= pending.len,
            WindowFit::Huge => self.huge -= 1,
        }
        self.listed_again.remove(&pending.sequence)
    }
}
