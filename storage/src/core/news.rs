//! The notification that an observer gets when a message becomes visible.

use crate::face::engine::Observer;
use crate::face::message::{PartyId, Sequence};
use crate::face::payload::Held;

/// A message that became visible.
#[derive(Debug)]
pub(crate) enum News {
    Arrived(Held),
    Pending(PartyId, Sequence, u64),
}

impl News {
    pub(crate) fn tell(self, observer: &dyn Observer) {
        match self {
            Self::Arrived(message) => observer.arrived(&message),
            Self::Pending(peer, sequence, len) => observer.pending(&peer, sequence, len),
        }
    }
}
