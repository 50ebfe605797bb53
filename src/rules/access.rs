//! Who may do what: the only place where that is decided.
//!
//! | caller | mailbox | deliver | peer link | health |
//! |---|---|---|---|---|
//! | without TLS, anyone | yes | as the party it names, if the whitelist admits that party | the same | yes |
//! | TLS, no certificate (`TLS_CLIENT_AUTH=optional`) | no | unnamed, if the whitelist admits `*` | no | no |
//! | a program of our own party | yes | no | no | yes |
//! | another party | no | as itself, if the whitelist admits it | the same | yes |
//!
//! Invariant: nobody has a right to a method that is not in [`Right::of`], and every caller that TLS let in has exactly one
//! of these rows.

use std::fmt;

use petnet_storage::PartyId;

use crate::rules::parties::Parties;

/// Who calls, as far as the connection proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// There is no TLS: nothing is proved, and no proof is required.
    Anyone,
    /// TLS, but no certificate.
    Unnamed,
    /// A program of our own party.
    Own,
    /// Another party.
    Peer(PartyId),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Unnamed => f.write_str("a caller without a certificate"),
            Self::Own => f.write_str("a program of this gateway's own party"),
            Self::Peer(party) => write!(f, "another party ({party})"),
        }
    }
}

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Sending and receiving for our own party.
    Mailbox,
    /// Delivering one message.
    Deliver,
    /// Opening a peer link.
    Link,
    /// Asking whether the gateway serves.
    Health,
}

impl Right {
    /// What the method with this path needs; `None` if it is not served.
    pub(crate) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/petnet.simple.v1.SimpleRequestServer/ClientSimpleSend"
            | "/petnet.simple.v1.SimpleRequestServer/ClientSimpleRecv"
            | "/petnet.mailbox.v1.Mailbox/Send"
            | "/petnet.mailbox.v1.Mailbox/Receive"
            | "/petnet.mailbox.v1.Mailbox/SendStream"
            | "/petnet.mailbox.v1.Mailbox/ReceiveStream"
            | "/petnet.mailbox.v1.Mailbox/Release"
            | "/petnet.mailbox.v1.Mailbox/Track"
            | "/petnet.mailbox.v1.Mailbox/Exchange" => Self::Mailbox,
            "/petnet.simple.v1.SimpleRequestServer/ServerSimpleSend" => Self::Deliver,
            "/petnet.peer.v1.PeerLink/Deliver" => Self::Link,
            "/petnet.health.v1.Health/Check"
            | "/petnet.health.v1.Health/Watch"
            | "/grpc.health.v1.Health/Check"
            | "/grpc.health.v1.Health/Watch" => Self::Health,
            _ => return None,
        })
    }
}

/// Whether a method's request is a stream that may pause between its messages. A stream that sends one message may not.
pub(crate) fn is_stream(path: &str) -> bool {
    matches!(path, "/petnet.peer.v1.PeerLink/Deliver" | "/petnet.mailbox.v1.Mailbox/Exchange")
}

/// Most bytes in one message of a stream, where that is less than what any message may have: many small things take more
/// memory than they have bytes.
pub(crate) fn largest(path: &str) -> Option<u64> {
    match path {
        "/petnet.mailbox.v1.Mailbox/Exchange" => Some(4 << 20),
        "/petnet.mailbox.v1.Mailbox/SendStream" => Some((1 << 20) + 4096),
        _ => None,
    }
}

/// Why something is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// The caller's row of the table says no.
    #[error("{who} may not {what}")]
    NotTheirs {
        /// The caller.
        who: String,
        /// What it tried to do.
        what: &'static str,
    },
    /// The delivery names another party than the certificate.
    #[error("the certificate is that of {proved:?}, and the delivery says it is from {claimed:?}")]
    AnotherName {
        /// The party in the certificate.
        proved: PartyId,
        /// The party in the call.
        claimed: PartyId,
    },
    /// The sender is our own party.
    #[error("sender {0:?} is the party of the receiving gateway itself")]
    OurOwnName(PartyId),
    /// The sender is not in the party file.
    #[error("sender {0:?} is not in the party file of {1:?}")]
    Stranger(PartyId, PartyId),
    /// The whitelist of our own entry does not name the sender.
    #[error("the whitelist of {1:?} does not name {0:?}")]
    NotListed(PartyId, PartyId),
    /// The delivery names no sender, and the whitelist of our own entry does not admit everybody.
    #[error("the delivery names no sender and the whitelist of {0:?} does not admit everybody (\"*\")")]
    NobodyListed(PartyId),
    /// No connection to the receiver may be used by us.
    #[error("no connection to {0:?} has {1:?} in its whitelist")]
    MayNotSend(PartyId, PartyId),
}

/// Decides by the table.
pub(crate) fn may(caller: &Caller, right: Right) -> Result<(), Denied> {
    let allowed = match caller {
        Caller::Anyone => true,
        Caller::Unnamed => right == Right::Deliver,
        Caller::Own => matches!(right, Right::Mailbox | Right::Health),
        Caller::Peer(_) => matches!(right, Right::Deliver | Right::Link | Right::Health),
    };
    if allowed {
        return Ok(());
    }
    let who = caller.to_string();
    let what = match right {
        Right::Mailbox => "use the mailbox",
        Right::Deliver => "deliver messages",
        Right::Link => "open a peer link",
        Right::Health => "ask for health",
    };
    Err(Denied::NotTheirs { who, what })
}

/// Whose message a delivery is: the certificate decides; without one, what the call says.
pub(crate) fn sender(caller: &Caller, claimed: Option<PartyId>) -> Result<Option<PartyId>, Denied> {
    match (caller, claimed) {
        (Caller::Peer(proved), Some(claimed)) if *proved != claimed => {
            Err(Denied::AnotherName { proved: proved.clone(), claimed })
        }
        (Caller::Peer(proved), _) => Ok(Some(proved.clone())),
        // A name without proof is worth nothing where others prove theirs.
        (Caller::Unnamed | Caller::Own, _) => Ok(None),
        (Caller::Anyone, claimed) => Ok(claimed),
    }
}

/// Checks whether messages from `sender` are taken here.
pub(crate) fn may_deliver(own: &PartyId, parties: &Parties, sender: Option<&PartyId>) -> Result<(), Denied> {
    if let Some(sender) = sender {
        if sender == own {
            return Err(Denied::OurOwnName(sender.clone()));
        }
        if !parties.contains(sender) {
            return Err(Denied::Stranger(sender.clone(), own.clone()));
        }
    }
    if parties.whitelist_admits(own, sender) {
        return Ok(());
    }
    Err(match sender {
        Some(sender) => Denied::NotListed(sender.clone(), own.clone()),
        None => Denied::NobodyListed(own.clone()),
    })
}

/// Checks whether our programs may send to `receiver`.
pub(crate) fn may_send(own: &PartyId, parties: &Parties, receiver: &PartyId) -> Result<(), Denied> {
    if parties.whitelist_admits(receiver, Some(own)) {
        return Ok(());
    }
    Err(Denied::MayNotSend(receiver.clone(), own.clone()))
}
