//! What is under way to a peer in one lane, held against the window.

use std::collections::HashSet;

use petnet_storage::{Pending, Sequence};

use super::Window;

/// Messages larger than the window that are under way at a time. They go in parts, and only parts are in memory.
const HUGE_AT_ONCE: usize = 4;

/// Whether a message fits the window at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Usual,
    Huge,
}

/// See the module.
#[derive(Debug)]
pub(super) struct InFlight {
    window: Window,
    messages: HashSet<Sequence>,
    /// Of them, those that the store's list had again meanwhile.
    listed_again: HashSet<Sequence>,
    /// Of usual ones.
    bytes: u64,
    /// Larger ones.
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

    /// Whether a message that the list has is under way; then its end is looked at again.
    pub(super) fn has_listed(&mut self, sequence: Sequence) -> bool {
        let has = self.messages.contains(&sequence);
        if has {
            self.listed_again.insert(sequence);
        }
        has
    }

    pub(super) fn size_of(&self, len: u64) -> Size {
        if len > self.window.bytes { Size::Huge } else { Size::Usual }
    }

    pub(super) fn fits(&self, len: u64) -> bool {
        match self.size_of(len) {
            Size::Usual => self.bytes == 0 || self.bytes + len <= self.window.bytes,
            Size::Huge => self.huge < HUGE_AT_ONCE,
        }
    }

    pub(super) fn begin(&mut self, pending: &Pending) {
        self.messages.insert(pending.sequence);
        match self.size_of(pending.len) {
            Size::Usual => self.bytes += pending.len,
            Size::Huge => self.huge += 1,
        }
    }

    /// True: the list had it again while it was under way.
    pub(super) fn end(&mut self, pending: &Pending) -> bool {
        self.messages.remove(&pending.sequence);
        match self.size_of(pending.len) {
            Size::Usual => self.bytes -= pending.len,
            Size::Huge => self.huge -= 1,
        }
        self.listed_again.remove(&pending.sequence)
    }
}
