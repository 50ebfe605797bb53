//! What callers of a store see, whichever engine it uses: its calls, messages, errors and clock.

pub(crate) mod clock;
pub(crate) mod direction;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod histogram;
pub(crate) mod message;
pub(crate) mod payload;
