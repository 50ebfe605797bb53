//! PETNet: a data-proxy gateway for privacy computing that loses nothing it accepted.
//!
//! The floors, from the top; a folder uses those below it and none above (`scripts/check-arrows`):
//!
//! ```text
//! cli        the commands
//! gateway    where the parts meet: start, reload, shutdown; the store, and news of it
//! operator   what an operator sees and may do
//! server     what answers callers: connections, calls, services
//! mailbox    the rules for messages of and for our own programs
//! delivery   delivering to other parties
//! record     what happened: counted, and remembered
//! config     settings
//! tls, wire  certificates; metadata, codes and sizes of what goes over the network
//! rules      who may do what, parties, limits, refusals
//! telemetry  log lines
//! ```

pub mod cli;
pub mod config;
mod delivery;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
mod mailbox;
mod operator;
mod record;
pub mod rules;
pub mod server;
pub mod telemetry;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wire;

pub use rules::limits::{CONNECTION_WINDOW, STREAM_WINDOW};
pub use server::grpc::server_settings;

pub use petnet_protos as proto;
