//! The direction of a message.

/// Direction of a message, and whether its sender named itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Class {
    /// Accepted for a peer.
    Outgoing = 0,
    /// Delivered by a peer that said who it is.
    Incoming = 1,
    /// Delivered by a peer that did not say.
    IncomingUnnamed = 2,
}

impl Class {
    /// The class with this number; `None` if there is none.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Outgoing),
            1 => Some(Self::Incoming),
            2 => Some(Self::IncomingUnnamed),
            _ => None,
        }
    }
}
