//! Which calls are counted together: a party is one caller, and so is each address from which programs of our own party, or
//! callers that proved nothing, connect.
//!
//! Invariants: the table has an entry for every caller that has a connection, and no other entry; a party has at most as
//! many connections as an address may have, and all callers without a certificate together have at most a quarter of all
//! connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use petnet_storage::PartyId;

use crate::rules::access::Caller;

/// What identifies a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum CallerIdentity {
    /// Another party, whatever address it calls from.
    Party(PartyId),
    /// Programs of our own party, by address.
    Own(IpAddr),
    /// Without TLS: any caller, by address.
    Anyone(IpAddr),
    /// With TLS, a caller without a certificate, by address.
    Unnamed(IpAddr),
}

/// One caller, as long as it has a connection.
#[derive(Debug)]
pub(crate) struct ShareHolder {
    /// Number of this caller; never used again for another one.
    pub(crate) id: u64,
    /// Whether the caller proved nothing on a gateway where others prove who they are.
    pub(crate) unnamed: bool,
    /// Bytes of its small messages.
    pub(crate) small: AtomicU64,
    connections: AtomicUsize,
    key: Option<CallerIdentity>,
    callers: Weak<Callers>,
}

/// All callers of a gateway.
#[derive(Debug)]
pub(crate) struct Callers {
    table: Mutex<CallerTable>,
    /// Connections of all callers without a certificate.
    unnamed: AtomicUsize,
    most_unnamed: usize,
    /// Most connections that one party may have.
    most_of_party: usize,
}

/// A connection of a caller.
#[derive(Debug)]
pub(crate) struct CallerConnection(Arc<ShareHolder>);

/// The caller already has as many connections as it may.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("{0} has as many connections as one party may have (MAX_CONNECTIONS_PER_ADDRESS)")]
    OfParty(PartyId),
    #[error(
        "callers without a certificate have as many connections as they may (a quarter of MAX_CONNECTIONS)"
    )]
    Unnamed,
}

#[derive(Debug, Default)]
struct CallerTable {
    next: u64,
    by_key: HashMap<CallerIdentity, Weak<ShareHolder>>,
}

/// The network whose addresses are counted together: an IPv6 host has a whole network of 64 bits to choose from.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        other => other,
    }
}

impl Callers {
    /// The table of a gateway with at most `max` connections in all and `most_of_party` for one party.
    pub(crate) fn new(max: usize, most_of_party: usize) -> Arc<Self> {
        let (table, unnamed) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { table, unnamed, most_unnamed: (max / 4).max(1), most_of_party })
    }

    /// Counts a connection of `caller` from `address`.
    pub(crate) fn connect(
        self: &Arc<Self>,
        caller: &Caller,
        address: IpAddr,
    ) -> Result<CallerConnection, TooMany> {
        let holder = self.of(caller, address);
        let before = holder.connections.fetch_add(1, Ordering::AcqRel);
        if holder.unnamed {
            self.unnamed.fetch_add(1, Ordering::AcqRel);
        }
        // When dropped, it is no longer counted.
        let connected = CallerConnection(holder);
        match caller {
            Caller::Peer(party) if before >= self.most_of_party => Err(TooMany::OfParty(party.clone())),
            Caller::Unnamed if self.unnamed.load(Ordering::Acquire) > self.most_unnamed => {
                Err(TooMany::Unnamed)
            }
            _ => Ok(connected),
        }
    }

    /// The holder whose share a connection of `caller` from `address` uses.
    fn of(self: &Arc<Self>, caller: &Caller, address: IpAddr) -> Arc<ShareHolder> {
        let address = counted(address);
        let key = match caller {
            Caller::Peer(party) => CallerIdentity::Party(party.clone()),
            Caller::Own => CallerIdentity::Own(address),
            Caller::Anyone => CallerIdentity::Anyone(address),
            Caller::Unnamed => CallerIdentity::Unnamed(address),
        };
        let mut table = self.table.lock();
        if let Some(holder) = table.by_key.get(&key).and_then(Weak::upgrade) {
            return holder;
        }
        table.next += 1;
        let holder = Arc::new(ShareHolder {
            id: table.next,
            unnamed: *caller == Caller::Unnamed,
            small: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            key: Some(key.clone()),
            callers: Arc::downgrade(self),
        });
        table.by_key.insert(key, Arc::downgrade(&holder));
        holder
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.lock().by_key.len()
    }
}

impl ShareHolder {
    /// The holder for calls that come over no connection of ours, as in tests of single services.
    pub(crate) fn alone() -> Arc<Self> {
        Self::numbered(0, false)
    }

    /// A holder that is in no table.
    pub(crate) fn numbered(id: u64, unnamed: bool) -> Arc<Self> {
        let (small, connections) = (AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(Self { id, unnamed, small, connections, key: None, callers: Weak::new() })
    }
}

impl CallerConnection {
    pub(crate) fn holder(&self) -> &Arc<ShareHolder> {
        &self.0
    }
}

impl Drop for CallerConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        if let Some(callers) = self.0.callers.upgrade().filter(|_| self.0.unnamed) {
            callers.unnamed.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for ShareHolder {
    fn drop(&mut self) {
        let (Some(key), Some(callers)) = (&self.key, self.callers.upgrade()) else { return };
        let mut table = callers.table.lock();
        // Another holder may have taken its place already.
        if table.by_key.get(key).is_some_and(|holder| holder.strong_count() == 0) {
            table.by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::party;

    #[test]
    fn a_party_is_one_caller_and_so_is_an_address_without_a_certificate() {
        let callers = Callers::new(100, 100);
        let of = |caller: &Caller, address: &str| callers.of(caller, address.parse().unwrap());
        let peer = Caller::Peer(party("b"));
        let (one, other) = (of(&peer, "192.0.2.1"), of(&peer, "192.0.2.2"));
        assert_eq!(one.id, other.id);
        let unnamed = [of(&Caller::Unnamed, "192.0.2.1"), of(&Caller::Unnamed, "192.0.2.2")];
        assert!(unnamed[0].id != unnamed[1].id && unnamed[0].unnamed && !one.unnamed);
        assert_ne!(of(&Caller::Own, "192.0.2.1").id, unnamed[0].id);
        let network = [of(&Caller::Unnamed, "2001:db8::1"), of(&Caller::Unnamed, "2001:db8::2:3")];
        assert_eq!(network[0].id, network[1].id);
        drop((one, other, unnamed, network));
        assert_eq!(callers.len(), 0);
    }
    #[test]
    fn one_party_and_all_without_a_certificate_leave_connections_to_others() {
        let callers = Callers::new(8, 3);
        let connect = |caller: &Caller, n: u8| callers.connect(caller, IpAddr::from([192, 0, 2, n]));
        let peer = Caller::Peer(party("b"));
        let mut of_b: Vec<_> = (0..9).map_while(|n| connect(&peer, n).ok()).collect();
        let unnamed: Vec<_> = (0..9).map_while(|n| connect(&Caller::Unnamed, n).ok()).collect();
        assert_eq!((of_b.len(), unnamed.len()), (3, 2));
        assert!(connect(&Caller::Peer(party("c")), 1).is_ok() && connect(&Caller::Own, 1).is_ok());
        of_b.pop();
        assert!(connect(&peer, 1).is_ok(), "one that was refused is not counted");
        drop((of_b, unnamed));
        assert!(connect(&Caller::Unnamed, 1).is_ok());
        assert_eq!(callers.len(), 0);
    }
}
