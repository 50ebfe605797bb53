//! Black-box tests of crash recovery: real `petnet serve` processes, real clients, real faults, and a ledger, kept
//! outside the fault, of what the clients were told.
//!
//! A story starts two gateways, puts clients on them, breaks something, heals it, and holds what the receivers are
//! handed against the [`ledger`]. [`story::Story::ends_well`] is the one judge of all of them; its rules are in
//! [`ledger::Ledger::judge`]. A run that put no accepted message at risk fails: it proves nothing.
//!
//! | module | |
//! |---|---|
//! | [`harness`] | a gateway as a process: start, kill, stop, wait; the program it runs |
//! | [`ledger`] | what clients were told, and what may therefore be found |
//! | [`clients`] | one call, and a load of many |
//! | [`streams`] | messages that are sent and read in pieces |
//! | [`link`] | a network link that can be broken in many ways |
//! | [`volume`] | a file system of its own that can be filled, or lose its power |
//! | [`tools`] | programs that some stories need, and a loud skip where they are missing |
//! | [`story`] | all of it together |
//! | [`fleet`] | the same for parties with several gateways and their messages in Redis |
//! | [`home`] | where a party keeps its messages, and what is there |
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "in tests a panic is the report")]

pub mod clients;
pub mod counts;
pub mod fleet;
pub mod harness;
pub mod home;
pub mod ledger;
pub mod link;
pub mod random;
pub mod story;
pub mod streams;
pub mod tools;
pub mod volume;

use std::time::Duration;

/// No wait is longer than this. Far more than anything takes, so that a slow machine fails nothing.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Pause between two looks at something that tells nobody when it changes.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `ready` gives something; fails after [`DEADLINE`].
pub async fn until<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = ready().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, looking).await;
    found.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain until {what}"))
}

/// A number from the environment, or the default: how a long run makes the same stories longer.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}
