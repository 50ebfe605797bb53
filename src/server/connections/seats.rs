//! Who may be connected: limited numbers in all and from one address. When there is no seat, the oldest connection that has
//! never said anything gives up its own, else the one that has not called for the longest time; those that work keep
//! theirs.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use petnet_storage::PartyId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::traffic::Traffic;
use crate::server::callers::counted;

/// A connection without calls for this long may lose its seat to a new one.
const IDLE: Duration = Duration::from_secs(30);
/// How often to look for idle connections while all seats are taken by ones that work.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The seats of a gateway.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    max_per_address: usize,
    taken: Mutex<TakenSeats>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct TakenSeats {
    next: u64,
    /// Those that have a seat, in the order of arrival.
    seats: BTreeMap<u64, SeatTaker>,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct SeatTaker {
    address: IpAddr,
    traffic: Arc<Traffic>,
    give_up: CancellationToken,
}

/// Why a connection got no seat at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoSeat {
    /// A seat will be free soon, or when a connection ends.
    Yet,
    /// Its address has as many seats as it may, and all of them work.
    ForThisAddress,
}

/// A seat; it is freed when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    id: u64,
}

impl Seats {
    /// Number of seats that are taken.
    pub(super) fn count(&self) -> usize {
        self.taken.lock().seats.len()
    }

    pub(super) fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_address, taken: Mutex::default(), freed: Notify::new() })
    }

    /// Ends the connections of parties that are gone; returns how many there were.
    pub(super) fn end(&self, is_gone: impl Fn(&PartyId) -> bool) -> usize {
        let taken = self.lock();
        let gone = taken.seats.values().filter(|taker| taker.traffic.party().is_some_and(&is_gone));
        gone.map(|taker| taker.give_up.cancel()).count()
    }

    fn lock(&self) -> MutexGuard<'_, TakenSeats> {
        self.taken.lock()
    }

    /// A seat for a new connection, which is cut when `give_up` is cancelled. Waits while all seats are in use; `None` if
    /// its address has too many. `full` is called when there is no seat at once.
    pub(super) async fn take(
        self: &Arc<Self>,
        address: IpAddr,
        traffic: &Arc<Traffic>,
        give_up: &CancellationToken,
        full: impl Fn(),
    ) -> Option<Seat> {
        let address = counted(address);
        loop {
            let freed = self.freed.notified();
            match self.try_take(address, traffic, give_up) {
                Ok(seat) => return Some(seat),
                Err(NoSeat::ForThisAddress) => return None,
                Err(NoSeat::Yet) => full(),
            }
            // An error only means that no connection ended for a while.
            drop(tokio::time::timeout(LOOK_AGAIN, freed).await);
        }
    }

    fn try_take(
        self: &Arc<Self>,
        address: IpAddr,
        traffic: &Arc<Traffic>,
        give_up: &CancellationToken,
    ) -> Result<Seat, NoSeat> {
        let mut taken = self.lock();
        let taken = &mut *taken;
        if taken.by_address.get(&address).is_some_and(|count| *count >= self.max_per_address) {
            let cleared = taken.clear(|taker| taker.address == address);
            return Err(cleared.unwrap_or(NoSeat::ForThisAddress));
        }
        if taken.seats.len() >= self.max {
            return Err(taken.clear(|_| true).unwrap_or(NoSeat::Yet));
        }
        let id = taken.next;
        taken.next += 1;
        let (traffic, give_up) = (traffic.clone(), give_up.clone());
        taken.seats.insert(id, SeatTaker { address, traffic, give_up });
        *taken.by_address.entry(address).or_default() += 1;
        Ok(Seat { seats: self.clone(), id })
    }
}

