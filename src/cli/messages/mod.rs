//! Commands that send and receive, as a program of the party would.

pub(crate) mod client;
pub(crate) mod keyed;
pub(crate) mod patience;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod streams;
