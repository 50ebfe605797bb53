//! The parties that a store has met, identified by small numbers, and the counts kept for each.

use std::collections::{BTreeSet, HashMap};

use crate::face::message::PartyId;

/// Counts for one party.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartyCounts {
    pub(crate) pending: u64,
    pub(crate) pending_bytes: u64,
    /// Number of pending messages that are in the index on disk.
    pub(crate) cold_pending: u64,
    /// Last delivery number given out in this incarnation.
    pub(crate) last_number: u64,
    /// Numbers, each with the index of their incarnation, that hold back the low-water mark although no pending message shows
    /// them: given out but not yet in the index, or ended by a frame that is not synced yet.
    pub(crate) held: BTreeSet<(u32, u64)>,
    /// Whether it has delivered messages to us under its name.
    pub(crate) is_sender: bool,
}

/// The table of parties by index, from 1 on; 0 stands for an unnamed peer.
#[derive(Debug, Default)]
pub(crate) struct Parties {
    names: Vec<PartyId>,
    index: HashMap<PartyId, u16>,
    pub(crate) counts: Vec<PartyCounts>,
}

impl Parties {
    /// The index of a party; `None` if it was never met.
    pub(crate) fn find(&self, party: &PartyId) -> Option<u16> {
        self.index.get(party).copied()
    }

    /// The index of a party; adds it if it is new. There are at most 65,535; the caller admits only known parties.
    pub(crate) fn intern(&mut self, party: &PartyId) -> u16 {
        if let Some(index) = self.find(party) {
            return index;
        }
        let index = u16::try_from(self.names.len() + 1).unwrap_or(u16::MAX);
        self.names.push(party.clone());
        self.index.insert(party.clone(), index);
        index
    }

    pub(crate) fn name(&self, index: u16) -> Option<&PartyId> {
        self.names.get(usize::from(index).checked_sub(1)?)
    }

    pub(crate) fn names(&self) -> &[PartyId] {
        &self.names
    }

    /// How many parties have delivered messages to us; those that did not name themselves count as one.
    pub(crate) fn senders(&self) -> usize {
        self.counts.iter().filter(|counts| counts.is_sender).count()
    }

    pub(crate) fn count(&mut self, index: u16) -> &mut PartyCounts {
        let at = usize::from(index);
        if self.counts.len() <= at {
            self.counts.resize_with(at + 1, PartyCounts::default);
        }
        &mut self.counts[at]
    }
}