impl TakenSeats {
    /// Has one of the chosen takers give up its seat. `None` if all of them work.
    fn clear(&self, of: impl Fn(&SeatTaker) -> bool) -> Option<NoSeat> {
        let some = || self.seats.values().filter(|taker| of(taker));
        if some().any(|taker| taker.give_up.is_cancelled()) {
            return Some(NoSeat::Yet);
        }
        let silent = some().find(|taker| !taker.traffic.has_spoken());
        let idle = || {
            let idle = some().filter_map(|taker| Some((taker.traffic.idle()?, taker)));
            idle.filter(|(idle, _)| *idle >= IDLE).max_by_key(|(idle, _)| *idle).map(|(_, taker)| taker)
        };
        silent.or_else(idle)?.give_up.cancel();
        Some(NoSeat::Yet)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut taken = self.seats.lock();
            let taken = &mut *taken;
            let address = taken.seats.remove(&self.id).map(|taker| taker.address);
            if let Some(address) = address
                && let Some(count) = taken.by_address.get_mut(&address)
            {
                *count -= 1;
                if *count == 0 {
                    taken.by_address.remove(&address);
                }
            }
        }
        self.seats.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    struct SeatedConnection {
        seat: Option<Seat>,
        traffic: Arc<Traffic>,
        give_up: CancellationToken,
    }

    fn take(seats: &Arc<Seats>, address: &str) -> Result<SeatedConnection, NoSeat> {
        let (traffic, give_up) = (Arc::<Traffic>::default(), CancellationToken::new());
        let seat = Some(seats.try_take(counted(address.parse().unwrap()), &traffic, &give_up)?);
        Ok(SeatedConnection { seat, traffic, give_up })
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_go_first_then_the_longest_idle_and_those_with_calls_never() {
        let seats = Seats::new(4, 4);
        let mut all: Vec<_> = (0..4).map(|_| take(&seats, A).unwrap()).collect();
        for speaking in [0, 1, 3] {
            all[speaking].traffic.speaks();
        }
        let call = all[0].traffic.call();
        let full = |seats: &Arc<Seats>| take(seats, B).err();
        assert_eq!(full(&seats), Some(NoSeat::Yet));
        assert!(all[2].give_up.is_cancelled(), "the silent one");
        assert_eq!(full(&seats), Some(NoSeat::Yet));
        assert_eq!(all.iter().filter(|t| t.give_up.is_cancelled()).count(), 1, "it is on its way out");
        all[2].seat = None;
        let new = take(&seats, B).unwrap();
        new.traffic.speaks();
        let calls = [call, new.traffic.call()];

        assert_eq!(full(&seats), Some(NoSeat::Yet));
        assert!(!all[1].give_up.is_cancelled() && !all[3].give_up.is_cancelled(), "not idle for long");
        drop(all[3].traffic.call());
        tokio::time::advance(IDLE / 2).await;
        drop(all[3].traffic.call());
        tokio::time::advance(IDLE / 2).await;
        assert_eq!(full(&seats), Some(NoSeat::Yet));
        assert!(all[1].give_up.is_cancelled() && !all[3].give_up.is_cancelled(), "the longest idle");
        all[1].seat = None;
        drop(calls);
    }

    #[tokio::test]
    async fn one_address_gets_so_many_seats_and_others_keep_theirs() {
        let seats = Seats::new(10, 2);
        let mut of_a = [take(&seats, A).unwrap(), take(&seats, "::ffff:192.0.2.1").unwrap()];
        assert_eq!(take(&seats, A).err(), Some(NoSeat::Yet), "a silent one goes");
        assert!(of_a[0].give_up.is_cancelled() && take(&seats, B).is_ok());
        of_a[0].seat = None;
        let new = take(&seats, A).unwrap();
        for taking in [&of_a[1], &new] {
            taking.traffic.speaks();
        }
        let calls = [of_a[1].traffic.call(), new.traffic.call()];
        assert_eq!(take(&seats, A).err(), Some(NoSeat::ForThisAddress));
        drop((of_a, new, calls));
        assert_eq!(seats.lock().by_address.len(), 0);
        assert_eq!(counted("2001:db8::1:2:3:4".parse().unwrap()), counted("2001:db8::9".parse().unwrap()));
    }
}
