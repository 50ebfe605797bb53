//! Redis servers for tests and benchmarks: real `redis-server` processes that can be killed, stalled and restarted.
//!
//! Each has a temporary folder and ports of 127.0.0.1 of its own, and ends with whoever started it, also when that is
//! killed. Nothing here is a service of the system; the usual ports of Redis are never used.
//!
//! All calls block, most of them for some milliseconds. Those that wait for a fail-over may take many seconds: from
//! async code call them on a thread of their own. Every wait has a deadline; what cannot run panics and says what to
//! install.
//!
//! | module | |
//! |---|---|
//! | [`server`] | one server: options, kill, restart, stall |
//! | [`replicated`] | a primary, a replica and three Sentinels |
//! | [`cluster`] | three primaries that share the slots |
//! | [`reply`] | what a server answers to a command |
#![allow(clippy::missing_panics_doc, reason = "in tests a panic is the report")]

pub mod cluster;
mod ports;
mod process;
pub mod replicated;
pub mod reply;
pub mod server;

pub use cluster::Cluster;
pub use replicated::Replicated;
pub use reply::Reply;
pub use server::{Append, Options, RedisServer, Stalled, Tls};

use std::time::{Duration, Instant};

/// No wait for a server is longer than this. Far more than anything takes, so that a slow machine fails nothing.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until `ready` gives something; panics after [`DEADLINE`] with what `report` says.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>, report: impl Fn() -> String) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain: {what}\n{}", report());
        std::thread::sleep(LOOK_EVERY);
    }
}
