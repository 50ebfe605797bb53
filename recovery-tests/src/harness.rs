//! Two gateways as real processes, in a folder of their own.
//!
//! Invariant: nothing outlives the test. A gateway stops when its stdin ends, which the kernel sees to even when the
//! test is killed; and its whole process group is killed when its handle is dropped. On failure the folder stays and
//! the end of each log is shown.

mod gateway;
mod program;

pub use gateway::{Found, Gateway};
pub use program::program;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use crate::ledger::Party;
use crate::link::Link;

/// Two gateways, and the links between them if there are any.
#[derive(Debug)]
pub struct Pair {
    /// The gateway of `party_a`.
    pub a: Gateway,
    /// The gateway of `party_b`.
    pub b: Gateway,
    /// The way to `party_b`, when there is a link.
    pub to_b: Option<Link>,
    /// The way to `party_a`, when there is a link.
    pub to_a: Option<Link>,
    dir: Option<TempDir>,
}

impl Pair {
    /// Two gateways that reach each other directly. Nothing runs yet.
    pub fn direct() -> Self {
        let [a, b] = free_ports();
        Self::new([a, b], [a, b])
    }

    /// Two gateways that reach each other over links.
    pub fn linked() -> Self {
        let [a, b] = free_ports();
        let (to_a, to_b) = (Link::to(a), Link::to(b));
        let mut pair = Self::new([a, b], [to_a.port(), to_b.port()]);
        (pair.to_a, pair.to_b) = (Some(to_a), Some(to_b));
        pair
    }

    fn new([a, b]: [u16; 2], reached_at: [u16; 2]) -> Self {
        let dir = tempfile::Builder::new().prefix("petnet-recovery-").tempdir().unwrap();
        let party = |port| format!(r#"{{"petnet": [{{"type": 1, "url": "127.0.0.1:{port}"}}]}}"#);
        let [at_a, at_b] = reached_at.map(party);
        fs::write(dir.path().join("party.json"), format!(r#"{{"party_a": {at_a}, "party_b": {at_b}}}"#))
            .unwrap();
        let (a, b) = (Gateway::new(Party::A, a, dir.path()), Gateway::new(Party::B, b, dir.path()));
        Self { a, b, to_a: None, to_b: None, dir: Some(dir) }
    }

    /// The folder with everything in it.
    pub fn folder(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// The gateway of a party.
    pub fn gateway(&mut self, party: Party) -> &mut Gateway {
        match party {
            Party::A => &mut self.a,
            Party::B => &mut self.b,
        }
    }

    /// Starts what does not run; returns when both serve.
    pub async fn start(&mut self) -> [Found; 2] {
        self.a.spawn();
        self.b.spawn();
        [self.a.serving().await, self.b.serving().await]
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            for gateway in [&self.a, &self.b] {
                eprintln!("--- end of the log of {}:\n{}", gateway.party().name(), gateway.log_tail());
            }
            eprintln!("--- all of it is kept in {}", dir.keep().display());
        }
    }
}

/// Ports that are free now. All are held until all are found, so that none is found twice.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref().map(|listener| listener.local_addr().unwrap().port())
}
