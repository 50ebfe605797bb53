//! Ports of 127.0.0.1 that nobody else uses, also while a server is down between two of its lives.
//!
//! A port counts as taken as long as somebody listens on it at [`HOLD_AT`], another address of the loopback. The system
//! lets go of that when a process ends, however it ends. Ports that the system itself gives to connections are left out: a
//! server that is down would find its own taken.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Where a port is held.
const HOLD_AT: Ipv4Addr = Ipv4Addr::new(127, 80, 69, 84);
/// The lowest port that is used, above 6379, the usual one of Redis.
const LOWEST: u16 = 10_000;
/// Where the system's own ports begin, when it does not say: see ip(7).
const USUAL_EPHEMERAL: u16 = 32_768;
/// The usual port of a Sentinel.
const SENTINEL: u16 = 26_379;

/// A port of 127.0.0.1, ours until it is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _held: TcpListener,
}

impl Port {
    /// A free one.
    pub(crate) fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let count = ephemeral().saturating_sub(LOWEST).max(1000);
        // Parallel tests begin at different places.
        let start = std::process::id().wrapping_mul(7919);
        for _ in 0..count {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = LOWEST + (start.wrapping_add(step) % u32::from(count)) as u16;
            if let Some(port) = Self::take(number) {
                return port;
            }
        }
        panic!("no free port of 127.0.0.1 from {LOWEST} on");
    }

    fn take(number: u16) -> Option<Self> {
        if number == SENTINEL {
            return None;
        }
        let held = TcpListener::bind((HOLD_AT, number)).ok()?;
        // Somebody who knows nothing of us may be there.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _held: held })
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// The first port that the system gives to connections.
fn ephemeral() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(USUAL_EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_to_one_only_until_it_is_given_back() {
        let ports: Vec<_> = (0..50).map(|_| Port::free()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        assert!(numbers.iter().all(|number| Port::take(*number).is_none()), "they are held");
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        assert!(numbers.iter().all(|number| ![6379, SENTINEL].contains(number)));
        drop(ports);
        assert!(numbers.iter().all(|number| Port::take(*number).is_some()), "they are free again");
    }
}
